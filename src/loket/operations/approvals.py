"""Approvals: the owner decides what the policy leaves to them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from loket.app import Loket
from loket.approvals import Ruling, Scope
from loket.contracts import OWNER, BadInput, Verdict
from loket.operations.chains import chained
from loket.operations.messages import result_of
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation
from loket.operations.watch import events

_MOST = 1_000


@operation("approvals.list")
async def approvals_list(
    system: Loket,
    _emit: Emit,
    *,
    run: str | None = None,
    agent: str | None = None,
    every: bool = False,
    limit: int = 100,
) -> dict[str, Any]:
    """Questions that wait, oldest first; with `every` decided ones too, the newest first.

    `run` leaves those of a run and of the runs that came of it.
    """
    if not 1 <= limit <= _MOST:
        raise BadInput("approval.limit", f"limit is {limit}; from 1 to {_MOST} is possible", "--limit 100")
    name = run_id(system, run) if run is not None else None
    rows = await asyncio.to_thread(system.approvals.listed, run=name, agent=agent, every=every, limit=limit)
    return {"approvals": await asyncio.to_thread(_shown, system, rows)}


def _shown(system: Loket, rows: Sequence[Any]) -> list[dict[str, Any]]:
    return [chained(system, system.approvals.shown(row)) for row in rows]


@operation("approvals.show")
async def approvals_show(
    system: Loket,
    _emit: Emit,
    *,
    id: str,  # noqa: A002 - the table's word
) -> dict[str, Any]:
    """One question with the exact call and its origins, and the rule that `--rule` would save while it waits."""
    row = await asyncio.to_thread(system.approvals.find, id)
    rule = await asyncio.to_thread(system.approvals.proposed, row)
    (one,) = await asyncio.to_thread(_shown, system, [row])
    return {**one, **({"rule": rule} if rule is not None else {})}


@operation("approvals.decide")
async def approvals_decide(
    system: Loket,
    _emit: Emit,
    *,
    ids: list[str],
    decision: str,
    scope: str = "once",
    reason: str = "",
    rule: str | None = None,
) -> dict[str, Any]:
    """Allow or deny questions, all of them or none; their runs go on. A rule may let others go on as well."""
    if not all(isinstance(identity, str) for identity in ids):
        raise BadInput("approval.arguments", "ids holds something that is no text", "loket approvals list")
    ruling = Ruling(
        Verdict(_one_of("decision", decision, ("allow", "deny"))),
        OWNER,
        Scope(_one_of("scope", scope, tuple(Scope))),
        reason,
        rule,
    )
    rows = await asyncio.to_thread(system.approvals.decide, ids, ruling)
    for run in await asyncio.to_thread(system.approvals.concerned, rows, ruling):
        system.engine.answered(run)
    return {"approvals": await asyncio.to_thread(_shown, system, rows)}


def _one_of(name: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise BadInput("approval.arguments", f"{name} is {value[:80]!r}", f"one of {', '.join(known)}")
    return value


@operation("approvals.follow")
async def approvals_follow(system: Loket, emit: Emit, *, run: str) -> dict[str, Any]:
    """Go on watching a run that was accepted, and answer as `ask` does; what it waits for already comes at once."""
    name = run_id(system, run)
    async for event in events(system, name):
        emit(event)
    return await result_of(system, name, await system.finished(name))
