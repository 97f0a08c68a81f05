"""The system as a whole."""

import asyncio
from dataclasses import asdict
from typing import Any

from loket import __version__
from loket.app import Loket
from loket.operations.table import Emit, operation
from loket.packages.install import Package


@operation("status")
async def status(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Version, home, agents, unfinished runs; ids of those that cannot be read, and why an erasure is not done yet."""
    return {
        "version": __version__,
        "home": str(system.home.root),
        "agents": [ref.id for ref, _ in system.installed.all()],
        "unfinished": len(await asyncio.to_thread(system.database.unfinished)),
        "unreadable": system.unreadable_runs,
        "unfinished_erasure": system.unfinished_erasure,
    }


@operation("agents")
async def agents(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Installed modules with what they may and what they ask for beyond it."""
    unreadable = [{"id": name, "error": error.as_dict()} for name, error in system.installed.unreadable.items()]
    return {
        "agents": [agent_shown(system, ref, package) for ref, package in system.installed.all()],
        "unreadable": unreadable,
    }


def agent_shown(system: Loket, ref: Any, package: Package) -> dict[str, Any]:
    held = [grant.capability for grant in system.grants.held(ref.publisher, ref.id)]
    manifest = package.manifest
    return {
        "id": ref.id,
        "version": ref.version,
        "kind": manifest.kind,
        "publisher": ref.publisher,
        "summary": manifest.summary,
        "digest": ref.digest,
        "granted": held,
        "asks": [want.name for want in manifest.capabilities if want.name not in held],
    }


@operation("caps")
async def caps(system: Loket, _emit: Emit, *, name: str | None = None) -> dict[str, Any]:
    """The catalogue with what grants can narrow (`Constraint`), or one capability with its schemas too."""
    known = system.registry.all() if name is None else [system.registry.find(name).capability]
    shown = []
    for capability in known:
        entry: dict[str, Any] = {
            "id": capability.id,
            "effect": capability.effect.value,
            "summary": capability.summary,
            "critical": list(capability.critical),
            "on_uncertain": capability.on_uncertain.value,
            "constraints": [asdict(rule) for rule in capability.constraints],
        }
        if name is not None:
            entry |= {"arguments": capability.arguments, "answer": capability.answer}
        shown.append(entry)
    return {"capabilities": shown}
