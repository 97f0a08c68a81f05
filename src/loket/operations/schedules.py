"""Schedules, as the owner makes and keeps them.

What is said to an agent is made through the counter, like everything that an agent could make too. Calls and backups
are the owner's alone: the journal has a note of who made and removed them.
"""

import asyncio
import base64
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Json, RowKind, from_dict
from loket.operations.table import Emit, operation
from loket.schedules import fired, shown


async def _direct(system: Loket, agent: str, capability: str, args: dict[str, Json]) -> dict[str, Any]:
    system.installed.module(agent)
    ending = await system.direct(agent, capability, args)
    if ending.answer is None:
        raise from_dict(ending.error or {})
    return dict(ending.answer)


def _shown(system: Loket, identity: str) -> dict[str, Any]:
    one = system.schedules.store.one(identity)
    return shown(one, system.schedules.last(one))


def _note(system: Loket, what: str, identity: str, agent: str) -> None:
    """A decision of the owner outside any run."""
    facts = {"what": what, "principal": "owner", "schedule": identity, "agent": agent}
    system.journal.append("", 0, RowKind.NOTE, facts, "{}")
    system.journal.sync()


@operation("schedules.add")
async def schedules_add(
    system: Loket,
    _emit: Emit,
    *,
    agent: str,
    when: dict[str, Any],
    text: str | None = None,
    call: str | None = None,
    args: dict[str, Any] | None = None,
    conversation: str = "main",
    missed: str = "once",
    most: int = 1,
) -> dict[str, Any]:
    """Make a schedule that says `text` to an agent, or makes the `call` of a capability in the owner's name.

    As `schedules.show` says it; for a webhook with its `secret`, which is shown this once.
    """
    if (text is None) == (call is None):
        raise BadInput("schedule.what", "give a text, or the call of a capability", '{"text": "What is new?"}')
    more = {"conversation": conversation, "missed": missed, "most": most}
    if call is None:
        made = await _direct(system, agent, "schedule.create", {"text": text, "when": when, **more})
        identity = str(made["id"])
    else:
        identity = await _add_call(system, agent, {"call": call, "args": args or {}}, when, more)
    value = await asyncio.to_thread(_shown, system, identity)
    if "webhook" in value["when"]:
        value |= {"secret": await asyncio.to_thread(system.schedules.secret, identity), "path": f"/hooks/{identity}"}
    return value


async def _add_call(system: Loket, agent: str, what: dict[str, Any], when: dict[str, Any], more: dict[str, Any]) -> str:
    system.installed.module(agent)
    system.registry.find(what["call"])
    if "webhook" in when or "file" in when:
        raise BadInput("schedule.what", "a call comes at times; webhooks and files bring a text", "--cron or --every")
    one = await asyncio.to_thread(system.schedules.add, agent, what=what, trigger=when, **more)
    await asyncio.to_thread(_note, system, "schedule.added", one.id, agent)
    return one.id


@operation("schedules.backup")
async def schedules_backup(
    system: Loket,
    _emit: Emit,
    *,
    folder: str,
    when: dict[str, Any],
    keep: int = 7,
    models: bool = False,
    keys: bool = True,
    missed: str = "once",
) -> dict[str, Any]:
    """Back the home up into a folder (an absolute path) again and again, and keep so many. As `schedules.show`."""
    if not {"cron", "every_s", "at"} & when.keys():
        raise BadInput("schedule.when", "a backup is made at times or intervals", '{"every_s": 86400}')
    what = {"backup": {"folder": folder, "keep": keep, "models": models, "keys": keys}}
    one = await asyncio.to_thread(system.schedules.add, "", what=what, trigger=when, missed=missed)
    await asyncio.to_thread(_note, system, "schedule.added", one.id, "")
    return await asyncio.to_thread(_shown, system, one.id)


@operation("schedules.list")
async def schedules_list(system: Loket, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
    """All schedules, or an agent's, oldest first."""
    table = system.schedules
    found = await asyncio.to_thread(table.store.all, agent)
    return {"schedules": await asyncio.to_thread(lambda: [shown(one, table.last(one)) for one in found])}


@operation("schedules.show")
async def schedules_show(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """A schedule with its last firings, the newest first."""
    value = await asyncio.to_thread(_shown, system, id)
    return {**value, "firings": [fired(one) for one in system.schedules.store.firings(value["id"])]}


@operation("schedules.pause")
async def schedules_pause(system: Loket, _emit: Emit, *, id: str, paused: bool = True) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Pause a schedule, or let it go on from its next time on."""
    one = await asyncio.to_thread(system.schedules.store.one, id)
    if one.agent in system.installed.names():
        await _direct(system, one.agent, "schedule.pause", {"id": one.id, "paused": paused})
    else:
        await asyncio.to_thread(system.schedules.pause, one.id, paused=paused)
        await asyncio.to_thread(_note, system, "schedule.paused" if paused else "schedule.resumed", one.id, one.agent)
    return await asyncio.to_thread(_shown, system, one.id)


@operation("schedules.remove")
async def schedules_remove(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Remove a schedule with its secret; runs that it started go on."""
    one = await asyncio.to_thread(system.schedules.store.one, id)
    if one.agent in system.installed.names():
        await _direct(system, one.agent, "schedule.remove", {"id": one.id})
    else:
        await asyncio.to_thread(system.schedules.remove, one.id)
        await asyncio.to_thread(_note, system, "schedule.removed", one.id, one.agent)
    return {"id": one.id, "removed": True}


@operation("schedules.run")
async def schedules_run(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Perform a schedule now, and wait for what comes of it: how it ended, and an agent's `answer`."""
    done = await system.runner.run_now(id)
    if done.run is None:
        return fired(done)
    ending = await system.finished(done.run)
    answer = system.leaving.answer(ending.answer) if ending.answer is not None else None
    await system.runner.settle()
    again = next(one for one in system.schedules.store.firings(done.schedule) if one.id == done.id)
    return {**fired(again), "answer": answer}


@operation("schedules.approve")
async def schedules_approve(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Have an agent's schedule speak for the owner: its text is the owner's words in its next runs."""
    one = await asyncio.to_thread(system.schedules.approve, id)
    await asyncio.to_thread(_note, system, "schedule.approved", one.id, one.agent)
    return await asyncio.to_thread(_shown, system, one.id)


@operation("schedules.secret")
async def schedules_secret(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Make a new secret for a webhook; the one before counts no more. `id`, `secret`, `path`."""
    one = await asyncio.to_thread(system.schedules.store.one, id)
    secret = await asyncio.to_thread(system.schedules.secret, one.id)
    await asyncio.to_thread(_note, system, "schedule.secret", one.id, one.agent)
    return {"id": one.id, "secret": secret, "path": f"/hooks/{one.id}"}


@operation("schedules.hook")
async def schedules_hook(system: Loket, _emit: Emit, *, id: str, signature: str, body: str) -> dict[str, Any]:  # noqa: A002 - the field's word
    """Take a webhook's request: its header, and its body in base64. `run`, the run that it starts."""
    try:
        data = base64.b64decode(body, validate=True)
    except ValueError:
        raise BadInput("arguments.body", "the body is no base64", "send the bytes in base64") from None
    return {"run": await system.runner.hook(id, signature, data)}
