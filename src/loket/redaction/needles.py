"""Values that must never leave, found by value, in whatever common form they are written."""

import base64
import html
import json
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, quote_plus

from loket.redaction.fold import compact, folded, has_escapes, traced, unescaped
from loket.redaction.found import BARRIER

LEAST = 6
"""Characters of the shortest value that is looked for: a shorter one is in every other text by chance."""

SPAN = 2048
"""Characters over which one piece of a value can be spread by blanks and escapes."""

_PIECE = 48
"""Characters of a piece: a longer form is looked for in pieces that overlap, so that a part of it is found too."""
_STRIDE = 40

_SPREAD = 8
"""Characters of the shortest form that is looked for with blanks in it as well."""
_SPREAD_WORD = 16
"""The same for a form of letters alone, which neighbouring words could spell by chance."""

_UNFINISHED = re.compile(r"(?:%[2-7]?|\\{1,8}(?:u[0-9A-Fa-f]{0,3}|x[0-9A-Fa-f]?)?|&\#?[A-Za-z0-9]{0,6})\Z")
"""An escape whose end is not there yet."""

_BASE64_EDGE = re.compile(r"[A-Za-z0-9+/_-]?={0,2}")
_BASE64_SIGNS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_")


@dataclass(frozen=True, slots=True)
class Hit:
    """A stretch of a text that spells a needle: `name` is what the needle was given as."""

    name: str
    start: int
    end: int


def _base64(data: bytes) -> Iterator[str]:
    """What base64 (RFC 4648) makes of the bytes at each of the three places in a group that they can begin at.

    The signs that the bytes before and after have a share in are left out.
    """
    for before, shared in ((0, 0), (1, 2), (2, 3)):
        whole = base64.b64encode(b"\0" * before + data).decode()
        form = whole[shared : (before + len(data)) * 8 // 6]
        yield form
        yield form.replace("+", "-").replace("/", "_")


def forms(value: str) -> set[str]:
    """Every form in which a value is looked for, folded; those of base64 are in `base64_forms`."""
    data = value.encode("utf-8", "surrogatepass")
    pairs = [f"{byte:02x}" for byte in data]
    written = [
        value,
        value[::-1],
        "".join(pairs),
        ":".join(pairs),
        quote(data, safe=""),
        quote_plus(data),
        "" if value.isascii() else "".join(f"%{pair}" for pair in pairs),
        json.dumps(value)[1:-1],
        json.dumps(json.dumps(value))[3:-3],
        json.dumps(value, ensure_ascii=False)[1:-1],
        html.escape(value),
    ]
    return {folded(form) for form in written}


def base64_forms(value: str) -> set[str]:
    """The forms of base64 in which a value is looked for, folded."""
    return {folded(form) for form in _base64(value.encode("utf-8", "surrogatepass"))}


def _pieces(form: str) -> list[str]:
    if len(form) <= _PIECE:
        return [form] if len(form) >= LEAST else []
    last = len(form) - _PIECE
    return [form[at : at + _PIECE] for at in (*range(0, last, _STRIDE), last)]


def _spreads(piece: str, coded: bool) -> bool:
    return len(piece) >= (_SPREAD_WORD if piece.isalpha() and not coded else _SPREAD)


def _places(text: str, piece: str) -> Iterator[int]:
    at = text.find(piece)
    while at >= 0:
        yield at
        at = text.find(piece, at + 1)


class Needles:
    """The pieces of all forms of some named values."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        self._close: dict[str, tuple[str, bool]] = {}
        self._spread: dict[str, tuple[str, bool]] = {}
        for name, value in values:
            if len(value.strip()) >= LEAST:
                self._add(name, value.strip())
        self._sorted = sorted({*self._close, *self._spread})

    def _add(self, name: str, value: str) -> None:
        coded = base64_forms(value)
        for form in forms(value) | coded:
            bare = compact(form)
            for piece in _pieces(bare):
                if _spreads(piece, form in coded):
                    self._spread.setdefault(piece, (name, form in coded))
            if not _spreads(bare, form in coded):
                for piece in _pieces(form):
                    self._close.setdefault(piece, (name, form in coded))

    def find(self, text: str) -> list[Hit]:
        """Where the text spells a value; nothing about the order is promised."""
        if not self._sorted:
            return []
        hits = self._seen(text, folded(text), escapes=False)
        if has_escapes(text):
            hits += self._seen(text, folded(unescaped(text)), escapes=True)
        return hits

    def _seen(self, text: str, plain: str, *, escapes: bool) -> list[Hit]:
        hits: list[Hit] = []
        for pieces, view, blanks in ((self._close, plain, True), (self._spread, compact(plain), False)):
            present = [piece for piece in pieces if piece in view]
            if present:
                view, spans = traced(text, escapes=escapes, blanks=blanks)  # noqa: PLW2901 (the same, with its places)
                hits += (hit for piece in present for hit in _hits(text, view, spans, piece, pieces[piece]))
        return hits

    def held(self, text: str) -> int:
        """From where on a text may be the beginning of a value that goes on after its end: its length if nowhere."""
        if not self._sorted:
            return len(text)
        escape = _UNFINISHED.search(text, max(0, len(text) - 16))
        return self._held(text[: escape.start()] if escape else text)

    def _held(self, text: str) -> int:
        tail = max(0, len(text) - SPAN)
        first = len(text)
        for escapes, blanks in ((False, True), (False, False), (True, True), (True, False)):
            view, spans = traced(text[tail:], escapes=escapes, blanks=blanks)
            for at in range(max(0, len(view) - _PIECE), len(view)):
                if tail + spans[at][0] < first and self._begins(view[at:]):
                    first = tail + spans[at][0]
        return first

    def _begins(self, beginning: str) -> bool:
        at = bisect_left(self._sorted, beginning)
        return at < len(self._sorted) and self._sorted[at].startswith(beginning)


def _hits(text: str, view: str, spans: list[tuple[int, int]], piece: str, needle: tuple[str, bool]) -> Iterator[Hit]:
    name, coded = needle
    for at in _places(view, piece):
        start, end = spans[at][0], spans[at + len(piece) - 1][1]
        if end - start > SPAN or BARRIER in text[start:end]:
            continue
        if coded:
            start, end = _edges(text, start, end)
        yield Hit(name, start, end)


def _edges(text: str, start: int, end: int) -> tuple[int, int]:
    """With the signs of base64 that a value shares with its neighbours, and the padding."""
    if start and text[start - 1] in _BASE64_SIGNS:
        start -= 1
    match = _BASE64_EDGE.match(text, end)
    return start, match.end() if match else end
