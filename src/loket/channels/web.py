"""Requests of a channel: to hosts that its manifest declares, at addresses that were checked, with secrets filled in.

The same rules as `net.fetch` has: no private address unless the owner lists its place, no redirect, bounds on time and
size, and no secret's value in what comes back. More is possible than there: methods with a body, and secrets in an
address, as some services want their token in the path. A module without capabilities cannot ask for it in any other
way, and what it asks for goes to its own service alone.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, urlsplit

from loket.channels.actions import LONGEST_FRAME, decoded_json
from loket.channels.frames import Request
from loket.channels.settings import SECRET, Settings
from loket.contracts import Failed, Json, Refusal, command, host_granted, host_names
from loket.providers.net_address import Reach, Resolve, reach, resolve
from loket.providers.net_body import ACCEPTED, decoded, read_body
from loket.providers.net_headers import Held, shown
from loket.providers.net_url import Target, parse

if TYPE_CHECKING:
    import httpx2

_CONNECT_S = 10.0
_TRIED = 4
_STATUSES = range(100, 600)
_OURS = frozenset(("host", "content-length", "connection", "transfer-encoding", "accept-encoding", "expect", "upgrade"))
"""Headers that a module cannot send."""


@dataclass(frozen=True, slots=True)
class Got:
    """A response: its status, headers in small letters, text, and its body as JSON where it is some."""

    status: int
    headers: Mapping[str, str]
    body: str
    json: Json

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300  # noqa: PLR2004 - RFC 9110, 15.3

    def as_dict(self) -> dict[str, Json]:
        """As a module gets it."""
        return {"status": self.status, "headers": dict(self.headers), "body": self.body}


class Web:
    """Makes requests of channels. `tls` verifies servers; without it, by the system's certificates."""

    def __init__(self, *, resolve: Resolve = resolve, tls: ssl.SSLContext | None = None) -> None:
        self._resolve = resolve
        self._tls = tls

    async def tls(self) -> ssl.SSLContext:
        """The context that verifies servers; reading the certificates takes a moment, beside the event loop."""
        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        return self._tls

    async def places(self, settings: Settings, url: str, *, secret: bool) -> tuple[Target, Sequence[str]]:
        """The target of a URL without secrets, and the addresses to try, all checked.

        Raises `Refusal` (`channel.host`, `channel.address`, `channel.plain`, `net.url`) and `Failed`.
        """
        target = parse(url)
        if not host_granted(target.url, settings.hosts):
            raise Refusal(
                "channel.host",
                f"the channel {settings.channel.name} may not reach {host_names(target.url)[0]}:"
                f" it may reach {' or '.join(settings.hosts) or 'nothing'}",
                "hosts of [channel] in the module's loket.toml name whom it may reach",
            )
        found = [target.address] if target.address is not None else await self._resolved(target)
        return target, self._checked(settings, target, found, secret=secret)

    def _checked(self, settings: Settings, target: Target, found: Sequence[str], *, secret: bool) -> Sequence[str]:
        near = [address for address in found if reach(address) is Reach.PRIVATE]
        if near and target.place in (place.lower() for place in settings.channel.private):
            return near
        if {reach(address) for address in found} != {Reach.PUBLIC}:
            raise Refusal(
                "channel.address",
                f"{target.place} has an address of this machine or of a private network",
                command("channels", "set", settings.channel.name, "--private", target.place),
                blame="owner",
            )
        if secret and target.scheme != "https":
            raise Refusal("channel.plain", f"a secret would go to {target.host} unencrypted", "give an https address")
        return found

    async def _resolved(self, target: Target) -> Sequence[str]:
        try:
            found = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise Failed("net.unknown_host", f"no address is known for {target.host}", "is this machine online?")
        return found

    async def perform(self, settings: Settings, held: Held, request: Request) -> Got:
        """Make one request. Raises `Refusal` and `Failed`; no secret's value is in them or in what comes back."""
        body, kind = _body(request)
        try:
            secret = any(SECRET.search(text) for text in (request.url, body, *request.headers.values()))
            target, addresses = await self.places(settings, SECRET.sub("x", request.url), secret=secret)
            headers = {**_headers(request.headers, kind), "accept-encoding": ACCEPTED}
            sent = {name: fill(value, held, str) for name, value in headers.items()}
            path = _path(fill(request.url, held, lambda value: quote(value, safe=":")))
            content = fill(body, held, _escape(kind)).encode()
            async with asyncio.timeout(request.timeout_s):
                return await self._exchange(target, addresses[:_TRIED], (request.method, path, sent, content), held)
        except TimeoutError:
            raise Failed("net.timeout", f"no answer within {request.timeout_s:g} s", "it is tried again") from None
        except (Refusal, Failed) as error:
            raise type(error)(error.code, held.hide(error.message), error.remedy, blame=error.blame) from None

    async def _exchange(
        self, target: Target, addresses: Sequence[str], sent: tuple[str, str, Mapping[str, str], bytes], held: Held
    ) -> Got:
        import httpx2

        # At level DEBUG the transport logs headers, which hold secrets.
        logging.getLogger("httpcore2").setLevel(logging.INFO)
        error: Exception | None = None
        async with httpx2.AsyncHTTPTransport(verify=await self.tls(), trust_env=False) as transport:
            for address in addresses:
                try:
                    response = await transport.handle_async_request(_asked(target, address, *sent))
                except (httpx2.ConnectError, httpx2.ConnectTimeout) as failed:
                    error = failed
                    continue
                except (httpx2.HTTPError, OSError, ValueError) as failed:
                    raise _protocol(target, failed) from None
                async with contextlib.aclosing(response):
                    try:
                        return await _got(response, held)
                    except (httpx2.HTTPError, OSError, ValueError) as failed:
                        raise _protocol(target, failed) from None
        raise Failed(
            "net.unreachable",
            f"{target.authority} cannot be reached ({type(error).__name__})",
            "check that the server runs and that this machine is online",
        )


def _protocol(target: Target, error: Exception) -> Failed:
    return Failed("net.protocol", f"{target.host} broke off or sent no proper HTTP ({type(error).__name__})")


def _asked(
    target: Target, address: str, method: str, path: str, headers: Mapping[str, str], content: bytes
) -> "httpx2.Request":
    import httpx2

    url = httpx2.URL(scheme=target.scheme, host=address, port=target.port, raw_path=path.encode())
    timeout = {"connect": _CONNECT_S, "read": None, "write": None, "pool": None}
    return httpx2.Request(
        method,
        url,
        headers={"host": target.authority, "user-agent": "loket", **headers},
        content=content or None,
        extensions={"sni_hostname": target.host, "timeout": timeout},
    )


async def _got(response: "httpx2.Response", held: Held) -> Got:
    if response.status_code not in _STATUSES:
        raise ValueError(response.status_code)
    body, cut = await read_body(response.aiter_raw(), response.headers.get("content-encoding", ""), LONGEST_FRAME)
    if cut:
        raise Failed("channel.size", f"an answer has more than {LONGEST_FRAME >> 20} MiB", "ask for less at a time")
    kind = response.headers.get("content-type", "") or "text/plain"
    text = held.hide(decoded(held.hide_bytes(body, cut=False), kind, cut=False))
    return Got(response.status_code, shown(response.headers.raw, held), text, decoded_json(text))


def _body(request: Request) -> tuple[str, str]:
    """The body and its type."""
    if request.json is not None:
        return json.dumps(request.json), "application/json"
    said = {name.lower(): value for name, value in request.headers.items()}
    return request.body, said.get("content-type", "text/plain; charset=utf-8") if request.body else ""


def _headers(headers: Mapping[str, str], kind: str) -> dict[str, str]:
    fine: dict[str, str] = {}
    for name, value in headers.items():
        low = name.lower()
        if low in _OURS or low.startswith("proxy-") or not value.isascii() or not value.isprintable():
            raise Refusal("net.header", f"headers: {name} is not a module's to set, or cannot be sent", "leave it out")
        fine[low] = value
    return {**fine, "content-type": kind} if kind else fine


def fill(text: str, held: Held, escape: Callable[[str], str]) -> str:
    """The text with the values of secrets. Raises `Refusal` for a secret that the channel has no field for."""

    def value(name: str) -> str:
        try:
            return escape(held.fill({"": f"{{{{secret:{name}}}}}"})[""])
        except KeyError:
            refused = f"there is no secret field {name} with a value"
            raise Refusal("channel.secret", refused, "declare it as [[channel.field]]") from None

    return SECRET.sub(lambda found: value(found[1]), text)


def _escape(kind: str) -> Callable[[str], str]:
    """How a value stands in a body of a type."""
    if "json" in kind:
        return lambda value: json.dumps(value)[1:-1]
    return quote_plus if "x-www-form-urlencoded" in kind else str


def json_escape(value: str) -> str:
    """How a value stands in a frame, which is JSON where it holds a secret."""
    return json.dumps(value)[1:-1]


def _path(url: str) -> str:
    """The path and query of a filled URL, as it is sent."""
    parts = urlsplit(url)
    path = quote(parts.path or "/", safe="/:@!$&'()*+,;=~-._%")
    return path + (f"?{quote(parts.query, safe='/?:@!$&()*+,;=~-._%')}" if parts.query else "")
