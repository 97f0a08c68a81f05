"""Rows about turns of the stock agent: how many a second, and how long one takes inside a running server."""

import asyncio
import contextlib
import http.client
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator

from loket.app import Loket
from loket.bench import words
from loket.bench.place import Place, check, system_at
from loket.bench.rows import Peer, Taken
from loket.contracts import Failed
from loket.gateway.http import Gateway, make_server
from loket.home import Home
from loket.operations import Operations
from loket.store.database import open_database
from loket.testing.models import InstantModel

AGENTS = 4
CONVERSATIONS = 4
"""Of each agent: so many messages are on their way at any time."""
WINDOW = 100
"""Turns of one sample."""
WARM = 10
MOST_S = 12.0
"""Seconds after which no more messages are sent, on a slow machine."""

_REPLY = "Noted. I will think of it when it matters."


def turns(place: Place, n: int) -> Taken:
    """At most `n` turns, by windows of `WINDOW`; beside them the disk alone: one synced transaction after the other."""
    return asyncio.run(_turns(place, n))


async def _turns(place: Place, n: int) -> Taken:
    home, window = place.home("turns"), min(WINDOW, n)
    async with system_at(home, InstantModel(lambda _: _REPLY), AGENTS) as (system, names):
        ended = [time.perf_counter()]
        messages = itertools.takewhile(lambda _: time.perf_counter() < ended[0] + MOST_S, words.messages(n))
        talks = [(name, f"talk-{number}") for name in names for number in range(CONVERSATIONS)]
        await asyncio.gather(*(_talk(system, *talk, messages, ended) for talk in talks))
    rates = [window / (after - before) for before, after in itertools.pairwise(ended[::window])]
    rates = rates or [(len(ended) - 1) / (ended[-1] - ended[0])]
    disk = await asyncio.to_thread(_commits, home, min(n, WINDOW * 3))
    name = "the disk alone: transactions of one row in SQLite, each synced, one after the other"
    return Taken(rates, (Peer(name, "transactions/s", disk, rate=True),), n=len(ended) - 1)


async def _talk(system: Loket, agent: str, conversation: str, messages: Iterator[str], ended: list[float]) -> None:
    """One person who sends the next message when the last one was answered."""
    for text in messages:
        run = await system.send(agent, text, conversation=conversation)
        check(await system.finished(run))
        ended.append(time.perf_counter())


def _commits(home: Home, n: int) -> list[float]:
    """Synced transactions a second, each one a sample."""
    connection = open_database(home.root / "disk.db", migrations=("CREATE TABLE note (text TEXT)",))
    rates = []
    try:
        for number in range(n):
            started = time.perf_counter()
            with connection:
                connection.execute("INSERT INTO note VALUES (?)", (f"{number} {_REPLY}",))
            rates.append(1 / (time.perf_counter() - started))
    finally:
        connection.close()
    return rates


def turn(place: Place, n: int) -> Taken:
    """`n` turns, one after the other, inside a running server; beside them the same through its HTTP endpoint."""
    return asyncio.run(_turn(place, n))


async def _turn(place: Place, n: int) -> Taken:
    home = place.home("turn")
    async with system_at(home, InstantModel(lambda _: _REPLY), 0) as (system, _names), _serving(system, home) as port:
        operations = Operations(system)
        inside: list[float] = []
        outside: list[float] = []
        for number, text in enumerate(words.messages(WARM + n)):
            started = time.perf_counter()
            args = {"agent": "main", "text": text, "conversation": "inside"}
            await operations.perform("ask", args, lambda _event: None)
            within = time.perf_counter()
            await asyncio.to_thread(ask_over_http, home, port, text)
            if number >= WARM:
                inside.append((within - started) * 1000)
                outside.append((time.perf_counter() - within) * 1000)
    return Taken(inside, (Peer("the same through the server's HTTP endpoint, from this process", "ms", outside),))


@contextlib.asynccontextmanager
async def _serving(system: Loket, home: Home) -> AsyncIterator[int]:
    """The system's server on a free port of loopback, which is given."""
    gateway = Gateway(Operations(system).perform, home.secret(home.token), lambda: True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        server = make_server(gateway, port)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield port
        finally:
            server.should_exit = True
            await serving


def ask_over_http(home: Home, port: int, text: str, agent: str = "main") -> None:
    """One message through the endpoint that the command line uses. Raises `Failed` where it is not answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        body = json.dumps({"agent": agent, "text": text, "conversation": "http"}).encode()
        headers = {"Authorization": f"Bearer {home.secret(home.token)}", "Content-Type": "application/json"}
        connection.request("POST", "/v1/operations/ask", body, headers)
        last = json.loads(connection.getresponse().read().splitlines()[-1])
    finally:
        connection.close()
    if last.get("type") != "result":
        raise Failed("bench.answer", f"the server did not answer: {last.get('message', last)}")
