"""Runs that wait for other runs: who waits for whom, what a child may use, how it ends, and when its time is over.

`agent.ask` and `plan.run` start a child and wait for it. The child's time stands still while it waits for the owner,
itself, through a run that it asked, or behind another one in its conversation: nobody is late because the owner thinks.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

from loket.contracts import Ending, FailedAsk, Labels, Limits, RunRequest, RunStatus, Usage
from loket.kernel.engine import Engine
from loket.kernel.state import RunState
from loket.store.kernel import KernelDatabase

ASKED = "ask:"
"""Begins the conversation of a run that another one waits for."""

LOOK_S = 0.25
"""Seconds between two looks at which children wait for the owner."""

_STOPPING_S = 5.0
"""Seconds that a stopped run gets to write its end: at its next call or tick, so usually milliseconds."""

_STOPPED_WITH = "the run that asked was stopped"

_REASON = 2_000
"""Characters of a failed run's reason that whoever asked is told."""


class Unfinished(Protocol):
    """An unfinished run as the engine lists it."""

    @property
    def request(self) -> RunRequest: ...

    @property
    def status(self) -> RunStatus: ...


# Who waits for whom


def awaited(request: RunRequest) -> bool:
    """Whether the parent of a run waits for it; of what a message started, it does not."""
    return request.parent is not None and request.conversation.startswith(ASKED)


def askers(unfinished: Mapping[str, RunState], run: str) -> Iterator[RunState]:
    """A run, the run that waits for it, and so on; nothing for a run that has ended."""
    asker = unfinished.get(run)
    while asker is not None:
        yield asker
        asker = unfinished.get(asker.request.parent or "") if awaited(asker.request) else None


def waits_for(unfinished: Mapping[str, RunState], run: str, other: str) -> str | None:
    """Through which run an unfinished run waits for another one; None where it does not.

    Itself where it asked that one, or asked who asked it; else the run before it in its conversation.
    """
    mine = unfinished.get(run)
    for above in askers(unfinished, other):
        if above is mine:
            return run
        if mine is not None and mine.status is RunStatus.ACCEPTED and _place(above.request) == _place(mine.request):
            return above.request.id
    return None


def _place(request: RunRequest) -> tuple[str, str]:
    return request.agent, request.conversation


def waiting_for_owner(unfinished: Mapping[str, Unfinished]) -> set[str]:
    """Ids of the runs that ask the owner, of those that asked them, and of those that stand behind one of them."""
    found: set[str] = set()
    asking = [state.request for state in unfinished.values() if state.status is RunStatus.ASKING]
    behind: dict[tuple[str, str], list[RunRequest]] = {}
    for state in unfinished.values() if asking else ():
        if state.status is RunStatus.ACCEPTED:
            behind.setdefault(_place(state.request), []).append(state.request)
    while asking:
        request = asking.pop()
        if request.id in found:
            continue
        found.add(request.id)
        parent = unfinished.get(request.parent or "") if awaited(request) else None
        asking += [parent.request] if parent is not None else []
        asking += behind.get(_place(request), ())
    return found


# What a child may use, and what came of it


def limits_of(request: RunRequest) -> Limits:
    """The limits of a run; those of a module that says nothing for what the owner does."""
    return request.module.limits if request.module is not None else Limits()


def within(own: Limits, asker: RunState, *, calls: bool = False) -> Limits:
    """A module's own limits, each at most what the asking run has left: tokens, money, depth and, if said, calls."""
    given, spent = limits_of(asker.request), asker.spent
    left = replace(
        own,
        tokens=min(own.tokens, max(0, given.tokens - spent.tokens - spent.held_tokens)),
        money=min(own.money, max(0.0, given.money - spent.money)),
        depth=min(own.depth, given.depth),
    )
    return replace(left, calls=min(own.calls, max(0, given.calls - spent.calls))) if calls else left


def ending_of(found: Mapping[str, Any]) -> Ending:
    """How a run ended, from the list of runs."""
    return Ending(
        RunStatus(found["status"]),
        found["ended"],
        found["answer"],
        found["error"],
        found["calls"],
        found["tokens"],
        found["money"],
        tuple(found["labels"]),
    )


def reason_of(ending: Ending) -> str:
    """Why a run has no answer, as whoever asked is told."""
    error = ending.error or {"code": "run.unanswered", "message": "it has no answer that can be read"}
    return f"{error['code']}: {error['message']}"[:_REASON]


def used(ending: Ending) -> Usage:
    """What a child has used: charged to whoever asked, and counted on the day already."""
    return Usage(ending.tokens, 0, ending.money, counted=True)


def failed_ask(code: str, message: str, remedy: str, usage: Usage, labels: Labels) -> FailedAsk:
    """The error that whoever asked gets, with what the child has used and seen."""
    error = FailedAsk(code, message, remedy)
    error.usage, error.labels = usage, labels
    return error


# Waiting for a child


class Children:
    """Waits for runs that other runs asked, within their time. Used on the event loop."""

    def __init__(self, engine: Engine, database: KernelDatabase) -> None:
        self._engine = engine
        self._database = database
        self._deadlines: dict[str, asyncio.Timeout] = {}
        """Of the children that are waited for, on the event loop's clock."""
        self._looking: asyncio.Task[None] | None = None

    async def over(self, run: str) -> Ending | None:
        """How a run ended; None where it has not, or was never started."""
        if run in self._engine.unfinished():
            return None
        found = await asyncio.to_thread(self._database.run, run)
        return ending_of(found) if found is not None else None

    async def start(self, asker: RunState, request: RunRequest) -> None:
        """Have a child accepted. Where the asking run is stopped meanwhile, the child is stopped once it is accepted.

        Raises what `Engine.submit` raises.
        """
        accepting = asyncio.ensure_future(self._engine.submit(request))
        try:
            await asyncio.shield(accepting)
        except asyncio.CancelledError:
            if asker.stopped is None:  # Loket itself stops: what is not accepted yet is asked for again
                accepting.cancel()
            accepting.add_done_callback(lambda done: self._left(done, request.id))
            raise

    def _left(self, accepted: "asyncio.Future[str]", child: str) -> None:
        """Nobody waits any more for a child that was being accepted."""
        if not accepted.cancelled() and accepted.exception() is None:
            self._engine.stop(child, _STOPPED_WITH)

    async def ending(self, asker: RunState, child: str, timeout_s: float) -> Ending | Usage:
        """How a child ended, or what it had used when its time ran out: it is stopped then, and its end on the disk.

        Its time is at most what the asking run has left of its own. It is stopped with the asking run too.
        """
        state = self._engine.unfinished()[child]
        until = min(asyncio.get_running_loop().time() + timeout_s, self._until(asker.request.id))
        try:
            while True:
                try:
                    return await self._ending_by(asker, child, until)
                except TimeoutError:
                    if child not in waiting_for_owner(self._engine.unfinished()):
                        break
                    until = asyncio.get_running_loop().time() + LOOK_S  # it has begun to ask since the last look
        except asyncio.CancelledError:
            if asker.stopped is not None:  # else Loket itself stops, and goes on with both at the next start
                self._engine.stop(child, _STOPPED_WITH)
            raise
        await self._stopped(child)
        return Usage(state.spent.tokens, 0, state.spent.money, counted=True)

    def _until(self, run: str) -> float:
        deadline = self._deadlines.get(run)
        when = deadline.when() if deadline is not None else None
        return math.inf if when is None else when

    async def _ending_by(self, asker: RunState, child: str, until: float) -> Ending:
        try:
            async with asyncio.timeout_at(until) as deadline:
                self._deadlines[child] = deadline
                self._look_on()
                return await self._engine.result(child, waiter=asker.request.id)
        finally:
            self._deadlines.pop(child, None)

    async def _stopped(self, run: str) -> None:
        """Stop a run and have its end on the disk before whoever asked is told, so that no crash revives it."""
        if self._engine.stop(run, "the time to answer ran out"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOPPING_S):
                    await self._engine.result(run)

    # Time that does not count

    def _look_on(self) -> None:
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="loket-children")

    async def _look(self) -> None:
        """While children are waited for: give those back the time in which they wait for the owner."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while self._deadlines:
            await asyncio.sleep(LOOK_S)
            now = loop.time()
            waiting = waiting_for_owner(self._engine.unfinished())
            for child, deadline in self._deadlines.items():
                when = deadline.when()
                if child in waiting and when is not None and not deadline.expired():
                    deadline.reschedule(max(when + now - last, now + 2 * LOOK_S))
            last = now
