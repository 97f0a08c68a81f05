"""Messages that are not waited for, and runs that are watched: what programs need beyond the command line."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from loket.app import Loket
from loket.approvals import Waiting
from loket.children import waits_for
from loket.contracts import BadInput, Refusal, RunStatus
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation
from loket.slash import needs_owner

_MOST_RUNS = 1_000
_MOST_READ = 1 << 17
"""Runs that are read at most for one page; what is older is found with `loket runs show`."""

_STATUSES = tuple(status.value for status in RunStatus)


@operation("messages.send")
async def messages_send(
    system: Loket,
    emit: Emit,
    *,
    agent: str,
    text: str,
    conversation: str = "main",
    message: str | None = None,
    watch: bool = False,
    program: bool = False,
) -> dict[str, Any]:
    """Accept a message: `run`. With `watch` the run's events follow, the last one of the type `end`.

    A `program` speaks with an API token: it does not decide for the owner.
    """
    if not text.strip():
        raise BadInput("ask.text", "the text is empty", "say something")
    if program and needs_owner(text):
        said = f"{text.split(maxsplit=1)[0]} is for the owner alone, and an API token is not enough for it"
        raise Refusal("slash.owner", said, "loket approvals list", blame="owner")
    run = await system.send(agent, text, conversation=conversation, message=message)
    emit({"type": "accepted", "run": run})
    if watch:
        await _watch(system, emit, run)
    return {"run": run}


@operation("runs.watch")
async def runs_watch(system: Loket, emit: Emit, *, run: str) -> dict[str, Any]:
    """Events of a run: `state` (where it is), then what happens from now on, and `end`; of a finished run `end`."""
    name = run_id(system, run)
    state = system.engine.unfinished().get(name)
    if state is not None:
        emit({"type": "state", "run": name, "status": state.status.value})
    await _watch(system, emit, name)
    return {"run": name}


async def _watch(system: Loket, emit: Emit, run: str) -> None:
    """Emit until the end. Either the engine knows the run, and says its end, or its end is on the disk already."""
    async for event in events(system, run):
        emit(event)
        if event["type"] == "end":
            return
    ending = await system.finished(run)
    answer = system.leaving.answer(ending.answer)
    emit({"type": "end", "run": run, "status": ending.status.value, "answer": answer, "error": ending.error})


# Events of a run as those outside get them


async def events(system: Loket, run: str) -> AsyncIterator[dict[str, Any]]:
    """Events of an unfinished run from now on, until `end`; each question that it waits for comes once.

    `asking` carries the `approval` that the run waits for, its `capability`, and as `asks` the run that asks: itself,
    or one that it asked. Behind another run of its conversation that waits for the owner it is `behind`, with that
    run. Where a run waits already, that comes first; without `approval` an effect is to be settled.
    """
    news: asyncio.Queue[dict[str, Any] | Waiting | Exception | None] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def hear(row: Waiting) -> None:
        loop.call_soon_threadsafe(news.put_nowait, row)

    told: set[str] = set()
    pumping = asyncio.create_task(_pump(system, run, news))
    try:
        with system.approvals.heard_by(hear):
            await asyncio.sleep(0)  # from here on `watch` misses nothing
            for found in await _waiting(system, run):
                news.put_nowait(found)
            while (one := await news.get()) is not None:
                if isinstance(one, Exception):
                    raise one
                event = _question(system, run, one) if isinstance(one, Waiting) else one
                if event is None or event.get("approval") in told:
                    continue
                told.update([event["approval"]] if "approval" in event else ())
                yield event
    finally:
        pumping.cancel()


async def _pump(system: Loket, run: str, news: "asyncio.Queue[Any]") -> None:
    """What happens in the run itself; `asking` with the question that it waits for."""
    try:
        async for event in system.leaving.watched(system.watching.watch(run)):
            found = await asyncio.to_thread(_own, system, event) if event["type"] == "asking" else event
            if found is not None:
                news.put_nowait(found)
    except Exception as error:  # noqa: BLE001 - it is raised again where the events are read
        news.put_nowait(error)
    else:
        news.put_nowait(None)


def _own(system: Loket, asking: Mapping[str, Any]) -> dict[str, Any] | None:
    """The event that the run waits for the owner; None where the owner was quicker."""
    waiting = system.approvals.open_of([asking["run"]])
    state = system.engine.unfinished().get(asking["run"])
    if not waiting and (state is None or state.pending is None):
        return None
    return {**asking, "asks": asking["run"], **_named(waiting[0] if waiting else None)}


def _named(row: Waiting | None) -> dict[str, str]:
    return {"approval": row.approval, "capability": row.capability} if row is not None else {}


async def _waiting(system: Loket, run: str) -> list[dict[str, Any]]:
    """What the run waits for already."""
    unfinished = system.engine.unfinished()
    mine = unfinished.get(run)
    if mine is None:
        return []
    place = (mine.request.agent, mine.request.conversation)
    states = unfinished.values()
    roots = {state.request.root for state in states if (state.request.agent, state.request.conversation) == place}
    near = [other for other, state in unfinished.items() if state.request.root in roots]
    runs = [other for other in near if waits_for(unfinished, run, other) is not None]
    rows = await asyncio.to_thread(system.approvals.open_of, runs)
    found = [_question(system, run, row) for row in rows]
    asked = {row.run for row in rows}
    settling = [other for other in runs if other not in asked and unfinished[other].status is RunStatus.ASKING]
    found += [_event(system, run, other, None) for other in settling]
    return [event for event in found if event is not None]


def _question(system: Loket, run: str, row: Waiting) -> dict[str, Any] | None:
    """A question as whoever watches the run is told of it; None where the run does not wait for it, or not yet."""
    return _event(system, run, row.run, row)


def _event(system: Loket, run: str, asks: str, row: Waiting | None) -> dict[str, Any] | None:
    unfinished = system.engine.unfinished()
    through = waits_for(unfinished, run, asks)
    if through is None or (asks == run and unfinished[run].status is not RunStatus.ASKING):
        return None  # the run's own question comes when it has come to rest
    event = {"type": "asking" if through == run else "behind", "run": run, "asks": asks}
    behind = {"behind": through} if through != run else {}
    return {**event, **behind, **_named(row)}


@operation("runs.page")
async def runs_page(
    system: Loket,
    _emit: Emit,
    *,
    agent: str | None = None,
    status: str | None = None,
    limit: int = 20,
    before: str | None = None,
) -> dict[str, Any]:
    """The newest runs first, or those before a run: `runs`, and `next` (the `before` of the next page, or None)."""
    if not 1 <= limit <= _MOST_RUNS:
        raise BadInput("runs.limit", f"limit is {limit}; from 1 to {_MOST_RUNS} is possible", "limit=20")
    if status is not None and status not in _STATUSES:
        raise BadInput("runs.status", f"there is no status {status!r}", f"one of {', '.join(_STATUSES)}")
    after = run_id(system, before) if before is not None else None
    reach = limit + 1
    while True:
        read = await asyncio.to_thread(system.database.runs, agent, reach, None)
        fitting = _fitting(system, read, status, after)
        if len(fitting) > limit or len(read) < reach or reach >= _MOST_READ:
            break
        reach *= 8
    more = len(fitting) > limit
    return {"runs": fitting[:limit], "next": fitting[limit - 1]["id"] if more else None}


def _fitting(system: Loket, runs: list[dict[str, Any]], status: str | None, after: str | None) -> list[dict[str, Any]]:
    """Those behind the run `after`, with the status that they have now."""
    states = system.engine.unfinished()
    for run in runs:
        if run["id"] in states:
            run["status"] = states[run["id"]].status.value
    place = next((at + 1 for at, run in enumerate(runs) if run["id"] == after), len(runs)) if after is not None else 0
    return [run for run in runs[place:] if status in (None, run["status"])]
