"""The words of an owner and of records: how they are compared, and which typed tokens stand in a text."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache

STOP = frozenset(
    [
        "a",
        "an",
        "the",
        "and",
        "or",
        "of",
        "to",
        "in",
        "on",
        "at",
        "for",
        "by",
        "with",
        "from",
        "as",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "i",
        "me",
        "my",
        "mine",
        "you",
        "your",
        "it",
        "its",
        "this",
        "that",
        "these",
        "those",
        "he",
        "him",
        "she",
        "her",
        "they",
        "them",
        "their",
        "his",
        "we",
        "us",
        "our",
        "please",
        "can",
        "could",
        "would",
        "will",
        "shall",
        "may",
        "might",
        "want",
        "need",
        "make",
        "sure",
        "if",
        "so",
        "then",
        "than",
        "there",
        "here",
        "what",
        "when",
        "where",
        "who",
        "which",
        "whose",
        "how",
        "hey",
        "hi",
        "hello",
        "thanks",
        "thank",
        "lot",
        "also",
        "just",
        "not",
        "don't",
        "dont",
        "have",
        "has",
        "had",
        "get",
        "give",
        "tell",
        "let",
        "about",
        "into",
        "new",
        "same",
        "all",
        "any",
        "each",
        "every",
        "some",
        "one",
        "two",
        "more",
        "most",
        "up",
        "out",
        "no",
        "yes",
        "go",
        "after",
        "before",
        "only",
        "after",
        "until",
        "till",
        "out",
        "such",
        "other",
        "others",
        "find",
        "look",
    ]
)
"""Words that name nothing by themselves."""

ADDRESS = re.compile(r"(?<![\w.+@-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+(?![\w@-])")
IBAN = re.compile(r"\b[A-Za-z]{2}\d{2}[A-Za-z0-9]{10,30}\b")
URL = re.compile(r"(?:https?://[^\s<>\"')\]]+|\bwww\.[\w.-]+(?:/[^\s<>\"')\]]*)?)", re.IGNORECASE)
FILE = re.compile(r"(?<![\w/.-])(?:[\w-]+/)*[\w-]+(?:\.[\w-]+)*\.[A-Za-z][A-Za-z0-9]{1,4}(?![\w@])")
NUMBER = re.compile(r"(?<![\w.@/-])[$€£]?(\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?)(?![\w@]|[.,/:-]\d)")
MONEY = re.compile(r"(?<![\w.,-])(\d{1,3}(?:,\d{3})+\.\d{2}|\d{1,9}\.\d{2})(?![\w]|[.,]\d)")
WORD = re.compile(r"[\w@.+'\u2019/&-]+")


_SHORT = 200
"""Characters of the longest text whose folded form is kept."""


def fold(text: str) -> str:
    """Lower case and single spaces, and nothing else.

    A character never becomes an ASCII letter that it was not: the Kelvin sign is no k and a Cyrillic a is no a, so
    that names which only look alike stay different.
    """
    return _fold_short(text) if len(text) <= _SHORT else _fold(text)


def _fold(text: str) -> str:
    if text.isascii():
        return " ".join(text.lower().split())
    if _STACKED.search(text) is not None or any(_poses(c) for c in text):
        plain = text  # the first is no word of any language, and takes quadratic time to put in order
    else:
        plain = unicodedata.normalize("NFC", text)
    return " ".join("".join(c.lower() if c.isascii() or not c.lower().isascii() else c for c in plain).split())


_STACKED = re.compile(
    r"[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u064b-\u065f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]{30}"
)
"""So many combining marks upon one letter (UAX 15, section 13 allows 30)."""


def _poses(character: str) -> bool:
    """Whether normalisation would make an ASCII character of another one (the Kelvin sign, the Greek question mark)."""
    return not character.isascii() and unicodedata.normalize("NFC", character).isascii()


_fold_short = lru_cache(maxsize=16_384)(_fold)


def fold_url(url: str) -> str:
    """A web address without its scheme, a slash or a stop at its end; the host in lower case, the rest as it is."""
    bare = re.sub(r"^https?://", "", url.strip(), flags=re.IGNORECASE).rstrip("/.,;:!?")
    host, slash, rest = bare.partition("/")
    return fold(host) + slash + rest


@lru_cache(maxsize=4_096)
def slug(text: str) -> str:
    """A file's name as words: `team-notes_2024.docx` is `team notes 2024`."""
    stem = re.sub(r"\.[A-Za-z][A-Za-z0-9]{1,4}$", "", text)
    return fold(re.sub(r"[-_./]+", " ", stem))


@lru_cache(maxsize=16_384)
def _bounded(key: str) -> re.Pattern[str]:
    """A key as whole words: a part of an identifier (`ops` in `dev-ops`, `a/ops` or `ops.example`) is not the key."""
    return re.compile(r"(?<![\w@])(?<![\w@][-_/.])" + re.escape(key) + r"(?![\w@]|[-_/.][\w@])")


def contains(text: str, key: str) -> bool:
    """Whether the folded key stands in the folded text as whole words."""
    return key in text and _bounded(key).search(text) is not None


def number(text: str) -> float:
    """The number that a text writes, with a comma for thousands or as the decimal sign."""
    if "," in text and ("." in text or re.fullmatch(r"\d{1,3}(,\d{3})+", text)):
        return float(text.replace(",", ""))
    return float(text.replace(",", "."))


def tokens(kind: str, text: str) -> set[str]:
    """The typed tokens of a text, folded: `address`, `iban`, `url`, or `number` for sums of money with two decimals."""
    if kind == "address":
        return {fold(found) for found in ADDRESS.findall(text)}
    if kind == "iban":
        return {fold(found) for found in IBAN.findall(text) if sum(c.isdigit() for c in found) >= 10}  # noqa: PLR2004
    if kind == "url":
        return {fold_url(found) for found in URL.findall(text)}
    return {str(number(found)) for found in MONEY.findall(text)}


def scalars(value: object) -> Iterator[str | float]:
    """The texts and numbers of a JSON value: itself, the items of a list, the keys of an object; no booleans."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, (str, int, float)):
        yield value
    elif isinstance(value, dict):
        yield from (key for key in value if isinstance(key, str))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from scalars(item) if not isinstance(item, dict) else ()


def folded(values: Iterable[str]) -> frozenset[str]:
    """Several texts, folded."""
    return frozenset(fold(value) for value in values)
