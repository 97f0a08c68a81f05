"""Rows about tools: a file and a web address through the counter, and the same through tools of the usual kinds.

The peers are what most agent systems use: a tool behind MCP on standard input and output (the official SDK), and a tool
behind HTTP on loopback. Both do what ours does (read one file of 10 kB, or fetch one address), and neither checks a
grant, decides by a policy, or keeps a journal.
"""

import asyncio
import contextlib
import importlib.util
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.bench.pages import serving_pages
from loket.bench.place import Place, operate, system_at
from loket.bench.rows import Peer, Taken
from loket.bench.sandbox import steady
from loket.contracts import Failed, RowKind
from loket.testing.models import InstantModel

SIZE = 10_000
"""Bytes of the file, and of the page."""

_PEER_CALLS = 300
_WARM = 10
_RUN = 200
"""Calls of one run."""

_TEXT = ("Ana called about the bicycle from Dresden. " * 250)[:SIZE]
_PATH = "notes/measure.md"


def fs_read(place: Place, n: int) -> Taken:
    """About `n` reads of a file of 10 kB by a guest; beside them the same file through MCP and through HTTP."""
    samples = asyncio.run(_through_counter(place.home("fs-read"), n, "fs.read", {"path": _PATH}, None))
    peers = asyncio.run(_peers(place, "read", str(_file(place))))
    return Taken(samples, peers)


def net_fetch(place: Place, n: int) -> Taken:
    """About `n` fetches of a page of 10 kB on loopback by a guest; beside them MCP and HTTP."""
    with _page() as (address, port):
        wanted = {"url": address}
        samples = asyncio.run(_through_counter(place.home("net-fetch"), n, "net.fetch", wanted, f"127.0.0.1:{port}"))
        peers = asyncio.run(_peers(place, "fetch", address))
    return Taken(samples, peers)


async def _through_counter(
    home: Any, n: int, capability: str, arguments: dict[str, Any], host: str | None
) -> list[float]:
    """Milliseconds between two calls of a run, by the journal."""
    model = InstantModel(lambda _: "")
    async with system_at(home, model, 1, now=steady()) as (system, names):
        system.installed.allow(names[0], "fs.write", {})
        system.installed.allow(names[0], capability, {"hosts": [host], "private": [host]} if host is not None else {})
        await system.direct(names[0], "fs.write", {"path": _PATH, "text": _TEXT})
        times: list[float] = []
        for _ in range(max(1, n // _RUN)):
            given = {"n": min(n, _RUN) + 1, "capability": capability, "arguments": arguments}
            run = await operate(system, names[0], "measure", given)
            times += await asyncio.to_thread(_between, system, run, capability)
        return times


def _between(system: Loket, run: str, capability: str) -> list[float]:
    ended = [
        row.at
        for row in system.journal.rows(run)
        if row.kind in (RowKind.CALL, RowKind.OUTCOME) and row.meta["capability"] == capability
    ]
    return [(after - before) * 1000 for before, after in itertools.pairwise(ended)]


def _file(place: Place) -> Path:
    path = place.root / "measure.md"
    path.write_text(_TEXT, encoding="utf-8")
    return path


@contextlib.contextmanager
def _page() -> Iterator[tuple[str, int]]:
    """A page on loopback: its address and port."""
    with serving_pages(lambda _path, _headers: _TEXT.encode()) as port:
        yield f"http://127.0.0.1:{port}/page", port


async def _peers(place: Place, tool: str, argument: str) -> tuple[Peer, ...]:
    """The same through a tool behind MCP, and behind HTTP, each in a process of its own."""
    return (await _mcp(place, tool, argument), await asyncio.to_thread(_http, tool, argument))


_MCP_SERVER = """
from mcp.server.mcpserver import MCPServer
import httpx2, pathlib
server = MCPServer("measure", log_level="WARNING")
client = httpx2.Client(trust_env=False)

@server.tool()
def read(value: str) -> str:
    return pathlib.Path(value).read_text(encoding="utf-8")

@server.tool()
def fetch(value: str) -> str:
    return client.get(value).text

server.run("stdio")
"""


async def _mcp(place: Place, tool: str, argument: str) -> Peer:
    name = f"a tool behind MCP on standard input and output (official SDK): {tool}"
    if importlib.util.find_spec("mcp") is None:
        return Peer(name, reason="the package mcp is not installed here: pip install mcp")
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters, stdio_client

    script = place.root / "mcp_server.py"
    script.write_text(_MCP_SERVER, encoding="utf-8")
    parameters = StdioServerParameters(command=sys.executable, args=[str(script)])
    async with Client(stdio_client(parameters)) as client:
        samples = []
        for number in range(_WARM + _PEER_CALLS):
            began = time.perf_counter()
            answer = await client.call_tool(tool, {"value": argument})
            if number >= _WARM:
                samples.append((time.perf_counter() - began) * 1000)
        if answer.is_error:
            raise Failed("bench.peer", f"the MCP tool failed: {answer.content}")
    return Peer(name, "ms", samples)


_HTTP_SERVER = """
import pathlib, socket, sys
import httpx2, uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

client = httpx2.Client(trust_env=False)

def read(value):
    return pathlib.Path(value).read_text(encoding="utf-8")

def fetch(value):
    return client.get(value).text

async def call(request):
    asked = await request.json()
    return JSONResponse({"text": {"read": read, "fetch": fetch}[asked["tool"]](asked["value"])})

listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/call", call, methods=["POST"])])
uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off")).run(sockets=[listener])
"""


def _http(tool: str, argument: str) -> Peer:
    import httpx2

    process = subprocess.Popen([sys.executable, "-c", _HTTP_SERVER], stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line.strip().isdigit():
            raise Failed("bench.peer", "the tool's HTTP server did not start")
        with httpx2.Client(trust_env=False) as client:
            call = _caller(client, f"http://127.0.0.1:{int(line)}/call", {"tool": tool, "value": argument})
            samples = [call() for _ in range(_WARM + _PEER_CALLS)][_WARM:]
    finally:
        process.terminate()
        process.communicate()
    return Peer(f"a tool behind HTTP on loopback (Starlette, httpx): {tool}", "ms", samples)


def _caller(client: Any, address: str, body: dict[str, str]) -> Callable[[], float]:
    text = json.dumps(body)

    def call() -> float:
        began = time.perf_counter()
        answer = client.post(address, content=text, headers={"Content-Type": "application/json"})
        taken = (time.perf_counter() - began) * 1000
        if len(answer.json()["text"]) != SIZE:
            raise Failed("bench.peer", f"the HTTP tool answered {answer.status_code}")
        return taken

    return call
