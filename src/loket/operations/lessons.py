"""Lessons and proposals: what an agent has learned from errors, and what its owner makes of it."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import from_dict
from loket.operations.table import Emit, operation

_MOST = 200
"""Lessons that are listed."""


@operation("lessons.list")
async def lessons_list(system: Loket, _emit: Emit, *, agent: str) -> dict[str, Any]:
    """The newest lessons of an agent, and the advice that was drawn from them."""
    system.installed.module(agent)
    await system.lessons.settled()
    args = {"query": "", "kinds": ["lesson", "procedure"], "limit": _MOST}
    ending = await system.direct(agent, "brain.search", args)
    if ending.answer is None:
        raise from_dict(ending.error or {})
    return {"lessons": ending.answer["memories"]}


@operation("lessons.consolidate")
async def lessons_consolidate(system: Loket, _emit: Emit, *, agent: str) -> dict[str, Any]:
    """Draw recurring lessons together now, and propose rules."""
    system.installed.module(agent)
    await system.lessons.settled()
    return await system.lessons.consolidate(agent)


@operation("proposals.list")
async def proposals_list(system: Loket, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
    """Lines that lessons propose for agents' rules, decided ones too."""
    if agent is not None:
        system.installed.module(agent)
    return {"proposals": await asyncio.to_thread(system.proposals.listed, agent)}


@operation("proposals.decide")
async def proposals_decide(
    system: Loket,
    _emit: Emit,
    *,
    id: int,  # noqa: A002 - the table's word
    accept: bool,
) -> dict[str, Any]:
    """Accept a proposal, or reject it; an accepted one is taken back by rejecting it."""
    return await asyncio.to_thread(system.lessons.decide, id, accept=accept)
