"""Rows about the border of a module: what a call costs, and what a fresh instance costs."""

import asyncio
import itertools
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from loket.app import Loket
from loket.bench.place import LIMITS, Place, operate, system_at
from loket.bench.rows import Peer, Taken
from loket.contracts import Failed, Guest, LoketError, RowKind
from loket.packages.build import build
from loket.packages.javascript_tools import find_node
from loket.sandbox import WasmSandbox
from loket.testing.models import InstantModel

BATCH = 100
"""Calls of one sample."""
RUN = 1_000
"""Calls of one run."""
PROCESSES = 50

_VALUE = {"day": "2026-11-21", "visits": 3}
_ANSWER = json.dumps({"found": True, "value": _VALUE})
_TIMEOUT_S = 60

_JAVASCRIPT = """\
import { call, operation } from "loket_guest";

operation("measure", ({ n }) => {
  for (let index = 0; index < n; index += 1) {
    call("kv.get", { key: "measure" });
  }
  return { n };
});
"""
_MANIFEST = """\
id = "measure"
version = "1.0.0"
kind = "tool"
summary = "What the stock agent's operation `measure` does, in JavaScript"
entry = "module.wasm"
source = "agent.js"
"""


def counter_call(place: Place, n: int) -> Taken:
    """About `n` calls in runs of `RUN`; beside them as many of the same guest on a host that does nothing."""
    return asyncio.run(_counter_call(place, n))


async def _counter_call(place: Place, n: int) -> Taken:
    calls = max(BATCH, min(RUN, n)) + 1
    counted: list[float] = []
    whole: list[float] = []
    floor: list[float] = []
    async with system_at(place.home("counter-call"), InstantModel(lambda _: "ok"), 1, now=steady()) as (system, names):
        system.installed.allow(names[0], "kv.get", {})
        await system.direct(names[0], "kv.set", {"key": "measure", "value": _VALUE})
        guest = system.installed.load(system.installed.module(names[0])[0])
        for _ in range(max(1, n // RUN)):
            floor += await asyncio.to_thread(_floor, guest, calls)
            started = time.perf_counter()
            run = await operate(system, names[0], "measure", {"n": calls})
            whole.append((time.perf_counter() - started) / calls * 1e6)
            counted += await asyncio.to_thread(_journaled, system, run)
    peers = (
        Peer("plain host call: the same guest, a host that returns a constant", "microseconds", floor),
        Peer("the same runs from their start to the durable answer, divided by their calls", "microseconds", whole),
    )
    return Taken(counted, peers, n=len(counted) * BATCH)


def steady() -> Callable[[], float]:
    """A clock for the journal: seconds since the epoch that nobody sets back or forth meanwhile."""
    began = time.time() - time.perf_counter()
    return lambda: began + time.perf_counter()


def _journaled(system: Loket, run: str) -> list[float]:
    """Microseconds a call, batch by batch; the journal itself says when each call was recorded."""
    return _batches([row.at for row in system.journal.rows(run) if row.kind is RowKind.CALL])


def _batches(times: Sequence[float]) -> list[float]:
    """Mean microseconds between two of these times (seconds), batch by batch."""
    return [(after - before) / BATCH * 1e6 for before, after in itertools.pairwise(times[::BATCH])]


class _Constant:
    """A host that answers every call with the same text, and notes when each one came in."""

    live = True
    stopped: LoketError | None = None

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, capability: str, args: str) -> str:  # noqa: ARG002 - the protocol's signature
        self.times.append(time.perf_counter())
        return _ANSWER


def _floor(guest: Guest, calls: int) -> list[float]:
    host = _Constant()
    guest.run(host, "measure", json.dumps({"n": calls}), LIMITS)
    return _batches(host.times)


def fresh_sandbox(place: Place, n: int) -> Taken:
    """`n` fresh instances; beside them at most `PROCESSES` processes of each peer."""
    return asyncio.run(_fresh_sandbox(place, n))


async def _fresh_sandbox(place: Place, n: int) -> Taken:
    async with system_at(place.home("fresh-sandbox"), InstantModel(lambda _: "ok"), 0) as (system, _names):
        guest = system.installed.load(system.installed.module("main")[0])
        await asyncio.to_thread(_answer, guest)
        samples = [await asyncio.to_thread(_answer, guest) for _ in range(n)]
    processes = min(PROCESSES, n)
    python = [sys.executable, "-c", "pass"]
    peers = [Peer("python -c pass", "ms", [_process(python) for _ in range(processes)]), _bubblewrap(processes)]
    return Taken(samples, peers)


def js_sandbox(place: Place, n: int) -> Taken:
    """`n` fresh instances of a guest in JavaScript, built for this; beside them at most `PROCESSES` processes of Node.

    Raises `BadInput` where the tools that build it are missing and cannot be fetched.
    """
    home = place.home("js-sandbox")
    built = build(_javascript_module(home.root / "sources"))
    sandbox = WasmSandbox(home.cache)
    try:
        guest = sandbox.load(built.path, built.digest)
        _answer(guest)
        samples = [_answer(guest) for _ in range(n)]
        floor = _floor(guest, RUN)
    finally:
        sandbox.close()
    node = [*find_node().node, "--eval", "0"]
    processes = [_process(node) for _ in range(min(PROCESSES, n))]
    plain = Peer("plain host call: the same guest, a host that returns a constant", "microseconds", floor)
    return Taken(samples, (Peer("node --eval 0", "ms", processes), plain))


def _javascript_module(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "agent.js").write_text(_JAVASCRIPT, encoding="utf-8")
    (folder / "loket.toml").write_text(_MANIFEST, encoding="utf-8")
    return folder


def _answer(guest: Guest) -> float:
    """Milliseconds from nothing to an answer."""
    started = time.perf_counter()
    segment = guest.run(_Constant(), "measure", '{"n":0}', LIMITS)
    taken = (time.perf_counter() - started) * 1000
    if segment.answer is None:
        raise Failed("bench.guest", f"the guest gave no answer: {segment.ended or segment.refusal}")
    return taken


def _process(command: Sequence[str]) -> float:
    """Milliseconds from starting a process to its end. Raises `CalledProcessError`."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT_S)
    return (time.perf_counter() - started) * 1000


def _bubblewrap(n: int) -> Peer:
    """A process in a sandbox of the operating system, where there is bubblewrap and it is allowed."""
    name = "bwrap --unshare-all true"
    found = shutil.which("bwrap")
    if found is None:
        return Peer(name, reason="bubblewrap (bwrap) is not installed here")
    command = [found, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--unshare-all", "true"]
    try:
        return Peer(name, "ms", [_process(command) for _ in range(n)])
    except subprocess.CalledProcessError as error:
        said = error.stderr.decode(errors="replace").strip()[:200]
        return Peer(name, reason=f"bubblewrap may not run here: {said}")
