"""Telephone numbers, by the plans that `phonenumbers` carries."""

import re
from collections.abc import Iterator, Sequence

from loket.redaction.personal import Window
from loket.redaction.tokens import Span

SPAN = 128

_BLANKS = " \u00a0\u202f./()\u2010\u2011\u2013-"

_RUN = re.compile(
    rf"(?<![\w#$€£¥@:=,])(?<![0-9][.,:/-])(?:\+ ?\(?|\(\+?)?[0-9](?:[{_BLANKS}]{{0,3}}+[0-9]){{6,}}+"
    rf"(?![\w%€£¥]|[,:][0-9]|-\w)"
)
"""A longest row of digits with what people put between them."""

_MOST = 24
"""Digits of the longest row that is looked at: longer ones are tables."""

_OTHER = re.compile(
    r"(?:[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}|[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4})(?![0-9-])"
    r"|[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?:[/ ]|\Z)"
    r"|(?!0[0-9])[0-9]{1,4}\.[0-9]{5,}"
    r"|[0-9]{1,3}(?:[. \u00a0\u202f][0-9]{3})+\Z"
)
"""Dates, addresses of the internet (IPv4), fractions, and numbers with a mark at the thousands."""


_DIALLED = re.compile(r"\(|(?<![0-9])0|[0-9][^0-9]+[0-9]+[^0-9]+[0-9]")
"""How a number without a country's code is written: with a trunk zero, an area in brackets, or in groups."""


def phones(text: str, window: Window, regions: Sequence[str]) -> Iterator[Span]:
    """Numbers with a country's code (`+31 ...`), and those that are dialled in one of the regions (ISO 3166)."""
    for match in _RUN.finditer(text, *window):
        run = match[0]
        if _looked_at(run, national=bool(regions)):
            yield from _in_run(run, match.start(), regions)


def _looked_at(run: str, *, national: bool) -> bool:
    """Whether a row can be a number at all, which is asked first because the plans are slow."""
    if sum(map(str.isdigit, run)) > _MOST:
        return False
    return "+" in run or (national and _DIALLED.search(run) is not None and not _OTHER.match(run))


def _in_run(run: str, offset: int, regions: Sequence[str]) -> Iterator[Span]:
    from phonenumbers import PhoneNumberMatcher

    for region in regions or (None,):
        for match in PhoneNumberMatcher(run, region):
            if _written(match.raw_string):
                yield "phone", offset + match.start, offset + match.end


def _written(raw: str) -> bool:
    """Whether it is written like a number to dial: with a code, a trunk zero, or groups."""
    return raw[0] in "+(0" or len(re.findall("[0-9]+", raw)) > 2  # noqa: PLR2004 (area, exchange, line)
