"""The local server: `GET /healthz`, `POST /v1/operations/NAME` (JSON in, JSON lines out).

What is refused, before anything else is looked at: a host that is not loopback (DNS rebinding), any request with an
`Origin` (no page has business here yet), a missing or wrong token (compared in constant time), a body over 8 MiB.
"""

import asyncio
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from loket.contracts import BadInput, Failed, LoketError, Refusal

BODY_LIMIT = 8 << 20
"""Bytes of a request's body."""

_LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})

Perform: TypeAlias = Callable[[str, dict[str, Any], Callable[[dict[str, Any]], None]], Awaitable[Any]]
"""Does an operation: name, arguments, and a taker of events."""


class Gateway:
    """The server's application. `ready` says whether messages are accepted."""

    def __init__(self, perform: Perform, token: str, ready: Callable[[], bool]) -> None:
        self._perform = perform
        self._token = token.encode()
        self._ready = ready
        self.app = Starlette(
            routes=[
                Route("/healthz", self._health),
                Route("/v1/operations/{name}", self._operation, methods=["POST"]),
            ]
        )

    async def _health(self, request: Request) -> Response:
        refused = _foreign(request)
        if refused is not None:
            return refused
        ready = self._ready()
        return JSONResponse({"status": "ok" if ready else "starting"}, 200 if ready else 503)

    async def _operation(self, request: Request) -> Response:
        refused = _foreign(request) or self._unauthorised(request)
        if refused is not None:
            return refused
        try:
            args = await _body(request)
        except BadInput as error:
            return _error(error, 400)
        lines = _Lines(self._perform, request.path_params["name"], args)
        return StreamingResponse(lines.stream(), media_type="application/x-ndjson")

    def _unauthorised(self, request: Request) -> Response | None:
        given = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(given, b"Bearer " + self._token):
            return None
        return _error(
            Refusal(
                "gateway.token",
                "the request carries no valid token",
                "send `Authorization: Bearer` with the contents of the file `token` in the home",
                blame="owner",
            ),
            401,
        )


class _Lines:
    """One operation as JSON lines: its events, then `result` or `error`.

    The operation goes on when the reader leaves: what was accepted is answered.
    """

    def __init__(self, perform: Perform, name: str, args: dict[str, Any]) -> None:
        self._queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(perform, name, args))

    async def _run(self, perform: Perform, name: str, args: dict[str, Any]) -> None:
        try:
            value = await perform(name, args, self._queue.put_nowait)
            self._queue.put_nowait({"type": "result", "value": value})
        except LoketError as error:
            self._queue.put_nowait({"type": "error", **error.as_dict(), "run": error.run})
        except Exception as error:  # noqa: BLE001 - the reader hears of a fault too
            said = f"the server failed: {type(error).__name__}: {error}"
            self._queue.put_nowait({"type": "error", **Failed("server.error", said, "look at its log").as_dict()})
        finally:
            self._queue.put_nowait(None)

    async def stream(self) -> AsyncIterator[bytes]:
        while (event := await self._queue.get()) is not None:
            yield json.dumps(event, ensure_ascii=False).encode() + b"\n"
        await self._task


def _foreign(request: Request) -> Response | None:
    host = request.headers.get("host", "")
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name not in _LOOPBACK:
        return _error(Refusal("gateway.host", f"the host {host[:80]!r} is not this machine", "use 127.0.0.1"), 403)
    if "origin" in request.headers:
        return _error(
            Refusal("gateway.origin", "requests from web pages are not accepted", "use the command line"), 403
        )
    return None


async def _body(request: Request) -> dict[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > BODY_LIMIT:
            raise BadInput("gateway.body", f"the body is larger than {BODY_LIMIT >> 20} MiB", "send less")
    try:
        value = json.loads(data or b"{}")
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair can be written nowhere
    except (ValueError, RecursionError) as error:
        raise BadInput("gateway.body", f"the body is no JSON: {error}", "send a JSON object") from None
    if not isinstance(value, dict):
        raise BadInput("gateway.body", "the body is no JSON object", 'send an object such as {"agent": "main"}')
    return value


def _error(error: LoketError, status: int) -> Response:
    return JSONResponse({"error": error.as_dict()}, status)


def make_server(gateway: Gateway, port: int) -> uvicorn.Server:
    """A server for the gateway, on loopback alone."""
    config = uvicorn.Config(
        gateway.app,
        host="127.0.0.1",
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
        server_header=False,
    )
    return uvicorn.Server(config)
