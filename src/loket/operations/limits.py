"""Bounds, and what is used of them."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.operations.table import Emit, operation


@operation("limits.show")
async def limits_show(system: Loket, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
    """Bounds of all together, agents (or one), principals and roles, and what is used now (see `HomeMeter.shown`).

    `repeats` is how often the same call may fail in a row. Raises `BadInput` for an agent that is not installed.
    """
    if agent is not None:
        system.installed.module(agent)
    unfinished = system.engine.unfinished()
    rows = await asyncio.to_thread(system.limits.shown, agent, unfinished)
    return {"limits": rows, "repeats": system.config.repeats}
