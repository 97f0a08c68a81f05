"""Grants: the owner decides who may do what."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Grant, command
from loket.operations.table import Emit, operation


@operation("grants.list")
async def grants_list(system: Loket, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
    """All grants, or those of one module."""
    grants = [grant for grant in system.grants.all() if agent in (None, grant.module)]
    return {"grants": [_grant_shown(grant) for grant in grants]}


@operation("grants.allow")
async def grants_allow(
    system: Loket,
    _emit: Emit,
    *,
    agent: str,
    capability: str,
    constraints: dict[str, Any] | None = None,
    add: bool = False,
) -> dict[str, Any]:
    """Grant a capability to an installed module, or widen (`add`) the grant that it has, from the next call on."""
    grant = await asyncio.to_thread(system.allow, agent, capability, constraints or {}, add=add)
    system.lessons.allowed(grant)
    return _grant_shown(grant)


@operation("grants.revoke")
async def grants_revoke(system: Loket, _emit: Emit, *, agent: str, capability: str) -> dict[str, Any]:
    """Take a grant back; it counts from the next call on."""
    ref, _package = system.module(agent)
    if not await asyncio.to_thread(system.grants.revoke, ref.publisher, ref.id, capability):
        raise BadInput("grant.none", f"{agent} has no grant for {capability}", command("grants", "list", agent))
    return {"agent": agent, "capability": capability, "revoked": True}


def _grant_shown(grant: Grant) -> dict[str, Any]:
    return {
        "agent": grant.module,
        "publisher": grant.publisher,
        "capability": grant.capability,
        "constraints": dict(grant.constraints),
        "by": grant.granted_by,
        "at": grant.granted,
        "reason": grant.reason,
    }
