"""What slash commands need of a running system: put together by app, as each part is known there alone."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from loket.approvals import OwnerApprovals, Ruling, Scope
from loket.contracts import OWNER, Ending, Json, ModuleRef, RunRequest, Verdict
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.registry import Registry
from loket.module_calls import ModuleCalls
from loket.slash import Slash, System
from loket.store.kernel import KernelDatabase

_SHOWN = 20
"""Questions that are listed."""

_UNSAID = ("kv", "llm")
"""Families that an agent keeps for itself."""


def slash_of(
    *,
    module: Callable[[str], ModuleRef],
    grants: Grants,
    registry: Registry,
    calls: ModuleCalls,
    skills: Callable[[str], Sequence[tuple[str, str]]],
    database: KernelDatabase,
    approvals: OwnerApprovals,
    engine: Engine,
    events: Callable[[str], AsyncIterator[Mapping[str, Json]]],
    finished: Callable[[str], Awaitable[Ending]],
    now: Callable[[], float],
) -> Slash:
    """The commands of a system. `skills` gives the names and descriptions of those that an agent knows of."""

    def tools(agent: str) -> list[tuple[str, str]]:
        ref = module(agent)
        granted = {grant.capability for grant in grants.held(ref.publisher, ref.id)}
        known = [one for one in registry.all() if one.id in granted and not one.side and one.family not in _UNSAID]
        return [(one.id, one.summary) for one in known]

    async def runs(agent: str, most: int) -> list[dict[str, Any]]:
        return await asyncio.to_thread(database.runs, agent, most)

    async def waiting() -> list[dict[str, Any]]:
        rows = await asyncio.to_thread(approvals.listed, run=None, agent=None, every=False, limit=_SHOWN)
        return await asyncio.to_thread(lambda: [approvals.shown(row) for row in rows])

    async def decide(identity: str, allow: bool, why: str) -> dict[str, str]:
        ruling = Ruling(Verdict.ALLOW if allow else Verdict.DENY, OWNER, Scope.ONCE, why)
        (row,) = await asyncio.to_thread(approvals.decide, [identity], ruling)
        for run in await asyncio.to_thread(approvals.concerned, [row], ruling):
            engine.answered(run)
        return {"id": row.id, "capability": row.capability, "agent": row.agent}

    async def submit(request: RunRequest) -> str:
        return await engine.submit(request)

    return Slash(
        System(
            module=module,
            modules=calls.modules,
            rights=grants.rights,
            operation=calls.request,
            tools=tools,
            skills=skills,
            runs=runs,
            unfinished=engine.unfinished,
            stop=engine.stop,
            waiting=waiting,
            decide=decide,
            submit=submit,
            ending=finished,
            events=events,
            now=now,
        )
    )
