"""A fake of Slack's Socket Mode and of the Web API calls that an app needs, on loopback.

Each address of `apps.connections.open` works once, as there; each event waits for its acknowledgement, and one that has
none comes again over the next connection. Violations stand in `wrong`. It is no Slack.
"""

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from rest_fake import Rest

APP, BOT = "xapp-1-A1-abcdefghijklmnop", "xoxb-1-2-abcdefghijklmnop"


class Slack:
    """The service's side. `sent` are the messages that arrived, `deaf` drops the next acknowledgement's connection."""

    def __init__(self) -> None:
        self.rest = Rest(self.answer)
        self.sent: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.open: dict[str, dict[str, Any]] = {}
        """Envelopes without an acknowledgement, by their id."""
        self.opened = 0
        self.limited = 0
        """How many of the next messages are answered with 429."""
        self.deaf = False
        self.port = 0
        self._tickets: set[str] = set()
        self.connection: ServerConnection | None = None

    async def serve(self, connection: ServerConnection) -> None:
        ticket = connection.request.path.partition("ticket=")[2]
        if ticket not in self._tickets:
            self.wrong.append(f"ticket {ticket}")
            return
        self._tickets.remove(ticket)
        self.opened += 1
        self.connection = connection
        try:
            await connection.send(json.dumps({"type": "hello", "num_connections": 1}))
            for envelope in list(self.open.values()):
                await connection.send(json.dumps({**envelope, "retry_attempt": 1}))
            async for text in connection:
                if self.deaf:
                    self.deaf = False
                    connection.transport.abort()
                    return
                if self.open.pop(json.loads(text)["envelope_id"], None) is None:
                    self.wrong.append(str(text))
        except ConnectionClosed:
            return

    async def write(self, text: str, number: int, **more: Any) -> None:
        """A person writes to the app directly, or what `more` says."""
        where = {"channel": "D1", "channel_type": "im", "user": "U42", "ts": f"1795000000.{number:06}"}
        event = {"type": "message", "text": text, **where, **more}
        await self.push({"type": "events_api", "payload": {"type": "event_callback", "event": event}})

    async def push(self, envelope: dict[str, Any]) -> None:
        identity = secrets.token_hex(8)
        self.open[identity] = {**envelope, "envelope_id": identity, "accepts_response_payload": False}
        if self.connection is not None:
            await self.connection.send(json.dumps(self.open[identity]))

    def answer(self, _method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        name, token = path.removeprefix("/api/"), headers.get("authorization", "").removeprefix("Bearer ")
        if token != (APP if name == "apps.connections.open" else BOT):
            return 200, {"ok": False, "error": "invalid_auth"}, {}
        if name == "apps.connections.open":
            ticket = secrets.token_hex(8)
            self._tickets.add(ticket)
            return 200, {"ok": True, "url": f"ws://127.0.0.1:{self.port}/link/?ticket={ticket}"}, {}
        if name == "auth.test":
            return 200, {"ok": True, "user_id": "U1"}, {}
        if name == "chat.postMessage":
            return self._posted(body)
        return 200, {"ok": False, "error": "unknown_method"}, {}

    def _posted(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if self.limited:
            self.limited -= 1
            return 429, {"ok": False, "error": "ratelimited"}, {"Retry-After": "1"}
        if body["channel"] not in ("D1", "C1"):
            return 200, {"ok": False, "error": "channel_not_found"}, {}
        self.sent.append(body)
        return 200, {"ok": True, "channel": body["channel"], "ts": "1795000001.000001"}, {}


@asynccontextmanager
async def slack() -> AsyncIterator[Slack]:
    """The service, until the context ends."""
    service = Slack()
    with service.rest.serving():
        async with serve(service.serve, "127.0.0.1", 0) as server:
            service.port = next(iter(server.sockets)).getsockname()[1]
            yield service
