"""Agents for colleagues: a second listener, beyond loopback, that serves `/mcp` to clients with a token, and no more.

It is off until the owner names an address in the settings (`[share]`), and has TLS or does not start. What it serves
is a table of its own: none of the owner's routes is behind it, and neither the home's token nor a session opens it.
"""

import asyncio
import contextlib
import datetime as dt
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from loket import tls
from loket.config import Config
from loket.contracts import BadInput, Refusal
from loket.gateway.access import Doorkeeper
from loket.gateway.checks import HEAD_LIMIT, Checked
from loket.gateway.doors import Door
from loket.gateway.endpoint import Api, Services
from loket.gateway.errors import answer
from loket.gateway.protocol import TimedProtocol
from loket.gateway.sse import Work
from loket.home import Home

_ADDRESS = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:]+)\]|(?P<host>[A-Za-z0-9.-]+)):(?P<port>[0-9]{1,5})")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?|[0-9a-fA-F:]+")
_ANY = ("0.0.0.0", "::")  # noqa: S104 - the owner's own words
_MOST_PORT = (1 << 16) - 1
_CONNECTIONS = 128


class Place(NamedTuple):
    """Where it listens, and by which names clients come."""

    host: str
    port: int
    names: tuple[str, ...]


def place_of(config: Config) -> Place | None:
    """What the settings say; None where nothing is shared. Raises `BadInput` (`share.listen`, `share.names`)."""
    if config.listen is None:
        return None
    found = _ADDRESS.fullmatch(config.listen)
    if found is None or int(found["port"]) > _MOST_PORT:
        raise BadInput(
            "share.listen", f"{config.listen!r} is no address with a port", '[share] listen = "0.0.0.0:1988"'
        )
    host = found["six"] or found["host"]
    given = tuple(name.strip().lower() for name in (config.names or "").split(",") if name.strip())
    names = given or (() if host in _ANY else (host,))
    if not names or not all(_NAME.fullmatch(name) for name in names):
        raise BadInput(
            "share.names",
            f"it is not said by which names clients reach {config.listen}",
            '[share] names = "studio.example.org, 192.0.2.10"',
        )
    return Place(host, int(found["port"]), names)


def certificate_of(config: Config, folder: Path, names: tuple[str, ...]) -> tls.Certificate:
    """The owner's certificate, or the home's own. Raises `BadInput` where only half of one is named."""
    if config.certificate is None and config.key is None:
        return tls.own(folder, names, dt.datetime.now(dt.UTC))
    if config.certificate is None or config.key is None:
        raise BadInput(
            "share.certificate", "share.certificate and share.key go together", "name both, or leave both out"
        )
    return tls.Certificate(Path(config.certificate).expanduser(), Path(config.key).expanduser())


@contextlib.asynccontextmanager
async def sharing(home: Home, config: Config, api: Api, door: Door, say: Callable[[str], None]) -> AsyncIterator[None]:
    """Share what is behind a door until the context ends, where the settings say so; else nothing at all.

    Raises `BadInput` where the settings do not fit, or the address cannot be used.
    """
    place = place_of(config)
    if place is None:
        yield
        return
    certificate = await asyncio.to_thread(certificate_of, config, home.root / "tls", place.names)
    certificate.context()
    with _listener(place) as listener:
        server = _server(Shared(api, door, place.names), certificate)
        serving = asyncio.create_task(server.serve(sockets=[listener]), name="share")
        shown = f"[{place.names[0]}]" if ":" in place.names[0] else place.names[0]
        trust = f"; clients trust {certificate.authority}" if certificate.authority is not None else ""
        say(f"Shared with clients that have a token: https://{shown}:{listener.getsockname()[1]}/mcp{trust}")
        try:
            yield
        finally:
            server.should_exit = True
            await asyncio.gather(serving, return_exceptions=True)


class Shared:
    """The application beyond loopback: its own checks, and behind them `/healthz` and one door."""

    def __init__(self, api: Api, door: Door, names: tuple[str, ...]) -> None:
        self._names = frozenset(names)
        nobody = secrets.token_urlsafe(32)  # in the place of the home's token, which is good on loopback alone
        services = Services(_refused, lambda: True, Doorkeeper(nobody, None, api.tokens), _kept, dict, api)
        app = Starlette(routes=[Route("/healthz", _health, methods=["GET"]), *door(services)])
        app.router.redirect_slashes = False
        self._app: ASGIApp = Checked(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = self._refusal(scope)
        if refusal is not None:
            await answer(refusal)(scope, receive, send)
            return
        # The host is one of ours: behind this the checks of loopback hold, for all else that they look at.
        headers = [(name, b"localhost" if name == b"host" else value) for name, value in scope["headers"]]
        await self._app({**scope, "headers": headers}, receive, send)

    def _refusal(self, scope: Scope) -> Refusal | None:
        hosts = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or _host(hosts[0]) not in self._names:
            said = ", ".join(hosts)[:80]
            return Refusal("gateway.host", f"the host {said!r} is not this machine", "use a name of [share] names")
        if any(name == b"origin" for name, _ in scope["headers"]):
            return Refusal("gateway.origin", "requests from pages are not accepted here", "use an MCP client")
        return None


def _host(text: str) -> str:
    """The host of a header, without its port and brackets."""
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]


async def _health(_request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _refused(name: str, _args: object, _emit: object) -> object:
    raise Refusal("gateway.access", f"{name} is for the owner alone", "use the command line", blame="owner")


def _kept(work: Work) -> Work:
    return work


def _listener(place: Place) -> socket.socket:
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((place.host, place.port))
        listener.listen(_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise BadInput(
            "share.listen", f"{place.host}:{place.port} cannot be used: {error.strerror}", "change [share] listen"
        ) from None
    return listener


def _server(app: ASGIApp, certificate: tls.Certificate) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=TimedProtocol,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_LIMIT,
        limit_concurrency=_CONNECTIONS,
        ssl_certfile=certificate.chain,
        ssl_keyfile=certificate.key,
    )
    config.load()
    config.ssl = certificate.context()
    return _Beside(config)


class _Beside(uvicorn.Server):
    """A server beside another one, which has the signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take none."""
        yield
