"""Calls of clients: each is a run, is watched while it takes time, and is stopped when its client gives it up.

A capability may need more from the client's user before it can answer: then it answers with `input_required`, an object
with `requests` (by key, each a `method` and `params` of MCP) and a `state` of its own. It is asked again with the same
arguments and `input`, an object with the `responses` by key and that `state`. Between the two the state is with the
client, signed for it and for this capability alone.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.app import Loket
from loket.clients import Client, request
from loket.contracts import BadInput, Ending, Json, from_dict
from loket.mcp_server.batches import Batches, quick
from loket.operations.watch import events

QUICK_S = 0.25
"""Seconds after which somebody looks what a call waits for."""

Tell: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Takes the events of a run."""

INPUT = "input"
"""The argument of a capability that can ask for more."""

NEEDS = "input_required"
"""In the answer of a capability: what it asks for."""

_MOST_STATE = 64 << 10


@dataclass(frozen=True, slots=True)
class Again:
    """What a client sends when it was asked for more: responses by key, and the state that it was given (or None)."""

    responses: Mapping[str, Json]
    state: str | None


class Calls:
    """Makes calls of clients on a running system. Used from its event loop; `key` signs states."""

    def __init__(self, system: Loket, key: bytes) -> None:
        self.system = system
        self._key = key
        self._shared: dict[str, Batches] = {}
        """The quick calls of each client that makes some."""

    async def answer(
        self,
        client: Client,
        capability: str,
        args: Mapping[str, Json],
        *,
        agent: str | None = None,
        conversation: str | None = None,
        tell: Tell | None = None,
    ) -> dict[str, Json]:
        """Have a capability called for a client; its answer, without what must not leave.

        `tell` hears what happens meanwhile. Raises the error that the call ended with. Cancelled, the run is stopped.
        """
        if tell is None and agent is None and conversation is None and self._quick(capability):
            quickly = await self._batches(client).answer(capability, args)
            shown: dict[str, Json] = self.system.leaving.answer(quickly)
            return shown
        asked = request(self.system, client, capability, args, agent=agent, conversation=conversation)
        ending = await self._finished(asked.id, self.system.engine.submit(asked), tell)
        if ending.answer is None:
            error = from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
            error.run = asked.id
            raise error
        answer: dict[str, Json] = self.system.leaving.answer(ending.answer)
        return answer

    def _quick(self, capability: str) -> bool:
        entry = self.system.registry.get(capability)
        return entry is not None and quick(entry.capability)

    def _batches(self, client: Client) -> Batches:
        held = self._shared.get(client.ref.digest)
        if held is None:
            for digest in [digest for digest, batches in self._shared.items() if batches.idle]:
                del self._shared[digest]
            held = self._shared[client.ref.digest] = Batches(self.system, client)
        return held

    async def _finished(self, run: str, submitting: Any, tell: Tell | None) -> Ending:
        watching: asyncio.Task[None] | None = None
        try:
            if tell is None:
                await submitting
            else:
                submitted = asyncio.ensure_future(submitting)
                await asyncio.sleep(0)  # the run is there from here on, and has not begun
                watching = asyncio.create_task(self._watch(run, tell))
                await asyncio.sleep(0)
                await submitted
            try:
                return await self.system.engine.result(run)
            except KeyError:
                return await self.system.finished(run)
            finally:
                if watching is not None:
                    await _settled(watching)
        except asyncio.CancelledError:
            self.system.engine.stop(run, "the client gave it up")
            raise

    async def _watch(self, run: str, tell: Tell) -> None:
        """Tell what happens in the run, and from a moment on what it waits for."""
        seen: AsyncIterator[dict[str, Any]] = events(self.system, run)
        async with contextlib.aclosing(seen) as told:  # type: ignore[type-var]
            async for event in told:
                if event["type"] == "end":
                    return
                tell(event)

    # Asking for more

    def again(self, client: Client, capability: str, args: Mapping[str, Json], again: Again | None) -> dict[str, Json]:
        """The arguments with what the client was asked for. Raises `BadInput` (`mcp.state`) for a state not its own."""
        if again is None:
            return dict(args)
        state = None if again.state is None else self._opened(client, capability, again.state)
        return {**args, INPUT: {"responses": dict(again.responses), "state": state}}

    def sealed(self, client: Client, capability: str, state: Json) -> str:
        """A state for a client to keep: nobody else can use it, and nothing can be changed in it."""
        text = base64.urlsafe_b64encode(json.dumps(state).encode()).decode()
        return f"{text}.{self._signature(client, capability, text)}"

    def _opened(self, client: Client, capability: str, sealed: str) -> Json:
        text, _, signature = sealed.rpartition(".")
        expected = self._signature(client, capability, text)
        if len(sealed) > _MOST_STATE or not hmac.compare_digest(expected.encode(), signature.encode()):
            raise BadInput("mcp.state", "requestState is not what this server gave to this client", "call it anew")
        return json.loads(base64.urlsafe_b64decode(text))

    def _signature(self, client: Client, capability: str, text: str) -> str:
        told = json.dumps([client.ref.id, client.ref.digest, capability, text]).encode()
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()


async def _settled(watching: "asyncio.Task[None]") -> None:
    """Let what was told come to its end; the call has ended, so that is soon."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(watching), 1.0)
    watching.cancel()
