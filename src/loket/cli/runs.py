"""`loket runs`: what was done, and the proof of it."""

from typing import Annotated, Any

import typer

from loket.cli import client, show

app = typer.Typer(help="What agents did: list, show, replay, verify, stop, settle.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or the start of it.")]


@app.command("list", epilog="Example: loket runs list --agent main --limit 5")
def list_(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    limit: Annotated[int, typer.Option(help="How many, newest first.")] = 20,
    status: Annotated[str | None, typer.Option(help="Only with this status (done, failed, limit, ...).")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """List runs, newest first."""
    result = client.perform("runs.list", agent=agent, limit=limit, status=status)
    if json_:
        show.as_json(result)
        return
    rows = [
        [r["id"], show.when(r["accepted"]), r["agent"], r["status"], r["calls"], r["tokens"], r["operation"]]
        for r in result["runs"]
    ]
    show.table(["run", "accepted", "agent", "status", "calls", "tokens", "operation"], rows, "no runs yet")


@app.command(epilog="Example: loket runs show 1hx7")
def show_(run: RunId, json_: show.JsonFlag = False) -> None:
    """Show a run with each of its journal rows."""
    result = client.perform("runs.show", run=run)
    if json_:
        show.as_json(result)
        return
    names = ("id", "agent", "conversation", "status", "digest", "calls", "tokens", "money", "answer", "error")
    show.table(["", ""], show.fields(result, *names), "nothing")
    show.say()
    rows = [
        [r["seq"], r["kind"], r.get("capability", ""), r.get("decision", ""), ",".join(r.get("rules", [])), _said(r)]
        for r in result["rows"]
    ]
    show.table(["row", "kind", "capability", "decision", "rules", "value"], rows, "no rows")


app.registered_commands[-1].name = "show"


def _said(row: dict[str, Any]) -> str:
    import json

    text = json.dumps(row["value"], ensure_ascii=False)
    return text if len(text) <= 300 else text[:300] + " ..."  # noqa: PLR2004 - a line's worth


@app.command(epilog="Example: loket runs replay 1hx7 --json")
def replay(run: RunId, json_: show.JsonFlag = False) -> None:
    """Run the module again on the run's journal: does it make the same calls and give the same answer?"""
    result = client.perform("runs.replay", run=run)
    if json_:
        show.as_json(result)
    elif result["ok"]:
        show.say(f"{result['run']}: the same {result['calls']} calls and the same answer")
    else:
        show.say(f"{result['run']}: {result['reason']}")
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


@app.command(epilog="Example: loket runs verify; echo $?")
def verify(
    run: Annotated[str | None, typer.Argument(metavar="[ID]", help="One run; all finished ones if left out.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Check the journal's chain and replay runs; exit 0 only if everything verified."""
    with show.progress("Replaying", quiet=json_) as on_event:
        result = client.perform("runs.verify", on_event, run=run)
    if json_:
        show.as_json(result)
    else:
        show.say(f"verified {result['verified']}, failed {result['failed']}")
        for failure in result["failures"]:
            show.say(f"  {failure['run']}: {failure['reason']}")
        for fault in result["journal"]["faults"]:
            show.say(f"  journal: {fault['reason']}")
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


@app.command()
def stop(run: RunId, json_: show.JsonFlag = False) -> None:
    """End an unfinished run."""
    result = client.perform("runs.stop", run=run)
    show.as_json(result) if json_ else show.say(f"{result['run']} is {result['status']}")


@app.command()
def settle(
    run: RunId,
    happened: Annotated[bool, typer.Option("--happened/--not", help="Whether the effect happened.")],
    json_: show.JsonFlag = False,
) -> None:
    """Say whether an effect that a crash interrupted did happen; the run goes on."""
    result = client.perform("runs.settle", run=run, happened=happened)
    show.as_json(result) if json_ else show.say(f"{result['run']} goes on")
