"""The local server: the table of routes behind the checks of every request.

A request is checked (`checks.py`), its sender is known (`access.py`), its arguments fit the table (`endpoint.py`), and
then it is an operation by name: beyond who is let in, nothing is decided here.
"""

import socket
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from loket.contracts import BadInput, Failed, LoketError
from loket.gateway.access import Doorkeeper
from loket.gateway.checks import HEAD_LIMIT, Checked
from loket.gateway.doors import Door
from loket.gateway.endpoint import Api, Asked, CompileCheck, Decoder, Endpoint, Services
from loket.gateway.errors import answer
from loket.gateway.openapi import document
from loket.gateway.protocol import TimedProtocol
from loket.gateway.routes import ROUTES
from loket.gateway.sse import Perform, Work

_COMMANDS = ("health", "performOperation")
"""The routes that need no more than an operation: those of the command line."""


class Gateway:
    """The server's application. `ready` says whether messages are accepted.

    Without `api` it serves the command line alone. `doors` are further protocols.
    """

    def __init__(
        self,
        perform: Perform,
        token: str,
        ready: Callable[[], bool],
        api: Api | None = None,
        doors: Sequence[Door] = (),
    ) -> None:
        self._streams: weakref.WeakSet[Work] = weakref.WeakSet()
        self._document: dict[str, Any] | None = None
        doorkeeper = Doorkeeper(token, api.sessions if api else None, api.tokens if api else None)
        self._services = Services(perform, ready, doorkeeper, self._start, self._describe, api)
        self._endpoints = tuple(route for route in ROUTES if api is not None or route.name in _COMMANDS)
        check = api.compile_check if api is not None else _unchecked
        app = Starlette(
            routes=[
                *_routes(self._endpoints, self._services, check),
                *(route for door in doors for route in door(self._services)),
            ],
            exception_handlers={HTTPException: _no_route, Exception: _fault},
        )
        app.router.redirect_slashes = False
        self.app = Checked(app)

    def close(self) -> None:
        """End all streams of events: the server stops, and their readers come again."""
        for work in list(self._streams):
            work.mailbox.close()

    def _start(self, work: Work) -> Work:
        self._streams.add(work)
        return work

    def _describe(self) -> dict[str, Any]:
        if self._document is None:
            self._document = document(self._endpoints)
        return self._document


def _unchecked(_schema: Any) -> Callable[[Any], str | None]:
    """For the routes of the command line: operations check their arguments themselves."""
    return lambda _value: None


def _routes(endpoints: Iterable[Endpoint], services: Services, check: CompileCheck) -> Iterable[Route]:
    """One route a path, so that a wrong method is answered with all that there are."""
    paths: dict[str, dict[str, tuple[Endpoint, Decoder]]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method] = (endpoint, Decoder(endpoint, check))
    for path, methods in paths.items():
        route = Route(path, _served(methods, services), methods=list(methods))
        route.methods = set(methods)  # without HEAD: an answer that is a stream would not end
        yield route


def _served(methods: dict[str, tuple[Endpoint, Decoder]], services: Services) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        endpoint, decoder = methods[request.method]
        try:
            visitor = await services.doorkeeper.admit(request, endpoint.access, endpoint.door)
            params, body = await decoder.read(request)
            return await endpoint.does(services, Asked(request, visitor, params, body))
        except LoketError as error:
            return answer(error)
        except ClientDisconnect:
            return Response(status_code=408)  # nobody reads it

    return serve


def _no_route(request: Request, error: Exception) -> Response:
    """404 and 405."""
    status = error.status_code if isinstance(error, HTTPException) else 404
    headers = error.headers if isinstance(error, HTTPException) else None
    path = request.url.path[:200]
    said = {
        404: BadInput("gateway.path", f"there is nothing at {path}", "GET /openapi.json lists what there is"),
        405: BadInput("gateway.method", f"{path} does not take {request.method[:20]}", "see the header `Allow`"),
    }
    return answer(said.get(status, said[404]), status, headers)


def _fault(_request: Request, error: Exception) -> Response:
    return answer(
        Failed("server.error", f"the server failed: {type(error).__name__}", "look at its log", blame="machine")
    )


def make_server(gateway: Gateway, port: int) -> uvicorn.Server:
    """A server for the gateway, on loopback alone."""
    config = uvicorn.Config(
        gateway.app,
        host="127.0.0.1",
        port=port,
        http=TimedProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_LIMIT,
    )
    return _Server(config, gateway)


class _Server(uvicorn.Server):
    """Ends what would keep it from stopping: streams of events may go on for days."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway) -> None:
        super().__init__(config)
        self._gateway = gateway

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gateway.close()
        await super().shutdown(sockets)
