"""The time from a run's start to its end: watched once a second, and over it ends the run.

Time stands still for a run while it waits for the owner, itself, through a run that it waits for, or behind another in
its conversation. It is that of a clock that never goes back, and begins anew for a run that an earlier process began.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from loket.contracts import RunEnded, RunRequest, RunStatus
from loket.limits import words
from loket.limits.bounds import Held

EVERY_S: Final = 1.0


class Unfinished(Protocol):
    """An unfinished run as the engine lists it."""

    @property
    def request(self) -> RunRequest: ...

    @property
    def status(self) -> RunStatus: ...


class WallTime:
    """Ends runs that take too long. Used on the event loop.

    `bound_of` says how many seconds a run may take (None: any), `stop` ends it with a reason.
    """

    def __init__(
        self,
        unfinished: Callable[[], Mapping[str, Unfinished]],
        bound_of: Callable[[RunRequest], tuple[float, Held] | None],
        stop: Callable[[str, RunEnded], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._unfinished = unfinished
        self._bound_of = bound_of
        self._stop = stop
        self._monotonic = monotonic
        self._last = monotonic()
        self._watching: asyncio.Task[None] | None = None
        self._took: dict[str, tuple[float, tuple[float, Held] | None]] = {}
        """By run: the seconds that count so far, and its bound."""

    def start(self) -> None:
        """Look once a second from now on."""
        self._watching = asyncio.create_task(self._watch(), name="loket-wall")

    async def close(self) -> None:
        """Look no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Count the time since the last look, and end what took too long."""
        now = self._monotonic()
        passed, self._last = now - self._last, now
        unfinished = self._unfinished()
        waiting = waiting_for_owner(unfinished.values())
        self._took = {run: self._counted(run, state, run in waiting, passed) for run, state in unfinished.items()}
        for run, (took, bound) in self._took.items():
            if bound is not None and took > bound[0]:
                self._stop(run, words.ended(bound[1], "run_wall_s", round(took)))

    def _counted(
        self, run: str, state: Unfinished, waits: bool, passed: float
    ) -> tuple[float, tuple[float, Held] | None]:
        known = self._took.get(run)
        if known is None:
            return 0.0, self._bound_of(state.request)
        return (known[0] if waits else known[0] + passed), known[1]


def waiting_for_owner(unfinished: Iterable[Unfinished]) -> set[str]:
    """Ids of the runs that ask the owner, of those that asked them, and of those that stand behind one of them."""
    runs = {state.request.id: state for state in unfinished}
    found: set[str] = set()
    asking = [state.request for state in runs.values() if state.status is RunStatus.ASKING]
    while asking:
        request = asking.pop()
        if request.id in found:
            continue
        found.add(request.id)
        parent = runs.get(request.parent or "")
        if parent is not None and parent.status is RunStatus.WAITING:
            asking.append(parent.request)
        place = (request.agent, request.conversation)
        asking += [
            state.request
            for state in runs.values()
            if state.status is RunStatus.ACCEPTED and (state.request.agent, state.request.conversation) == place
        ]
    return found
