"""`loket erase`: destroy for good what was said."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput

_UNITS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.25}
_SHOWN = 10


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command(epilog="Example: loket erase --run 1hx7 --dry-run")(erase)


def erase(
    run: Annotated[list[str] | None, typer.Option(help="A run's id, or the start of it; may be repeated.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="AGENT:ID", help="A memory, with the runs it came from.")
    ] = None,
    sender: Annotated[str | None, typer.Option(help="All that a sender asked for: sender:CHANNEL:NAME.")] = None,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="Runs older than 12h, 90d, 8w, 2y.")] = None,
    agent: Annotated[str | None, typer.Option(help="With --older-than: only this agent's.")] = None,
    only: Annotated[bool, typer.Option("--only", help="Leave the runs that got to know it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would take.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Erase runs, and whatever carries what they said: memories, values, files, and the runs that read those.

    The journal keeps their rows without the words, and `loket runs verify` still passes. There is no way back.
    """
    args = _what(run, memory, sender, older_than, agent)
    with show.progress("Reading the journal", quiet=json_) as on_event:
        plan = client.perform("erase", on_event, **args, only=only, dry_run=True)
    if dry_run or not (plan["runs"] or plan["carried"] or plan["memories"]):
        _report(plan, json_=json_)
        return
    if not yes:
        _ask(plan, json_=json_)
    result = client.perform("erase", **args, only=only)
    _report(result, json_=json_)


def _what(
    run: list[str] | None, memory: str | None, sender: str | None, older_than: str | None, agent: str | None
) -> dict[str, Any]:
    """The operation's arguments. Raises `BadInput`."""
    args: dict[str, Any] = {"runs": run or None, "sender": sender}
    if memory is not None:
        owner, colon, identity = memory.partition(":")
        if not colon or not identity.isdigit():
            raise BadInput("erase.memory", f"{memory!r} is not AGENT:ID", "--memory main:7")
        args |= {"agent": owner, "memory": int(identity)}
    if older_than is not None:
        args |= {"older_than_days": _days(older_than), "agent": agent}
    elif agent is not None:
        raise BadInput("erase.agent", "--agent goes with --older-than", "loket erase --older-than 90d --agent main")
    return {name: value for name, value in args.items() if value is not None}


def _days(age: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([hdwy])", age)
    if found is None:
        raise BadInput("erase.older", f"{age!r} is no age: a number and h, d, w or y", "--older-than 90d")
    return float(found[1]) * _UNITS[found[2]]


def _ask(plan: dict[str, Any], *, json_: bool) -> None:
    if json_:
        raise BadInput("erase.sure", "with --json nobody can be asked whether to go on", "add --yes")
    _report(plan, json_=False)
    typer.confirm("Erase them for good?", abort=True)


def _report(result: dict[str, Any], *, json_: bool) -> None:
    if json_:
        show.as_json(result)
        return
    runs, carried, memories = result["runs"], result["carried"], result["memories"]
    if not runs and not carried and not memories:
        show.say("Nothing fits: there is nothing to erase.")
        return
    if len(result["again"]) == len(runs) + len(carried) and not memories and not result["things"]:
        were = f"{len(result['again'])} run(s) were erased before: {_listed(result['again'])}"
        show.say(f"{'Nothing is' if result['dry_run'] else 'Nothing was'} left to erase: {were}")
        return
    verb = "Would erase" if result["dry_run"] else "Erased"
    if runs:
        show.say(f"{verb} {len(runs)} run(s): {_listed(runs)}")
    if memories:
        show.say(f"{verb} {len(memories)} memories of runs that the journal does not know: {_listed(memories)}")
    if carried:
        show.say(f"  and {len(carried)} that got to know what was said: {_listed(carried)}")
    if not result["dry_run"]:
        show.say(f"  with {result['things']} memories, values and files; `loket runs verify` still passes")
    if result["left"]:
        show.say(f"  left, because you changed them since (delete them yourself): {_listed(result['left'])}")
    for run in result["unfinished"]:
        show.say(f"  run {run} got to know it and works still: loket runs stop {run}, then loket erase --run {run}")


def _listed(names: Sequence[object]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(show.clean(str(name)) for name in names[:_SHOWN]) + more
