"""All channels of a home: each that is switched on has its wire kept, its messages accepted and its answers delivered.

They follow the installed modules: a channel whose module comes, changes or goes is switched on, started anew or off by
that, without a restart.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from loket.channels import hooks, wires, words
from loket.channels.accepting import OWNERS, USER, accept_all
from loket.channels.actions import Decoder, says
from loket.channels.delivering import deliver_all
from loket.channels.frames import Response
from loket.channels.link import Health, Link
from loket.channels.settings import Settings, check_fields, check_places, vault_name
from loket.channels.system import System
from loket.channels.web import Web
from loket.contracts import BadInput, ChannelSpec, Failed, Json, LoketError, ModuleRef, Secrets, command
from loket.packages.change import Change, What
from loket.packages.install import Package
from loket.packages.manifest import ID
from loket.schemas import compile_check
from loket.store.channels import Channel, ChannelStore, Code, Fresh, Pairing

_SPEAKS = re.compile(r"owner|sender|user:[a-z0-9][a-z0-9._-]{0,63}")
_FIRST_S = 1.0


class Vault(Secrets, Protocol):
    """The vault, where secrets can be taken away too."""

    def delete(self, name: str) -> bool: ...


class Channels:
    """The channels of a home. `bind` comes first, then `follow` (by `Installed.watch`) and `start`."""

    def __init__(self, store: ChannelStore, vault: Vault, *, web: Web | None = None) -> None:
        self.store = store
        self._vault = vault
        self._web = web or Web()
        self._decoder = Decoder(compile_check)
        self._system: System | None = None
        self._modules: dict[str, tuple[ModuleRef, Package]] = {}
        self._links: dict[str, tuple[Link, list[asyncio.Task[None]]]] = {}
        self._started = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._switching: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()

    def bind(self, system: System) -> None:
        """Give the running system."""
        self._system = system

    @property
    def system(self) -> System:
        if self._system is None:
            raise Failed("channels.unbound", "channels are not bound to a system yet", None)
        return self._system

    async def start(self) -> None:
        """Switch on what the owner has switched on. On the event loop, once all else has started."""
        self._started, self._loop = True, asyncio.get_running_loop()
        for channel in await asyncio.to_thread(self.store.channels):
            await self._switch(channel.name)

    async def close(self) -> None:
        """Switch everything off; what is queued is delivered after the next start. Works after a failed start too."""
        self._started = False
        for task in list(self._switching):
            task.cancel()
        for name in list(self._links):
            await self._off(name)

    def follow(self, name: str, change: Change) -> None:
        """Take up a change of the installed modules."""
        if not isinstance(change.package.manifest.own, ChannelSpec):
            return
        if change.what is What.REMOVED:
            self._modules.pop(name, None)
        else:
            self._modules[name] = change.ref, change.package
        if self._started:
            task = asyncio.create_task(self._switch_all(name))
            self._switching.add(task)
            task.add_done_callback(self._switching.discard)

    async def _switch_all(self, module: str) -> None:
        for channel in await asyncio.to_thread(self.store.channels):
            if channel.module == module:
                await self._switch(channel.name)

    async def _switch(self, name: str) -> None:
        """Bring a channel to what the owner's settings and the installed modules say now."""
        async with self._order:
            await self._off(name)
            channel = await asyncio.to_thread(self.store.channel, name)
            if self._started and channel is not None and channel.enabled and channel.module in self._modules:
                link = self._link(channel)
                keep = wires.BY_NAME[link.settings.spec.wire]
                works = (wires.keep(link, keep), _forever(link, accept_all), _forever(link, deliver_all))
                tasks = [asyncio.create_task(work, name=f"channel {name}") for work in works]
                self._links[name] = link, tasks

    async def _off(self, name: str) -> None:
        _link, tasks = self._links.pop(name, (None, []))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _link(self, channel: Channel) -> Link:
        ref, _package = self._modules[channel.module]
        settings = Settings(channel, self.spec(channel.module))
        return Link(settings, ref, self.store, self.system, self._vault, self._web, self._decoder)

    # What the owner does

    def spec(self, module: str) -> ChannelSpec:
        """What an installed channel module declares. Raises `BadInput`."""
        known = self._modules.get(module)
        if known is None or not isinstance(known[1].manifest.own, ChannelSpec):
            have = ", ".join(sorted(self._modules)) or "none"
            raise BadInput(
                "channel.module",
                f"no channel module {module!r} is installed; there are: {have}",
                "loket install FOLDER",
            )
        return known[1].manifest.own

    def modules(self) -> list[tuple[str, Package]]:
        """The installed channel modules."""
        return [(name, self._modules[name][1]) for name in sorted(self._modules)]

    def channel(self, name: str) -> Channel:
        """A channel by name. Raises `BadInput`."""
        found = self.store.channel(name)
        if found is None:
            have = ", ".join(one.name for one in self.store.channels()) or "none"
            raise BadInput("channel.unknown", f"there is no channel {name!r}; there are: {have}", "loket channels list")
        return found

    async def add(
        self, module: str, agent: str, given: Mapping[str, str], private: Sequence[str], name: str, *, enabled: bool
    ) -> Channel:
        """Set a channel up: secret fields go into the vault. Raises `BadInput`."""
        spec = self.spec(module)
        if not ID.fullmatch(name):
            raise BadInput("channel.name", f"{name!r} cannot name a channel", "2 to 41 small letters, digits, hyphens")
        self.system.check(agent)
        check_fields(spec, given, {})
        check_places(tuple(private))
        plain, secret = _parted(spec, given)
        channel = Channel(name, module, agent, plain, tuple(private), enabled, self.system.now())
        if not await asyncio.to_thread(self.store.add, channel):
            raise BadInput(
                "channel.exists", f"there is a channel {name} already", f"loket channels set {name}, or --name"
            )
        await asyncio.to_thread(self._put, name, secret)
        await self._switch(name)
        return channel

    async def change(
        self,
        name: str,
        *,
        given: Mapping[str, str] | None = None,
        private: Sequence[str] = (),
        agent: str | None = None,
        enabled: bool | None = None,
    ) -> Channel:
        """Change a channel's fields, add places, or switch it; it starts anew. Raises `BadInput`."""
        channel = await asyncio.to_thread(self.channel, name)
        spec = self.spec(channel.module) if given else None
        check_places(tuple(private))
        if agent is not None:
            self.system.check(agent)
        if spec is not None and given is not None:
            known = {**channel.fields, **await asyncio.to_thread(self._secrets, channel, spec)}
            check_fields(spec, given, known)
            plain, secret = _parted(spec, given)
            await asyncio.to_thread(self._put, name, secret)
            channel = replace(channel, fields={**channel.fields, **plain})
        places = tuple(dict.fromkeys((*channel.private, *private)))
        on = channel.enabled if enabled is None else enabled
        channel = replace(channel, agent=agent or channel.agent, private=places, enabled=on)
        await asyncio.to_thread(self.store.replace, channel)
        await self._switch(name)
        return channel

    def _put(self, name: str, secret: Mapping[str, str]) -> None:
        for field, value in secret.items():
            self._vault.put(vault_name(name, field), value)

    def _secrets(self, channel: Channel, spec: ChannelSpec) -> dict[str, str]:
        """The secret fields that have a value, without it."""
        there = set(self._vault.names())
        return {f.name: "set" for f in spec.fields if f.secret and vault_name(channel.name, f.name) in there}

    async def remove(self, name: str) -> dict[str, Json]:
        """Remove a channel with its secrets, pairings and ledger. Raises `BadInput`."""
        channel = await asyncio.to_thread(self.channel, name)
        pairings = len(await asyncio.to_thread(self.store.pairings, name))
        async with self._order:
            await self._off(name)
        prefix = vault_name(channel.name, "")
        gone = [one for one in await asyncio.to_thread(self._vault.names) if one.startswith(prefix)]
        for secret in gone:
            await asyncio.to_thread(self._vault.delete, secret)
        await asyncio.to_thread(self.store.remove, name)
        return {"name": name, "removed": True, "secrets": len(gone), "pairings": pairings}

    async def test(self, name: str) -> dict[str, Json]:
        """Try a channel's settings: log in, or make the request that the module names. `ok` and `said`."""
        channel = await asyncio.to_thread(self.channel, name)
        self.spec(channel.module)
        link = self._link(channel)
        try:
            said = await _tried(link)
        except LoketError as error:
            return {"name": name, "ok": False, "said": error.message, "remedy": error.remedy}
        return {"name": name, "ok": True, "said": said, "remedy": None}

    # Pairing

    async def approve(self, code: str, speaks: str) -> Pairing:
        """Let the sender of a code in. Raises `BadInput`."""
        if not _SPEAKS.fullmatch(speaks):
            raise BadInput(
                "channel.speaks", f"{speaks!r} is nobody", "--as sender, --as owner, or --as user --user NAME"
            )
        now = self.system.now()
        open_codes = await asyncio.to_thread(self.store.codes, None, now)
        wanted = code.strip().upper()
        found = next((one for one in open_codes if one.code == wanted), None)
        if found is None:
            raise BadInput("channel.code", f"there is no open code {code[:20]!r}", "loket channels codes")
        said = Fresh(f"paired:{found.code}", found.conversation, words.PAIRED, "", found.context)
        await asyncio.to_thread(self.store.approve, found, speaks, said, now)
        self.wake(found.channel)
        return Pairing(found.channel, found.sender, found.name, speaks, found.conversation, found.context, now)

    def codes(self) -> list[Code]:
        """The codes that wait for the owner's word."""
        return self.store.codes(None, self.system.now())

    def wake(self, name: str) -> None:
        """From any thread: there is something to deliver."""
        found = self._links.get(name)
        if found is not None and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(found[0].leaving.set)

    # Seen from outside

    def card(self, channel: Channel) -> dict[str, Json]:
        """A channel as it is shown: fields (secret ones without a value), switch, health. No secret's value."""
        known = self._modules.get(channel.module)
        spec = known[1].manifest.own if known is not None else None
        fields = self._fields(channel, spec) if isinstance(spec, ChannelSpec) else []
        hosts = Settings(channel, spec).hosts if isinstance(spec, ChannelSpec) else ()
        return {
            "name": channel.name,
            "module": channel.module,
            "agent": channel.agent,
            "wire": spec.wire if isinstance(spec, ChannelSpec) else None,
            "enabled": channel.enabled,
            "fields": fields,
            "hosts": list(hosts),
            "private": list(channel.private),
            "pairings": len(self.store.pairings(channel.name)),
            "health": self._health(channel),
        }

    def _fields(self, channel: Channel, spec: ChannelSpec) -> list[dict[str, Json]]:
        there = self._secrets(channel, spec)
        return [
            {
                "name": field.name,
                "label": field.label,
                "secret": field.secret,
                "required": field.required,
                "help": field.help,
                "value": None if field.secret else channel.fields.get(field.name, field.default),
                "set": field.name in there if field.secret else bool(channel.fields.get(field.name)),
            }
            for field in spec.fields
        ]

    def _health(self, channel: Channel) -> dict[str, Json]:
        link = self._links.get(channel.name, (None, []))[0]
        health = link.health if link is not None else Health()
        error = health.error
        if link is None and channel.enabled and channel.module not in self._modules:
            error = BadInput("channel.module", f"the module {channel.module} is not installed", "loket install FOLDER")
        state = "connected" if health.connected is not None else "failing" if error is not None else "starting"
        return {
            "state": state if channel.enabled else "off",
            "connected": health.connected,
            "error": {**error.as_dict(), "at": health.error_at} if error is not None else None,
            "translations": health.translations,
            **self.store.counts(channel.name),
        }

    async def hook(self, name: str, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Response:
        """A request of a webhook. Raises `Refusal` where it is not signed, `BadInput` where none is taken."""
        found = self._links.get(name)
        if found is None:
            raise BadInput("channel.hook", f"no channel {name[:41]!r} takes requests", "loket channels list")
        return await hooks.take(found[0], headers, query, body)


def _parted(spec: ChannelSpec, given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The plain fields, and the secret ones."""
    secret = {field.name for field in spec.fields if field.secret}
    plain = {name: value for name, value in given.items() if name not in secret}
    return plain, {name: value for name, value in given.items() if name in secret and value}


async def _forever(link: Link, work: Callable[[Link], Awaitable[Any]]) -> None:
    """Do something that has no end; where it fails (the disk is full) it is done again after a while."""
    while True:
        try:
            await work(link)
        except LoketError as error:
            link.health.error, link.health.error_at = error, link.system.now()
        await link.sleep(_FIRST_S)


async def _tried(link: Link) -> str:
    """What a test found. Raises what is wrong."""
    await asyncio.to_thread(link.held)
    if link.settings.spec.wire == "mailbox":
        from loket.channels.mailbox import probe

        return await probe(link)
    actions = await link.inbound("test")
    if actions.failed:
        raise Failed("channel.wire", actions.failed, "look at the fields")
    if not actions.requests:
        return "the fields are there; the module has no test of its own"
    for request in actions.requests:
        got = await link.request(request)
        if not got.good or (request.done is not None and not says(got.json, request.done, whole=False)):
            said = got.body.strip()[:200]
            raise Failed("channel.test", f"the other side answered {got.status}: {said}", "look at the fields")
    return "the other side answers as it should"


def speaks_of(as_: str, user: str | None) -> str:
    """As whom a sender is let in, by the words of a command. Raises `BadInput`."""
    if as_ == "user" and user:
        return f"{USER}{user}"
    if as_ in (OWNERS, "sender") and not user:
        return as_
    raise BadInput(
        "channel.speaks", "say as whom: owner, sender, or user with a name", command("channels", "approve", "-h")
    )
