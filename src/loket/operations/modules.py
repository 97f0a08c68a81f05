"""Modules: look at them, install them, remove them."""

import asyncio
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput
from loket.installed import LOCAL_PUBLISHER
from loket.operations.status import agent_shown
from loket.operations.table import Emit, operation
from loket.packages.install import read_package


@operation("module.inspect")
async def module_inspect(system: Loket, _emit: Emit, *, folder: str) -> dict[str, Any]:
    """What a folder's module is and asks for, and what it holds already; nothing is changed."""
    package = await asyncio.to_thread(read_package, Path(folder), system.installed.stock_wasm())
    manifest = package.manifest
    held = {grant.capability for grant in system.grants.held(LOCAL_PUBLISHER, manifest.id)}
    wants = [
        {"name": w.name, "reason": w.reason, "constraints": dict(w.constraints), "held": w.name in held}
        for w in manifest.capabilities
    ]
    return {
        "id": manifest.id,
        "version": manifest.version,
        "kind": manifest.kind,
        "summary": manifest.summary,
        "digest": package.digest,
        "publisher": LOCAL_PUBLISHER,
        "wants": wants,
    }


@operation("module.install")
async def module_install(system: Loket, _emit: Emit, *, folder: str, grant: list[str] | None = None) -> dict[str, Any]:
    """Install a folder's module and grant these of the capabilities that it asks for."""
    ref = await system.installed.install(Path(folder), LOCAL_PUBLISHER, grant or [], "owner")
    return agent_shown(system, *system.installed.module(ref.id))


@operation("module.remove")
async def module_remove(system: Loket, _emit: Emit, *, agent: str, revoke: bool = False) -> dict[str, Any]:
    """Remove a module and its grants; its brain and its journal stay. A revoked one may never run again."""
    ref, _package = system.installed.module(agent)
    sharing = [other.id for other, _ in system.installed.all() if other.digest == ref.digest and other.id != agent]
    if revoke and sharing:
        raise BadInput(
            "module.shared", f"{', '.join(sharing)} runs on the same bytes as {agent}", "remove it without --revoke"
        )
    await system.installed.remove(agent)
    if revoke:
        await asyncio.to_thread(system.grants.revoke_digest, ref.digest, system.now())
    return {"agent": agent, "removed": True, "revoked": revoke}
