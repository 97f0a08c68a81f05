"""`loket brain AGENT search|add|correct|forget|history|export`."""

from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import Agent
from loket.contracts import BadInput

_ACTIONS = ("search", "add", "correct", "forget", "history", "export")


def brain(
    agent: Agent,
    action: Annotated[
        str,
        typer.Argument(
            help="search QUERY, add TEXT, correct ID TEXT, forget ID, history ID, export",
            autocompletion=lambda: _ACTIONS,
        ),
    ],
    words: Annotated[list[str] | None, typer.Argument(help="What the action needs.")] = None,
    limit: Annotated[int, typer.Option(help="search: how many.")] = 10,
    kind: Annotated[str, typer.Option(help="add: episode, fact, correction, lesson or procedure.")] = "fact",
    subject: Annotated[str | None, typer.Option(help="add: whom or what it is about.")] = None,
    key: Annotated[str | None, typer.Option(help="add: which property of the subject.")] = None,
    as_of: Annotated[str | None, typer.Option(help="search: what was believed then (2026-11-21T12:00:00Z).")] = None,
    history: Annotated[bool, typer.Option("--history", help="search: superseded memories as well.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """What an agent remembers: search, add, correct, forget, history, export (as JSON)."""
    given = words or []
    if action == "search":
        found = client.perform(
            "brain.search", agent=agent, query=" ".join(given), limit=limit, as_of=as_of, history=history
        )
        _show_memories(found, as_object=json_)
    elif action == "history":
        _show_memories(client.perform("brain.history", agent=agent, id=_number(given, action)), as_object=json_)
    elif action == "export":
        show.as_json(client.perform("brain.export", agent=agent))
    else:
        result, sentence = _change(agent, action, given, kind, subject, key)
        show.as_json(result) if json_ else show.say(sentence)


def _change(
    agent: str, action: str, given: list[str], kind: str, subject: str | None, key: str | None
) -> tuple[dict[str, Any], str]:
    """Do it; the answer, and a sentence about it."""
    if action == "add":
        text = " ".join(given)
        added = client.perform("brain.add", agent=agent, text=text, kind=kind, subject=subject, key=key)
        return added, f"{agent} remembers it as memory {show.word(added['ids'])}."
    if action == "correct":
        fixed = client.perform("brain.correct", agent=agent, id=_number(given, action), text=" ".join(given[1:]))
        return fixed, f"Memory {fixed['id']} takes the place of memory {fixed['replaced']}, which stays in the history."
    if action == "forget":
        gone = client.perform("brain.forget", agent=agent, id=_number(given, action))
        return gone, f"{agent} has forgotten {_memories(gone['forgotten'])}."
    raise BadInput("brain.action", f"there is no action {action!r}", f"one of {', '.join(_ACTIONS)}")


def _memories(ids: list[int]) -> str:
    return f"{'memory' if len(ids) == 1 else 'memories'} {show.word(ids)}"


def _number(given: list[str], action: str) -> int:
    if not given or not given[0].isdigit():
        raise BadInput("brain.id", f"{action} needs the id of a memory", f"loket brain AGENT {action} 7")
    return int(given[0])


def _show_memories(found: dict[str, list[dict[str, Any]]], *, as_object: bool) -> None:
    if as_object:
        show.as_json(found)
        return
    rows = [
        [
            m["id"],
            f"{m['score']:.3g}" if m.get("score") else "",
            m["kind"],
            m.get("subject"),
            m["text"],
            show.when(m["created"]),
            "superseded" if m.get("closed") else "",
        ]
        for m in found["memories"]
    ]
    columns = ["id", "score", "kind", "subject", "text", "created", ""]
    show.table(columns, rows, "nothing is remembered about that", whole=("id", "score"), spare=("kind", "created"))
