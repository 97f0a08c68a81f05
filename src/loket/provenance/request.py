"""What an owner's words name: typed literals, explicit names, and the phrases by which records can be found."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

from loket.provenance import words
from loket.provenance.words import STOP, fold, fold_url

MONTHS = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
]
DAYS = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_MONTH = "|".join(f"{month}|{month[:3]}" for month in MONTHS)
_QUOTED = re.compile(
    r"(?<!\w)'([^'\n]{2,200}?)'(?!\w)|\"([^\"\n]{2,200})\"|\u201c([^\u201d\n]{2,200})\u201d|`([^`\n]{2,200})`"
)
_LONGEST = 6
"""Words of the longest phrase that is looked for."""
_LEAST = 4
"""Letters of the shortest single word that is looked for."""

_DELEGATES = re.compile(
    r"\b(do|follow|perform|execute|carry out|complete|finish|handle|act on|take care of)\b[^.?!]{0,60}"
    r"\b(tasks?|actions?|instructions?|steps|to-?dos?|requests?|what (it|the \w+) (says?|asks?))\b"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A phrase of the owner's words: where it stands (first and last word), and whether it names a thing exactly."""

    text: str
    first: int
    last: int
    explicit: bool

    @property
    def strong(self) -> bool:
        """Whether it can hardly stand in a request by chance: explicit, or of two words that mean something."""
        return self.explicit or len([w for w in self.text.split() if w not in STOP]) > 1


@dataclass(frozen=True)
class Request:
    """An owner's words, parsed once. `now` resolves words such as "tomorrow"; without it they name no date."""

    text: str
    now: datetime | None = None
    folded: str = field(init=False)
    _said: dict[str, bool] = field(init=False, default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "folded", fold(self.text))

    @cached_property
    def addresses(self) -> frozenset[str]:
        return frozenset(words.tokens("address", self.text))

    @cached_property
    def ibans(self) -> frozenset[str]:
        return frozenset(words.tokens("iban", self.text))

    @cached_property
    def urls(self) -> frozenset[str]:
        return frozenset(words.tokens("url", self.text))

    @cached_property
    def files(self) -> frozenset[str]:
        """File names and paths with an ending, that are no web address."""
        found = frozenset(fold(name) for name in words.FILE.findall(self.text))
        return frozenset(name for name in found if not any(name in url for url in (*self.urls, *self.addresses)))

    @cached_property
    def numbers(self) -> frozenset[float]:
        return frozenset(words.number(found) for found in words.NUMBER.findall(self.text))

    @cached_property
    def quoted(self) -> frozenset[str]:
        found = ("".join(groups) for groups in _QUOTED.findall(self.text))
        return frozenset(fold(text) for text in found)

    @cached_property
    def originals(self) -> frozenset[str]:
        """The quoted texts and file names as the owner wrote them."""
        return frozenset("".join(g) for g in _QUOTED.findall(self.text)) | frozenset(words.FILE.findall(self.text))

    @cached_property
    def explicit(self) -> frozenset[str]:
        """The strings with which the owner names a thing exactly."""
        return self.quoted | self.files | self.urls | self.addresses | self.ibans

    @cached_property
    def bare(self) -> str:
        """The folded words without the names of things: what is asked for, not what it is called."""
        text = self.folded
        for name in sorted(self.explicit, key=len, reverse=True):
            text = text.replace(name, " ")
        return text

    @cached_property
    def delegates(self) -> bool:
        """Whether the owner asks to do what some text says."""
        return _DELEGATES.search(self.folded) is not None

    @cached_property
    def times(self) -> frozenset[str]:
        """Times of day as `HH:MM`."""
        found = {f"{int(h):02d}:{m}" for h, m in re.findall(r"\b(\d{1,2}):(\d{2})\b(?!\s*[ap]m\b)", self.folded)}
        for hour, minute, half in re.findall(r"\b(\d{1,2})(?::(\d{2}))?\s*([ap])\.?m\b", self.folded):
            found.add(f"{int(hour) % 12 + (12 if half == 'p' else 0):02d}:{minute or '00'}")
        if "noon" in self.folded:
            found.add("12:00")
        return frozenset(found)

    @cached_property
    def dates(self) -> frozenset[tuple[int | None, int, int]]:
        """Dates as year (None where none is written), month, day."""
        return frozenset([*_iso(self.folded), *_spelled(self.folded), *self._relative()])

    def _relative(self) -> Iterator[tuple[int, int, int]]:
        if self.now is None:
            return
        ahead = {"today": 0, "tonight": 0, "tomorrow": 1, "day after tomorrow": 2}
        ahead |= {name: (i - self.now.weekday() - 1) % 7 + 1 for i, name in enumerate(DAYS)}
        for word, days in ahead.items():
            if words.contains(self.folded, word):
                day = self.now + timedelta(days=days)
                yield (day.year, day.month, day.day)

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words in order, folded, without the punctuation around them."""
        found = (fold(word).strip(".,!?;:'\"()\u2019") for word in words.WORD.findall(self.text))
        return tuple(re.sub(r"['\u2019]s$", "", word) for word in found if word)

    @cached_property
    def keys(self) -> tuple[Key, ...]:
        """The phrases that can name a record, longest first."""
        said = self.words
        found: dict[tuple[str, int], Key] = {}
        for size in range(1, _LONGEST + 1):
            for first in range(len(said) - size + 1):
                group = said[first : first + size]
                text = " ".join(group)
                if text in self.explicit or _names(group):
                    found[text, first] = Key(text, first, first + size - 1, text in self.explicit)
        there = {key.text for key in found.values()}
        for text in self.explicit - there:
            first = _where(said, text)
            found[text, first] = Key(text, first, first + len(text.split()) - 1, explicit=True)
        return tuple(sorted(found.values(), key=lambda key: (key.first - key.last, key.first, key.text)))

    def says(self, value: str) -> bool:
        """Whether the words stand in the request as whole words."""
        known = self._said.get(value)
        if known is None:
            text = fold(value)
            known = self._said[value] = bool(text) and words.contains(self.folded, text)
        return known

    def spells(self, value: str) -> bool:
        """Whether the words stand in the request letter by letter, capitals and all."""
        return value == value.strip() and words.contains(self.text, value)

    def speaks_of(self, kind: str) -> bool:
        """Whether the owner named any value of a type."""
        literals = {
            "date": self.dates,
            "time": self.times,
            "path": self.files,
            "address": self.addresses,
            "url": self.urls,
            "iban": self.ibans,
            "number": self.numbers,
        }
        return bool(literals.get(kind))

    def names_url(self, value: str) -> bool:
        """Whether the owner wrote this web address, whole, with or without its scheme."""
        return fold_url(value) in self.urls

    def names_date(self, value: str, *, any_year: bool = False) -> bool:
        """Whether the owner wrote this date (ISO 8601, with or without a time), and this time if any was written."""
        match = re.fullmatch(r"(\d{4})-(\d{2})-(\d{2})(?:[ T](\d{2}:\d{2}).*)?", value.strip())
        if match is None:
            return self.says(value)
        year, month, day = (int(part) for part in match.groups()[:3])
        years = {y for y, m, d in self.dates if (m, d) == (month, day)}
        spoken = {y for y, _, _ in self.dates if y is not None}
        fits = bool(years) and (any_year or year in years or (None in years and (not spoken or year in spoken)))
        time = match.group(4)
        return fits and (any_year or time is None or not self.times or time in self.times)


def _names(group: tuple[str, ...]) -> bool:
    """Whether a phrase can name a thing: it begins and ends with words that mean something."""
    if group[0] in STOP or group[-1] in STOP:
        return False
    return len(group) > 1 or len(group[0]) >= _LEAST


def _where(said: tuple[str, ...], text: str) -> int:
    """The position of an explicit name among the words: of its first word, or past the end."""
    first = text.split(maxsplit=1)[0].strip(".,!?;:'\"()\u2019")
    return said.index(first) if first in said else len(said)


def _iso(text: str) -> Iterator[tuple[int, int, int]]:
    for year, month, day in re.findall(r"\b(\d{4})-(\d{2})-(\d{2})\b", text):
        yield (int(year), int(month), int(day))


def _spelled(text: str) -> Iterator[tuple[int | None, int, int]]:
    """Dates such as "May 15th, 2024", "the 5th of January" and "15 May"."""
    after = rf"\b({_MONTH})\.?\s+(\d{{1,2}})(?:st|nd|rd|th)?\b(?:,?\s+(\d{{4}})\b)?"
    before = rf"\b(\d{{1,2}})(?:st|nd|rd|th)?(?:\s+of)?\s+({_MONTH})\b\.?(?:,?\s+(\d{{4}})\b)?"
    for month, day, year in re.findall(after, text):
        yield (int(year) if year else None, _month(month), int(day))
    for day, month, year in re.findall(before, text):
        yield (int(year) if year else None, _month(month), int(day))


def _month(name: str) -> int:
    return next(i for i, month in enumerate(MONTHS, 1) if month.startswith(name[:3]))
