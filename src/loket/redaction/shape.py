"""Where in a text it is worth looking: long words and places with several digits, found by one pass in C.

A text is translated into bytes of a few classes, one for each character, and searched for rows of a class. Patterns
then run on the windows around them, which in ordinary text are few or none.
"""

import re
from itertools import pairwise

_DIGITS = b"0123456789"
_LARGE = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SMALL = b"abcdefghijklmnopqrstuvwxyz"
_BETWEEN = b" ./()+-?\xa0"
"""What people put between digits; `?` stands for all that is not ASCII."""

BEFORE = 24
"""Characters before a long word that belong to it."""

AFTER = 8
"""Characters behind it."""

MARGIN = 64
"""Characters around a row of digits that belong to its window."""


def _table(classes: dict[bytes, bytes], other: bytes) -> bytes:
    table = bytearray(other * 256)
    for members, sign in classes.items():
        for member in members:
            table[member] = sign[0]
    return bytes(table)


_NUMBERS = _table({_DIGITS: b"0", _LARGE: b"A", _BETWEEN: b" "}, b"x")
_WORDS = _table({_DIGITS + _LARGE + _SMALL + b"_-": b"a"}, b" ")

_ROW = re.compile(rb"0(?: {0,3}0){6,}+")
_LETTERED = (b"AAAAAA00A00A000A", b"AAAA000000AAAAA", b"AAAAA0000A")
"""Shapes of identity numbers that have no seven digits in a row."""

_LONG = re.compile(rb"a{16,}+")
_LETTER = re.compile("[A-Za-z]")


def _shape(text: str, table: bytes) -> bytes:
    return text.encode("ascii", "replace").translate(table)


def number_windows(text: str) -> list[tuple[int, int]]:
    """Stretches with seven digits near each other, or the shape of a lettered identity number; apart, in order."""
    shape = _shape(text, _NUMBERS)
    spans = [match.span() for match in _ROW.finditer(shape)]
    for lettered in _LETTERED:
        at = shape.find(lettered)
        while at >= 0:
            spans.append((at, at + len(lettered)))
            at = shape.find(lettered, at + 1)
    return _merged(sorted((max(0, start - MARGIN), min(len(text), end + MARGIN)) for start, end in spans))


def _merged(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    merged = spans[:1]
    for _, (start, end) in pairwise(spans):
        if start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def long_words(text: str) -> str:
    """The words of at least 16 letters, digits, `_` and `-`, with what stands just beside each; a blank between.

    Those without a letter in or beside them are left out: they are no secret of anybody's, but rows of numbers.
    """
    shape = _shape(text, _WORDS)
    if b"aaaaaaaaaaaaaaaa" not in shape:
        return ""
    spans = ((max(0, match.start() - BEFORE), match.end() + AFTER) for match in _LONG.finditer(shape))
    return " ".join(text[start:end] for start, end in spans if _LETTER.search(text, start, end))
