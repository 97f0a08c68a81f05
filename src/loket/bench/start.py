"""Rows about a start: how soon `loket up` answers a first message, what it keeps in memory, and with 1,000 agents."""

import asyncio
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

from loket.bench import words
from loket.bench.place import Place, system_at
from loket.bench.rows import Peer, Taken
from loket.bench.server import environment, serving
from loket.bench.turns import ask_over_http
from loket.contracts import Call, Failed, Principal
from loket.home import Home
from loket.providers.brain import BrainProvider
from loket.testing.models import InstantModel

_NO_MODEL = "[models]\nchain = []\n"
_KB = 1024
_ROWS = 1_000
"""Memories of each of many agents."""

_ASKED = 50
"""How many of many agents get a message."""

_ITEMS = 50
_SEED = 1987


def start(place: Place, n: int) -> Taken:
    """`n` starts of `loket up` on a home that was started before, each with one message, in seconds to its answer."""
    home = _prepared(place, "start")
    _first_answer(place, home, "Hello")  # the bytecode is compiled then, as it is in an installation
    took, kept = [], []
    for number in range(n):
        seconds, megabytes = _first_answer(place, home, f"Hello for the {number}th time")
        took.append(seconds)
        kept.append(megabytes)
    return Taken(took, (Peer("resident memory after the answer", "MB", kept),))


def memory(place: Place, n: int) -> Taken:
    """Resident megabytes of `loket up` after its first answer, `n` times."""
    home = _prepared(place, "start-memory")
    found = [_first_answer(place, home, f"Hello {number}") for number in range(n)]
    return Taken([kept for _, kept in found], (Peer("time to that answer", "s", [took for took, _ in found]),))


def many(place: Place, n: int) -> Taken:
    """Milliseconds to the first answer of each of 50 of `n` agents; beside it the start, and the memory."""
    home = _prepared(place, "many")
    _first_answer(place, home, "Hello")  # the bytecode is compiled then, as it is in an installation
    names = asyncio.run(_populate(home, n))
    began = time.perf_counter()
    with serving(home, environment(place, home)) as (process, port):
        ask_over_http(home, port, "Hello")
        started = time.perf_counter() - began
        chosen = random.Random(_SEED).sample(names, min(_ASKED, n))  # noqa: S311 - a choice that can be repeated
        took = [_ask(home, port, name) for name in chosen]
        resident = resident_of(process.pid)
    peers = (
        Peer("start with all of them, to the answer of a first message", "s", [started]),
        Peer("resident memory after these messages", "MB", [resident]),
    )
    return Taken(took, peers)


def _prepared(place: Place, name: str) -> Home:
    """A home without a model, with the stock agent installed and compiled."""
    home = place.home(name)
    home.config.write_text(_NO_MODEL, encoding="utf-8")
    asyncio.run(_install(home))
    return home


async def _install(home: Home) -> None:
    async with system_at(home, InstantModel(lambda _: ""), 0):
        pass


def _first_answer(place: Place, home: Home, text: str) -> tuple[float, float]:
    """Seconds from starting the process to its first answer, and its resident megabytes then."""
    began = time.perf_counter()
    with serving(home, environment(place, home)) as (process, port):
        ask_over_http(home, port, text)
        return time.perf_counter() - began, resident_of(process.pid)


def _ask(home: Home, port: int, agent: str) -> float:
    """Milliseconds of one message to one agent."""
    began = time.perf_counter()
    ask_over_http(home, port, "What do you know about the bicycle?", agent)
    return (time.perf_counter() - began) * 1000


def resident_of(pid: int) -> float:
    """Resident megabytes of a process. Raises `Failed` where nobody says."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * _KB / 1e6
    except OSError:
        pass
    said = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=False)  # noqa: S607
    if not said.stdout.strip().isdigit():
        raise Failed("bench.memory", "this system does not say how much memory a process has")
    return int(said.stdout) * _KB / 1e6


async def _populate(home: Home, n: int) -> list[str]:
    """Install `n` agents and give each a brain of its own with `_ROWS` memories; their names."""
    async with system_at(home, InstantModel(lambda _: ""), n) as (system, names):
        provider = system.brain
        await asyncio.to_thread(_remember, provider, names[0])
    brain = home.brains / f"{names[0]}.db"
    for name in names[1:]:
        shutil.copyfile(brain, home.brains / f"{name}.db")
        os.chmod(home.brains / f"{name}.db", 0o600)  # noqa: PTH101 - the mode that the store gives
    return names


def _remember(provider: BrainProvider, agent: str) -> None:
    texts = list(words.memories(_ROWS))
    for number in range(0, _ROWS, _ITEMS):
        items = [{"text": text} for text in texts[number : number + _ITEMS]]
        args = {"items": items}
        call = Call("bench", number + 1, agent, "c", Principal("owner", ""), "brain.add", args, ("owner",))
        provider.add(call)
