"""One channel that is switched on: what its wire, its queue of messages and its deliveries share."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loket.channels.actions import Decoder
from loket.channels.frames import INBOUND, OUTBOUND, Actions, Request, Response
from loket.channels.settings import Settings, vault_name
from loket.channels.system import System, translation
from loket.channels.web import Got, Web
from loket.contracts import Failed, Json, Labels, LoketError, ModuleRef, RunStatus, Secrets, from_dict
from loket.providers.net_headers import Held
from loket.store.channels import ChannelStore, Outbound

_BURST = 100
_PER_S = 5.0
_MARK, _BROKEN = "{{secret:", "{{ secret:"
WIRE = "wire"
"""The key of a channel's state that belongs to the host: where a mailbox was read up to."""


@dataclass(slots=True)
class Health:
    """How a channel is. Times in seconds since 1970 UTC."""

    connected: float | None = None
    error: LoketError | None = None
    error_at: float | None = None
    translations: int = 0
    """Runs of the module since it was switched on."""

    def good(self, now: float) -> None:
        """The other side has answered as it should."""
        if self.connected is None:
            self.connected = now
        self.error = self.error_at = None

    def bad(self, error: LoketError, now: float) -> None:
        """Something did not work."""
        self.connected, self.error, self.error_at = None, error, now


class Pace:
    """At most so many translations at once and a second: each one is a run, with rows in the journal."""

    def __init__(self) -> None:
        self._left, self._at = float(_BURST), time.monotonic()

    async def step(self) -> None:
        """Wait until there is room for one more."""
        now = time.monotonic()
        self._left, self._at = min(_BURST, self._left + (now - self._at) * _PER_S), now
        self._left -= 1
        if self._left < 0:
            await asyncio.sleep(-self._left / _PER_S)


@dataclass(slots=True)
class Link:
    """A channel with its module, and the running system behind it."""

    settings: Settings
    module: ModuleRef
    store: ChannelStore
    system: System
    vault: Secrets
    web: Web
    decoder: Decoder
    health: Health = field(default_factory=Health)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be messages that no run has yet."""
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when there may be something to deliver."""
    socket: Any = None
    """The open connection of a websocket wire."""
    waiting: dict[str, "asyncio.Future[Response]"] = field(default_factory=dict)
    """Callers of the webhook that wait for an answer, by the message's id."""
    pace: Pace = field(default_factory=Pace)

    @property
    def name(self) -> str:
        return self.settings.channel.name

    def held(self) -> Held:
        """The channel's secrets. Raises `Failed` where one is missing."""
        return self.settings.secrets(self.vault)

    def secret(self, name: str) -> str:
        """One secret, for what the host itself does with it."""
        return self.vault.get(vault_name(self.name, name)) or ""

    async def request(self, request: Request) -> Got:
        """Make a request. Raises `Refusal` and `Failed`."""
        held = await asyncio.to_thread(self.held)
        return await self.web.perform(self.settings, held, request)

    async def inbound(
        self,
        kind: str,
        *,
        place: Mapping[str, Json] | None = None,
        ready: Callable[[Actions], None] = lambda _actions: None,
        **frame: Json,
    ) -> Actions:
        """Have a frame translated, and write what came of it before anything else is done.

        `place` is the host's own part of the state; `ready` hears of the actions before they are written. Raises what
        the translation ended with.
        """
        state = await asyncio.to_thread(self.store.state, self.name)
        args = {"frame": {"kind": kind, **await asyncio.to_thread(self._known, state), **frame}}
        actions = await self._translated(INBOUND, args, (f"sender:{self.name}",))
        ready(actions)
        kept = self._kept(state, actions, place)
        if actions.messages or kept is not None:
            now = self.system.now()
            if await asyncio.to_thread(self.store.take, self.name, actions.messages, kept, now):
                self.arrived.set()
        return actions

    async def outbound(self, message: Outbound, *, held: bool) -> Actions:
        """Have an outbound message translated. `held`: a caller of the webhook waits for it."""
        state = await asyncio.to_thread(self.store.state, self.name)
        said = {
            "id": f"{self.name}-{message.id}",
            "conversation": message.conversation,
            "text": message.text or "",
            "reply_to": message.reply_to,
            "context": dict(message.context),
            "held": held,
        }
        known = await asyncio.to_thread(self._known, state)
        return await self._translated(OUTBOUND, {"message": {**said, **known}}, message.labels)

    def _known(self, state: Mapping[str, Json]) -> dict[str, Json]:
        """What a module is told each time; of secrets that they are there."""
        return {
            "fields": self.settings.fields,
            "secrets": self.settings.there(self.vault),
            "state": {k: v for k, v in state.items() if k != WIRE},
        }

    def _kept(
        self, state: Mapping[str, Json], actions: Actions, place: Mapping[str, Json] | None
    ) -> dict[str, Json] | None:
        """The state that is to be written, or None where it has not changed."""
        module = actions.state if actions.state is not None else {k: v for k, v in state.items() if k != WIRE}
        own = place if place is not None else state.get(WIRE)
        kept = {**module, **({WIRE: dict(own)} if own is not None else {})}
        return kept if kept != state else None

    async def _translated(self, operation: str, args: Mapping[str, Json], labels: Labels) -> Actions:
        await self.pace.step()
        self.health.translations += 1
        args = harmless(args)
        request = translation(self.module, self.name, operation, args, labels, self.system.now())
        ending = await self.system.perform(request)
        if ending.status is not RunStatus.DONE or ending.answer is None:
            error = from_dict(ending.error or {"code": "run.failed", "message": "the translation failed"})
            error.run = request.id
            raise error
        return self.decoder.decode(self.module.id, ending.answer)

    async def sleep(self, seconds: float) -> None:
        """Wait; cancelled when the channel is switched off."""
        await asyncio.sleep(seconds)


def checked(actions: Actions) -> Actions:
    """The actions of a wire's frame. Raises `Failed` (`channel.wire`) where the module says that it does not work."""
    if actions.failed:
        raise Failed("channel.wire", actions.failed, "loket channels test says more")
    return actions


def harmless(value: Json) -> Json:
    """A value in which nothing asks for a secret.

    Whatever a module is given is somebody's text: a message that says `{{secret:token}}` would be filled in where the
    module passes it on. So the mark is broken in all that goes in, and what comes out with one is the module's own.
    """
    if isinstance(value, str):
        return value.replace(_MARK, _BROKEN)
    if isinstance(value, Mapping):
        return {name: harmless(one) for name, one in value.items()}
    return [harmless(one) for one in value] if isinstance(value, list | tuple) else value
