"""What the owner does with servers: adds and looks at them, approves them and their tools, takes all that back.

Approving is bound to what was shown: to the digest of a server's configuration, or of a tool's definition. Words of a
server are shown with what the injection filter found in them.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import cache

from loket.contracts import BadInput, Effect, Json, command
from loket.filter import Filter
from loket.filter.report import SUSPICIOUS
from loket.mcp import definition, names, oauth, risks
from loket.mcp.capability import arguments, summary, texts_of
from loket.mcp.importing import Found
from loket.mcp.secrets import Moved
from loket.mcp.servers import FIRST_S, Servers
from loket.mcp.settings import Server, read
from loket.mcp.state import State
from loket.store.mcp import KeptServer, KeptTool

_EFFECTS = tuple(effect.value for effect in Effect)


# Looking


def overview(servers: Servers) -> list[dict[str, Json]]:
    """All servers, a few facts of each."""
    return [_brief(servers, kept) for kept in servers.table.servers()]


def _brief(servers: Servers, kept: KeptServer) -> dict[str, Json]:
    server, health = read(kept.name, dict(kept.config)), servers.health(kept.name)
    states = [servers.state(tool, kept.digest) for tool in servers.table.tools(kept.name)]
    return {
        "name": kept.name,
        "transport": "stdio" if server.command else "http",
        "target": " ".join(server.command) or server.url,
        "sandbox": ("on" if server.sandbox else "off") if server.command else None,
        "approved": kept.approved == kept.digest,
        "enabled": kept.enabled,
        "connected": health.connected,
        "protocol": health.protocol or None,
        "error": health.error.message if health.error is not None else None,
        "tools": {state.value: states.count(state) for state in State if state in states},
    }


def shown(servers: Servers, name: str) -> dict[str, Json]:
    """A server with its entry, what is remarkable about it, the secrets that it needs, and its tools."""
    kept = servers.kept(name)
    server, health = read(name, dict(kept.config)), servers.health(name)
    known = set(servers.vault.names())
    return {
        **_brief(servers, kept),
        "entry": server.as_json(),
        "digest": kept.digest,
        "origin": kept.origin,
        "flags": flags_of(server),
        "secrets": [{"name": secret, "there": secret in known} for secret in server.secrets],
        "workspace": str(servers.folder / name) if server.command else None,
        "server": health.server or None,
        "since": health.since,
        "calls": health.calls,
        "failures": health.failures,
        "logged_in": oauth.Held(servers.vault, server).known if server.url else None,
        "list": [tool_brief(servers, tool, kept.digest) for tool in servers.table.tools(name)],
    }


def flags_of(server: Server) -> list[dict[str, Json]]:
    """Remarks about a server as JSON."""
    return [flag._asdict() for flag in risks.flags(server)]


def tool_brief(servers: Servers, tool: KeptTool, config: str) -> dict[str, Json]:
    """A tool in a line."""
    critical = tool.critical if tool.effect is not None else texts_of(tool.definition)
    return {
        "name": tool.name,
        "capability": names.capability_id(tool.server, tool.name),
        "state": servers.state(tool, config).value,
        "effect": tool.effect or Effect.EGRESS.value,
        "critical": list(critical),
        "repeatable": tool.repeatable,
        "summary": summary(tool.definition),
        "digest": tool.digest,
    }


def tool_shown(servers: Servers, server: str, name: str) -> dict[str, Json]:
    """A tool as its server describes it, with what the filter says of these words. Hints are the server's alone."""
    tool = servers.tool(server, name)
    return {
        **tool_brief(servers, tool, servers.kept(server).digest),
        "definition": dict(tool.definition),
        "arguments": arguments(tool.definition),
        "hints": dict(tool.definition.get("annotations") or {}),
        "flags": suspicions(tool.definition),
        "unusable": servers.why_unusable(tool) or None,
    }


def difference(servers: Servers, server: str, name: str) -> dict[str, Json]:
    """How a tool's definition differs from the approved one, as a unified diff; empty where it does not."""
    tool = servers.tool(server, name)
    kept = servers.kept(server)
    now = None if tool.gone else tool.definition
    return {
        "server": server,
        "tool": tool.name,
        "state": servers.state(tool, kept.digest).value,
        "diff": definition.difference(tool.approved, now, tool.name),
        "configuration": tool.approved_config is not None and tool.approved_config != kept.digest,
        "digest": tool.digest,
        "flags": suspicions(tool.definition),
    }


def suspicions(said: Mapping[str, Json]) -> list[dict[str, Json]]:
    """What the filter finds in the words of a definition: `place`, `stage`, `name` and the `text` around it."""
    found: list[dict[str, Json]] = []
    for place, text in definition.texts(said):
        report = _filter().document(text)
        found += [
            {"place": place, "stage": mark.stage, "name": mark.name, "text": report.text[mark.start : mark.end][:200]}
            for mark in report.marks
            if mark.score >= SUSPICIOUS
        ]
    return found


@cache
def _filter() -> Filter:
    return Filter()


# Changing


async def add(servers: Servers, server: Server, origin: str, *, replacing: bool, approve: bool) -> dict[str, Json]:
    """Keep a server; its literal secrets go to the vault. `approve`, unless something about it is grave.

    Raises `BadInput` (`mcp.exists`).
    """
    if servers.table.server(server.name) is not None and not replacing:
        raise BadInput("mcp.exists", f"there is a server {server.name} already", "add --replace, or name it otherwise")
    moved = Moved(server.name, servers.vault.get)
    server = moved.take(server)
    return await keep(servers, server, moved.values, origin, approve=approve)


async def keep(
    servers: Servers, server: Server, secrets: Mapping[str, str], origin: str, *, approve: bool, enabled: bool = True
) -> dict[str, Json]:
    """Keep a server whose secrets are references by now, and these secrets."""
    for name, value in secrets.items():
        await asyncio.to_thread(servers.vault.put, name, value)
    servers.table.put_server(server.name, server.as_json(), server.digest, origin, servers.now())
    servers.table.enable(server.name, enabled=enabled)
    grave = any(flag.grave for flag in risks.flags(server))
    if approve and not grave:
        servers.table.approve_server(server.name, server.digest)
    await servers.disconnect(server.name)
    servers.publish(server.name)
    return {**shown(servers, server.name), "moved": sorted(secrets)}


async def bring(servers: Servers, found: Found, *, replacing: bool) -> dict[str, Json]:
    """Keep a server that was found in another program's file. It is not approved: the owner has yet to look at it."""
    if found.server is None:
        raise BadInput("mcp.import", f"{found.name} cannot be taken over: {found.skipped}", None)
    if servers.table.server(found.name) is not None and not replacing:
        raise BadInput("mcp.exists", f"there is a server {found.name} already", "add --replace")
    return await keep(servers, found.server, found.secrets, str(found.file), approve=False, enabled=found.enabled)


async def approve_server(servers: Servers, name: str, digest: str | None) -> dict[str, Json]:
    """Approve how a server is started or reached. Raises `BadInput` (`mcp.digest`) where it is another one by now."""
    kept = servers.kept(name)
    if not servers.table.approve_server(name, digest or kept.digest):
        raise _stale(name, "its configuration", command("mcp", "show", name))
    servers.publish(name)
    return shown(servers, name)


async def approve_tool(
    servers: Servers,
    server: str,
    name: str,
    *,
    digest: str | None = None,
    effect: str | None = None,
    critical: Sequence[str] | None = None,
    repeatable: bool | None = None,
) -> dict[str, Json]:
    """Approve a tool as its server describes it now; what is not said stays as the owner said it before.

    Raises `BadInput`: `mcp.digest` where it describes it otherwise than it was shown, `mcp.effect`, `mcp.critical`.
    """
    tool, kept = servers.tool(server, name), servers.kept(server)
    if kept.approved != kept.digest:
        raise BadInput("mcp.unapproved", f"approve how {server} is started first", command("mcp", "approve", server))
    chosen = effect or tool.effect or Effect.EGRESS.value
    if chosen not in _EFFECTS:
        raise BadInput("mcp.effect", f"there is no effect {chosen[:40]!r}", f"one of {', '.join(_EFFECTS)}")
    said = _critical(tool, critical)
    done = servers.table.approve_tool(
        server,
        tool.name,
        digest or tool.digest,
        config=kept.digest,
        effect=chosen,
        critical=said,
        repeatable=tool.repeatable if repeatable is None else repeatable,
        at=servers.now(),
    )
    if not done:
        raise _stale(server, f"the tool {tool.name}", command("mcp", "diff", server, tool.name))
    servers.publish(server)
    shown_now = tool_shown(servers, server, tool.name)
    if shown_now["unusable"]:
        raise BadInput("mcp.unusable", f"{tool.name} cannot be used: {shown_now['unusable']}", "ask who wrote it")
    return shown_now


def _critical(tool: KeptTool, given: Sequence[str] | None) -> tuple[str, ...]:
    """The critical arguments: as given, as before where these are all still there, else all that can hold a text."""
    properties = arguments(tool.definition).get("properties")
    known = {*(properties if isinstance(properties, Mapping) else ()), *texts_of(tool.definition)}
    if given is None:
        before = tool.critical if tool.effect is not None else ()
        fresh = [name for name in texts_of(tool.definition) if name not in _texts_before(tool)]
        return tuple(dict.fromkeys([*(name for name in before if name in known), *fresh]))
    wrong = [name for name in given if name not in known]
    if wrong:
        have = ", ".join(sorted(known)) or "none"
        raise BadInput("mcp.critical", f"{tool.name} has no argument {wrong[0][:60]!r}", f"it has {have}")
    return tuple(dict.fromkeys(given))


def _texts_before(tool: KeptTool) -> tuple[str, ...]:
    """The arguments on which the owner has decided already."""
    return texts_of(tool.approved) if tool.approved is not None and tool.effect is not None else ()


async def refuse_tool(servers: Servers, server: str, name: str) -> dict[str, Json]:
    """Refuse a tool, or take its approval back."""
    tool = servers.tool(server, name)
    servers.table.refuse_tool(server, tool.name, servers.now())
    servers.publish(server)
    return tool_brief(servers, servers.tool(server, tool.name), servers.kept(server).digest)


async def tested(servers: Servers, name: str) -> dict[str, Json]:
    """Connect a server and list its tools. Raises what keeps it from that."""
    connection = await servers.connected(name, FIRST_S, owner=True)
    await servers.relist(name, connection)
    return shown(servers, name)


async def enable(servers: Servers, name: str, *, enabled: bool) -> dict[str, Json]:
    """Switch a server on, or off: then it is disconnected, and its tools are withdrawn."""
    servers.kept(name)
    servers.table.enable(name, enabled=enabled)
    if not enabled:
        await servers.disconnect(name)
    servers.publish(name)
    return shown(servers, name)


async def remove(servers: Servers, name: str) -> dict[str, Json]:
    """Forget a server, its tools, approvals and tokens. Its workspace and the secrets it was given stay."""
    kept = servers.kept(name)
    server = read(name, dict(kept.config))
    await servers.disconnect(name)
    oauth.Held(servers.vault, server).forget()
    servers.table.remove(name)
    servers.publish(name)
    workspace = servers.folder / name
    left = [secret for secret in servers.vault.names() if secret in server.secrets]
    return {"name": name, "removed": True, "workspace": str(workspace) if workspace.exists() else None, "secrets": left}


def found_shown(servers: Servers, found: Found) -> dict[str, Json]:
    """An entry of another program's file, for the owner to look at before anything is kept."""
    known = set(servers.vault.names())
    server = found.server
    unmet = [] if server is None else [name for name in server.secrets if name not in known | set(found.secrets)]
    return {
        "name": found.name,
        "program": found.program or None,
        "file": str(found.file),
        "entry": server.as_json() if server is not None else None,
        "flags": flags_of(server) if server is not None else [],
        "secrets": sorted(found.secrets),
        "missing": unmet,
        "enabled": found.enabled,
        "notes": list(found.notes),
        "skipped": found.skipped or None,
        "exists": servers.table.server(found.name) is not None,
    }


def _stale(name: str, what: str, remedy: str | None) -> BadInput:
    return BadInput("mcp.digest", f"{name}: {what} is not as it was shown any more", remedy)
