"""Users and roles: whom the owner lets in, and what rules call them."""

import asyncio
import json
from typing import Any

from loket.app import Loket
from loket.contracts import RowKind
from loket.operations.table import Emit, operation


@operation("users.list")
async def users_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All users with their roles."""
    return {"users": await asyncio.to_thread(system.users.users)}


@operation("users.add")
async def users_add(system: Loket, _emit: Emit, *, name: str, roles: list[str]) -> dict[str, Any]:
    """Make a user with these roles."""
    await asyncio.to_thread(system.users.add, name, roles)
    await _note(system, "user.add", name=name, roles=roles)
    return {"name": name, "roles": roles}


@operation("users.remove")
async def users_remove(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Remove a user."""
    await asyncio.to_thread(system.users.remove, name)
    await _note(system, "user.remove", name=name)
    return {"name": name, "removed": True}


@operation("users.enable")
async def users_enable(system: Loket, _emit: Emit, *, name: str, enabled: bool) -> dict[str, Any]:
    """Let a user do what its roles allow, or nothing."""
    await asyncio.to_thread(lambda: system.users.enable(name, enabled=enabled))
    await _note(system, "user.enable" if enabled else "user.disable", name=name)
    return {"name": name, "enabled": enabled}


@operation("roles.list")
async def roles_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All roles with those who have them."""
    return {"roles": await asyncio.to_thread(system.users.roles)}


@operation("roles.set")
async def roles_set(system: Loket, _emit: Emit, *, role: str, description: str = "") -> dict[str, Any]:
    """Make a role, or describe it anew."""
    await asyncio.to_thread(system.users.set_role, role, description)
    await _note(system, "role.set", role=role)
    return {"name": role, "description": description}


@operation("roles.remove")
async def roles_remove(system: Loket, _emit: Emit, *, role: str) -> dict[str, Any]:
    """Remove a role, and take it from all who have it."""
    await asyncio.to_thread(system.users.remove_role, role)
    await _note(system, "role.remove", role=role)
    return {"name": role, "removed": True}


@operation("roles.give")
async def roles_give(system: Loket, _emit: Emit, *, role: str, principal: str) -> dict[str, Any]:
    """Give a role to a principal."""
    await asyncio.to_thread(system.users.give, principal, role)
    await _note(system, "role.give", role=role, to=principal)
    return {"name": role, "principal": principal}


@operation("roles.take")
async def roles_take(system: Loket, _emit: Emit, *, role: str, principal: str) -> dict[str, Any]:
    """Take a role from a principal."""
    await asyncio.to_thread(system.users.take, principal, role)
    await _note(system, "role.take", role=role, to=principal)
    return {"name": role, "principal": principal, "taken": True}


async def _note(system: Loket, what: str, **said: Any) -> None:
    """Write the owner's decision down. Whom it is about stands in the value: the facts name nobody."""
    facts = {"what": what, "principal": "owner"}
    system.journal.append("", 0, RowKind.NOTE, facts, json.dumps(said, sort_keys=True, separators=(",", ":")))
    await asyncio.to_thread(system.journal.sync)
