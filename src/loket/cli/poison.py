"""`loket trace` and `loket quarantine`: what a poisoned source left behind, and taking it back."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from loket.cli import client, show
from loket.contracts import BadInput

_SHOWN = 60
"""Characters of a memory that stand in a table."""
_MOST = 20
"""Runs that are shown, the newest."""
_WHY = {"derived": "derived from it", "exposed": "only exposed to it"}
_STORES = {
    "brain": "memory",
    "kv": "value",
    "fs": "file",
    "plan": "plan",
    "message": "subscription",
    "schedule": "schedule",
}

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="host:example.org, capability:net.fetch, agent:NAME, sender:CHANNEL:NAME, run:ID; * is any text.",
    ),
]


class _Sources(TyperGroup):
    """`loket quarantine SOURCE` is `loket quarantine take SOURCE`: a source has a colon, and no command has."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if any(":" in word for word in args) and not set(args) & self.commands.keys():
            args = ["take", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_Sources,
    help="Take back what a poisoned source left: take SOURCE (or just SOURCE), list, restore ID.",
    no_args_is_help=True,
)


def add_to(parent: typer.Typer) -> None:
    """Add the commands."""
    parent.command(epilog="Example: loket trace host:example.org")(trace)
    parent.add_typer(app, name="quarantine")


def trace(source: Source, json_: show.JsonFlag = False) -> None:
    """Show everything derived from a source and, apart from that, everything exposed to it.

    Derived: made of what it said, as far as anybody can know. Exposed: written by a run that had seen it by then.
    """
    with show.progress("Reading the journal", quiet=json_) as on_event:
        found = client.perform("trace", on_event, source=source)
    if json_:
        show.as_json(found)
        return
    for why in ("derived", "exposed"):
        show.say(f"{why.capitalize()}:")
        _things([thing for thing in found["things"] if thing["why"] == why])
        _runs([run for run in found["runs"] if run["why"] == why])
        _sent([sent for sent in found["sent"] if sent["why"] == why])
        show.say()
    _around(found)
    if found["held"]:
        show.say(f"{found['held']} thing(s) of it are set aside already: loket quarantine list")


@app.command(epilog="Example: loket quarantine take host:example.org --dry-run")
def take(
    source: Source,
    derived_only: Annotated[bool, typer.Option("--derived-only", help="Leave what was only exposed to it.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it would take.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Set aside what a source left in the stores, and stop the runs that have to do with it.

    Agents do not find it any more; `loket quarantine restore ID` gives it back.
    """
    with show.progress("Reading the journal", quiet=json_) as on_event:
        plan = client.perform("quarantine", on_event, source=source, derived_only=derived_only, dry_run=True)
    if dry_run or not (plan["taken"] or plan["stopped"]):
        _report(plan, json_=json_)
        return
    if not yes:
        _ask(plan, json_=json_)
    with show.progress("Setting it aside", quiet=json_) as on_event:
        result = client.perform("quarantine", on_event, source=source, derived_only=derived_only)
    _report(result, json_=json_)


@app.command("list", epilog="Example: loket quarantine list --json")
def list_(
    identity: Annotated[str | None, typer.Argument(metavar="[ID]", help="Only what was set aside together.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """List what is set aside, the newest first."""
    result = client.perform("quarantine.list", id=identity)
    if json_:
        show.as_json(result)
        return
    rows = [
        [one["id"], show.when(one["at"]), one["source"], one["agent"], _STORES[one["store"]], one["name"], one["why"]]
        for one in result["held"]
    ]
    columns = ["id", "since", "source", "agent", "kind", "name", "why"]
    show.table(columns, rows, "nothing is set aside", whole=("id",), spare=("since", "why"))


@app.command(epilog="Example: loket quarantine restore 1hx7...")
def restore(
    identity: Annotated[str, typer.Argument(metavar="ID", help="As `loket quarantine list` shows it.")],
    json_: show.JsonFlag = False,
) -> None:
    """Give back what was set aside together. What was written under a name since is not overwritten."""
    result = client.perform("quarantine.restore", id=identity)
    if json_:
        show.as_json(result)
        return
    show.say(f"Given back: {_counted(result['restored'])}")
    for one in result["left"]:
        show.say(f"  still set aside: {_STORES[one['store']]} {one['name']} of {one['agent']}: {one['reason']}")


def _ask(plan: Mapping[str, Any], *, json_: bool) -> None:
    if json_:
        raise BadInput("quarantine.sure", "with --json nobody can be asked whether to go on", "add --yes")
    _report(plan, json_=False)
    typer.confirm("Set it aside?", abort=True)


def _report(result: Mapping[str, Any], *, json_: bool) -> None:
    if json_:
        show.as_json(result)
        return
    if not result["taken"] and not result["stopped"]:
        show.say("Nothing is left to set aside.")
    would = "Would set" if result["dry_run"] else "Set"
    if result["taken"]:
        for why in ("derived", "exposed"):
            taken = [thing for thing in result["taken"] if thing["why"] == why]
            if taken:
                show.say(f"{would} aside, {_WHY[why]}: {_counted(taken)}")
                _things(taken)
    if result["stopped"]:
        show.say(f"{'Would stop' if result['dry_run'] else 'Stopped'} {len(result['stopped'])} run(s)")
    for thing in result["left"]:
        what = f"{_STORES[thing['store']]} {thing['name']} of {thing['agent']} ({thing['why']})"
        show.say(f"  left: {what}: {thing['left']}")
    if result["sent"]:
        show.say("Cannot be taken back:")
        _sent(result["sent"])
    _around(result)
    if result["id"] is not None:
        show.say(f"To give it back: loket quarantine restore {result['id']}")


def _counted(things: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(_STORES[thing["store"]] for thing in things)
    return ", ".join(f"{number} x {kind}" for kind, number in counts.items()) or "nothing"


def _things(things: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        [thing["agent"], _STORES[thing["store"]], thing["name"], thing.get("about", "")[:_SHOWN], thing["run"]]
        for thing in things
    ]
    show.table(["agent", "kind", "name", "says", "by run"], rows, "  nothing in the stores", spare=("by run",))


def _runs(runs: Sequence[Mapping[str, Any]]) -> None:
    if not runs:
        return
    rows = [
        [run["run"], run["agent"], "ended" if run["ended"] else "goes on", run["parent"] or ""] for run in runs[-_MOST:]
    ]
    show.table(["run", "agent", "status", "started by"], rows, "", whole=("run",))
    if len(runs) > _MOST:
        show.say(f"  and {len(runs) - _MOST} earlier run(s); --json has all")


def _sent(sent: Sequence[Mapping[str, Any]]) -> None:
    for one in sent:
        show.say(f"  sent or done for good: {one['capability']} x {one['calls']} by {one['agent']} in run {one['run']}")


def _around(found: Mapping[str, Any]) -> None:
    for one in found["rules"]:
        show.say(f"  a rule of {one['agent']} was drawn from such a run (take it out yourself): {one['rule']}")
    if found["unreadable"]:
        show.say(f"  {found['unreadable']} erased run(s) cannot be looked into")
