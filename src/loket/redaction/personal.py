"""Personal data by rule: payment cards, bank accounts (IBAN) and e-mail addresses."""

import re
from collections.abc import Iterator

from loket.redaction.tokens import Span

SPAN = 400
"""Characters of the longest finding (an e-mail address)."""

Window = tuple[int, int]
"""Start and end of the stretch of a text that is looked at; what stands around it counts as well."""

_CARD = re.compile(
    r"(?=(?<!\w)(?<![0-9][.,])(?P<value>(?=[2-6])(?:"
    r"[0-9]{14,19}"
    r"|[0-9]{4}(?P<a>[ \u00a0\u202f._-])[0-9]{4}(?P=a)[0-9]{4}(?P=a)[0-9]{4}(?:(?P=a)[0-9]{3})?"
    r"|[0-9]{4}(?P<b>[ \u00a0\u202f._-])[0-9]{6}(?P=b)[0-9]{4,5}"
    r"|[0-9](?P<c>[ \u00a0-])[0-9](?:(?P=c)[0-9]){12,17}"
    r"))(?!\w|[.,][0-9]))"
)

_BRANDS = re.compile(
    r"4(?:[0-9]{15}|[0-9]{18})"
    r"|(?:5[1-5][0-9]{2}|222[1-9]|22[3-9][0-9]|2[3-6][0-9]{2}|27[01][0-9]|2720)[0-9]{12}"
    r"|3[47][0-9]{13}"
    r"|3(?:0[0-5]|[689][0-9])[0-9]{11}"
    r"|(?:6011|65[0-9]{2}|64[4-9][0-9])[0-9]{12,15}"
    r"|35(?:2[89]|[3-8][0-9])[0-9]{12,15}"
    r"|62[0-9]{14,17}"
)
"""Ranges and lengths of Visa, Mastercard, American Express, Diners, Discover, JCB and UnionPay (ISO/IEC 7812)."""


def cards(text: str, window: Window) -> Iterator[Span]:
    """Numbers of payment cards: an issuer's range, its length, and the check digit of Luhn."""
    for match in _CARD.finditer(text, *window):
        between = match["a"] or match["b"] or match["c"]
        digits = match["value"].replace(between, "") if between else match["value"]
        if _BRANDS.fullmatch(digits) and _luhn(digits) and len(set(digits)) > 1:
            yield "card", match.start("value"), match.end("value")


_ZERO = ord("0")
_DOUBLED = bytes.maketrans(b"0123456789", bytes(2 * digit - 9 * (digit > 4) for digit in range(10)))  # noqa: PLR2004
"""Each second digit, from the right, doubled; of two digits their sum."""


def _luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812-1, annex B."""
    data = digits.encode("ascii")
    plain, doubled = data[-1::-2], data[-2::-2]
    return (sum(plain) - _ZERO * len(plain) + sum(doubled.translate(_DOUBLED))) % 10 == 0


_IBAN = re.compile(
    r"(?=(?<![A-Za-z0-9])(?P<value>[A-Z]{2}[0-9]{2}(?:[ \u00a0-]?[A-Z0-9]{4}){2,7}"
    r"(?:[ \u00a0-]?[A-Z0-9]{1,3})?|[A-Za-z]{2}[0-9]{2}[A-Za-z0-9]{11,30}))"
)


def ibans(text: str, window: Window) -> Iterator[Span]:
    """International bank account numbers (ISO 13616): a country's structure and the check digits."""
    for match in _IBAN.finditer(text, *window):
        end = _iban_end(text, match["value"], match.start("value"))
        if end:
            yield "iban", match.start("value"), end


_GOES_ON = re.compile("[A-Za-z0-9]")


def _iban_end(text: str, value: str, start: int) -> int:
    """Where a bank account number that begins at `start` ends: words behind it may have the form of a group; or 0."""
    from stdnum import iban

    for length in range(len(value), 14, -1):
        end = start + length
        whole = not _GOES_ON.match(text, end)
        if (
            whole
            and value[length - 1].isalnum()
            and iban.is_valid(value[:length].replace("\u00a0", " "), check_country=False)
        ):
            return end
    return 0


_EMAIL = re.compile(
    r"(?=(?<![\w.%+\-/])(?P<value>[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?"
    r"@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,4}(?P<top>[A-Za-z]{2,24}))"
    r"(?!\w|-\w|\.\w))"
)

_NO_DOMAIN = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "avif", "ico", "css", "js", "mjs", "ts", "py", "rs", "go", "json")
)
_NO_PERSON = frozenset(("git", "hg", "svn"))


def emails(text: str) -> Iterator[Span]:
    """E-mail addresses (the common part of RFC 5321), without `git@host:path` and `picture@2x.png`."""
    if "@" not in text:
        return
    for match in _EMAIL.finditer(text):
        value = match["value"]
        remote = value.partition("@")[0] in _NO_PERSON and text[match.end("value") :][:1] in (":", "/")
        if match["top"].lower() not in _NO_DOMAIN and not remote:
            yield "email", match.start("value"), match.end("value")
