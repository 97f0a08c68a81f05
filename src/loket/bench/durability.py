"""`loket bench durability`: whole workloads under `kill -9` and power losses; then every promise is checked."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loket.bench.durability_check import Found, counts
from loket.bench.durability_kill import kills
from loket.bench.durability_power import losses
from loket.bench.place import Place
from loket.bench.rows import Peer, Row, Taken
from loket.bench.suite import CAMPAIGN, reported

KILLS = 500
LOSSES = 200
_FIRST = 5
"""Rounds after which the rest is estimated; then it is said again at each tenth part."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a campaign did and found. `command` repeats its schedule."""

    kills: int
    losses: int
    seed: int
    violations: tuple[str, ...]
    counted: dict[str, int]
    seconds: float

    @property
    def command(self) -> str:
        return f"loket bench durability --kills {self.kills} --losses {self.losses} --seed {self.seed}"

    def taken(self) -> Taken:
        """The row: violations, and how much was done."""
        done = {"kill -9": self.kills, "power losses": self.losses, **self.counted}
        peers = [Peer(name, "in all", [float(number)]) for name, number in done.items()]
        return Taken([float(len(self.violations))], peers, n=self.kills + self.losses)

    def row(self) -> Row:
        """The row of the report, with the command that repeats this schedule."""
        return reported(CAMPAIGN, self.taken(), self.command)


def measured(place: Place, n: int) -> Taken:
    """The campaign with `n` kills and two fifths as many power losses, with a seed of its own."""
    return campaign(place, n, n * LOSSES // KILLS, new_seed(), lambda _line: None).taken()


def new_seed() -> int:
    """A seed for a schedule that nobody has seen."""
    return random.SystemRandom().getrandbits(32)


def campaign(place: Place, kill_count: int, loss_count: int, seed: int, say: Say) -> Outcome:
    """Run it all; `say` takes lines about what is tried. Raises `Failed` where a server does not start again."""
    started = time.monotonic()
    say(f"seed {seed}: {kill_count} times kill -9, then {loss_count} power losses")
    found = asyncio.run(_all(place, kill_count, loss_count, seed, say))
    violations = tuple(sentence for one in found for sentence in one.wrong)
    return Outcome(kill_count, loss_count, seed, violations, counts(found), round(time.monotonic() - started, 1))


async def _all(place: Place, kill_count: int, loss_count: int, seed: int, say: Say) -> list[Found]:
    found = []
    if kill_count:
        found.append(await kills(place, kill_count, seed, _progress("kills", kill_count, say)))
        say(_summary("killed", found))
    if loss_count:
        after = await losses(place, loss_count, seed, _progress("power losses", loss_count, say))
        say(_summary("power lost", after))
        found += after
    return found


def _progress(what: str, count: int, say: Say) -> Callable[[int], None]:
    started, tenth = time.monotonic(), max(1, count // 10)

    def progress(done: int) -> None:
        if done == _FIRST or done % tenth == 0:
            spent = time.monotonic() - started
            say(f"{done} of {count} {what}; about {spent / done * (count - done):.0f} s are left")

    return progress


def _summary(what: str, found: list[Found]) -> str:
    told: dict[str, Any] = counts(found)
    wrong = sum(len(one.wrong) for one in found)
    return f"{what}: {', '.join(f'{number} {name}' for name, number in told.items())}; {wrong} violations"
