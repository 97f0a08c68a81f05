"""Channels, as the owner adds, tries and removes them, and lets people in. Each decision is journaled."""

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from loket.app import Loket
from loket.channels import speaks_of
from loket.contracts import BadInput, ChannelSpec, RowKind
from loket.operations.table import Emit, operation


async def _note(system: Loket, what: str, channel: str, **more: str) -> None:
    """A decision of the owner outside any run. Senders are named in the value, which can be erased."""
    facts = {"what": what, "principal": "owner", "channel": channel, **more}
    await asyncio.to_thread(system.journal.append, "", 0, RowKind.NOTE, facts, "{}")
    await asyncio.to_thread(system.journal.sync)


async def _card(system: Loket, name: str) -> dict[str, Any]:
    channel = await asyncio.to_thread(system.channels.channel, name)
    return dict(await asyncio.to_thread(system.channels.card, channel))


def _texts(what: str, given: Mapping[str, Any] | None) -> dict[str, str]:
    """Values that are texts. Raises `BadInput`."""
    if not all(isinstance(value, str) for value in (given or {}).values()):
        raise BadInput("arguments.type", f"{what} holds what is no text", '{"token": "..."}')
    return dict(given or {})


@operation("channels.list")
async def channels_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """`channels`: a card each (fields without secrets, switch, health); `modules`: the installed ones."""
    known = await asyncio.to_thread(system.channels.store.channels)
    cards = await asyncio.to_thread(lambda: [system.channels.card(one) for one in known])
    return {"channels": cards, "modules": [_module(name, package) for name, package in system.channels.modules()]}


def _module(name: str, package: Any) -> dict[str, Any]:
    spec = package.manifest.own
    declared = asdict(spec) if isinstance(spec, ChannelSpec) else {}
    return {"id": name, "version": package.manifest.version, "summary": package.manifest.summary, **declared}


@operation("channels.show")
async def channels_show(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """A channel's card."""
    return await _card(system, name)


@operation("channels.add")
async def channels_add(
    system: Loket,
    _emit: Emit,
    *,
    module: str,
    agent: str,
    fields: dict[str, Any] | None = None,
    private: list[str] | None = None,
    name: str | None = None,
    enabled: bool = True,
) -> dict[str, Any]:
    """Set a channel up and switch it on; secret fields go into the vault. Its card."""
    called = name or module
    given = _texts("fields", fields)
    await system.channels.add(module, agent, given, private or [], called, enabled=enabled)
    await _note(system, "channel.added", called, module=module, agent=agent)
    return await _card(system, called)


@operation("channels.set")
async def channels_set(
    system: Loket,
    _emit: Emit,
    *,
    name: str,
    fields: dict[str, Any] | None = None,
    private: list[str] | None = None,
    agent: str | None = None,
) -> dict[str, Any]:
    """Change fields or the agent, or list places of this machine or network that it may reach. Its card."""
    await system.channels.change(name, given=_texts("fields", fields), private=private or [], agent=agent)
    await _note(system, "channel.changed", name, fields=",".join(sorted(fields or {})), private=",".join(private or []))
    return await _card(system, name)


@operation("channels.enable")
async def channels_enable(system: Loket, _emit: Emit, *, name: str, enabled: bool = True) -> dict[str, Any]:
    """Switch a channel on or off; what is queued is kept. Its card."""
    await system.channels.change(name, enabled=enabled)
    await _note(system, "channel.enabled" if enabled else "channel.disabled", name)
    return await _card(system, name)


@operation("channels.test")
async def channels_test(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Try a channel's fields at the other side: `ok`, `said`, `remedy`."""
    return dict(await system.channels.test(name))


@operation("channels.remove")
async def channels_remove(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Remove a channel with its secrets, its pairings and what is queued; the module stays installed."""
    gone = await system.channels.remove(name)
    await _note(system, "channel.removed", name)
    return dict(gone)


@operation("channels.codes")
async def channels_codes(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Senders who wait for the owner's word: `codes`, oldest first."""
    found = await asyncio.to_thread(system.channels.codes)
    names = ("code", "channel", "sender", "name", "made", "expires")
    return {"codes": [{name: getattr(one, name) for name in names} for one in found]}


@operation("channels.approve")
async def channels_approve(
    system: Loket, _emit: Emit, *, code: str, speaks: str = "sender", user: str | None = None
) -> dict[str, Any]:
    """Let the sender of a code in: as a sender, as the owner, or as one of the owner's users. `warning` where due."""
    whom = speaks_of(speaks, user)
    if user is not None and user not in [one["name"] for one in system.users.users()]:
        raise BadInput("user.unknown", f"there is no user {user!r}", "loket users list")
    made = await system.channels.approve(code, whom)
    await _note(system, "channel.paired", made.channel, speaks=whom)
    channel = await asyncio.to_thread(system.channels.channel, made.channel)
    mailbox = whom != "sender" and system.channels.spec(channel.module).wire == "mailbox"
    warning = "anybody can write a mail in somebody's name: whoever does that now speaks for them here"
    shown = {"channel": made.channel, "sender": made.sender, "name": made.name, "speaks": made.speaks}
    return {**shown, "warning": warning if mailbox else None}


@operation("channels.pairings")
async def channels_pairings(system: Loket, _emit: Emit, *, name: str | None = None) -> dict[str, Any]:
    """Who may speak through a channel, or through all: `pairings`."""
    known = await asyncio.to_thread(system.channels.store.channels)
    names = [one.name for one in known] if name is None else [(await _card(system, name))["name"]]
    found = [pairing for one in names for pairing in await asyncio.to_thread(system.channels.store.pairings, one)]
    keys = ("channel", "sender", "name", "speaks", "at")
    return {"pairings": [{key: getattr(one, key) for key in keys} for one in found]}


@operation("channels.unpair")
async def channels_unpair(system: Loket, _emit: Emit, *, name: str, sender: str) -> dict[str, Any]:
    """Take a sender's pairing back; runs that go on are not stopped."""
    if not await asyncio.to_thread(system.channels.store.unpair, name, sender):
        raise BadInput("channel.sender", f"{sender!r} is not paired on {name!r}", "loket channels pairings")
    await _note(system, "channel.unpaired", name)
    return {"channel": name, "sender": sender, "removed": True}


@operation("channels.hook")
async def channels_hook(
    system: Loket, _emit: Emit, *, name: str, headers: dict[str, Any], query: dict[str, Any], body: str
) -> dict[str, Any]:
    """A request of a webhook; `body` is base64. What its caller is answered: `status` and `body`."""
    answer = await system.channels.hook(
        name, _texts("headers", headers), _texts("query", query), base64.b64decode(body)
    )
    return {"status": answer.status, "body": answer.body}
