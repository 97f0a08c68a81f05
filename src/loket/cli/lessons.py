"""`loket lessons AGENT [consolidate]` and `loket proposals [AGENT]`, `loket proposals accept|reject ID`."""

from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import Agent
from loket.contracts import BadInput, command

_DECISIONS = ("accept", "reject")

_MOST = (1 << 63) - 1


def add_to(app: typer.Typer) -> None:
    app.command("lessons", epilog="Example: loket lessons main")(lessons)
    app.command("proposals", epilog="Example: loket proposals accept 3")(proposals)


def lessons(
    agent: Agent,
    action: Annotated[
        str | None,
        typer.Argument(metavar="[consolidate]", help="Draw recurring lessons together now, and propose rules."),
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """What an agent has learned from what was refused or failed."""
    if action not in (None, "consolidate"):
        raise BadInput("lessons.action", f"there is no action {action!r}", command("lessons", agent, "consolidate"))
    result = client.perform("lessons.consolidate" if action else "lessons.list", agent=agent)
    if json_:
        show.as_json(result)
    elif action:
        made, proposed = len(result["procedures"]), result["proposed"]
        line = command("proposals", agent) or "loket proposals"
        show.say(f"{made} new or changed procedures, {proposed} new or changed proposals ({line})")
    else:
        _show_lessons(result["lessons"])


def _show_lessons(found: list[dict[str, Any]]) -> None:
    rows = [[m["id"], m["kind"], m.get("subject"), m["text"], show.when(m["created"]), m["source"]] for m in found]
    columns = ["id", "kind", "about", "text", "created", "from"]
    show.table(columns, rows, "no lessons yet", whole=("id",), spare=("about", "created", "from"))


def proposals(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT | accept ID | reject ID]", help="Whose, or what to decide."),
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Rules that an agent's lessons propose; you accept or reject them. Rejecting takes an accepted one back."""
    given = words or []
    if given and given[0] in _DECISIONS:
        _decide(given[0], given[1:], as_object=json_)
        return
    if len(given) > 1:
        raise BadInput("proposals.words", f"{given[1]!r} is one word too many", command("proposals", given[0]))
    result = client.perform("proposals.list", agent=given[0] if given else None)
    if json_:
        show.as_json(result)
        return
    rows = [[p["id"], p["agent"], p["status"], p["line"], p["memories"]] for p in result["proposals"]]
    columns = ["id", "agent", "status", "line", "rests on"]
    show.table(columns, rows, "nothing is proposed", whole=("id", "status"), spare=("rests on",))


def _decide(decision: str, given: list[str], *, as_object: bool) -> None:
    if len(given) != 1 or not given[0].isascii() or not given[0].isdigit() or int(given[0]) > _MOST:
        raise BadInput("proposals.id", f"{decision} needs the id of one proposal", f"loket proposals {decision} 3")
    result = client.perform("proposals.decide", id=int(given[0]), accept=decision == "accept")
    if as_object:
        show.as_json(result)
    elif decision == "accept":
        show.say(f"From the next message on, the rules of {result['agent']} say: {result['line']}")
    else:
        show.say(f"Proposal {result['id']} is rejected; the rules of {result['agent']} do not say it.")
