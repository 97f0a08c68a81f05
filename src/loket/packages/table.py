"""One table of a strict TOML file: what was not asked for by `done` is an error."""

import difflib
import math
import re
from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime, time

from loket.contracts import BadInput, Json

_TEXT_LIMIT = 500
_DEPTH_LIMIT = 32


class Table:
    """Takes typed values out of a decoded table and remembers which keys it was asked for.

    `file` and `place` (`[[capability]] 2`) go into the messages. Every method raises `BadInput` for a value that does
    not fit.
    """

    def __init__(self, file: str, place: str, content: Mapping[str, Json]) -> None:
        self._file = file
        self._place = place
        self._content = content
        self._asked: list[str] = []

    def has(self, key: str) -> bool:
        self._asked.append(key)
        return key in self._content

    def text(
        self, key: str, pattern: re.Pattern[str] | None = None, *, default: str | None = None, example: str
    ) -> str:
        """Take a text of 1 to 500 characters that matches the pattern as a whole; an error shows the example."""
        if not self.has(key):
            if default is not None:
                return default
            raise self.bad(key, "is missing", f'add {key} = "{example}"')
        value = self._content[key]
        if not isinstance(value, str) or not value.strip():
            raise self.bad(key, f"is {_shown(value)}, and has to be a text", f'for example {key} = "{example}"')
        if len(value) > _TEXT_LIMIT:
            raise self.bad(key, f"has {len(value)} characters", f"say it in at most {_TEXT_LIMIT}")
        if pattern is not None and not pattern.fullmatch(value):
            raise self.bad(
                key, f"is {_shown(value)}, which does not match {pattern.pattern}", f'for example {key} = "{example}"'
            )
        return value

    def choice(self, key: str, choices: Sequence[str]) -> str:
        """Take one of these words."""
        value = self.text(key, example=choices[0])
        if value not in choices:
            remedy = suggestion(value, choices) or "choose one of " + ", ".join(choices)
            raise self.bad(key, f'is "{value}", and has to be one of {", ".join(choices)}', remedy)
        return value

    def number(self, key: str, low: float, high: float, default: float, *, whole: bool) -> float:
        """Take a number between `low` and `high`, both included."""
        if not self.has(key):
            return default
        value = self._content[key]
        fits = isinstance(value, int) if whole else isinstance(value, int | float)
        if not fits or isinstance(value, bool) or not math.isfinite(value):
            kind = "whole number" if whole else "number"
            raise self.bad(key, f"is {_shown(value)}, and has to be a {kind}", f"for example {key} = {default}")
        if not low <= value <= high:
            raise self.bad(key, f"is {value}", f"choose between {low:,} and {high:,}")
        return value if whole else float(value)

    def texts(self, key: str, *, example: str) -> tuple[str, ...]:
        """Take a list of texts without twins; an empty one where the key is left out."""
        value = self._content[key] if self.has(key) else []
        fits = isinstance(value, list) and all(isinstance(one, str) for one in value) and len(set(value)) == len(value)
        if not fits:
            raise self.bad(key, f"is {_shown(value)}, and has to be a list of texts", f"for example {key} = {example}")
        return tuple(value)

    def table(self, key: str) -> "Table":
        """Take a table; an empty one where the key is left out."""
        value = self._content[key] if self.has(key) else {}
        if not isinstance(value, dict):
            raise self.bad(key, f"is {_shown(value)}, and has to be a table", f"for example [{key}]")
        return Table(self._file, f"{self._place} [{key}]".strip(), value)

    def tables(self, key: str) -> list["Table"]:
        """Take a list of tables; an empty one where the key is left out."""
        value = self._content[key] if self.has(key) else []
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise self.bad(key, f"is {_shown(value)}, and has to be a list of tables", f"begin each with [[{key}]]")
        return [Table(self._file, f"[[{key}]] {number}", one) for number, one in enumerate(value, 1)]

    def values(self) -> dict[str, Json]:
        """Take all as JSON values."""
        self._asked.extend(self._content)
        for key, value in self._content.items():
            if not _is_json(value, _DEPTH_LIMIT):
                raise self.bad(key, f"is {_shown(value)}, which JSON cannot say", "write dates as texts")
        return dict(self._content)

    def done(self) -> None:
        """Refuse the keys that nobody asked for."""
        for key in self._content:
            if key not in self._asked:
                remedy = suggestion(key, self._asked) or "known here: " + ", ".join(self._asked)
                raise self.bad(key, "is no key that is known here", remedy)

    def bad(self, key: str, reason: str, remedy: str) -> BadInput:
        """Make the error: file, place and key, what is wrong, what to do."""
        place = f"{self._place} " if self._place else ""
        return BadInput("manifest.invalid", f'{self._file}: {place}"{key}" {reason}', remedy)


def suggestion(word: str, known: Collection[str]) -> str | None:
    """Ask "did you mean" about the nearest known word, or None."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f'did you mean "{near[0]}"?' if near else None


def _is_json(value: object, depth: int) -> bool:
    if depth == 0 or isinstance(value, datetime | date | time):
        return False
    if isinstance(value, dict):
        return all(_is_json(one, depth - 1) for one in value.values())
    if isinstance(value, list):
        return all(_is_json(one, depth - 1) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:79] + "…"  # noqa: PLR2004 - fits a line of a terminal
