"""`loket mcp`: serves agents and grants to a client of the Model Context Protocol, over standard input and output.

It passes bytes on to the server of the home, and is ready when that is; where no server runs it holds the home itself,
and starts while the client already writes.
"""

import asyncio
import contextlib
import json
import os
import select
import socket
import sys
import time

from loket.cli import client
from loket.contracts import Failed
from loket.home import Home, hold

_CHUNK = 1 << 16
_BUSY_S = 20.0
_IN, _OUT = 0, 1

NAME = "local"
"""The client that a program of this machine is, unless it is started as another."""


def serve(name: str) -> None:
    """Serve until standard input ends. Raises `BadInput` for a name that is none, `Failed` where the home is held."""
    home = client.home()
    home.prepare()
    until = time.monotonic() + _BUSY_S
    while True:
        link = _connected(home)
        if link is not None:
            with contextlib.closing(link):
                _pass_on(link, name)
            return
        try:
            with hold(home):
                pass
        except Failed:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            asyncio.run(_alone(home, name))
            return


def _connected(home: Home) -> socket.socket | None:
    """The socket of whoever holds the home; None where nobody listens."""
    path = home.root / "mcp.sock"
    link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            link.connect(f"/proc/self/fd/{folder}/{path.name}" if sys.platform == "linux" else str(path))
        finally:
            os.close(folder)
    except OSError:
        link.close()
        return None
    return link


def _pass_on(link: socket.socket, name: str, out: int = _OUT) -> None:
    """Bytes from standard input to the server and back, until one has ended. Raises `Failed` where the server has."""
    link.sendall(json.dumps({"client": name}).encode() + b"\n")
    reads = [_IN, link.fileno()]
    while True:
        ready, _, _ = select.select(reads, [], [])
        if _IN in ready:
            data = os.read(_IN, _CHUNK)
            if data:
                link.sendall(data)
            else:
                reads.remove(_IN)
                link.shutdown(socket.SHUT_WR)
        if link.fileno() in ready:
            data = link.recv(_CHUNK)
            if data:
                _write(out, data)
            elif _IN in reads:
                raise Failed("server.gone", "the server has stopped", "loket up, and start the client anew")
            else:
                return


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


async def _alone(home: Home, name: str) -> None:
    """Hold the home, and serve this client as the server would; others that come meanwhile use the same."""
    from loket.app import running
    from loket.mcp_server.desk import Desk
    from loket.mcp_server.local import listening

    out = os.dup(_OUT)
    os.dup2(2, _OUT)  # whatever prints must not end up between the lines
    async with running(home) as system, listening(Desk(system, os.urandom(32))):
        link = _connected(home)
        if link is None:
            raise Failed("server.gone", "its own socket cannot be reached", "loket up", blame="machine")
        with contextlib.closing(link):
            await asyncio.to_thread(_pass_on, link, name, out)
