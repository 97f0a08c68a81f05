"""A fake of Discord: its gateway (version 10) and the REST calls that a bot needs, on one port of loopback.

A real websocket server that speaks what the documents say, and checks what it gets: identify with token, intents and
properties; heartbeats with the number of the last event; resume with session and number, after which the events that
were missed come again. Violations stand in `wrong`. It is no Discord.
"""

import http
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from rest_fake import Rest

TOKEN = "MTIz.abcdef.ghijklmnopqrstuvwxyz0123"
ME = "900"


class Discord:
    """The service's side. `opened` counts connections, `identified` and `resumed` what they began with."""

    def __init__(self, *, beat_ms: int = 41_250) -> None:
        self.beat_ms = beat_ms
        self.rest = Rest(self.answer)
        self.sent: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.beats: list[Any] = []
        self.identified: list[dict[str, Any]] = []
        self.resumed: list[dict[str, Any]] = []
        self.silent = False
        """Heartbeats are not answered."""
        self.events: list[dict[str, Any]] = []
        self.connection: ServerConnection | None = None
        self.port = 0
        self._nonces: dict[str, str] = {}

    @property
    def gateway(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def serve(self, connection: ServerConnection) -> None:
        if "v=10" not in connection.request.path or "encoding=json" not in connection.request.path:
            self.wrong.append(connection.request.path)
        await connection.send(json.dumps({"op": 10, "d": {"heartbeat_interval": self.beat_ms}, "s": None, "t": None}))
        try:
            async for text in connection:
                await self._take(connection, json.loads(text))
        except ConnectionClosed:
            return

    async def _take(self, connection: ServerConnection, frame: dict[str, Any]) -> None:
        data = frame["d"]
        if frame["op"] == 1:
            self.beats.append(data)
            if not self.silent:
                await connection.send(json.dumps({"op": 11}))
        elif frame["op"] == 2:
            await self._identify(connection, data)
        elif frame["op"] == 6:
            self.resumed.append(data)
            self.connection = connection
            for event in self.events[data["seq"] :]:
                await connection.send(json.dumps(event))
            await self._dispatch("RESUMED", {})
        else:
            self.wrong.append(f"op {frame['op']}")

    async def _identify(self, connection: ServerConnection, data: dict[str, Any]) -> None:
        self.identified.append(data)
        if data["token"] != TOKEN:
            await connection.close(4004, "Authentication failed.")
            return
        if not {"os", "browser", "device"} <= data["properties"].keys() or not isinstance(data["intents"], int):
            self.wrong.append(json.dumps(data))
        self.connection, self.events = connection, []
        ready = {"v": 10, "user": {"id": ME, "bot": True}, "session_id": "s1", "resume_gateway_url": self.gateway}
        await self._dispatch("READY", {**ready, "guilds": []})

    async def _dispatch(self, name: str, data: dict[str, Any]) -> None:
        event = {"op": 0, "t": name, "s": len(self.events) + 1, "d": data}
        self.events.append(event)
        if self.connection is not None:
            try:
                await self.connection.send(json.dumps(event))
            except ConnectionClosed:
                return

    async def write(self, text: str, number: int, *, author: str = "42", bot: bool = False, **more: Any) -> None:
        """Somebody writes directly to the bot, or wherever `more` says."""
        who = {"id": author, "username": "ana", "global_name": "Ana", "bot": bot}
        said = {"id": str(10_000 + number), "channel_id": "77", "author": who, "content": text, "mentions": [], **more}
        await self._dispatch("MESSAGE_CREATE", said)

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        if headers.get("authorization") != f"Bot {TOKEN}":
            return 401, {"message": "401: Unauthorized", "code": 0}, {}
        if (method, path) == ("GET", "/api/v10/gateway/bot"):
            return 200, {"url": self.gateway, "shards": 1, "session_start_limit": {"remaining": 999}}, {}
        if (method, path) == ("GET", "/api/v10/users/@me"):
            return 200, {"id": ME, "username": "loket"}, {}
        if method == "POST" and path == "/api/v10/channels/77/messages":
            return self._posted(body)
        return 404, {"message": "404: Not Found", "code": 0}, {}

    def _posted(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        """The same nonce with `enforce_nonce` is the same message."""
        if not 0 < len(body["content"]) <= 2_000 or len(body["nonce"]) > 25 or body["enforce_nonce"] is not True:
            self.wrong.append(json.dumps(body))
            return 400, {"message": "Invalid Form Body", "code": 50_035}, {}
        known = self._nonces.setdefault(body["nonce"], str(len(self._nonces)))
        if int(known) == len(self.sent):
            self.sent.append(body)
        return 200, {"id": known, "channel_id": "77", "content": body["content"]}, {}


def _upgrade_only(_connection: ServerConnection, request: Request) -> Response | None:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return None
    return Response(http.HTTPStatus.NOT_FOUND, "Not Found", Headers(), b"")


@asynccontextmanager
async def discord(**more: Any) -> AsyncIterator[Discord]:
    """The service, until the context ends."""
    service = Discord(**more)
    with service.rest.serving():
        async with serve(service.serve, "127.0.0.1", 0, process_request=_upgrade_only) as server:
            service.port = next(iter(server.sockets)).getsockname()[1]
            yield service
