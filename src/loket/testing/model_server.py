"""A real HTTP server on loopback that speaks OpenAI's chat completions, for tests and benchmarks.

    with ModelServer([Reply("Paris"), Reply(status=500, error="busy")]) as server:
        ...  # ask server.url
        assert server.requests[0].body["model"] == "m"

It runs in a thread of its own, answers `GET /v1/models` and `POST /v1/chat/completions` (plain and as a stream of
events), and keeps connections open.
"""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeAlias

_LINE_BYTES = 1 << 24
_REASONS = {200: "OK", 401: "Unauthorized", 404: "Not Found"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer of the server.

    `tool_calls` are (id, name, arguments as text); `usage` is tokens in and out, None to send none. A `status` other
    than 200 sends `error` as the body (a mapping as JSON). `pieces` is what is streamed (the words of the text if left
    out); with `cut_after` the connection is dropped after so many pieces (0: before any byte is sent). `hang` never
    answers; in a stream it does so after the pieces. `until` is an event that is waited for before the answer, and
    `latency_s` a time in seconds.
    """

    text: str = ""
    tool_calls: Sequence[tuple[str, str, str]] = ()
    usage: tuple[int, int] | None = (10, 5)
    finish: str | None = None
    status: int = 200
    error: str | Mapping[str, Any] = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Sequence[str] | None = None
    cut_after: int | None = None
    hang: bool = False
    until: threading.Event | None = None
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """What the server was asked. Names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Script: TypeAlias = Sequence[Reply] | Callable[[Request], Reply]
"""Replies in order, the last one repeated, or a function of the request."""


class ModelServer:
    """The server, running as long as its context.

    `url` is the base URL (it ends in /v1), `requests` the log of chat requests, `models` the names that it lists.
    """

    def __init__(self, script: Script = (Reply("ok"),), *, models: Sequence[str] = ("test-model",)) -> None:
        self._script = script
        self._models = models
        self.requests: list[Request] = []
        self.url = ""
        self.port = 0
        self.asked = threading.Event()
        """Set once a chat request has come in."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="model-server", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0, limit=_LINE_BYTES)
        self.port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    async def _shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._exchange(await _read(reader), writer):
                    await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _exchange(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection stays open."""
        if request.path == "/v1/models":
            listed = {"object": "list", "data": [{"id": name, "object": "model"} for name in self._models]}
            _send(writer, 200, json.dumps(listed), {"Connection": "close"})
            return False
        if request.path != "/v1/chat/completions":
            _send(writer, 404, json.dumps({"error": {"message": f"no such path: {request.path}"}}), {})
            return True
        reply = self._next(request)
        self.requests.append(request)
        self.asked.set()
        if reply.latency_s:
            await asyncio.sleep(reply.latency_s)
        if reply.until is not None:
            await asyncio.to_thread(reply.until.wait)
        if reply.cut_after == 0:
            return False
        if reply.status != 200:  # noqa: PLR2004 - HTTP's word for good
            body = reply.error if isinstance(reply.error, str) else json.dumps(reply.error)
            _send(writer, reply.status, body, reply.headers)
            return True
        if request.body.get("stream"):
            return await _stream(writer, request, reply)
        if reply.hang:
            await asyncio.Event().wait()
        _send(writer, 200, json.dumps(_completion(request, reply)), reply.headers)
        return True

    def _next(self, request: Request) -> Reply:
        if callable(self._script):
            return self._script(request)
        return self._script[min(len(self.requests), len(self._script) - 1)]


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _version = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    raw = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, json.loads(raw) if raw else None)


def _send(writer: asyncio.StreamWriter, status: int, body: str, headers: Mapping[str, str]) -> None:
    raw = body.encode()
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Status')}", f"Content-Length: {len(raw)}"]
    lines += ["Content-Type: application/json", *(f"{name}: {value}" for name, value in headers.items())]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + raw)


def _finish(reply: Reply) -> str:
    return reply.finish or ("tool_calls" if reply.tool_calls else "stop")


def _calls(reply: Reply) -> list[dict[str, Any]]:
    return [
        {"index": place, "id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}
        for place, (ident, name, arguments) in enumerate(reply.tool_calls)
    ]


def _usage(reply: Reply) -> dict[str, int] | None:
    if reply.usage is None:
        return None
    tokens_in, tokens_out = reply.usage
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _completion(request: Request, reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if reply.tool_calls:
        message["tool_calls"] = _calls(reply)
    choice = {"index": 0, "message": message, "finish_reason": _finish(reply)}
    answer = _envelope(request, "chat.completion", [choice])
    return answer if reply.usage is None else {**answer, "usage": _usage(reply)}


def _envelope(request: Request, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 0, "model": request.body["model"], "choices": choices}


async def _stream(writer: asyncio.StreamWriter, request: Request, reply: Reply) -> bool:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    pieces = reply.pieces if reply.pieces is not None else re.findall(r"\S+\s*", reply.text)
    for place, piece in enumerate(pieces):
        if place == reply.cut_after:
            return False
        await _event(writer, request, {"content": piece})
    if reply.cut_after is not None:
        return False
    if reply.hang:
        await asyncio.Event().wait()
    for call in _calls(reply):
        arguments = call["function"]["arguments"]
        half = len(arguments) // 2
        await _event(writer, request, {"tool_calls": [{**call, "function": {**call["function"], "arguments": ""}}]})
        for part in (arguments[:half], arguments[half:]):
            await _event(writer, request, {"tool_calls": [{"index": call["index"], "function": {"arguments": part}}]})
    await _event(writer, request, {}, _finish(reply))
    if reply.usage is not None and "stream_options" in request.body:
        _chunk(writer, {**_envelope(request, "chat.completion.chunk", []), "usage": _usage(reply)})
    writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
    return True


async def _event(
    writer: asyncio.StreamWriter, request: Request, delta: Mapping[str, Any], finish: str | None = None
) -> None:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    _chunk(writer, _envelope(request, "chat.completion.chunk", [choice]))
    await writer.drain()


def _chunk(writer: asyncio.StreamWriter, value: Mapping[str, Any]) -> None:
    data = b"data: " + json.dumps(value).encode() + b"\n\n"
    writer.write(b"%x\r\n" % len(data) + data + b"\r\n")
