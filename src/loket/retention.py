"""Retention: what runs said is erased when it is older than the owner's settings allow.

Only the old runs go, and what they wrote: a younger run that recalled something keeps its own copy until it is as old.
"""

from collections.abc import Callable, Mapping

from loket.erasure import Eraser
from loket.periodic import periodically
from loket.store.kernel import KernelDatabase

EVERY_S = 3600.0
"""Seconds between two looks."""

ALL_OTHERS = "*"
"""The agent of the setting that counts for those that have none of their own."""

_DAY_S = 86_400


class Retention:
    """Erases old runs. `days` is by agent; `now` in seconds since 1970 UTC."""

    def __init__(
        self, database: KernelDatabase, eraser: Eraser, days: Mapping[str, int], now: Callable[[], float]
    ) -> None:
        self._database = database
        self._eraser = eraser
        self._days = days
        self._now = now

    def due(self) -> list[str]:
        """The finished runs that are older than their agent's days."""
        found: list[str] = []
        gone = self._database.keys.gone()
        for agent in self._database.agents():
            days = self._days.get(agent, self._days.get(ALL_OTHERS))
            if days is not None:
                found += self._database.accepted_before(self._now() - days * _DAY_S, agent, gone)
        return found

    def apply(self) -> int:
        """Finish what was interrupted, and erase what is due; how many runs were due. Raises `LoketError`."""
        if self._database.interrupted_erasures():
            self._eraser.resume()
        runs = self.due()
        if runs:
            self._eraser.erase(self._eraser.plan(runs, only=True), "retention")
        return len(runs)

    async def keep(self, every_s: float = EVERY_S, failed: Callable[[str], None] = lambda _said: None) -> None:
        """Apply it now and again and again, until cancelled. `failed` is told of what could not be erased."""
        await periodically(self.apply, "retention", every_s, failed)
