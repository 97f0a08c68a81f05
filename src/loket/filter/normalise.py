"""Stage 1: what a text says once everything is undone that hides words from a reader or from a filter.

The result is for screening. It is not what is delivered: a person's name may be written in any letters.
"""

import base64
import binascii
import codecs
import html
import itertools
import re
import unicodedata
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from loket.filter import shapes
from loket.filter.confusables import FOREIGN, LOOKALIKES
from loket.filter.report import NORMALISE, Mark

_TAGS = re.compile("[\U000e0000-\U000e007f]+")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]+")
_ZERO_WIDTH = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200d\u2060-\u2065\u3164\ufeff\uffa0]+"
)
_BIDI = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u206f]+")
_OVERRIDES = re.compile("[\u202a-\u202e\u2066-\u2069]")
_RIGHT_TO_LEFT = re.compile("[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]")
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_STACKED = re.compile("(?<=[\u0300-\u036f]{2})[\u0300-\u036f\u0489\u20d0-\u20f0]+")
_MIXED = re.compile(rf"\b(?=\w*[a-zA-Z])\w*[{FOREIGN}]\w*\b")
_UNPRINTED = frozenset(
    chr(code)
    for first, last in (
        (0x00, 0x08), (0x0B, 0x0C), (0x0E, 0x1F), (0x7F, 0x9F), (0xAD, 0xAD), (0x300, 0x36F), (0x489, 0x489),
        (0x61C, 0x61C), (0x115F, 0x1160), (0x17B4, 0x17B5), (0x180B, 0x180E), (0x200B, 0x200F), (0x202A, 0x202E),
        (0x2060, 0x206F), (0x20D0, 0x20F0), (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0),
        (0xE0000, 0xE007F), (0xE0100, 0xE01EF),
    )
    for code in range(first, last + 1)
)  # fmt: skip
"""All characters that the expressions above may take out: looking whether a text has one of them is cheap."""
_LOOKALIKE = frozenset(FOREIGN)

_BLOCKS = {
    "base64": re.compile(r"(?<![A-Za-z0-9+/_=-])[A-Za-z0-9+/_-]{20,}={0,2}"),
    "percent": re.compile(r"(?<![\w.~+%-])[\w.~+-]{0,200}%[0-9a-fA-F]{2}(?:[\w.~+-]|%[0-9a-fA-F]{2}){6,}"),
    "escapes": re.compile(r"(?:\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}){4,}"),
    "entities": re.compile(r"(?:&#(?:x[0-9a-fA-F]{1,6}|[0-9]{1,7});[ ]?){4,}"),
    "hex": re.compile(r"(?<![\w-])(?:[0-9a-fA-F]{2}[ :]){11,}[0-9a-fA-F]{2}(?!\w)"),
    "spaced": re.compile(r"(?<!\S)(?:[^\W\d_]\ ){6,}[^\W\d_](?!\S)"),
}
_HEX = re.compile(r"[0-9a-fA-F]{24,}")
_PERCENT = re.compile(r"%[0-9a-fA-F]{2}[\w.~+-]*%[0-9a-fA-F]{2}")
_ROTATED = ("vtaber", "vafgehpgvba", "flfgrz cebzcg", "qvfertneq", "cnffjbeq", "sbetrg", "birevqr")
"""`ignore`, `instruction`, `system prompt`, `disregard`, `password`, `forget` and `override`, after ROT13."""

_MOST_BLOCKS = 64
_LONGEST_BLOCK = 16_384
_PRINTED = 0.95
"""Share of characters that are printed, in what counts as text."""
_WORDS = re.compile(r"[^\W\d_]{2,}")
_ROUNDS = 8
_LONGEST_FLAG = 7


@dataclass(frozen=True, slots=True)
class Hidden:
    """Text that somebody hid: `name` says how, `text` what it says; it stood at `start` to `end`, as for a mark."""

    name: str
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Normal:
    """A normalised text, what was found while it was made, and the texts that were hidden in it."""

    text: str
    marks: tuple[Mark, ...]
    hidden: tuple[Hidden, ...]


def normalise(text: str) -> Normal:
    """What the text says, in the compatibility form of Unicode (NFKC), without characters that print nothing.

    Words that mix Latin with look-alikes of other scripts become Latin. Encoded blocks (base64, hexadecimal, percent,
    escapes, entities, ROT13, spaced letters) stay, and stand decoded in `hidden` where they are text.
    Normalising a normalised text changes nothing. Never raises.
    """
    marks: list[Mark] = []
    hidden: list[Hidden] = []
    if not text.isascii() or shapes.has_controls(text.encode("ascii")):
        text = _plain(text, marks, hidden)
        marks = [replace(mark, start=min(mark.start, len(text)), end=min(mark.end, len(text))) for mark in marks]
    found = list(_decoded(text))
    marks += [Mark(NORMALISE, block.name, block.start, block.end, 0.2) for block in found]
    return Normal(text, tuple(marks), (*hidden, *found))


def _plain(text: str, marks: list[Mark], hidden: list[Hidden]) -> str:
    for round_number in range(_ROUNDS):
        before = text
        if not _UNPRINTED.isdisjoint(text):
            text = _printed(text, marks, hidden)
        text = _compatible(text, marks if round_number == 0 else [])
        text = _latin(text, marks)
        if text == before:
            break
    return text


def _printed(text: str, marks: list[Mark], hidden: list[Hidden]) -> str:
    """The text without what prints nothing."""
    text = _without_tags(text, marks, hidden)
    text = _taken_out(text, _SELECTORS, lambda run: _selectors(run, hidden, marks))
    text = _taken_out(text, _ZERO_WIDTH, lambda run: _zero_width(run, marks))
    text = _taken_out(text, _BIDI, lambda run: _bidi(run, marks))
    text = _taken_out(text, _CONTROLS, lambda run: marks.append(_gone("control-characters", run, 0.3)))
    return _taken_out(text, _STACKED, lambda run: marks.append(_gone("stacked-marks", run, 0.3)))


def _gone(name: str, run: re.Match[str], score: float) -> Mark:
    return Mark(NORMALISE, name, run.start(), run.start(), score)


def _taken_out(text: str, what: re.Pattern[str], note: Callable[[re.Match[str]], None]) -> str:
    """The text without the characters of `what`; the first 64 runs of them are told to `note`."""
    for run in itertools.islice(what.finditer(text), _MOST_BLOCKS):
        note(run)
    return what.sub("", text)


def _without_tags(text: str, marks: list[Mark], hidden: list[Hidden]) -> str:
    """The text without tag characters, which are read together, as they may be strewn between the letters of a text."""
    runs = [run for run in _TAGS.finditer(text) if not _is_flag(run)]
    if runs:
        marks.append(_gone("tag-characters", runs[0], 0.9))
        said = "".join(chr(ord(letter) - 0xE0000) for run in runs for letter in run[0])[:_LONGEST_BLOCK]
        hidden.append(Hidden("tag-characters", said, runs[0].start(), runs[0].start()))
    return _TAGS.sub("", text)


def _is_flag(run: re.Match[str]) -> bool:
    """Whether these tags are the flag of a region behind a black flag, as in UTS 51: `gbeng` and an end."""
    return run.start() > 0 and run.string[run.start() - 1] == "\U0001f3f4" and len(run[0]) <= _LONGEST_FLAG


def _selectors(run: re.Match[str], hidden: list[Hidden], marks: list[Mark]) -> None:
    """One chooses the look of the character before it; in a row they are bytes: 0 to 15, then 16 to 255."""
    if len(run[0]) < 4:  # noqa: PLR2004 - nobody chooses a look four times
        return
    marks.append(_gone("variation-selectors", run, 0.9))
    codes = (ord(letter) for letter in run[0])
    said = _as_text(bytes(code - 0xFE00 if code < 0xFE10 else code - 0xE0100 + 16 for code in codes))  # noqa: PLR2004
    if said:
        hidden.append(Hidden("variation-selectors", said, run.start(), run.start()))


def _zero_width(run: re.Match[str], marks: list[Mark]) -> None:
    text, start, end = run.string, run.start(), run.end()
    if len(run[0]) >= 16 and len(set(run[0])) > 1:  # noqa: PLR2004 - two bytes written in two kinds of nothing
        marks.append(_gone("zero-width", run, 0.6))
    elif "\u00ad" not in run[0] and start and end < len(text) and (text[start - 1] + text[end]).isascii():
        marks.append(_gone("zero-width", run, 0.3 if (text[start - 1] + text[end]).isalpha() else 0.1))


def _bidi(run: re.Match[str], marks: list[Mark]) -> None:
    if _OVERRIDES.search(run[0]):
        marks.append(_gone("bidi-controls", run, 0.2 if _RIGHT_TO_LEFT.search(run.string) else 0.6))


def _compatible(text: str, marks: list[Mark]) -> str:
    if unicodedata.is_normalized("NFKC", text):
        return text
    form = unicodedata.normalize("NFKC", text)
    letters = [place for place, letter in enumerate(text) if letter > "\u2000" and _styled(letter)]
    if letters:
        marks.append(Mark(NORMALISE, "styled-letters", letters[0], letters[0] + 1, 0.3))
    return form


def _styled(letter: str) -> bool:
    """Whether it is a Latin letter in another coat: full-width, mathematical, in a circle."""
    return (plain := unicodedata.normalize("NFKC", letter)).isascii() and plain.isalpha() and len(plain) == 1


def _latin(text: str, marks: list[Mark]) -> str:
    words = list(_MIXED.finditer(text)) if not _LOOKALIKE.isdisjoint(text) else []
    if not words:
        return text
    marks += [Mark(NORMALISE, "homoglyphs", word.start(), word.end(), 0.4) for word in words[:_MOST_BLOCKS]]
    return _MIXED.sub(lambda word: word[0].translate(LOOKALIKES), text)


def _decoded(text: str) -> Iterator[Hidden]:
    """The encoded blocks that are text once decoded."""
    for name in _present(text):
        for block in itertools.islice(_blocks(name, text), _MOST_BLOCKS):
            said = _DECODERS[name](block[0][:_LONGEST_BLOCK])
            if said is not None and said != block[0]:
                yield Hidden(name, said, block.start(), block.end())
    yield from _rotated(text)


def _blocks(name: str, text: str) -> Iterator[re.Match[str]]:
    """Where blocks of an encoding may be; those of base64 begin where a row of its signs does."""
    if name != "base64":
        return _BLOCKS[name].finditer(text)
    starts = shapes.encoded(text.encode("ascii", "replace"))
    return (block for start in starts if (block := _BLOCKS[name].match(text, start)) is not None)


def _present(text: str) -> Iterator[str]:
    """The encodings that a text may have: a cheap look at its shape, as most texts have none."""
    data = text.encode("ascii", "replace")
    if next(shapes.encoded(data), None) is not None:
        yield "base64"
    if "%" in text and _PERCENT.search(text) is not None:
        yield "percent"
    if "\\u" in text or "\\x" in text:
        yield "escapes"
    if "&#" in text:
        yield "entities"
    if shapes.PAIRS in data.translate(shapes.HEX):
        yield "hex"
    if shapes.SINGLES in data.translate(shapes.LETTERS):
        yield "spaced"


def _rotated(text: str) -> Iterator[Hidden]:
    lower = text.lower()
    for word in _ROTATED:
        place = lower.find(word)
        if 0 <= place < len(text):
            start, end = text.rfind("\n", 0, place) + 1, text.find("\n", place)
            end = end if end > 0 else len(text)
            yield Hidden("rot13", codecs.encode(text[start:end][:_LONGEST_BLOCK], "rot13"), start, end)
            return


def _as_text(data: bytes) -> str | None:
    """The bytes as UTF-8, where they are text with at least one word."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    printed = sum(letter.isprintable() or letter in "\t\r\n" for letter in text)
    return text if text and printed >= _PRINTED * len(text) and _WORDS.search(text) else None


def _base64(block: str) -> str | None:
    if _HEX.fullmatch(block):
        return _hex(block)
    plain = block.rstrip("=").replace("-", "+").replace("_", "/")
    plain = plain[:-1] if len(plain) % 4 == 1 else plain
    try:
        return _as_text(base64.b64decode(plain + "=" * (-len(plain) % 4)))
    except binascii.Error:
        return None


def _hex(block: str) -> str | None:
    digits = block.replace(" ", "").replace(":", "")
    return _as_text(bytes.fromhex(digits[: len(digits) // 2 * 2]))


def _escapes(block: str) -> str | None:
    codes = re.findall(r"[0-9a-fA-F]{2,4}", block)
    text = "".join(chr(int(code, 16)) for code in codes)
    return text if _WORDS.search(text) and text.isprintable() else None


def _entities(block: str) -> str | None:
    text = html.unescape(block)
    return text if _WORDS.search(text) else None


def _percent(block: str) -> str | None:
    text = urllib.parse.unquote_plus(block)
    return text if len(_WORDS.findall(text)) > 1 else None


def _spaced(block: str) -> str | None:
    return block.replace(" ", "")


_DECODERS: dict[str, Callable[[str], str | None]] = {
    "base64": _base64,
    "escapes": _escapes,
    "entities": _entities,
    "percent": _percent,
    "hex": _hex,
    "spaced": _spaced,
}
