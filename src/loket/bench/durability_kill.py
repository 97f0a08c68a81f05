"""A server in a process of its own that is killed at random points, over and over on one home.

Now and then it is stopped in an orderly way instead, in the middle of work too: that may lose as little as a kill.
"""

import asyncio
import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loket.bench.durability_check import Found, examine
from loket.bench.durability_work import Gone, Ledger, Message, furnish, scripted, talk
from loket.bench.place import Place
from loket.contracts import Failed
from loket.home import Home
from loket.testing.model_server import ModelServer

_START_S = 120.0
_STOP_S = 30.0
_ANSWER_S = 120.0
_MOST_S = 1.2
"""Seconds of work, at the most, before the server is killed."""
_IN_START = 0.15
"""Share of the kills that come while the server starts."""
_STOPPED = float(os.environ.get("STOPSHARE", "0.1"))
"""Orderly stops for each kill, beside the kills; each takes some seconds."""


class Victim:
    """`loket up` on a home. Its port is known once it is ready."""

    def __init__(self, home: Home, bytecode: Path) -> None:
        self._home = home
        self._log = home.root / "server.log"
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        places = {"LOKET_HOME": str(home.root), "LOKET_PORT": "0", "PYTHONPYCACHEPREFIX": str(bytecode)}
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "loket.cli.main", "up"],
                env={**kept, **places},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.port = 0

    async def ready(self, within_s: float = _START_S) -> bool:
        """Wait, at most so long, until messages are accepted. Raises `Failed` where the server ends by itself."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            said = self._home.running()
            if said is not None and said["pid"] == self._process.pid:
                self.port = int(said["port"])
                return True
            if self._process.poll() is not None:
                said_last = self._log.read_text(errors="replace")[-500:]
                raise Failed("bench.server", f"`loket up` ended by itself with {self._process.returncode}: {said_last}")
            await asyncio.sleep(0.02)
        return False

    def kill(self) -> None:
        """SIGKILL: nothing is tidied up."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that does not end it."""
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()


class HttpDoor:
    """The endpoint that the command line uses."""

    def __init__(self, home: Home, port: int) -> None:
        self._token = home.secret(home.token)
        self._port = port

    async def send(self, ledger: Ledger, message: Message, heard: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()

        def on_event(event: dict[str, Any]) -> None:
            if event["type"] == "accepted":
                ledger.acknowledged(message, event["run"])
                loop.call_soon_threadsafe(heard.set)
            elif event["type"] == "result":
                ledger.answered(message, event["value"]["answer"])
            elif event["type"] == "error":
                ledger.broken.append(f"message {message.mark} was answered with {event['code']}: {event['message']}")

        try:
            await asyncio.to_thread(self._stream, message, on_event)
        except (OSError, http.client.HTTPException, ValueError):  # half a line is no JSON
            raise Gone from None

    def _stream(self, message: Message, on_event: Callable[[dict[str, Any]], None]) -> None:
        body = {"agent": message.agent, "text": message.text, "conversation": message.conversation}
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            told = json.dumps({**body, "message": message.mark}).encode()
            connection.request("POST", "/v1/operations/ask", told, headers)
            with connection.getresponse() as response:
                for line in response:
                    on_event(json.loads(line))


async def kills(place: Place, count: int, seed: int, progress: Callable[[int], None]) -> Found:
    """Kill a server so many times in mid-work, let the last one finish everything, and examine the home."""
    home, ledger = place.home("killed"), Ledger(f"{seed}/kills")
    chance = random.Random(f"{seed}/times")  # noqa: S311 - a schedule that its seed repeats
    with _model() as url:
        await furnish(home, url)
        for number in range(count):
            while chance.random() < _STOPPED:
                await _stopped(home, place, ledger, chance.uniform(0.01, _MOST_S))
            await _round(home, place, ledger, chance)
            progress(number + 1)
        victim = Victim(home, place.root / "bytecode")
        try:
            if not await victim.ready():
                raise Failed("bench.server", f"`loket up` was not ready within {_START_S:g} s")
            await _finish(ledger, HttpDoor(home, victim.port))
        finally:
            await asyncio.to_thread(victim.stop)
    return await examine(home, ledger)


@contextlib.contextmanager
def _model() -> Iterator[str]:
    with ModelServer(scripted, models=("scripted",)) as model:
        yield model.url


async def _round(home: Home, place: Place, ledger: Ledger, chance: random.Random) -> None:
    """One life of the server: it is killed while it starts, or while it works."""
    in_start, after_s = chance.random() < _IN_START, chance.uniform(0.01, _MOST_S)
    victim = Victim(home, place.root / "bytecode")
    try:
        if not await victim.ready(after_s if in_start else _START_S):
            return
        talking = asyncio.create_task(talk(ledger, HttpDoor(home, victim.port), more=True))
        await asyncio.sleep(after_s)
        victim.kill()
        await talking
    finally:
        victim.kill()


async def _stopped(home: Home, place: Place, ledger: Ledger, after_s: float) -> None:
    """One life of the server that ends with SIGTERM in mid-work."""
    victim = Victim(home, place.root / "bytecode")
    try:
        await victim.ready()
        talking = asyncio.create_task(talk(ledger, HttpDoor(home, victim.port), more=True))
        await asyncio.sleep(after_s)
        await asyncio.to_thread(victim.stop)
        await talking
    finally:
        victim.kill()


async def _finish(ledger: Ledger, door: HttpDoor) -> None:
    """Send again what has no answer, until everything has one."""
    await talk(ledger, door, more=False)
    left = [message.mark for message in ledger.messages if message.answer is None]
    ledger.broken += [f"message {mark} was never answered" for mark in left]
