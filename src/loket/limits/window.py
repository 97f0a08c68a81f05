"""Calls in any minute or hour: a moving window in memory.

The library `limits` was measured for this (5.8.0, moving window in memory): 2 to 10 microseconds a hit, and a call has
up to twelve hits (owner, agent, principal and roles, each by minute, hour and day); its clock is the wall's, which can
go backwards; several bounds cannot be hit together or not at all; and it keeps an object for each hit, starts a thread
now and then, and takes 0.1 to 0.3 s to import. A ring of 61 counts has none of that.
"""

from dataclasses import dataclass, field

SLOTS = 60
"""Parts of a window. A call counts for at most one part longer than the window, and never shorter."""


@dataclass(slots=True)
class Window:
    """How many calls there were in the last `seconds`. Times are those of a clock that never goes back."""

    seconds: float
    _counts: list[int] = field(default_factory=lambda: [0] * (SLOTS + 1))
    _total: int = 0
    _slot: int = 0
    """The number of the newest part since the clock's zero."""

    def count(self, now: float) -> int:
        """Calls in the window that ends now."""
        slot = int(now * SLOTS / self.seconds)
        if slot > self._slot:
            self._move(slot)
        return self._total

    def add(self) -> None:
        """Count a call, at the time of the last `count`."""
        self._counts[self._slot % (SLOTS + 1)] += 1
        self._total += 1

    def free_in(self, now: float, bound: int) -> float:
        """Seconds until one more call is within the bound."""
        left = self.count(now)
        for slot in range(self._slot - SLOTS, self._slot + 1):
            left -= self._counts[slot % (SLOTS + 1)]
            if left < bound:
                return max(0.0, (slot + SLOTS + 1) * self.seconds / SLOTS - now)
        return 0.0

    def _move(self, slot: int) -> None:
        """Forget the parts that are over."""
        for over in range(self._slot + 1, min(slot, self._slot + SLOTS + 1) + 1):
            place = over % (SLOTS + 1)
            self._total -= self._counts[place]
            self._counts[place] = 0
        self._slot = slot
