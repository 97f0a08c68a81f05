"""Servers of the Model Context Protocol: added, looked at, approved and removed. Each decision is journaled."""

import asyncio
import json
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, RowKind
from loket.mcp import names, oauth, owner
from loket.mcp.importing import Found, read_file, usual
from loket.mcp.settings import read
from loket.operations.table import Emit, operation

_LOG = 64 << 10
"""Bytes of a log that are shown."""


@operation("mcp.list")
async def mcp_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All servers, with how they are."""
    return {"servers": owner.overview(system.mcp)}


@operation("mcp.show")
async def mcp_show(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """A server with its entry, flags, secrets by name, health and tools."""
    return owner.shown(system.mcp, name)


@operation("mcp.tools")
async def mcp_tools(system: Loket, _emit: Emit, *, name: str, tool: str | None = None) -> dict[str, Any]:
    """The tools of a server, or one of them, as they were seen last, with what the filter says of their words."""
    if tool is not None:
        return {"tools": [owner.tool_shown(system.mcp, name, tool)]}
    known = system.mcp.table.tools(system.mcp.kept(name).name)
    return {"tools": [await asyncio.to_thread(owner.tool_shown, system.mcp, name, one.name) for one in known]}


@operation("mcp.add")
async def mcp_add(
    system: Loket, _emit: Emit, *, name: str, entry: dict[str, Any], replace: bool = False
) -> dict[str, Any]:
    """Add a server by its entry of `mcpServers`; the owner's own words approve it, unless they are grave."""
    result = await owner.add(system.mcp, read(name, entry), "command", replacing=replace, approve=True)
    await _note(system, "mcp.add", server=name, digest=result["digest"], approved=result["approved"])
    return result


@operation("mcp.import")
async def mcp_import(
    system: Loket,
    _emit: Emit,
    *,
    path: str | None = None,
    names: list[str] | None = None,
    apply: bool = False,
    replace: bool = False,
) -> dict[str, Any]:
    """The servers in a file, or in those of the usual programs; with `apply` they are kept, unapproved.

    A server that is there already stays as it is, unless `replace` is said.
    """
    found = await asyncio.to_thread(_found, system, path)
    for name in names or []:
        if name not in [one.name for one in found]:
            have = ", ".join(one.name for one in found) or "none"
            raise BadInput("mcp.import", f"there is no server {name!r} there; there are: {have}", "loket mcp import")
    chosen = [one for one in found if not names or one.name in names]
    shown = [owner.found_shown(system.mcp, one) for one in chosen]
    if apply:
        for one, said in zip(chosen, shown, strict=True):
            if one.server is not None and (replace or not said["exists"]):
                kept = await owner.bring(system.mcp, one, replacing=replace)
                said["kept"] = True
                await _note(system, "mcp.import", server=one.name, digest=kept["digest"], file=str(one.file))
    return {"found": shown, "applied": apply}


def _found(system: Loket, path: str | None) -> list[Found]:
    if path is not None:
        return read_file(Path(path).expanduser(), system.vault.get)
    files = usual(Path.home())
    taken: dict[str, Found] = {}
    for _program, file in files:
        for one in read_file(file, system.vault.get):
            taken.setdefault(one.name, one)
    return list(taken.values())


@operation("mcp.approve")
async def mcp_approve(
    system: Loket,
    _emit: Emit,
    *,
    name: str,
    tool: str | None = None,
    digest: str | None = None,
    effect: str | None = None,
    critical: list[str] | None = None,
    repeatable: bool | None = None,
) -> dict[str, Any]:
    """Approve how a server is started, or one of its tools, as it was shown (`digest`)."""
    if tool is None:
        result = await owner.approve_server(system.mcp, name, digest)
        await _note(system, "mcp.approve", server=name, digest=result["digest"])
        return result
    result = await owner.approve_tool(
        system.mcp, name, tool, digest=digest, effect=effect, critical=critical, repeatable=repeatable
    )
    said = {key: result[key] for key in ("digest", "effect", "critical", "repeatable")}
    await _note(system, "mcp.approve", server=name, tool=result["name"], **said)
    return result


@operation("mcp.refuse")
async def mcp_refuse(system: Loket, _emit: Emit, *, name: str, tool: str) -> dict[str, Any]:
    """Refuse a tool, or take its approval back."""
    result = await owner.refuse_tool(system.mcp, name, tool)
    await _note(system, "mcp.refuse", server=name, tool=result["name"], digest=result["digest"])
    return result


@operation("mcp.diff")
async def mcp_diff(system: Loket, _emit: Emit, *, name: str, tool: str) -> dict[str, Any]:
    """How a tool's definition differs from the one that was approved."""
    return owner.difference(system.mcp, name, tool)


@operation("mcp.test")
async def mcp_test(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Connect a server now, and list its tools."""
    return await owner.tested(system.mcp, name)


@operation("mcp.enable")
async def mcp_enable(system: Loket, _emit: Emit, *, name: str, enabled: bool) -> dict[str, Any]:
    """Switch a server on or off."""
    result = await owner.enable(system.mcp, name, enabled=enabled)
    await _note(system, "mcp.enable" if enabled else "mcp.disable", server=name)
    return result


@operation("mcp.remove")
async def mcp_remove(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Forget a server with its tools, approvals and tokens, and take back what was granted of it."""
    result = await owner.remove(system.mcp, name)
    await asyncio.to_thread(_revoke, system, name)
    await _note(system, "mcp.remove", server=name)
    return result


def _revoke(system: Loket, server: str) -> None:
    """Take back all grants of a server's tools: the next one of that name may be somebody else's."""
    for grant in system.grants.all():
        if grant.capability.startswith(f"{names.FAMILY}.{server}."):
            system.grants.revoke(grant.publisher, grant.module, grant.capability)


@operation("mcp.login")
async def mcp_login(system: Loket, emit: Emit, *, name: str) -> dict[str, Any]:
    """Have the owner log in to a server elsewhere: an event `login` has the address to open."""
    await system.mcp.login(name, lambda url: emit({"type": "login", "url": url}))
    await _note(system, "mcp.login", server=name)
    return owner.shown(system.mcp, name)


@operation("mcp.logout")
async def mcp_logout(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Forget the tokens of a server."""
    server = read(name, dict(system.mcp.kept(name).config))
    await system.mcp.disconnect(name)
    known = oauth.Held(system.vault, server).forget()
    return {"name": name, "forgotten": known}


@operation("mcp.log")
async def mcp_log(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """The end of what a server's process said on its standard error."""
    log = system.mcp.log_of(system.mcp.kept(name).name)
    return {"file": str(log.path), "text": await asyncio.to_thread(log.end, _LOG)}


async def _note(system: Loket, what: str, **said: Any) -> None:
    """Write the owner's decision down."""
    facts = {"what": what, "principal": "owner"}
    system.journal.append("", 0, RowKind.NOTE, facts, json.dumps(said, sort_keys=True, separators=(",", ":")))
    await asyncio.to_thread(system.journal.sync)
