"""The protocol over lines of JSON: what `loket mcp` speaks, in both eras, on one connection of one client.

Written out here, without the SDK: its import costs more time than `loket mcp` may take to be ready, and its own stdio
transport about as much for a call as the whole of a call here. What it serves is the desk, as behind HTTP. The shapes
are those of the specification: JSON-RPC 2.0, a message a line; revision 2025-11-25 (`initialize`, requests to the
client) and revision 2026-07-28 (`_meta` with every request, `server/discover`, `subscriptions/listen`).
"""

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from loket.clients import Client
from loket.contracts import BadInput, Json, LoketError
from loket.mcp_server.calls import Again
from loket.mcp_server.desk import (
    ERA_2025,
    ERA_2026,
    LACKING,
    NAME,
    NOT_FOUND,
    TITLE,
    TTL_MS,
    VERSION,
    WATCH_S,
    Desk,
    Lacking,
    Unknown,
    instructions,
    progress_of,
)

HANDSHAKES = ("2024-11-05", "2025-03-26", "2025-06-18", ERA_2025)
MOST_AT_ONCE = 64
"""Requests of one connection that are worked on; further ones wait to be read."""

LONGEST = 8 << 20
"""Bytes of one message."""

PARSE, REQUEST, METHOD, PARAMS, INTERNAL = -32700, -32600, -32601, -32602, -32603
_UNSUPPORTED = -32022
_RESOURCE_NOT_FOUND = -32002
_META = "io.modelcontextprotocol/"
_MOST_ROUNDS = 8
_LISTS = {"toolsListChanged": "tools", "resourcesListChanged": "resources", "promptsListChanged": "prompts"}
_QUIET = frozenset({"warning", "error", "critical", "alert", "emergency"})

Does: TypeAlias = "Callable[[_Request], Awaitable[dict[str, Json]]]"


class RpcError(Exception):
    """An error as JSON-RPC has it."""

    def __init__(self, code: int, message: str, data: Json = None) -> None:
        super().__init__(message)
        self.shown: dict[str, Json] = {"code": code, "message": message}
        if data is not None:
            self.shown["data"] = data


class _Request:
    """A request that was read: its id, its parameters, its era and what its client can do."""

    def __init__(self, message: Mapping[str, Json], era: str, able: Mapping[str, Json]) -> None:
        self.id = message["id"]
        self.method = message["method"]
        self.params: Mapping[str, Json] = message.get("params") or {}
        self.meta: Mapping[str, Json] = self.params.get("_meta") or {}
        self.era = era
        self.able = able

    @property
    def modern(self) -> bool:
        return self.era == ERA_2026

    def text(self, name: str) -> str:
        """A parameter that has to be a text. Raises `RpcError`."""
        value = self.params.get(name)
        if not isinstance(value, str):
            raise RpcError(PARAMS, f"{self.method} needs the text {name}")
        return value

    def object(self, name: str) -> dict[str, Json]:
        """A parameter that is an object, or is left out. Raises `RpcError`."""
        value = self.params.get(name) or {}
        if not isinstance(value, dict):
            raise RpcError(PARAMS, f"{name} of {self.method} is no object")
        return value


class Line:
    """One connection of a client. `send` takes a message as bytes with their end of line; it does not wait."""

    def __init__(self, desk: Desk, client: Client, send: Callable[[bytes], None]) -> None:
        self._desk = desk
        self._client = client
        self._send_bytes = send
        self._era: str | None = None
        self._able: Mapping[str, Json] = {}
        self._logs = False
        self._running: dict[Json, asyncio.Task[None]] = {}
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._numbers = itertools.count(1)
        self._asked: dict[str, asyncio.Future[Any]] = {}
        self._marks: dict[str, str] = {}
        self._does: Mapping[str, Does] = {
            "tools/list": self._list("tools", desk.tools),
            "tools/call": self._call,
            "resources/list": self._list("resources", desk.resources),
            "resources/templates/list": self._list("resourceTemplates", desk.templates),
            "resources/read": self._read,
            "prompts/list": self._list("prompts", desk.prompts),
            "prompts/get": self._prompt,
            "completion/complete": self._completion,
        }
        self._old: Mapping[str, Does] = {
            "ping": self._nothing,
            "logging/setLevel": self._set_level,
            "resources/subscribe": self._subscribe,
            "resources/unsubscribe": self._unsubscribe,
        }
        self._new: Mapping[str, Does] = {"server/discover": self._discover, "subscriptions/listen": self._listen}

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Take messages until there are no more, and answer what was asked. Cancelled, it stops its runs."""
        watching: asyncio.Task[None] | None = None
        try:
            while line := await _line(reader):
                await self._take(line)
                if watching is None and self._era in HANDSHAKES:
                    watching = asyncio.create_task(self._watch())
            listening = [task for task in self._running.values() if task.get_name() == "listen"]
            for task in listening:
                task.cancel()
            for asked in self._asked.values():
                asked.cancel()
            await asyncio.gather(*self._running.values(), return_exceptions=True)
        finally:
            for task in [*self._running.values(), *([watching] if watching else [])]:
                task.cancel()

    # Messages

    def _send(self, message: Mapping[str, Json]) -> None:
        self._send_bytes(json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")).encode() + b"\n")

    async def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            self._send({"id": None, "error": {"code": PARSE, "message": "Parse error"}})
            return
        if not isinstance(message, dict):
            self._send({"id": None, "error": {"code": REQUEST, "message": "a message is one JSON object"}})
        elif "method" not in message:
            self._answered(message)
        elif "id" not in message:
            self._notified(message)
        elif not isinstance(message["id"], str | int) or not isinstance(message["method"], str):
            self._send({"id": None, "error": {"code": REQUEST, "message": "the request's id or method is none"}})
        else:
            await self._begin(message)

    async def _begin(self, message: dict[str, Json]) -> None:
        number = message["id"]
        try:
            if message["method"] == "initialize":
                self._send({"id": number, "result": self._initialize(message.get("params") or {})})
                return
            request = self._read_request(message)
        except RpcError as error:
            self._send({"id": number, "error": error.shown})
            return
        if request.method == "tools/call":
            await self._room.acquire()
        task = asyncio.create_task(self._work(request), name="listen" if "listen" in request.method else "call")
        self._running[number] = task

    def _read_request(self, message: Mapping[str, Json]) -> _Request:
        """A request and its era, which it says itself or `initialize` has said. Raises `RpcError`."""
        if message["id"] in self._running:
            raise RpcError(REQUEST, "a request with this id is on its way")
        params = message.get("params") or {}
        if not isinstance(params, dict) or not isinstance(params.get("_meta") or {}, dict):
            raise RpcError(PARAMS, "params and its _meta are objects")
        meta = params.get("_meta") or {}
        version = meta.get(f"{_META}protocolVersion")
        if version is None:
            if self._era is None and message["method"] != "ping":
                raise RpcError(
                    PARAMS, f"a request says its revision in _meta, as {_META}protocolVersion; or initialize"
                )
            return _Request(message, self._era or ERA_2025, self._able)
        if version != ERA_2026:
            raise RpcError(
                _UNSUPPORTED, "Unsupported protocol version", {"supported": [ERA_2026], "requested": version}
            )
        able = meta.get(f"{_META}clientCapabilities")
        if not isinstance(able, dict):
            raise RpcError(PARAMS, f"_meta needs {_META}clientCapabilities")
        return _Request(message, ERA_2026, able)

    async def _work(self, request: _Request) -> None:
        """Answer one request; nothing is said of one that was cancelled."""
        answer: dict[str, Json] = {}
        try:
            result = await self._function(request)(request)
            answer = {"result": {"resultType": "complete", **result} if request.modern else result}
        except RpcError as error:
            answer = {"error": error.shown}
        except LoketError as error:
            answer = {"error": _shown(error, request)}
        except Exception as error:  # noqa: BLE001 - whoever asked hears of a fault too
            answer = {"error": {"code": INTERNAL, "message": f"the server failed: {type(error).__name__}"}}
        finally:
            self._running.pop(request.id, None)
            if request.method == "tools/call":
                self._room.release()
        self._send({"id": request.id, **answer})

    def _function(self, request: _Request) -> Does:
        more = self._new if request.modern else self._old
        found = self._does.get(request.method) or more.get(request.method)
        if found is None:
            raise RpcError(METHOD, f"Method not found: {request.method[:80]}")
        return found

    def _notified(self, message: Mapping[str, Json]) -> None:
        params = message.get("params")
        if message["method"] == "notifications/cancelled" and isinstance(params, dict):
            number = params.get("requestId")
            task = self._running.pop(number, None) if isinstance(number, str | int) else None
            if task is not None:
                task.cancel()

    def _answered(self, message: Mapping[str, Json]) -> None:
        asked = self._asked.pop(str(message.get("id")), None)
        if asked is None or asked.done():
            return
        if "result" in message and isinstance(message["result"], dict):
            asked.set_result(message["result"])
        else:
            asked.set_exception(RpcError(INTERNAL, "the client did not answer what it was asked", message.get("error")))

    # Greeting

    def _initialize(self, params: Mapping[str, Json]) -> dict[str, Json]:
        wanted = params.get("protocolVersion") if isinstance(params, dict) else None
        if not isinstance(wanted, str):
            raise RpcError(PARAMS, "initialize needs protocolVersion")
        self._era = wanted if wanted in HANDSHAKES else ERA_2025
        able = params.get("capabilities")
        self._able = able if isinstance(able, dict) else {}
        return {
            "protocolVersion": self._era,
            "capabilities": {**_capabilities(), "logging": {}},
            "serverInfo": _INFO,
            "instructions": instructions(self._client),
        }

    async def _discover(self, _request: _Request) -> dict[str, Json]:
        return {
            "supportedVersions": [ERA_2026],
            "capabilities": _capabilities(),
            "instructions": instructions(self._client),
            "ttlMs": TTL_MS,
            "cacheScope": "private",
            "_meta": {f"{_META}serverInfo": _INFO},
        }

    async def _nothing(self, _request: _Request) -> dict[str, Json]:
        return {}

    # At the desk

    def _list(self, key: str, listed: Callable[[Client], list[dict[str, Json]]]) -> Does:
        async def does(request: _Request) -> dict[str, Json]:
            return _cached(request, {key: listed(self._client)})

        return does

    async def _call(self, request: _Request) -> dict[str, Json]:
        name, args = request.text("name"), request.object("arguments")
        tell = self._tell(request)

        async def once(again: Again | None) -> dict[str, Json]:
            return await self._desk.call(self._client, name, args, again=again, tell=tell, able=request.able)

        return await self._rounds(request, once)

    async def _prompt(self, request: _Request) -> dict[str, Json]:
        name, args = request.text("name"), request.object("arguments")

        async def once(again: Again | None) -> dict[str, Json]:
            return await self._desk.prompt(self._client, name, args, again, request.able)

        return await self._rounds(request, once)

    async def _rounds(
        self, request: _Request, once: Callable[[Again | None], Awaitable[dict[str, Json]]]
    ) -> dict[str, Json]:
        """In the era of sessions the client is asked on the way; later it gets the question as the result."""
        state = request.params.get("requestState")
        again = None
        if request.modern and (request.params.get("inputResponses") is not None or state is not None):
            if not isinstance(state, str | None):
                raise RpcError(PARAMS, "requestState is no text")
            again = Again(request.object("inputResponses"), state)
        for _ in range(_MOST_ROUNDS):
            result = await once(again)
            if result.get("resultType") != "input_required" or request.modern:
                return result
            responses = {key: await self._ask(wanted) for key, wanted in result["inputRequests"].items()}
            again = Again(responses, result.get("requestState"))
        raise RpcError(INTERNAL, "the capability asked too often")

    async def _ask(self, wanted: Mapping[str, Json]) -> dict[str, Json]:
        """Ask the client, while its request waits. Raises `RpcError` where it does not answer."""
        number = f"loket-{next(self._numbers)}"
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self._send({"id": number, "method": wanted["method"], "params": wanted.get("params") or {}})
        try:
            response: dict[str, Json] = await asked
        finally:
            self._asked.pop(number, None)
        return response

    async def _read(self, request: _Request) -> dict[str, Json]:
        return _cached(request, await self._desk.read(self._client, request.text("uri")))

    async def _completion(self, _request: _Request) -> dict[str, Json]:
        """Nothing is known of what could be meant."""
        return {"completion": {"values": [], "total": 0, "hasMore": False}}

    def _tell(self, request: _Request) -> Callable[[Mapping[str, Any]], None] | None:
        """Who hears what happens in a run; None where the client wants to hear nothing."""
        token = request.meta.get("progressToken")
        level = request.meta.get(f"{_META}logLevel")
        logs = (level is not None and level not in _QUIET) if request.modern else self._logs
        if token is None and not logs:
            return None
        counted = itertools.count(1)

        def tell(event: Mapping[str, Any]) -> None:
            said = progress_of(event)
            if said and token is not None:
                progress = {"progressToken": token, "progress": next(counted), "message": said}
                self._send({"method": "notifications/progress", "params": progress})
            if said and logs:
                told = {"level": "info", "logger": NAME, "data": said}
                self._send({"method": "notifications/message", "params": told})

        return tell

    async def _set_level(self, request: _Request) -> dict[str, Json]:
        self._logs = request.text("level") not in _QUIET
        return {}

    # Changes

    async def _subscribe(self, request: _Request) -> dict[str, Json]:
        uri = request.text("uri")
        self._marks[uri] = self._desk.mark(self._client, uri)
        return {}

    async def _unsubscribe(self, request: _Request) -> dict[str, Json]:
        self._marks.pop(request.text("uri"), None)
        return {}

    async def _watch(self) -> None:
        """Tell the client of the era of sessions what has changed."""
        state = self._desk.state_of(self._client)
        while True:
            await asyncio.sleep(WATCH_S)
            before, state = state, self._desk.state_of(self._client)
            if state != before:
                for what in _LISTS.values():
                    self._send({"method": f"notifications/{what}/list_changed"})
            for uri in self._changed(self._marks):
                self._send({"method": "notifications/resources/updated", "params": {"uri": uri}})

    async def _listen(self, request: _Request) -> dict[str, Json]:
        """One stream of changes, until it is cancelled or the client has gone."""
        wanted = request.object("notifications")
        uris = [uri for uri in wanted.get("resourceSubscriptions") or () if isinstance(uri, str)]
        lists = [key for key in _LISTS if wanted.get(key) is True]
        meta = {f"{_META}subscriptionId": request.id}
        honoured: dict[str, Json] = dict.fromkeys(lists, True) | ({"resourceSubscriptions": uris} if uris else {})
        self._send(
            {
                "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": honoured, "_meta": meta},
            }
        )
        marks = {uri: self._desk.mark(self._client, uri) for uri in uris}
        state = self._desk.state_of(self._client)
        while True:
            await asyncio.sleep(WATCH_S)
            before, state = state, self._desk.state_of(self._client)
            for key in lists if state != before else ():
                self._send({"method": f"notifications/{_LISTS[key]}/list_changed", "params": {"_meta": meta}})
            for uri in self._changed(marks):
                self._send({"method": "notifications/resources/updated", "params": {"uri": uri, "_meta": meta}})

    def _changed(self, marks: dict[str, str]) -> list[str]:
        now = {uri: self._desk.mark(self._client, uri) for uri in marks}
        changed = [uri for uri, mark in now.items() if mark != marks[uri]]
        marks.update(now)
        return changed


_INFO = {"name": NAME, "title": TITLE, "version": VERSION}


def _capabilities() -> dict[str, Json]:
    return {
        "tools": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "prompts": {"listChanged": True},
        "completions": {},
    }


def _cached(request: _Request, result: dict[str, Json]) -> dict[str, Json]:
    """What may be kept for how long, in the era that says so; another client must never get it."""
    return {**result, "ttlMs": TTL_MS, "cacheScope": "private"} if request.modern else result


def _shown(error: LoketError, request: _Request) -> dict[str, Json]:
    """An error of ours as JSON-RPC has it."""
    if isinstance(error, Lacking):
        needed: dict[str, Json] = {"requiredCapabilities": {name: {} for name in error.capabilities}}
        return {"code": LACKING, "message": error.message, "data": needed}
    if isinstance(error, Unknown) and request.method == "resources/read":
        code = NOT_FOUND if request.modern else _RESOURCE_NOT_FOUND
        return {"code": code, "message": error.message, "data": {"uri": request.params.get("uri")}}
    code = PARAMS if isinstance(error, BadInput) else INTERNAL
    return {"code": code, "message": error.message, "data": {"error": error.as_dict()}}


async def _line(reader: asyncio.StreamReader) -> bytes:
    """The next message; nothing at the end, and where one is longer than it may be."""
    try:
        while True:
            line = await reader.readline()
            if not line or line.strip():
                return line
    except (ValueError, ConnectionError):  # longer than the reader's limit, or gone
        return b""
