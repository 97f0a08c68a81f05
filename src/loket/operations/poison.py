"""What a poisoned source left behind, and taking it back. For the owner alone: no capability reaches this."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, RowKind
from loket.ids import new_id
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation
from loket.poison import DERIVED, Footprint, Source, Touched, source_of
from loket.quarantine import Quarantine, Thing, writers

_NOTE_RUNS = 500
"""Runs that one note of the journal lists at most."""
_ROUNDS = 20
"""How often runs are looked for that have come to derive from the source while others were being stopped."""


@operation("trace")
async def trace(system: Loket, emit: Emit, *, source: str) -> dict[str, Any]:
    """Everything derived from a source and, apart from it, everything exposed to it; each says which as `why`.

    `things` in the stores, `runs` (with `ended`), `sent` (what cannot be taken back, counted by run and capability),
    `rules` that were drawn from such runs, `held` (how much of it is set aside already), and how many erased runs are
    `unreadable`, so that nobody can say what they had seen.
    """
    wanted = await asyncio.to_thread(_source, system, source)
    footprint = await asyncio.to_thread(_read, system, wanted, _progress(emit))
    quarantine = quarantine_of(system)
    things = await asyncio.to_thread(quarantine.find, _agents(system), footprint)
    held = await asyncio.to_thread(quarantine.held, _agents(system))
    return {
        "source": wanted.text,
        "things": [asdict(thing) for thing in things],
        "runs": [_run_shown(run) for run in footprint.touched()],
        "sent": _sent(footprint, derived_only=False),
        "rules": _rules(system, footprint),
        "held": sum(wanted.matches(one.source) or one.source == wanted.text for one in held),
        "unreadable": len(footprint.unreadable),
    }


@operation("quarantine")
async def quarantine(
    system: Loket, emit: Emit, *, source: str, derived_only: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Take back what can be: stop runs, set things aside. What is exposed goes as well, unless `derived_only`.

    Answers `id` (None where nothing was set aside), `stopped`, `taken`, `left` (with reasons), `sent` and `rules`, as
    `trace` has them. Safe to repeat; with `dry_run` nothing is changed.
    """
    wanted, progress = await asyncio.to_thread(_source, system, source), _progress(emit)
    place, agents = quarantine_of(system), _agents(system)
    if not dry_run:
        await asyncio.to_thread(place.finish, agents)
    footprint = await asyncio.to_thread(_read, system, wanted, progress)
    stopped = _running(footprint, derived_only=derived_only)
    if not dry_run:
        stopped = await _stop(system, footprint, derived_only=derived_only)
    found = await asyncio.to_thread(place.find, agents, footprint)
    things = [thing for thing in found if thing.why == DERIVED or not derived_only]
    taking = [thing for thing in things if not thing.left]
    identity = new_id(system.now()) if taking or stopped else None
    taken = taking
    if not dry_run and identity is not None:
        await asyncio.to_thread(_note, system, identity, taking, stopped)
        taken = await asyncio.to_thread(_take, place, identity, wanted.text, taking)
    return {
        "id": identity if taken and not dry_run else None,
        "source": wanted.text,
        "stopped": stopped,
        "taken": [asdict(thing) for thing in taken],
        "left": [asdict(thing) for thing in things if thing.left],
        "sent": _sent(footprint, derived_only=derived_only),
        "rules": _rules(system, footprint),
        "unreadable": len(footprint.unreadable),
        "dry_run": dry_run,
    }


@operation("quarantine.list")
async def quarantine_list(system: Loket, _emit: Emit, *, id: str | None = None) -> dict[str, Any]:  # noqa: A002 - the argument's name outside
    """What is set aside, the newest first: all, or under one `id`."""
    held = await asyncio.to_thread(quarantine_of(system).held, _agents(system), id)
    return {"held": [asdict(one) for one in held]}


@operation("quarantine.restore")
async def quarantine_restore(system: Loket, _emit: Emit, *, id: str) -> dict[str, Any]:  # noqa: A002 - the argument's name outside
    """Give back what is set aside under an `id`: `restored`, and `left` with the reason. Raises `BadInput`."""
    place, agents = quarantine_of(system), _agents(system)
    held = await asyncio.to_thread(place.held, agents, id)
    if not held:
        raise BadInput("quarantine.unknown", f"nothing is set aside under {id!r}", "loket quarantine list")
    facts = {"what": "quarantine.restore", "principal": "owner", "id": id, "things": len(held)}
    system.journal.append("", 0, RowKind.NOTE, facts, "{}")
    await asyncio.to_thread(system.journal.sync)
    restored, left = [], []
    for agent in sorted({one.agent for one in held}):
        given, kept = await asyncio.to_thread(place.restore, agent, id)
        restored += [asdict(one) for one in given]
        left += [{**asdict(one), "reason": reason} for one, reason in kept]
    return {"id": id, "restored": restored, "left": left}


def _source(system: Loket, text: str) -> Source:
    """The source that an owner means. Raises `BadInput`, also for a run or an agent that there never was."""
    source = source_of(text)
    kind, _, name = source.text.partition(":")
    if "*" in name:
        return source
    if kind == "run":
        return source_of(f"run:{run_id(system, name)}")
    if kind == "agent" and name not in system.database.agents():
        raise BadInput("trace.source", f"no agent {name!r} has ever run here", "loket agents")
    return source


def quarantine_of(system: Loket) -> Quarantine:
    """The quarantine of a system's stores."""
    return Quarantine(system.brains, system.bus, system.home.files, system.now, system.schedules.store)


def _agents(system: Loket) -> list[str]:
    """The agents that have a file."""
    return sorted(agent for agent in system.database.agents() if system.brains.path(agent).exists())


def _read(system: Loket, source: Source, progress: Callable[[int], None]) -> Footprint:
    footprint = Footprint(source, writers(system.brains, system.home.files))
    footprint.read(system.database, system.journal, progress)
    return footprint


def _running(footprint: Footprint, *, derived_only: bool) -> list[str]:
    return [run.run for run in footprint.touched() if not run.ended and (run.why == DERIVED or not derived_only)]


async def _stop(system: Loket, footprint: Footprint, *, derived_only: bool) -> list[str]:
    """Stop the runs that have to do with the source, and those that they start meanwhile; which were stopped."""
    stopped: list[str] = []
    for _round in range(_ROUNDS):
        running = [run for run in _running(footprint, derived_only=derived_only) if run not in stopped]
        if not running:
            break
        await _stop_all(system, running)
        stopped += running
        await asyncio.to_thread(footprint.read, system.database, system.journal)
    return stopped


async def _stop_all(system: Loket, runs: Sequence[str]) -> None:
    """Stop unfinished runs and wait for their ends. Those that no engine works on end without a step more."""
    active = system.engine.unfinished()
    resting, _unreadable = await asyncio.to_thread(system.database.unfinished_runs, list(active))
    system.engine.resume([one for one in resting if one[0].id in runs and one[0].id not in system.engine.unfinished()])
    ending = [run for run in runs if system.engine.stop(run, "the owner took its source back")]
    for run in ending:
        await system.finished(run)


def _note(system: Loket, identity: str, things: Sequence[Thing], stopped: Sequence[str]) -> None:
    """The journal's notes, before anything is set aside: numbers and ids alone."""
    named = sorted({thing.run for thing in things} | set(stopped))
    counts = dict(sorted(Counter(thing.store for thing in things).items()))
    for start in range(0, len(named), _NOTE_RUNS):
        facts = {
            "what": "quarantine",
            "principal": "owner",
            "id": identity,
            "runs": named[start : start + _NOTE_RUNS],
            "stopped": len(stopped),
            "things": counts,
        }
        system.journal.append("", 0, RowKind.NOTE, facts, "{}")
    system.journal.sync()


def _take(place: Quarantine, identity: str, source: str, things: Sequence[Thing]) -> list[Thing]:
    taken: list[Thing] = []
    for agent in sorted({thing.agent for thing in things}):
        taken += place.take(identity, source, agent, [thing for thing in things if thing.agent == agent])
    return taken


def _run_shown(run: Touched) -> dict[str, Any]:
    return {"run": run.run, "agent": run.agent, "parent": run.parent, "why": run.why, "ended": run.ended}


def _sent(footprint: Footprint, *, derived_only: bool) -> list[dict[str, Any]]:
    """What cannot be taken back, counted by run, capability and how it stands to the source."""
    counted = Counter(
        (one.run, one.agent, one.capability, one.why)
        for one in footprint.gone()
        if one.why == DERIVED or not derived_only
    )
    names = ("run", "agent", "capability", "why")
    return [{**dict(zip(names, key, strict=True)), "calls": number} for key, number in counted.items()]


def _rules(system: Loket, footprint: Footprint) -> list[dict[str, Any]]:
    """Lines of rules that the owner accepted, and that were drawn from runs that have to do with the source."""
    touched = {run.run for run in footprint.touched()}
    found = system.proposals.rules_of()
    return [{"agent": agent, "rule": line} for agent, line, runs in found if touched & set(runs)]


def _progress(emit: Emit) -> Callable[[int], None]:
    loop = asyncio.get_running_loop()

    def tell(rows: int) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": rows, "total": None})

    return tell
