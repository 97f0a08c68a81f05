"""The bus: who subscribes to what, seen and changed by the owner."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput
from loket.operations.table import Emit, operation


@operation("subscriptions.list")
async def subscriptions_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All subscriptions, and whether messages get through: the agent is there and still has the grant."""
    found = await asyncio.to_thread(system.bus.all)
    return {"subscriptions": [{**one._asdict(), "hears": system.delegation.hears(*one[:2])} for one in found]}


@operation("subscriptions.remove")
async def subscriptions_remove(system: Loket, _emit: Emit, *, agent: str, topic: str) -> dict[str, Any]:
    """Take a subscription back; it counts from the next message on."""
    if not await asyncio.to_thread(system.bus.remove, agent, topic):
        raise BadInput("subscription.none", f"{agent} does not subscribe to {topic}", "loket subscriptions")
    return {"agent": agent, "topic": topic, "removed": True}
