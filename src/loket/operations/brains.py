"""Brains: what an agent remembers, seen and changed by its owner."""

from typing import Any

from loket.app import Loket
from loket.contracts import from_dict
from loket.operations.table import Emit, operation


async def _direct(system: Loket, agent: str, capability: str, args: dict[str, Any]) -> dict[str, Any]:
    system.installed.module(agent)
    ending = await system.direct(agent, capability, {k: v for k, v in args.items() if v is not None})
    if ending.answer is None:
        raise from_dict(ending.error or {})
    return dict(ending.answer)


@operation("brain.search")
async def brain_search(
    system: Loket,
    _emit: Emit,
    *,
    agent: str,
    query: str,
    limit: int = 10,
    as_of: str | None = None,
    history: bool = False,
) -> dict[str, Any]:
    """Find memories."""
    args = {"query": query, "limit": limit, "as_of": as_of, "history": history}
    return await _direct(system, agent, "brain.search", args)


@operation("brain.add")
async def brain_add(
    system: Loket,
    _emit: Emit,
    *,
    agent: str,
    text: str,
    kind: str = "fact",
    subject: str | None = None,
    key: str | None = None,
) -> dict[str, Any]:
    """Remember something for an agent."""
    item = {"text": text, "kind": kind, "subject": subject, "key": key}
    return await _direct(system, agent, "brain.add", {"items": [{k: v for k, v in item.items() if v is not None}]})


@operation("brain.correct")
async def brain_correct(system: Loket, _emit: Emit, *, agent: str, id: int, text: str) -> dict[str, Any]:  # noqa: A002 - the capability's word
    """Correct a memory."""
    return await _direct(system, agent, "brain.correct", {"id": id, "text": text})


@operation("brain.forget")
async def brain_forget(system: Loket, _emit: Emit, *, agent: str, id: int) -> dict[str, Any]:  # noqa: A002 - the capability's word
    """Forget a memory."""
    return await _direct(system, agent, "brain.forget", {"id": id})


@operation("brain.history")
async def brain_history(system: Loket, _emit: Emit, *, agent: str, id: int) -> dict[str, Any]:  # noqa: A002 - the capability's word
    """A memory with what it superseded and what superseded it."""
    return await _direct(system, agent, "brain.history", {"id": id})


@operation("brain.export")
async def brain_export(system: Loket, emit: Emit, *, agent: str) -> dict[str, Any]:
    """All memories of an agent, with every column."""
    memories: list[dict[str, Any]] = []
    while page := (await _direct(system, agent, "brain.export", {"after": memories[-1]["id"] if memories else 0}))[
        "memories"
    ]:
        memories.extend(page)
        emit({"type": "progress", "done": len(memories), "total": None})
    return {"memories": memories}
