"""Connections: each to an address that was checked, with the name it was checked for, kept for the next request.

A pool for each (agent, scheme, host, port, address), and not one for all: a client's pool finds connections by the
address in the URL, and would use one whose certificate was verified for another name. The agent is in the key because
some servers tie a login to the connection.
"""

import asyncio
import contextlib
import logging
import ssl
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from loket.contracts import Failed
from loket.providers.net_url import Target

if TYPE_CHECKING:
    import httpx2

_KEPT = 64
_TRIED = 4
"""Addresses of one host that are tried."""
_CONNECT_S = 10.0
_IDLE_S = 15.0

_Key = tuple[str, str, str, int, str]


class _Slot:
    """One pool. `served` tells a connection that may have gone stale from one that never worked."""

    __slots__ = ("served", "transport", "users")

    def __init__(self, transport: "httpx2.AsyncHTTPTransport") -> None:
        self.transport = transport
        self.users = 0
        self.served = False


class Pool:
    """Sends requests. `tls` verifies servers; without it, by the system's certificates. Used from one event loop."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._slots: OrderedDict[_Key, _Slot] = OrderedDict()
        self._preparing = asyncio.Lock()

    async def close(self) -> None:
        """Close all connections."""
        while self._slots:
            await self._slots.popitem()[1].transport.aclose()

    @contextlib.asynccontextmanager
    async def response(
        self, agent: str, target: Target, addresses: Sequence[str], method: str, headers: Mapping[str, str]
    ) -> AsyncIterator["httpx2.Response"]:
        """The response of the first of the addresses that can be reached, its body not read yet.

        `headers` go as they are, besides `Host`. Raises `Failed`; errors of reading the body come out as that too.
        """
        await self._prepare()
        async with contextlib.AsyncExitStack() as stack:
            with _translated(target):
                response = await self._first(stack, agent, target, addresses[:_TRIED], method, headers)
                stack.push_async_callback(response.aclose)
                yield response

    async def _prepare(self) -> None:
        """Import the client and read the certificates at the first request, beside the event loop."""
        if self._tls is not None and self._slots:
            return
        async with self._preparing:
            tls = await asyncio.to_thread(_load, self._tls)
            self._tls = self._tls or tls

    async def _first(
        self,
        stack: contextlib.AsyncExitStack,
        agent: str,
        target: Target,
        addresses: Sequence[str],
        method: str,
        headers: Mapping[str, str],
    ) -> "httpx2.Response":
        import httpx2

        for left in range(len(addresses) - 1, -1, -1):
            address = addresses[len(addresses) - 1 - left]
            slot = await self._slot((agent, target.scheme, target.host, target.port, address))
            try:
                response = await _send(slot, _request(target, address, method, headers))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                self._release(slot)
                if not left:
                    raise
            except BaseException:
                self._release(slot)
                raise
            else:
                stack.callback(self._release, slot)
                return response
        raise Failed("net.unreachable", f"{target.host} has no address", "check the host's name")

    async def _slot(self, key: _Key) -> _Slot:
        """The pool for a key, counted as used. The least recently used idle ones go when there are too many."""
        import httpx2

        slot = self._slots.get(key)
        if slot is None:
            limits = httpx2.Limits(max_connections=None, max_keepalive_connections=4, keepalive_expiry=_IDLE_S)
            transport = httpx2.AsyncHTTPTransport(verify=self._tls or True, trust_env=False, limits=limits)
            slot = self._slots[key] = _Slot(transport)
        slot.users += 1
        self._slots.move_to_end(key)
        idle = [old for old, held in self._slots.items() if not held.users]
        for old in idle[: max(0, len(self._slots) - _KEPT)]:
            await self._slots.pop(old).transport.aclose()
        return slot

    @staticmethod
    def _release(slot: _Slot) -> None:
        slot.users -= 1


def _load(tls: ssl.SSLContext | None) -> ssl.SSLContext:
    import httpx2

    # At level DEBUG the transport logs headers of answers, which may hold an echoed secret.
    logging.getLogger("httpcore2").setLevel(logging.INFO)
    return tls or httpx2.create_ssl_context(trust_env=False)


def _request(target: Target, address: str, method: str, headers: Mapping[str, str]) -> "httpx2.Request":
    """A request to an address in the name of a host: `Host` and the certificate are the name's."""
    import httpx2

    url = httpx2.URL(scheme=target.scheme, host=address, port=target.port, raw_path=target.path.encode())
    timeout = {"connect": _CONNECT_S, "read": None, "write": None, "pool": None}
    return httpx2.Request(
        method,
        url,
        headers={"host": target.authority, **headers},
        extensions={"sni_hostname": target.host, "timeout": timeout},
    )


async def _send(slot: _Slot, request: "httpx2.Request") -> "httpx2.Response":
    """Send a request; once more where a kept connection turns out to be closed (GET and HEAD may be repeated)."""
    import httpx2

    stale = slot.served
    while True:
        try:
            response = await slot.transport.handle_async_request(request)
        except (httpx2.RemoteProtocolError, httpx2.ReadError, httpx2.WriteError):
            if not stale:
                raise
            stale = False
        else:
            slot.served = True
            response.request = request
            return response


@contextlib.contextmanager
def _translated(target: Target) -> Iterator[None]:
    """Turn errors of the client into ours, which quote nothing of what the server sent."""
    import httpx2

    try:
        yield
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise _unreachable(target, error) from None
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        raise Failed(
            "net.protocol",
            f"{target.host} broke off or sent no proper HTTP ({type(error).__name__})",
            "try again, or fetch another address",
        ) from None


def _unreachable(target: Target, error: BaseException) -> Failed:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLWantReadError | ssl.SSLWantWriteError):
            return Failed(
                "net.tls",
                f"{target.authority} proved by no certificate that it is {target.host} ({cause.reason})",
                "mend the server's certificate; it is never left unchecked",
            )
        cause = cause.__cause__ or cause.__context__
    return Failed(
        "net.unreachable",
        f"{target.authority} cannot be reached",
        "check that the server runs and that this machine is online; try again later",
    )
