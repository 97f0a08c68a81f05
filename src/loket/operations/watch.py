"""Messages that are not waited for, and runs that are watched: what programs need beyond the command line."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, RunStatus
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation

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
) -> dict[str, Any]:
    """Accept a message: `run`. With `watch` the run's events follow, the last one of the type `end`."""
    if not text.strip():
        raise BadInput("ask.text", "the text is empty", "say something")
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
    async for event in system.approvals.events(run, system.leaving.watched(system.engine.watch(run))):
        emit(event)
        if event["type"] == "end":
            return
    ending = await system.finished(run)
    answer = system.leaving.answer(ending.answer)
    emit({"type": "end", "run": run, "status": ending.status.value, "answer": answer, "error": ending.error})


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
