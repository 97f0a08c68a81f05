"""Sums of a day, and what is held for calls in flight: reserve, perform, settle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from loket.limits.bounds import MB, Held
from loket.limits.window import Window

NANO: Final = 1_000_000_000
"""Money is counted in billionths of a dollar, so that what is added and taken away again leaves nothing."""

DAILY: Final = {
    "calls": ("calls_per_day", 1.0),
    "tokens": ("tokens_per_day", 1.0),
    "money": ("money_per_day", float(NANO)),
    "size": ("mb_per_day", float(MB)),
    "cpu_ms": ("cpu_s_per_day", 1000.0),
}
"""Field of `Sums` to the setting that bounds it, and how many of its units one of the setting's has."""

WINDOWS: Final = {"calls_per_minute": 60.0, "calls_per_hour": 3600.0}


@dataclass(slots=True)
class Sums:
    """Calls, model tokens, billionths of a dollar, bytes of arguments and answers, milliseconds of CPU time."""

    calls: int = 0
    tokens: int = 0
    money: int = 0
    size: int = 0
    cpu_ms: int = 0

    def add(self, more: "Sums") -> None:
        self.calls += more.calls
        self.tokens += more.tokens
        self.money += more.money
        self.size += more.size
        self.cpu_ms += more.cpu_ms

    def take(self, less: "Sums") -> None:
        self.calls -= less.calls
        self.tokens -= less.tokens
        self.money -= less.money
        self.size -= less.size
        self.cpu_ms -= less.cpu_ms

    def by_name(self) -> Mapping[str, int]:
        return {one.name: getattr(self, one.name) for one in fields(self)}


def nano(money: float) -> int:
    """Dollars in billionths, rounded up."""
    return math.ceil(round(money * NANO, 3))


@dataclass(slots=True)
class Account:
    """One holder: its bounds, what its calls in flight hold, and its moving windows."""

    held: Held
    in_flight: Sums = field(default_factory=Sums)
    daily: tuple[tuple[str, int], ...] = ()
    """Field of `Sums` and its bound, where there is one."""
    windows: tuple[tuple[str, int, Window], ...] = ()

    @classmethod
    def of(cls, held: Held) -> "Account":
        given = held.bounds.given()
        daily = [(name, int(given[key] * unit)) for name, (key, unit) in DAILY.items() if key in given]
        windows = [(key, int(given[key]), Window(length)) for key, length in WINDOWS.items() if key in given]
        return cls(held, Sums(), tuple(daily), tuple(windows))
