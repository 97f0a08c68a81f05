"""Where benchmarks work: temporary homes on a real disk, and systems with agents on them.

Homes share one cache of compiled code, so that the stock agent is compiled once. A file system in memory would make
every promise of durability free, so homes are not made in the folder for temporary files where that is one; `TMPDIR`
names another one.
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loket.app import Loket, running
from loket.contracts import Ending, Failed, Json, Limits, Principal, Provider, RunRequest, RunStatus
from loket.home import Home
from loket.ids import new_id
from loket.installed import LOCAL_PUBLISHER

CALLS = 100_000
"""Calls that a run of a benchmark's agent may make."""
LIMITS = Limits(cpu_ms=600_000, calls=CALLS)

_MANIFEST = """\
id = "{id}"
version = "1.0.0"
kind = "agent"
summary = "The stock agent under another name, for a benchmark"

{asked}
[limits]
cpu_ms = {cpu_ms}
calls = {calls}
"""
_ASKED = '[[capability]]\nname = "{name}"\nreason = "a benchmark"\n'


@dataclass(frozen=True, slots=True)
class Place:
    """A temporary directory with homes that share a cache."""

    root: Path

    def home(self, name: str) -> Home:
        """A new home, or that of the same name."""
        home = Home(self.root / name)
        cache = self.root / "cache"
        cache.mkdir(exist_ok=True)
        home.root.mkdir(exist_ok=True)
        if not home.cache.exists():
            home.cache.symlink_to(cache, target_is_directory=True)
        return home


@contextlib.contextmanager
def working_place() -> Iterator[Place]:
    """A place that is removed at the end."""
    lasting = Path("/var/tmp")  # noqa: S108 - a fresh directory of a random name in it
    parent = lasting if "TMPDIR" not in os.environ and os.access(lasting, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="loket-bench-", dir=parent, ignore_cleanup_errors=True) as root:
        yield Place(Path(root))


@contextlib.asynccontextmanager
async def system_at(
    home: Home, model: Provider, agents: int, *, now: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Loket, list[str]]]:
    """Loket on a home with this model, and so many copies of the stock agent with all its grants; their names."""
    async with running(home, llm=model, now=now) as system:
        names = [f"worker-{number}" for number in range(agents)]
        for name in names:
            await _install(system, name)
        yield system, names


async def _install(system: Loket, name: str) -> None:
    asked = [want.name for want in system.installed.module("main")[1].manifest.capabilities]
    folder = await asyncio.to_thread(_write, system.home.root / "sources" / name, asked)
    await system.installed.install(folder, LOCAL_PUBLISHER, asked, "a benchmark")


def _write(folder: Path, asked: Sequence[str]) -> Path:
    """Write an agent's folder; it has no component of its own, so it runs on the stock agent's."""
    folder.mkdir(parents=True)
    wants = "\n".join(_ASKED.format(name=capability) for capability in asked)
    text = _MANIFEST.format(id=folder.name, asked=wants, cpu_ms=LIMITS.cpu_ms, calls=LIMITS.calls)
    (folder / "loket.toml").write_text(text, encoding="utf-8")
    return folder


async def operate(system: Loket, agent: str, operation: str, args: dict[str, Json]) -> str:
    """Have an agent do one of its operations; the run's id once it is done. Raises `Failed` where it did not work."""
    ref, _package = system.installed.module(agent)
    run, principal = new_id(system.now()), Principal("agent", agent)
    request = RunRequest(run, run, agent, principal, ref, run, operation, args, ("owner",), system.now())
    await system.engine.submit(request)
    check(await system.finished(run))
    return run


def check(ending: Ending) -> None:
    """Raise `Failed` for a run that did not end well: its time means nothing."""
    if ending.status is not RunStatus.DONE:
        error = ending.error or {}
        raise Failed("bench.run", f"a run ended as {ending.status.value}: {error.get('message')}", error.get("remedy"))
