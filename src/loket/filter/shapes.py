"""What a text is made of, by one pass in C: whether there can be anything in it that an expression would find.

A text is encoded with a sign for each character (`?` for all that is not ASCII) and translated into a few classes. What
an expression needs is then a row of classes, and finding a fixed row is a hundred times cheaper than the expression.
A row that is there proves nothing; one that is not there proves that the expression finds nothing.
"""

import re
import string
from collections.abc import Iterator

_SMALL = string.ascii_lowercase.encode()
_ALL_LETTERS = string.ascii_letters.encode()
_OTHERS = b"?"
"""Stands for a character that is not ASCII, and for itself."""


def _table(other: bytes, **classes: bytes) -> bytes:
    """For `bytes.translate`: each byte of a class becomes the class's name, all others `other`."""
    table = bytearray(other * 256)
    for name, members in classes.items():
        for member in members:
            table[member] = ord(name)
    return bytes(table)


_BASE64 = _table(b" ", a=_ALL_LETTERS + string.digits.encode() + b"+/_-")
_ENCODED = re.compile(rb"a{20,}+")
"""The shortest block of base64 that counts, and longer ones."""

HEX = _table(b".", h=string.hexdigits.encode(), s=b" :")
PAIRS = b"s".join([b"hh"] * 12)
"""Twelve bytes in hexadecimal, with a blank or a colon between."""

LETTERS = _table(b".", a=_ALL_LETTERS + _OTHERS, s=b" ")
SINGLES = b"s".join([b"a"] * 7)
"""Seven letters with blanks between."""

_WORDS = bytes(byte if byte in _SMALL else 0x20 for byte in range(256))
_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code not in b"\t\n\r")


def encoded(data: bytes) -> Iterator[int]:
    """Where rows of at least 20 signs of base64 begin."""
    return (row.start() for row in _ENCODED.finditer(data.translate(_BASE64)))


def has_controls(data: bytes) -> bool:
    """Whether there is a control character of ASCII in it that prints nothing."""
    return len(data.translate(None, _CONTROLS)) != len(data)


def words_of(lower: str) -> set[bytes]:
    """The rows of the letters a to z in a text in lower case."""
    return set(lower.encode("ascii", "replace").translate(_WORDS).split())
