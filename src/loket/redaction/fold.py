"""Texts folded for comparison: case, look-alike forms, invisible characters, blanks and escapes do not count.

A folded text is made by C code where it can be, as nearly every text holds nothing. Where each character came from is
worked out only after something was found.
"""

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

_NOT_ASCII = re.compile(r"[^\x00-\x7f]")

_NAMED = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'"}

_SHORT = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

ESCAPE = re.compile(
    r"%[2-7][0-9A-Fa-f]"
    r"|\\{1,4}(?:u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2}|[nrtbf\"'/\\])"
    r"|&(?:\#[0-9]{1,6}|\#[xX][0-9A-Fa-f]{1,5}|amp|lt|gt|quot|apos);"
)
"""One escaped character of a URL (RFC 3986), of JSON (RFC 8259; escaped again too) or of HTML."""


@lru_cache(maxsize=4096)
def _sign(character: str) -> str:
    if unicodedata.category(character) == "Cf":
        return ""
    return unicodedata.normalize("NFKC", character).upper().casefold()


def _folded_sign(match: re.Match[str]) -> str:
    return _sign(match[0])


def folded(text: str) -> str:
    """The text without case, in Unicode's compatibility form sign by sign, without invisible characters (Cf)."""
    return (text if text.isascii() else _NOT_ASCII.sub(_folded_sign, text)).lower()


def compact(text: str) -> str:
    """The text without any blanks."""
    return "".join(text.split())


def _number(digits: str, base: int) -> str:
    code = int(digits, base)
    return chr(code) if code <= sys.maxunicode else ""


def _unescaped(match: re.Match[str]) -> str:
    text = match[0]
    if text[0] == "%":
        return chr(int(text[1:], 16))
    if text[0] == "&":
        if text[1] != "#":
            return _NAMED[text]
        return _number(text[3:-1], 16) if text[2] in "xX" else _number(text[2:-1], 10)
    rest = text.lstrip("\\")
    if len(rest) > 1:
        return chr(int(rest[1:], 16))
    return _SHORT.get(rest, rest) if rest else "\\"


def has_escapes(text: str) -> bool:
    """Whether there is an escape to take back."""
    return ("%" in text or "\\" in text or "&" in text) and ESCAPE.search(text) is not None


def unescaped(text: str) -> str:
    """The text with the escapes of URLs, JSON and HTML taken back, each on its own."""
    return ESCAPE.sub(_unescaped, text)


def _signs(text: str, escapes: bool) -> Iterator[tuple[str, int, int]]:
    position = 0
    for match in ESCAPE.finditer(text) if escapes else ():
        yield from ((text[at], at, at + 1) for at in range(position, match.start()))
        yield from ((one, match.start(), match.end()) for one in _unescaped(match))
        position = match.end()
    yield from ((text[at], at, at + 1) for at in range(position, len(text)))


def traced(text: str, *, escapes: bool, blanks: bool) -> tuple[str, list[tuple[int, int]]]:
    """The folded text (`escapes` taken back, `blanks` kept), and for each of its characters where it came from."""
    signs: list[str] = []
    spans: list[tuple[int, int]] = []
    for character, start, end in _signs(text, escapes):
        for sign in character.lower() if character.isascii() else _sign(character):
            if blanks or not sign.isspace():
                signs.append(sign)
                spans.append((start, end))
    return "".join(signs), spans
