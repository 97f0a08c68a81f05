"""Grants: the owner decides who may do what."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from loket import clients
from loket.app import Loket
from loket.calling import PUBLISHER as CLIENTS
from loket.contracts import BadInput, Grant, command
from loket.operations.table import Emit, operation
from loket.packages.manifest import AskedCapability

_EXAMPLE = "example.org"
"""The host in a remedy where nothing says which one is meant."""


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
    """Grant a capability to an installed module, or widen (`add`) the grant that it has, from the next call on.

    Raises `BadInput` (`grant.constraint`) where the grant would allow nothing.
    """
    _check_needed(system, agent, capability, constraints or {}, add=add)
    name = clients.named(agent)
    if name is not None:
        return _grant_shown(
            await asyncio.to_thread(clients.allow, system, name, capability, constraints or {}, add=add)
        )
    grant = await asyncio.to_thread(system.installed.allow, agent, capability, constraints or {}, add=add)
    system.lessons.allowed(grant)
    return _grant_shown(grant)


def _check_needed(system: Loket, agent: str, capability: str, given: Mapping[str, Any], *, add: bool) -> None:
    """Refuse a grant that would allow nothing, because a constraint is missing that it needs.

    The remedy has what the module asks for itself, or a host to put another one in the place of.
    """
    publisher, wishes = _wishes(system, agent)
    known = system.registry.find(capability).capability
    held = [grant.constraints for grant in system.grants.held(publisher, agent) if grant.capability == capability]
    stays = held[0] if add and held else {}
    needed = [rule.name for rule in known.constraints if rule.required and not {rule.name} & {*stays, *given}]
    if not needed:
        return
    asked = [want.constraints for want in wishes if want.name == capability]
    texts = {**given, **{name: (asked[0] if asked else {}).get(name, [_EXAMPLE]) for name in needed}}
    more = [f"{name}={text}" for name, listed in texts.items() if isinstance(listed, list) for text in listed]
    raise BadInput(
        "grant.constraint",
        f"without {' and '.join(needed)} a grant of {capability} allows nothing",
        command("grants", "allow", agent, capability, *(word for one in more for word in ("--add", one))),
    )


def _wishes(system: Loket, agent: str) -> tuple[str, Sequence[AskedCapability]]:
    """Whose a module or a client is, and what it asks for; a client asks for nothing by itself."""
    if clients.named(agent) is not None:
        return CLIENTS, ()
    ref, package = system.installed.module(agent)
    return ref.publisher, package.manifest.capabilities


@operation("grants.revoke")
async def grants_revoke(system: Loket, _emit: Emit, *, agent: str, capability: str) -> dict[str, Any]:
    """Take a grant back; it counts from the next call on."""
    publisher, _wanted = _wishes(system, agent)
    if not await asyncio.to_thread(system.grants.revoke, publisher, agent, capability):
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
