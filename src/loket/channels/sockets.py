"""The wire `websocket`: one lasting connection, over the library `websockets`, imported when it is needed.

The module says where to connect (after requests of its own, where a service hands out the address), and is given each
frame. A beat that it declares is sent by the host itself, and the other side's answer to it is not worth a run: a quiet
connection writes nothing into the journal.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loket.channels.actions import LONGEST_FRAME, decoded_json, says
from loket.channels.frames import Actions, Beat
from loket.channels.link import Link, checked
from loket.channels.settings import SECRET
from loket.channels.web import fill, json_escape
from loket.channels.wires import asked, steps
from loket.contracts import Failed, Refusal
from loket.providers.net_headers import Held

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

_CONNECT_S = 15.0
_SCHEMES = {"wss": "https", "ws": "http"}


class _Session:
    """One open connection, and what the module wants of it."""

    def __init__(self, link: Link, connection: "ClientConnection", held: Held) -> None:
        self._link = link
        self._held = held
        self._connection = connection
        self._beat: Beat | None = None
        self._beat_at = self._timer_at = float("inf")
        self._acked = True

    async def send(self, frame: str) -> None:
        """Send a frame, its secrets filled in. Raises `Failed` where the connection is closed."""
        from websockets.exceptions import ConnectionClosed

        try:
            await self._connection.send(fill(frame, self._held, json_escape))
        except ConnectionClosed:
            raise Failed("channel.closed", "the connection is closed", "it is opened again by itself") from None

    async def apply(self, actions: Actions) -> bool:
        """Do what the module wants; whether the connection stays open."""
        now = time.monotonic()
        for frame in checked(actions).frames:
            await self.send(frame)
        if actions.beat is not None:
            fresh = self._beat is None or self._beat.every_s != actions.beat.every_s
            self._beat_at = now + actions.beat.every_s if fresh else self._beat_at
            self._beat = actions.beat
        if actions.timer_s is not None:
            self._timer_at = now + actions.timer_s
        for request in actions.requests:
            if not await self.apply(await asked(self._link, request)):
                return False
        return not actions.reconnect

    async def run(self) -> None:
        """Translate what comes, until the connection closes or the module has it opened anew."""
        open_ = await self.apply(await self._link.inbound("open"))
        self._link.health.good(self._link.system.now())
        while open_:
            text = await self._next()
            if text is not None:
                open_ = self._is_ack(text) or await self.apply(await self._link.inbound("text", text=text))
            elif time.monotonic() >= self._timer_at:
                self._timer_at = float("inf")
                open_ = await self.apply(await self._link.inbound("timer"))

    async def _next(self) -> str | None:
        """The next frame; None where it is time for something else. Beats are sent meanwhile."""
        while True:
            until = min(self._beat_at, self._timer_at)
            left = max(0.0, until - time.monotonic()) if until != float("inf") else None
            try:
                async with asyncio.timeout(left):
                    got = await self._connection.recv(decode=True)
                return self._held.hide(got if isinstance(got, str) else got.decode(errors="replace"))
            except TimeoutError:
                if time.monotonic() < self._beat_at:
                    return None
                await self._pulse()

    async def _pulse(self) -> None:
        beat = self._beat
        if beat is None:
            return
        if not self._acked:
            raise Failed("channel.silent", "the other side does not answer any more", "it is connected to again")
        self._acked = beat.ack is None
        self._beat_at = time.monotonic() + beat.every_s
        await self.send(beat.frame)

    def _is_ack(self, text: str) -> bool:
        ack = self._beat.ack if self._beat is not None else None
        if ack is None or not says(decoded_json(text), ack, whole=False):
            return False
        self._acked = True
        return True


async def websocket(link: Link) -> None:
    """Connect as the module says, and stay."""
    from websockets.exceptions import ConnectionClosed

    actions = await steps(link, await link.inbound("start"), lambda actions: bool(actions.connect))
    held = await asyncio.to_thread(link.held)
    async with _opened(link, actions.connect) as connection:
        session = link.socket = _Session(link, connection, held)
        try:
            await session.run()
        except ConnectionClosed as closed:
            code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd is not None else (1006, "")
            checked(await link.inbound("close", code=code, reason=reason))
        finally:
            link.socket = None


@contextlib.asynccontextmanager
async def _opened(link: Link, url: str) -> AsyncIterator["ClientConnection"]:
    """A connection to an address that was checked. Raises `Refusal` and `Failed`."""
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    parts = urlsplit(url)
    if parts.scheme not in _SCHEMES or SECRET.search(url):
        raise Refusal("channel.connect", f"{json.dumps(url[:80])} is no address of a websocket", "wss://HOST/PATH")
    target, addresses = await link.web.places(
        link.settings, f"{_SCHEMES[parts.scheme]}{url[len(parts.scheme) :]}", secret=True
    )
    tls = await link.web.tls() if parts.scheme == "wss" else None
    try:
        async with asyncio.timeout(_CONNECT_S):
            made = await _reach(addresses, target.port)
            connection = await connect(
                url,
                sock=made,
                ssl=tls,
                server_hostname=target.host if tls is not None else None,
                proxy=None,
                max_size=LONGEST_FRAME,
                user_agent_header="loket",
            )
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:
        raise Failed(
            "channel.connect", f"{target.authority} opens no connection ({type(error).__name__})", "it is tried again"
        ) from None
    try:
        yield connection
    finally:
        await connection.close()


async def _reach(addresses: Sequence[str], port: int) -> socket.socket:
    """A connected socket to the first address that answers. Raises `OSError`."""
    loop = asyncio.get_running_loop()
    error: OSError = OSError("no address")
    for address in addresses:
        made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        made.setblocking(False)
        try:
            await loop.sock_connect(made, (address, port))
        except OSError as failed:
            made.close()
            error = failed
        except BaseException:
            made.close()
            raise
        else:
            return made
    raise error
