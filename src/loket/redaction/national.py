"""National identity numbers, by the rules of `python-stdnum`.

A number whose form is its own (letters, groups, two check digits) counts wherever it stands. One that is a bare row of
digits with a weak check counts only behind a word that names it, since one order number in eleven passes that check.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from loket.redaction.found import BARRIER
from loket.redaction.personal import Window
from loket.redaction.tokens import Span

SPAN = 64

_BEFORE = 40
"""Characters before a number in which the word that names it stands."""

_DIGIT = re.compile("[0-9]")

_LEFT = r"(?<!\w)(?<![0-9][.,-])"
_RIGHT = r"(?!\w|[.,-][0-9])"


@dataclass(frozen=True, slots=True)
class Number:
    """A kind of number: the module of `stdnum` that checks it, its form, and the words that must stand before it."""

    module: str
    form: str
    pattern: re.Pattern[str]
    words: re.Pattern[str] | None = None


def _number(module: str, form: str, words: str = "") -> Number:
    named = re.compile(rf"(?i)(?<![a-z])(?:{words})(?![a-z])") if words else None
    return Number(module, form, re.compile(f"(?={_LEFT}(?P<value>{form}){_RIGHT})"), named)


NUMBERS = (
    _number("us.ssn", r"[0-9]{3}-[0-9]{2}-[0-9]{4}"),
    _number("us.ssn", r"[0-9]{3} ?[0-9]{2} ?[0-9]{4}", r"ssn|social security"),
    _number("us.itin", r"9[0-9]{2}-[0-9]{2}-[0-9]{4}"),
    _number(
        "nl.bsn",
        r"[0-9]{9}|[0-9]{4}[. ][0-9]{2}[. ][0-9]{3}|[0-9]{3}[. ][0-9]{3}[. ][0-9]{3}",
        r"bsn|burgerservice(?:nummer|nr)?|sofi(?:nummer|-nummer)?",
    ),
    _number("gb.nhs", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", r"nhs"),
    _number("fr.nir", r"[1278] ?[0-9]{2} ?[0-9]{2} ?[0-9][0-9AB] ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}"),
    _number(
        "de.idnr",
        r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
        r"idnr|steuer-?id(?:entifikationsnummer|-?nr|-?nummer)?|identifikationsnummer|tax id",
    ),
    _number("es.dni", r"[0-9]{8}-?[A-Z]"),
    _number("es.nie", r"[XYZ]-?[0-9]{7}-?[A-Z]"),
    _number("it.codicefiscale", r"[A-Z]{6}[0-9]{2}[A-EHLMPRST][0-9]{2}[A-Z][0-9]{3}[A-Z]"),
    _number("pl.pesel", r"[0-9]{11}", r"pesel"),
    _number("be.nn", r"[0-9]{2}\.[0-9]{2}\.[0-9]{2}-[0-9]{3}\.[0-9]{2}"),
    _number("be.nn", r"[0-9]{11}", r"rijksregister(?:nummer)?|registre national|niss|insz"),
    _number("se.personnummer", r"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}"),
    _number("fi.hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-Y]"),
    _number("dk.cpr", r"[0-9]{6}-?[0-9]{4}", r"cpr|cpr-?nr|cpr-?nummer|personnummer"),
    _number("no.fodselsnummer", r"[0-9]{6} ?[0-9]{5}", r"f.dselsnummer|fnr|personnummer|national id"),
    _number("pt.cc", r"[0-9]{8} ?[0-9] ?[A-Z0-9]{2}[0-9]"),
    _number("br.cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}"),
    _number("br.cpf", r"[0-9]{11}", r"cpf"),
    _number("in_.aadhaar", r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}"),
    _number("in_.aadhaar", r"[2-9][0-9]{11}", r"aadhaar|aadhar|uidai"),
    _number("in_.pan", r"[A-Z]{3}[ABCFGHLJPT][A-Z][0-9]{4}[A-Z]", r"pan|permanent account"),
    _number("id.nik", r"[0-9]{16}", r"nik|ktp|e-?ktp"),
    _number("cn.ric", r"[1-9][0-9]{5}(?:18|19|20)[0-9]{9}[0-9X]"),
    _number("ca.sin", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", r"sin|social insurance"),
    _number("au.tfn", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", r"tfn|tax file"),
    _number("mx.curp", r"[A-Z]{4}[0-9]{6}[HM][A-Z]{5}[A-Z0-9][0-9]"),
    _number("za.idnr", r"[0-9]{13}", r"id number|identity number|sa id"),
    _number("ch.ssn", r"756\.[0-9]{4}\.[0-9]{4}\.[0-9]{2}"),
    _number("kr.rrn", r"[0-9]{6}-[0-9]{7}"),
    _number("ie.pps", r"[0-9]{7}[A-W][ABWTXZ]?", r"pps|ppsn"),
)
"""Which numbers are looked for, and where words are needed."""


_BARE = tuple(number for number in NUMBERS if number.words is None)
_BEHIND_WORDS = tuple(number for number in NUMBERS if number.words is not None)
_LETTER = re.compile(r"[^\W\d_]")


@cache
def _starts(*, bare: bool) -> re.Pattern[str]:
    """Where a number of any of the forms begins, without or with words: one look instead of one a form."""
    numbers = _BARE if bare else _BEHIND_WORDS
    forms = "|".join(dict.fromkeys(number.form for number in numbers))
    return re.compile(f"(?={_LEFT}(?=[A-Z0-9])(?:{forms}){_RIGHT})")


def national_ids(text: str, window: Window) -> Iterator[Span]:
    """Identity numbers of persons."""
    for at in _starts(bare=True).finditer(text, *window):
        yield from _at(_BARE, text, at.start(), window[1])
    for at in _starts(bare=False).finditer(text, *window):
        if _LETTER.search(text, max(0, at.start() - _BEFORE), at.start()):  # else there is no word
            yield from _at(_BEHIND_WORDS, text, at.start(), window[1])


def _at(numbers: Sequence[Number], text: str, start: int, end: int) -> Iterator[Span]:
    for number in numbers:
        match = number.pattern.match(text, start, end)
        if match and _named(number, text, start) and _valid(number.module, match["value"]):
            yield "national-id", start, match.end("value")


def _named(number: Number, text: str, start: int) -> bool:
    """Whether the word that a number needs stands before it: no mark between, no other number and end of line."""
    if number.words is None:
        return True
    between = None
    for match in number.words.finditer(text, max(0, start - _BEFORE), start):
        between = text[match.end() : start]
    if between is None or BARRIER in between:
        return False
    return "\n" not in between or not _DIGIT.search(between)


def _valid(module: str, value: str) -> bool:
    return bool(_check_of(module)(value))


@cache
def _check_of(module: str) -> Callable[[str], object]:
    check: Callable[[str], object] = import_module(f"stdnum.{module}").is_valid
    return check
