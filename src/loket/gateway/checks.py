"""What every request passes before anything else looks at it, and what every answer carries.

A page in a browser can send requests to loopback. So the host has to be this machine (DNS rebinding), and a request
that says where it comes from has to come from our own origin. There are no CORS headers, ever: no other page may read.
"""

import re
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loket.contracts import BadInput, LoketError, Refusal
from loket.gateway.errors import answer

HEAD_LIMIT = 16 << 10
"""Bytes of a request's line and headers."""

_MOST_HEADERS = 64
_LOOPBACK = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_ONCE = (b"host", b"origin", b"authorization", b"content-type", b"content-length", b"sec-fetch-site")
_HTTP_PORT = 80
_LENGTH = "gateway.length"
_CLOSED = {"Connection": "close"}
"""Where a body ends is not known then, so nothing that follows on the connection is read."""

SECURITY_HEADERS: Mapping[bytes, bytes] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}


class Checked:
    """An application behind the checks: what is refused never reaches it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(name, value) for name, value in message["headers"] if name.lower() not in SECURITY_HEADERS]
                message = {**message, "headers": [*own, *SECURITY_HEADERS.items()]}
            await send(message)

        refused = refusal(scope)
        app = self._app if refused is None else answer(refused, headers=_CLOSED if refused.code == _LENGTH else None)
        await app(scope, receive, guarded)


def refusal(scope: Scope) -> LoketError | None:
    """Why a request is not let in; None where it is."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    size = len(scope["raw_path"]) + len(scope["query_string"]) + sum(len(n) + len(v) for n, v in headers)
    if size > HEAD_LIMIT or len(headers) > _MOST_HEADERS:
        return BadInput(
            "gateway.headers", f"the headers are more than {HEAD_LIMIT >> 10} KiB or {_MOST_HEADERS}", "send fewer"
        )
    twice = [name for name in _ONCE if sum(name == given for given, _ in headers) > 1]
    if twice:
        return BadInput("gateway.twice", f"the header {twice[0].decode()} is there twice", "send it once")
    names = {name for name, _ in headers}
    if {b"content-length", b"transfer-encoding"} <= names:  # two who read it may part its body differently
        return BadInput(_LENGTH, "the request has both Content-Length and Transfer-Encoding", "send one of them")
    given = {name: value.decode("latin-1") for name, value in headers if name in _ONCE}
    return _foreign(given.get(b"host", ""), given.get(b"origin"), scope)


def _foreign(host: str, origin: str | None, scope: Scope) -> LoketError | None:
    if not _LOOPBACK.fullmatch(host):
        return Refusal(
            "gateway.host", f"the host {host[:80]!r} is not this machine", "use 127.0.0.1 or localhost", blame="owner"
        )
    if origin is not None and (origin != f"http://{host}" or origin not in _own_origins(scope)):
        return Refusal(
            "gateway.origin",
            f"requests from pages of {origin[:80]!r} are not accepted",
            "use the command line, or a page of this server's own",
            blame="owner",
        )
    return None


def _own_origins(scope: Scope) -> tuple[str, ...]:
    """The origins of pages of our own: the port is the one that this connection came in on."""
    server = scope.get("server")
    port = f":{server[1]}" if server is not None and server[1] != _HTTP_PORT else ""
    return (f"http://127.0.0.1{port}", f"http://localhost{port}")
