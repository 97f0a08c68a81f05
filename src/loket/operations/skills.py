"""Skills: instructions that agents read when they fit; the owner approves each as it is, and again when it changed."""

import asyncio
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.contracts import OWNER, RowKind
from loket.operations.table import Emit, operation
from loket.skills import Kept, read_skill


@operation("skills.list")
async def skills_list(system: Loket, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
    """All skills, or those that an agent may know of, with their state."""
    found = await asyncio.to_thread(system.skills.all)
    return {"skills": [_shown(kept) for kept in found if agent is None or kept.agent in (None, agent)]}


@operation("skills.show")
async def skills_show(system: Loket, _emit: Emit, *, name: str, agent: str | None = None) -> dict[str, Any]:
    """A skill with its instructions and its files. Raises what is wrong with one that is broken."""
    kept = await asyncio.to_thread(system.skills.listed, name, agent)
    if kept.error is not None:
        raise kept.error
    skill = kept.skill
    files = [{"path": one.path, "size": one.size} for one in skill.files] if skill is not None else []
    return {**_shown(kept), "text": skill.body if skill is not None else "", "files": files}


@operation("skills.validate")
async def skills_validate(_system: Loket, _emit: Emit, *, folder: str) -> dict[str, Any]:
    """Look at a folder as `skills.add` would; nothing is changed."""
    skill = await asyncio.to_thread(read_skill, Path(folder))
    return {"name": skill.name, "description": skill.description, "wants": skill.wants, "digest": skill.digest}


@operation("skills.add")
async def skills_add(
    system: Loket, _emit: Emit, *, folder: str, agent: str | None = None, own: bool = False
) -> dict[str, Any]:
    """Copy a skill into the home and approve it as it is, for an agent or for all. `own`: the owner wrote it."""
    if agent is not None:
        system.installed.module(agent)
    kept = await asyncio.to_thread(lambda: system.skills.add(Path(folder), agent, own=own))
    await _note(system, "skill.add", kept)
    return {**_shown(kept), "unread": _unread(system, agent)}


@operation("skills.approve")
async def skills_approve(
    system: Loket, _emit: Emit, *, name: str, agent: str | None = None, digest: str | None = None
) -> dict[str, Any]:
    """Approve a skill as it is now; with `digest`, as it was shown."""
    kept = await asyncio.to_thread(system.skills.approve, name, agent, digest)
    await _note(system, "skill.approve", kept)
    return _shown(kept)


@operation("skills.remove")
async def skills_remove(system: Loket, _emit: Emit, *, name: str, agent: str | None = None) -> dict[str, Any]:
    """Take a skill out of the home."""
    kept = await asyncio.to_thread(system.skills.listed, name, agent)
    await asyncio.to_thread(system.skills.remove, name, agent)
    await _note(system, "skill.remove", kept)
    return {"name": name, "agent": kept.agent, "removed": True}


def _shown(kept: Kept) -> dict[str, Any]:
    skill = kept.skill
    return {
        "name": kept.name,
        "agent": kept.agent,
        "place": kept.place,
        "state": kept.state,
        "labels": list(kept.labels),
        "description": skill.description if skill is not None else "",
        "wants": skill.wants if skill is not None else "",
        "digest": skill.digest if skill is not None else "",
        "error": kept.error.as_dict() if kept.error is not None else None,
    }


def _unread(system: Loket, agent: str | None) -> list[str]:
    """Agents that were told of the skill if they had a grant to read it."""
    agents = [ref for ref, package in system.installed.all() if package.manifest.kind == "agent"]
    held = {ref.id: {grant.capability for grant in system.grants.held(ref.publisher, ref.id)} for ref in agents}
    return [name for name, granted in held.items() if agent in (None, name) and "skill.read" not in granted]


async def _note(system: Loket, what: str, kept: Kept) -> None:
    facts = {"what": what, "principal": str(OWNER), "skill": kept.place, "digest": _shown(kept)["digest"]}
    await asyncio.to_thread(system.journal.append, "", 0, RowKind.NOTE, facts, "{}")
    await asyncio.to_thread(system.journal.sync)
