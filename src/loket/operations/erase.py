"""Erasure: destroy for good what runs said, and all that carries it."""

import asyncio
from collections.abc import Callable, Collection
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, RowKind
from loket.erasure import Done
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation

_DAY_S = 86_400


@operation("erase")
async def erase(
    system: Loket,
    emit: Emit,
    *,
    runs: list[str] | None = None,
    agent: str | None = None,
    memory: int | None = None,
    sender: str | None = None,
    older_than_days: float | None = None,
    only: bool = False,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Erase runs, the source of an agent's memory, all of a sender, or all that is older than so many days.

    Answers `runs` (named), `carried` (others that got to know it; none with `only`), `again`: those of both that were
    erased before (nothing of theirs is left but what a restore brought back), `things` erased in the stores,
    `memories` (ids) whose runs the journal does not know, `left`: files that the owner changed since, which stay, and
    `unfinished`: runs that got to know it meanwhile, to be stopped and erased. With `dry_run` nothing is changed.
    """
    ways = {"runs": runs, "memory": memory, "sender": sender, "older_than_days": older_than_days}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) != 1:
        raise BadInput(
            "erase.what", "one of --run, --memory, --sender and --older-than says what to erase", "loket erase --help"
        )
    named = await asyncio.to_thread(_named, system, given[0], ways[given[0]], agent)
    progress = _progress(emit)
    doomed = await asyncio.to_thread(system.eraser.plan, named, only=only, progress=progress)
    loose = await asyncio.to_thread(_loose, system, agent, memory) if memory is not None else []
    again = await asyncio.to_thread(_erased, system, doomed.runs)
    done = Done(doomed.runs, 0, (), ())
    if not dry_run and loose:
        await asyncio.to_thread(_erase_loose, system, agent, loose)
    if not dry_run and doomed.runs:
        done = await asyncio.to_thread(system.eraser.erase, doomed, given[0])
    return {
        "runs": sorted(doomed.named),
        "carried": sorted(done.runs - doomed.named),
        "again": again,
        "things": done.things + (0 if dry_run else len(loose)),
        "memories": loose,
        "left": list(done.left),
        "unfinished": list(done.unfinished),
        "dry_run": dry_run,
    }


def _erased(system: Loket, runs: Collection[str]) -> list[str]:
    return sorted(run for run in runs if system.database.is_erased(run))


def _loose(system: Loket, agent: str | None, memory: int) -> list[int]:
    """A memory and its history, where the journal does not know the runs: after a restore it may be older than they."""
    known = system.database.agents_of_runs()
    sources = system.brain.sources(system.installed.module(agent or "")[0].id, memory)
    return [identity for identity, run in sources.items() if run not in known]


def _erase_loose(system: Loket, agent: str | None, memories: list[int]) -> None:
    facts = {"what": "erase.memories", "principal": "owner", "agent": agent, "memories": memories}
    system.journal.append("", 0, RowKind.NOTE, facts, "{}")
    system.journal.sync()
    system.brain.erase_memories(system.installed.module(agent or "")[0].id, memories)


def _progress(emit: Emit) -> Callable[[int], None]:
    loop = asyncio.get_running_loop()

    def tell(rows: int) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": rows, "total": None})

    return tell


def _named(system: Loket, way: str, value: Any, agent: str | None) -> list[str]:
    """The runs that the owner means. Raises `BadInput`, and `Refusal` for a memory that is not there."""
    if way == "runs":
        return [run_id(system, run) for run in value]
    if way == "memory":
        if agent is None:
            raise BadInput("erase.agent", "a memory belongs to an agent, and none is named", "--memory main:7")
        known = system.database.agents_of_runs()
        sources = system.brain.sources(system.installed.module(agent)[0].id, value)
        return sorted({run for run in sources.values() if run in known})
    if way == "sender":
        return system.database.runs_of_sender(value)
    if value < 0:
        raise BadInput("erase.older", f"older_than_days is {value}, and has to be at least 0", "--older-than 90d")
    return system.database.accepted_before(system.now() - value * _DAY_S, agent)
