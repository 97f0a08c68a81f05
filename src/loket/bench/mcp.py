"""The rows about `loket mcp`: how many calls a second one connection gets through, and how soon it is ready."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from loket.bench.place import Place
from loket.bench.rows import Peer, Taken
from loket.bench.server import environment, loket, serving
from loket.contracts import Failed

_WINDOW = 500
"""Calls of one sample: they are written as fast as they are taken, and the time ends with the last answer."""

_CLIENT = "bench"
_GREETING = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}
_SDK = """
from mcp.server import MCPServer
server = MCPServer("bench", log_level="WARNING")
@server.tool()
def kv_get(key: str) -> dict:
    return {"found": False}
server.run()
"""


def calls(place: Place, n: int) -> Taken:
    """`n` calls of kv.get at one connection, granted and journaled, in windows of 500 on their way together."""
    home = place.home("mcp")
    given = environment(place, home)
    with serving(home, given):
        _granted(given)
        with _speaking([*loket(), "mcp", "--client", _CLIENT], given) as wire:
            wire.greet()
            wire.window(50)
            rates = [wire.window(_WINDOW) for _ in range(max(1, n // _WINDOW))]
            single = [wire.window(1) for _ in range(max(1, n // 20))]
    with _speaking([sys.executable, "-c", _SDK], given) as wire:
        wire.greet()
        wire.window(50)
        sdk = [wire.window(_WINDOW) for _ in range(max(1, n // _WINDOW))]
    peers = (
        Peer("the same, each call after the answer to the one before", "calls/s", single, rate=True),
        Peer(
            "a server of the official SDK with a tool that does nothing, likewise in windows", "calls/s", sdk, rate=True
        ),
    )
    return Taken(rates, peers, n)


def ready(place: Place, n: int) -> Taken:
    """`n` starts of `loket mcp` until it has listed its tools, through a running server; beside it, without one."""
    home = place.home("mcp-ready")
    given = environment(place, home)
    with serving(home, given):
        _granted(given)
        through = [_start(given) for _ in range(n)]
    alone = [_start(given) for _ in range(n)]
    return Taken(through, (Peer("the same, where no server runs: it opens the home itself", "s", alone),))


def _start(given: Mapping[str, str]) -> float:
    started = time.perf_counter()
    with _speaking([*loket(), "mcp", "--client", _CLIENT], given) as wire:
        wire.greet()
        wire.ask("tools/list")
        return time.perf_counter() - started


def _granted(given: Mapping[str, str]) -> None:
    words = [*loket(), "grants", "allow", f"client:{_CLIENT}", "kv.get"]
    done = subprocess.run(words, env=dict(given), capture_output=True, check=False)
    if done.returncode != 0:
        raise Failed("bench.command", f"the grant failed: {done.stderr.decode(errors='replace')[-300:]}")


class _Wire:
    """A process that speaks the protocol on its standard input and output."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process
        self._number = 0

    def greet(self) -> None:
        """The handshake of revision 2025-11-25."""
        self.ask("initialize", **_GREETING)
        self._write({"method": "notifications/initialized"})

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """One request; its answer. Raises `Failed` where there is none."""
        self._number += 1
        self._write({"id": self._number, "method": method, "params": params})
        while (message := self._read()).get("id") != self._number:
            pass
        return message

    def window(self, size: int) -> float:
        """Calls a second of so many that are written without waiting."""
        params = {"name": "kv_get", "arguments": {"key": "a"}}
        started = time.perf_counter()
        numbers = range(self._number + 1, self._number + 1 + size)
        self._number += size
        requests = [{"id": number, "method": "tools/call", "params": params} for number in numbers]
        writing = threading.Thread(target=self._write, args=requests)
        writing.start()
        for _ in numbers:
            answer = self._read()
            if "result" not in answer or answer["result"].get("isError"):
                raise Failed("bench.call", f"a call failed: {json.dumps(answer)[:300]}")
        writing.join()
        return size / (time.perf_counter() - started)

    def _write(self, *messages: Mapping[str, Any]) -> None:
        if self._process.stdin is not None:
            lines = [json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n" for message in messages]
            self._process.stdin.write(b"".join(lines))
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            raise Failed("bench.server", "the process ended before it answered")
        message: dict[str, Any] = json.loads(line)
        return message


@contextlib.contextmanager
def _speaking(words: list[str], given: Mapping[str, str]) -> Iterator[_Wire]:
    process = subprocess.Popen(
        words, env=dict(given), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with process:
        try:
            yield _Wire(process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
