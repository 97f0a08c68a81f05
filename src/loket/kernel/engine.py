"""The embedded engine: runs modules on their journals, one kernel process per home.

It is in the kernel because order and durability are its promises: what was accepted is answered exactly once, in the
order of its conversation, whatever stops in between. There is no queue beside the journal: unfinished runs are read
from it at start and run again. A run that waits holds no thread, no instance and not its agent.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, cast

from loket.contracts import (
    Ending,
    Failed,
    Guest,
    LoketError,
    Meter,
    ModuleRef,
    Records,
    Refusal,
    RowKind,
    RunEnded,
    RunRequest,
    RunStatus,
    Segment,
    Suspended,
    Tokens,
    from_dict,
)
from loket.kernel import refs, rows, sides
from loket.kernel.active import Active, Host, end_event, ending_of, fault
from loket.kernel.counter import Counter
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.quotas import Spent, settle
from loket.kernel.state import RunState, recorded_from
from loket.kernel.text import canonical
from loket.kernel.waits import WaitGraph

PARK_S = 0.01
"""Seconds that an instance is kept for a call that waits, where such calls were quicker than this lately.

Dropping an instance and running it again on its journal costs 2 to 6 ms of CPU for a guest in Python (instantiation,
page faults, the replayed part); a wait that is shorter than about that is cheaper parked on its thread.
"""

_TOKEN_LIFETIME_S = 30 * 24 * 3600.0


class Engine:
    """Accepts, runs, resumes, stops. `submit`, `result`, `stop`, `settle` are called on the event loop.

    `load` gives the guest for a module (it may take seconds: it is called on a worker thread). `on_ended` hears of each
    run's end, on the event loop, once its answer was given; it must be quick. `on_event` hears, from any thread, what
    happens in a run (its id, the event's kind, the event).
    """

    def __init__(
        self,
        *,
        counter: Counter,
        journal: Journal,
        grants: Grants,
        records: Records,
        tokens: Tokens,
        load: Callable[[ModuleRef], Guest],
        now: Callable[[], float],
        workers: int,
        on_ended: Callable[[RunState, Ending], None] = lambda _run, _ending: None,
        on_event: Callable[[str, str, dict[str, Any]], None] = lambda _run, _kind, _event: None,
        meter: Meter | None = None,
    ) -> None:
        self._counter = counter
        self._journal = journal
        self._grants = grants
        self._records = records
        self._tokens = tokens
        self._load = load
        self._now = now
        self._on_ended = on_ended
        self._on_event = on_event
        self._meter = meter
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="loket-run")
        self._writer = ThreadPoolExecutor(2, thread_name_prefix="loket-sync")
        self._active: dict[str, Active] = {}
        self._agents: dict[str, asyncio.Lock] = {}
        self._last: dict[tuple[str, str], str] = {}
        self._waits = WaitGraph()
        self._latency: dict[str, float] = {}
        """Seconds that a capability's waits took lately (moving average)."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = False
        self._parked: set[asyncio.Task[None]] = set()

    async def submit(self, request: RunRequest, message: str | None = None, *, awaited: bool = True) -> str:
        """Accept a run: it is on the disk when this returns, and will be answered exactly once. Its id.

        Its parent, where it has one, waits for it if `awaited`. Raises `Refusal` where it would close a cycle of waits
        or goes too deep.
        """
        limits = request.module.limits if request.module else None
        if limits is not None and request.depth > limits.depth:
            raise Refusal(
                "limit.depth",
                f"runs that ask for each other may be {limits.depth} deep",
                'ask less deeply, or raise depth under [limits] in "loket.toml"',
            )
        if self._meter is not None:
            self._meter.accept(request, self.unfinished())
        self._refuse_closing()
        active = self._begin(request, os.urandom(sides.SEED))
        try:
            self._order(active, awaited=awaited)
            await self._on_writer(self._record_start, active.run, message)
            self._refuse_closing()
        except BaseException:
            active.ended.cancel()  # whoever queued behind it goes on
            self._forget(active)
            raise
        self._start(active)
        return request.id

    def _refuse_closing(self) -> None:
        """Raises `CancelledError` while it closes: an error would be an answer, and this is left to the next start."""
        if self._closing:
            raise asyncio.CancelledError

    def resume(self, runs: Iterable[tuple[RunRequest, bytes]]) -> int:
        """Go on with unfinished runs (request and seed), in the order in which they were accepted; their number."""
        count = 0
        for request, seed in runs:
            active = self._begin(request, seed)
            active.interrupted = True
            self._order(active, awaited=False)  # a parent that waits says so when it asks again
            self._start(active)
            count += 1
        return count

    async def result(self, run: str, waiter: str | None = None) -> Ending:
        """Wait for the end of an unfinished run; `waiter` is the run that waits, if one does.

        Raises `KeyError` where it is not unfinished, `Refusal` where this would close a cycle of waits.
        """
        ended = self._active[run].ended
        if waiter is not None:
            self._waits.add(waiter, run)
        return await asyncio.shield(ended)

    def unfinished(self) -> dict[str, RunState]:
        return {run: active.run for run, active in self._active.items()}

    def stop(self, run: str, reason: str = "the owner stopped the run", *, limit: RunEnded | None = None) -> bool:
        """End a run at its next call, tick or wait, by the owner's word or at a limit. False where it has ended."""
        active = self._active.get(run)
        if active is None:
            return False
        if active.run.stopped is not None:
            return True
        active.run.stopped = limit or RunEnded("run.stopped", reason, "start a new run", blame="owner")
        self._tokens.revoke(run)
        active.owner_spoke.set()
        if active.run.status is not RunStatus.RUNNING and not active.interrupted and active.task is not None:
            active.task.cancel()
        return True

    def settle(self, run: str, *, happened: bool) -> None:
        """The owner's word about an effect that may or may not have happened. Raises `Refusal` if nothing is asked."""
        active = self._active.get(run)
        if active is None or active.run.status is not RunStatus.ASKING or active.run.pending is None:
            raise Refusal("run.not_asking", f"run {run} asks the owner nothing", "`loket runs list` shows which do")
        self._counter.settle_by_owner(active.run, happened=happened)
        active.owner_spoke.set()

    def answered(self, run: str) -> None:
        """The owner has said whether a call of this run may be made: it goes on, if it waits for that."""
        active = self._active.get(run)
        if active is not None:
            if active.run.status is RunStatus.ASKING:
                active.run.status = RunStatus.WAITING  # for its turn
            active.owner_spoke.set()

    async def close(self) -> None:
        """Leave unfinished runs to the next start; nothing is lost."""
        self._closing = True
        tasks = [active.task for active in self._active.values() if active.task is not None]
        tasks += self._parked
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._pool.shutdown)
        await self._on_writer(self._journal.sync)
        self._writer.shutdown()

    # Beginning

    def _begin(self, request: RunRequest, seed: bytes) -> Active:
        loop = self._loop = asyncio.get_running_loop()
        token = self._tokens.mint(request, _TOKEN_LIFETIME_S)
        run = RunState(request, canonical(request.args), token, seed, request.labels)
        active = Active(run, loop.create_future())
        run.emit = lambda kind, event: self._on_event(request.id, kind, event)
        self._active[request.id] = active
        return active

    def _order(self, active: Active, *, awaited: bool) -> None:
        """Queue behind the last run of the conversation, and have the parent wait if it does."""
        request = active.run.request
        place = (request.agent, request.conversation)
        before = self._active.get(self._last.get(place, ""))
        if before is not None:
            self._waits.add(request.id, before.run.request.id)
            active.predecessor = before
        if awaited and request.parent is not None and request.parent in self._active:
            self._waits.add(request.parent, request.id)
        self._last[place] = request.id

    def _start(self, active: Active) -> None:
        active.task = asyncio.create_task(self._execute(active), name=active.run.request.id)

    def _record_start(self, run: RunState, message: str | None) -> None:
        request = run.request
        module = request.module
        meta = {
            "principal": request.principal.public,
            "root": request.root,
            "parent": request.parent,
            "depth": request.depth,
            "agent": request.agent,
            "operation": request.operation,
            "publisher": module.publisher if module else None,
            "module": module.id if module else None,
            "version": module.version if module else None,
            "digest": module.digest if module else None,
            "limits": asdict(module.limits) if module else None,
        }
        value = rows.start(run)
        started = self._records.run_started(request, message)
        seq = self._journal.append(request.id, 0, RowKind.START, meta, value, (started,))
        self._journal.sync(seq)

    def _restore(self, run: RunState) -> None:
        """What the journal knows of a run that was interrupted."""
        history, opened, _end = recorded_from(self._journal.rows(run.request.id))
        run.history, run.open = history, opened
        run.spent = Spent(calls=len(history))
        for recorded in history:
            run.see(recorded)
            if recorded.usage:
                settle(run.spent, 0, rows.usage_of(recorded.usage))

    # Running

    async def _execute(self, active: Active) -> None:
        run = active.run
        try:
            if active.predecessor is not None:
                await asyncio.wait([active.predecessor.ended])
                active.predecessor = None
            if active.interrupted:
                await self._on_writer(self._restore, run)
                active.interrupted = False
            ending = await self._to_the_end(active)
        except asyncio.CancelledError:
            if self._closing or run.stopped is None:
                active.ended.cancel()
                raise
            ending = await asyncio.shield(self._on_writer(self._finish, run, Segment(ended=run.stopped)))
        except LoketError as error:
            ending = await self._give_up(run, error)
        except Exception as error:  # noqa: BLE001 - a fault of the kernel ends one run, and says so
            if self._closing:  # its pools are gone: the next start goes on with the run
                active.ended.cancel()
                return
            ending = await self._give_up(run, fault(error))
        finally:
            self._forget(active)
        if not active.ended.done():
            active.ended.set_result(ending)
        run.emit("end", {"run": run.request.id, **end_event(ending)})
        self._on_ended(run, ending)

    async def _to_the_end(self, active: Active) -> Ending:
        run = active.run
        while True:
            lock = self._agents.setdefault(run.request.agent, asyncio.Lock())
            async with lock:
                run.status = RunStatus.RUNNING
                ending = await asyncio.get_running_loop().run_in_executor(self._pool, self._segment, run)
            if ending is not None:
                return ending
            if run.stopped is None:
                await self._wait(active)
            elif run.finishing is not None:
                run.finishing.cancel()

    async def _wait(self, active: Active) -> None:
        run = active.run
        pending, finishing, run.finishing = run.pending, run.finishing, None
        asking, run.asking = run.asking, None
        if finishing is not None:  # begun while the instance was still there; it may be done by now
            run.status = RunStatus.WAITING
            await asyncio.wrap_future(finishing)
            return
        if asking is not None:
            await self._ask_owner(active, asking.question.capability.id, run.asking_until)
            return
        if pending is None:
            raise Failed("kernel.pending", f"run {run.request.id} was suspended without a call", blame="machine")
        if pending.handler is not None:
            run.status = RunStatus.WAITING
            await self._finish_call(run)
            return
        await self._ask_owner(active, pending.capability.id, None)

    async def _ask_owner(self, active: Active, capability: str, until: float | None) -> None:
        """Wait for the owner's word, at most until that time (seconds since 1970)."""
        run = active.run
        run.status = RunStatus.ASKING
        self._journal.also(self._records.run_status(run.request.id, RunStatus.ASKING))
        await self._on_writer(self._journal.sync)
        run.emit("asking", {"run": run.request.id, "capability": capability})
        if run.stopped is None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(active.owner_spoke.wait(), None if until is None else until - self._now())
        active.owner_spoke.clear()

    async def _finish_call(self, run: RunState) -> None:
        """Finish the pending call, and note how long such calls take."""
        name = run.pending.capability.id if run.pending is not None else ""
        started = time.perf_counter()
        await self._counter.finish(run)
        took = time.perf_counter() - started
        self._latency[name] = 0.7 * self._latency.get(name, took) + 0.3 * took

    async def _finish_parked(self, run: RunState) -> None:
        """As `_finish_call`, in a task of its own, which a close cancels with the run's."""
        self._refuse_closing()
        task = cast("asyncio.Task[None]", asyncio.current_task())
        self._parked.add(task)
        try:
            await self._finish_call(run)
        finally:
            self._parked.discard(task)

    def _park(self, run: RunState) -> str:
        """On a run's own thread: wait a moment for a call that is likely to be quick, and keep the instance for it.

        Raises `Suspended` where the answer takes longer; then the instance goes, and the answer comes by the journal.
        """
        pending, loop = run.pending, self._loop
        if pending is None or pending.handler is None or loop is None:
            raise Suspended
        name = pending.capability.id
        if self._latency.get(name, 0.0) >= PARK_S:
            raise Suspended
        run.finishing = asyncio.run_coroutine_threadsafe(self._finish_parked(run), loop)
        try:
            run.finishing.result(PARK_S)
        except (TimeoutError, CancelledError):  # it is slow, or the engine closes
            self._latency[name] = max(PARK_S, self._latency.get(name, 0.0))
            raise Suspended from None
        run.finishing = None
        recorded = run.history[-1]
        answered = refs.delivered(recorded)
        if answered is None:
            raise from_dict(recorded.error or {})
        return answered

    def _segment(self, run: RunState) -> Ending | None:
        """One segment of a run, on a worker thread; None where it was suspended."""
        run.rewind()
        if (stopped := _stopped(run)) is not None:
            return self._finish(run, Segment(ended=stopped))
        segment = self._direct(run) if run.request.module is None else self._in_sandbox(run, run.request.module)
        if segment.refusal is not None and (stopped := _stopped(run)) is not None:
            segment = Segment(ended=stopped)  # its token was revoked in the middle of a call
        return None if segment.suspended else self._finish(run, segment)

    def _in_sandbox(self, run: RunState, module: ModuleRef) -> Segment:
        if not self._grants.runnable(module.digest):
            return Segment(
                ended=RunEnded(
                    "module.revoked",
                    f"the owner has revoked this version of {module.id}; its runs may be replayed, not resumed",
                    f"install another version of {module.id} and ask again",
                    blame="owner",
                )
            )
        guest = self._load(module)
        segment = guest.run(Host(self._counter, run, self._park), run.request.operation, run.args, module.limits)
        if self._meter is not None:
            self._meter.computed(run, segment.cpu_ms)
        return segment

    def _direct(self, run: RunState) -> Segment:
        """A call that a person makes: the operation is the capability."""
        try:
            return Segment(answer=self._counter.call(run, run.request.operation, run.args))
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)

    def _finish(self, run: RunState, segment: Segment) -> Ending:
        """Write the terminal row and have it on the disk before anyone sees the answer."""
        ending = ending_of(run, segment, self._now())
        run.status = ending.status
        meta = {
            "principal": run.request.principal.public,
            "root": run.request.root,
            "status": ending.status.value,
            "calls": ending.calls,
            "tokens": ending.tokens,
            "money": ending.money,
        }
        value: dict[str, Any] = {"answer": ending.answer} if ending.answer is not None else {"error": ending.error}
        value["labels"] = run.exposed
        side = run.sides.record()
        if side is not None:
            value["sides"] = side
        if self._meter is not None:
            meta |= self._meter.ended(run)
        ended = self._records.run_ended(run.request.id, ending)
        seq = self._journal.append(run.request.id, len(run.history) + 1, RowKind.END, meta, canonical(value), (ended,))
        self._journal.sync(seq)
        return ending

    async def _give_up(self, run: RunState, error: LoketError) -> Ending:
        """The kernel itself could not go on with a run; where even that cannot be written, the run stays unfinished."""
        try:
            ending: Ending = await self._on_writer(self._finish, run, Segment(ended=error))
        except LoketError:
            return Ending(RunStatus.FAILED, self._now(), error=error.as_dict())
        return ending

    # Around

    def _forget(self, active: Active) -> None:
        request = active.run.request
        self._active.pop(request.id, None)
        self._waits.done(request.id)
        if not self._closing:  # else a module may be computing still, and goes on with it at the next start
            self._tokens.forget(request.id)
        place = (request.agent, request.conversation)
        if self._last.get(place) == request.id:
            del self._last[place]

    async def _on_writer(self, work: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work, *args)


def _stopped(run: RunState) -> LoketError | None:
    """Why a run was stopped, if it was: another thread may do it at any time."""
    return run.stopped
