"""The client for servers with an address: every request goes to an address that was checked, and no further.

A server that needs a login names other addresses (metadata, authorization, tokens), and could name one of this network.
So the checks are below everything that makes requests: a remote server, and whatever it names, is reached over https at
public addresses only; one on this machine may name places on this machine. Answers have a size, and no encoding in
which a small one could become a large one.
"""

import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loket.contracts import Failed, Refusal, command
from loket.mcp.settings import Server
from loket.providers.net_address import Reach, Resolve, reach, resolve
from loket.providers.net_url import Target, parse

if TYPE_CHECKING:
    import httpx2

LARGEST = 8 << 20
"""Bytes of one answer that is no stream of events, and of one event."""
_MOST_HOSTS = 8
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def check(server: Server, target: Target) -> None:
    """Whether a server may have this address asked at all. Raises `Refusal` (`mcp.address`)."""
    if target.scheme == "https":
        return
    if server.loopback and target.host in _LOOPBACK:
        return
    raise Refusal(
        "mcp.address",
        f"the server {server.name} names {target.scheme}://{target.place}, which is neither https nor on its machine",
        "only https is used for servers elsewhere",
        blame="provider",
    )


async def addresses(server: Server, target: Target, resolved: Resolve) -> list[str]:
    """The addresses of a host, all of them checked. Raises `Refusal` (`mcp.address`) and `Failed` (`mcp.host`)."""
    check(server, target)
    try:
        found = [target.address] if target.address is not None else list(await resolved(target.host, target.port))
    except (OSError, UnicodeError):
        found = []
    if not found:
        raise Failed("mcp.host", f"no address is known for {target.host}", "check its spelling, and the network")
    reaches = {reach(address) for address in found}
    own = target.host == (urlsplit(server.url).hostname or "").lower()
    near = reaches == {Reach.PRIVATE} and ((server.loopback and target.host in _LOOPBACK) or (server.private and own))
    if reaches == {Reach.PUBLIC} or near:
        return found
    raise Refusal(
        "mcp.address",
        f"{target.place} is, or has an address, in this machine's own network, and the server {server.name} is not",
        command("mcp", "add", server.name, "--replace", "--private", "--url", server.url)
        if own and reaches == {Reach.PRIVATE}
        else "a server elsewhere may name public addresses only",
        blame="owner" if own else "provider",
    )


def client(
    server: Server,
    headers: dict[str, str],
    *,
    auth: "httpx2.Auth | None" = None,
    resolved: Resolve = resolve,
    tls: ssl.SSLContext | None = None,
) -> "httpx2.AsyncClient":
    """A client that sends `headers` to the server's own origin alone. It follows no redirect by itself."""
    import httpx2

    timeout = httpx2.Timeout(30.0, read=300.0)
    transport = _transport(server, headers, resolved, tls)
    return httpx2.AsyncClient(transport=transport, auth=auth, timeout=timeout, trust_env=False, follow_redirects=False)


def _transport(
    server: Server, headers: dict[str, str], resolved: Resolve, tls: ssl.SSLContext | None
) -> "httpx2.AsyncBaseTransport":
    import httpx2

    origin = parse(server.url).origin

    class Checked(httpx2.AsyncBaseTransport):
        """One pool for each host: a pool would use a connection whose certificate is another name's."""

        def __init__(self) -> None:
            self._pools: dict[tuple[str, str, int], httpx2.AsyncHTTPTransport] = {}

        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            target = parse(str(request.url))
            found = await addresses(server, target, resolved)
            readied = _readied(request, headers if target.origin == origin else {})
            return _bounded(await _first(self._pool(target), readied, target, found), target)

        def _pool(self, target: Target) -> httpx2.AsyncHTTPTransport:
            if target.origin not in self._pools:
                if len(self._pools) >= _MOST_HOSTS:
                    said = f"the server {server.name} names too many hosts"
                    raise Refusal("mcp.address", said, None, blame="provider")
                verify: Any = tls or httpx2.create_ssl_context(trust_env=False)
                self._pools[target.origin] = httpx2.AsyncHTTPTransport(verify=verify, trust_env=False)
            return self._pools[target.origin]

        async def aclose(self) -> None:
            while self._pools:
                await self._pools.popitem()[1].aclose()

    return Checked()


async def _first(
    pool: "httpx2.AsyncHTTPTransport", request: "httpx2.Request", target: Target, found: Sequence[str]
) -> "httpx2.Response":
    """The response of the first address that can be reached."""
    import httpx2

    for address in found[:-1]:
        try:
            return await pool.handle_async_request(_sent(request, target, address))
        except (httpx2.ConnectError, httpx2.ConnectTimeout):
            continue
    return await pool.handle_async_request(_sent(request, target, found[-1]))


def _readied(request: "httpx2.Request", headers: dict[str, str]) -> "httpx2.Request":
    for name, value in headers.items():
        if name.lower() != "authorization" or "authorization" not in request.headers:
            request.headers[name] = value
    request.headers["accept-encoding"] = "identity"
    return request


def _sent(request: "httpx2.Request", target: Target, address: str) -> "httpx2.Request":
    """The request to an address, in the name of its host."""
    import httpx2

    request.headers["host"] = target.authority
    extensions = {**request.extensions, "sni_hostname": target.host}
    url = request.url.copy_with(host=address)
    return httpx2.Request(request.method, url, headers=request.headers, stream=request.stream, extensions=extensions)


def _bounded(response: "httpx2.Response", target: Target) -> "httpx2.Response":
    """The response, whose body ends where it grows too large. A stream of events has a bound for each of them."""
    import httpx2

    if response.headers.get("content-encoding", "identity").lower() not in ("identity", ""):
        raise httpx2.DecodingError(f"{target.host} encodes its answers, which was not asked for")
    if response.headers.get("content-type", "").lower().startswith("text/event-stream"):
        return response
    inner = response.stream

    class Counted(httpx2.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            size = 0
            async for piece in inner:  # type: ignore[union-attr]  # the transport is asynchronous, and so is this
                size += len(piece)
                if size > LARGEST:
                    raise httpx2.ReadError(f"{target.host} answers with more than {LARGEST >> 20} MiB")
                yield piece

        async def aclose(self) -> None:
            close: Callable[[], Any] = inner.aclose  # type: ignore[union-attr]  # the same
            await close()

    return httpx2.Response(
        response.status_code, headers=response.headers, stream=Counted(), extensions=response.extensions
    )


def login_page(server: Server, url: str) -> str:
    """The address that the owner is to open, where it may be one. Raises `Refusal` (`mcp.address`)."""
    check(server, parse(url.partition("?")[0]))
    if not url.isprintable() or not url.isascii():
        raise Refusal(
            "mcp.address", f"the server {server.name} names a page that is no address", None, blame="provider"
        )
    return url
