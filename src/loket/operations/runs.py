"""Runs: what happened, and the proof of it."""

import asyncio
import json
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Row
from loket.ledger import compare
from loket.operations.chains import chained
from loket.operations.table import Emit, operation

_MOST_RUNS = 10_000
_MOST_WAITING = 100


def run_id(system: Loket, prefix: str) -> str:
    found = system.database.matching(prefix)
    if not prefix or not found:
        raise BadInput("run.unknown", f"there is no run {prefix!r}", "loket runs list")
    if len(found) > 1 and prefix not in found:
        raise BadInput("run.ambiguous", f"several runs start with {prefix}", "give more of its id")
    return prefix if prefix in found else found[0]


@operation("runs.list")
async def runs_list(
    system: Loket, _emit: Emit, *, agent: str | None = None, limit: int = 20, status: str | None = None
) -> dict[str, Any]:
    """The newest runs first."""
    if not 1 <= limit <= _MOST_RUNS:
        raise BadInput("runs.limit", f"limit is {limit}; from 1 to {_MOST_RUNS} is possible", "--limit 20")
    states = system.engine.unfinished()
    runs = await asyncio.to_thread(system.database.runs, agent, limit, status)
    for run in runs:
        if run["id"] in states:
            run["status"] = states[run["id"]].status.value
    return {"runs": runs}


@operation("runs.show")
async def runs_show(system: Loket, _emit: Emit, *, run: str) -> dict[str, Any]:
    """A run with all its journal rows, in order, and what it, or one that came of it, waits for the owner to decide.

    The agent's canary is left out of its rules: nobody has to see it.
    """
    name = run_id(system, run)
    facts = system.database.run(name) or {}
    secret = system.leaving.canary(str(facts.get("agent"))).rpartition(" ")[2]
    rows = await asyncio.to_thread(lambda: [_row_shown(row, secret) for row in system.journal.rows(name)])
    waiting = await asyncio.to_thread(system.approvals.listed, run=name, agent=None, every=False, limit=_MOST_WAITING)
    shown = await asyncio.to_thread(lambda: [chained(system, system.approvals.shown(row)) for row in waiting])
    return {**facts, "rows": rows, "approvals": shown}


@operation("runs.replay")
async def runs_replay(system: Loket, _emit: Emit, *, run: str) -> dict[str, Any]:
    """Run the module again on the journal: the same calls, the same answer?"""
    verdict = await asyncio.to_thread(system.replayer.replay, run_id(system, run))
    return {"run": verdict.run, "calls": verdict.calls, "ok": verdict.ok, "reason": verdict.reason}


@operation("runs.verify")
async def runs_verify(system: Loket, emit: Emit, *, run: str | None = None) -> dict[str, Any]:
    """Check the journal's chain and the lists of runs and grants, and replay one run, or all that are finished."""
    database = system.database
    runs = [run_id(system, run)] if run is not None else await asyncio.to_thread(database.ended_runs)
    loop = asyncio.get_running_loop()

    def progress(done: int) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": done, "total": len(runs)})

    erasing = await asyncio.to_thread(database.interrupted_erasures)
    verdicts, faults = await asyncio.to_thread(system.replayer.verify, runs, progress, erasing)
    faults = [*faults, *await asyncio.to_thread(compare, system.home.database)]
    failed = [{"run": v.run, "reason": v.reason} for v in verdicts if not v.ok]
    broken = [{"row": fault.seq, "run": fault.run, "reason": fault.reason} for fault in faults[:100]]
    return {
        "verified": sum(verdict.ok and not verdict.erased for verdict in verdicts),
        "erased": sum(verdict.ok and verdict.erased for verdict in verdicts),
        "failed": len(failed),
        "failures": failed,
        "journal": {"ok": not faults, "faults": broken},
        "ok": not failed and not faults,
    }


@operation("runs.stop")
async def runs_stop(system: Loket, _emit: Emit, *, run: str | None = None) -> dict[str, Any]:
    """End an unfinished run, or without one all there are: their execution tokens are worth nothing from then on."""
    if run is None:
        system.tokens.revoke_all()
        every = [name for name in system.engine.unfinished() if system.engine.stop(name, "the owner stopped all runs")]
        await asyncio.gather(*(system.finished(name) for name in every))
        return {"stopped": every}
    name = run_id(system, run)
    if not system.engine.stop(name):
        raise BadInput("run.finished", f"run {name} is not unfinished", "loket runs list")
    ending = await system.finished(name)
    return {"run": name, "status": ending.status.value}


@operation("runs.settle")
async def runs_settle(system: Loket, _emit: Emit, *, run: str, happened: bool) -> dict[str, Any]:
    """Say whether an effect that was interrupted happened; the run goes on."""
    name = run_id(system, run)
    system.engine.settle(name, happened=happened)
    return {"run": name, "happened": happened}


def _row_shown(row: Row, secret: str) -> dict[str, Any]:
    value = {"erased": True} if row.erased else json.loads(row.value.decode().replace(secret, "[canary]"))
    private = {name: value.pop(name) for name in ("labels", "arg_labels", "principal", "conversation") if name in value}
    facts = {**row.meta, **private}
    return {
        "seq": row.seq,
        "ordinal": row.ordinal,
        "kind": row.kind.value,
        "at": row.at,
        **{name: fact for name, fact in facts.items() if fact not in (None, "", [], {})},
        "value": value,
        "hash": row.hash.hex(),
    }
