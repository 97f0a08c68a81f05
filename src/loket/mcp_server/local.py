"""Programs of this machine at the desk: a socket in the home, which `loket mcp` passes its lines to.

Whoever can open the socket can read the home, and so is the owner's own program. The first line says which client it
wants to be: `{"client": "editor"}`; all others are the protocol's.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from loket import clients
from loket.contracts import LoketError
from loket.mcp_server.desk import Desk
from loket.mcp_server.lines import LONGEST, Line

SOCKET = "mcp.sock"
_MOST_PATH = 100
"""Bytes of a socket's path that every system takes."""

_BACKLOG_BYTES = 4 << 20
"""Bytes that wait for a client that does not read; with more of them its connection ends."""


@contextlib.contextmanager
def short(path: Path) -> Iterator[str]:
    """A path of a socket that a system takes, however deep the home is."""
    if len(os.fsencode(path)) <= _MOST_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def listening(desk: Desk) -> AsyncIterator[None]:
    """Serve the desk on the home's socket until the context ends. The home is held, so nobody else does."""
    path = desk.system.home.root / SOCKET
    path.unlink(missing_ok=True)
    served: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            served.add(task)
            task.add_done_callback(served.discard)
        with contextlib.suppress(ConnectionError):
            await _serve(desk, reader, writer)

    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with short(path) as name:
        listener.bind(name)
    path.chmod(0o600)
    server = await asyncio.start_unix_server(accept, sock=listener, limit=LONGEST)
    try:
        yield
    finally:
        server.close()
        for task in list(served):
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)
        path.unlink(missing_ok=True)


async def _serve(desk: Desk, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        told = json.loads(await reader.readline())
        client = clients.local(told["client"])
    except (ValueError, TypeError, KeyError, LoketError):
        writer.close()
        return
    try:
        await serve_line(desk, client, reader, writer)
    finally:
        writer.close()


async def serve_line(
    desk: Desk, client: clients.Client, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Serve one connection to its end."""

    def send(data: bytes) -> None:
        if writer.transport.get_write_buffer_size() > _BACKLOG_BYTES:
            writer.transport.abort()  # it does not read, and what waits for it is bounded
        writer.write(data)

    await Line(desk, client, send).serve(reader)
    with contextlib.suppress(ConnectionError):
        await writer.drain()
