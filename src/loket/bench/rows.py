"""What a benchmark reports: figures of what was measured, and of the peers beside it."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Peer:
    """Something to compare with. `samples` are in `unit`; where it could not be measured there are none, but `reason`.

    `rate` says that more is better.
    """

    name: str
    unit: str = ""
    samples: Sequence[float] = ()
    reason: str | None = None
    rate: bool = False

    def as_dict(self) -> dict[str, Any]:
        """`name`, `unit`, `p50`, `p99`, `n`; or `name`, `reason`."""
        if not self.samples:
            return {"name": self.name, "reason": self.reason or "nothing was measured"}
        return {"name": self.name, "unit": self.unit, **figures(self.samples, rate=self.rate)}


@dataclass(frozen=True, slots=True)
class Taken:
    """What one benchmark measured, in the unit of its row. `n` counts what was done, where that is not the samples."""

    samples: Sequence[float]
    peers: Sequence[Peer] = ()
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the report. `met` says whether `p50` reaches `target`; `command` measures it again."""

    name: str
    unit: str
    p50: float
    p99: float
    n: int
    target: float
    command: str
    met: bool
    peers: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The row as JSON: its fields, `peers` as in `Peer.as_dict`."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "peers": list(self.peers)}


def figures(samples: Sequence[float], *, rate: bool) -> dict[str, Any]:
    """`p50`, `p99` and `n` of at least one sample.

    `p50` is the median; `p99` the nearest rank: the smallest sample that 99 of 100 do not exceed. Of a rate, where more
    is better, it is the largest that 99 of 100 reach.
    """
    ordered = sorted(samples, reverse=rate)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"p50": tidy(statistics.median(ordered)), "p99": tidy(p99), "n": len(ordered)}


def tidy(value: float) -> float:
    """Four digits that mean something."""
    return float(f"{value:.4g}")
