"""`loket runs`: what was done, and the proof of it."""

from typing import Annotated, Any

import typer

from loket.cli import client, journal, show
from loket.cli.arguments import agent_ids
from loket.contracts import BadInput

app = typer.Typer(help="What agents did: list, show, replay, verify, stop, settle.", no_args_is_help=True)

RunId = Annotated[str, typer.Argument(metavar="ID", help="A run's id, or the start of it.")]


@app.command("list", epilog="Example: loket runs list --agent main --limit 5")
def list_(
    agent: Annotated[str | None, typer.Option(help="Only this agent's.", autocompletion=agent_ids)] = None,
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
        [r["id"], show.when(r["accepted"]), _agent(r), _status(r), r["calls"], r["tokens"], r["operation"]]
        for r in result["runs"]
    ]
    columns = ["run", "accepted", "agent", "status", "calls", "tokens", "operation"]
    show.table(columns, rows, "no runs yet", whole=("run", "status"), spare=("tokens", "calls", "operation"))


def _agent(run: dict[str, Any]) -> str:
    """The agent; of what Loket itself does for it (`host:lessons`; `host` where that is erased), also that."""
    by_loket = str(run["principal"]).partition(":")[0] == "host"
    return f"{run['agent']} (lesson)" if by_loket else str(run["agent"])


def _status(run: dict[str, Any]) -> str:
    if "unreadable" in run:
        return f"{run['status']}, unreadable"
    return f"{run['status']}, erased" if run["erased"] else str(run["status"])


@app.command("show", epilog="Example: loket runs show 1hx7 --full")
def show_(
    run: RunId,
    full: Annotated[bool, typer.Option("--full", help="Values as long as they are.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Its trace instead: what took how long, and who decided.")
    ] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Show a run with each of its journal rows, or the trace that it belongs to."""
    if trace:
        found = client.perform("runs.trace", run=run)
        show.as_json(found) if json_ else journal.show_trace(found)
        return
    result = client.perform("runs.show", run=run)
    show.as_json(result) if json_ else journal.show_run(result, full=full)


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
        erased = f", erased {result['erased']}" if result["erased"] else ""
        show.say(f"verified {result['verified']}, failed {result['failed']}{erased}")
        for failure in result["failures"]:
            show.say(f"  {failure['run']}: {failure['reason']}")
        for fault in result["journal"]["faults"]:
            show.say(f"  journal: {fault['reason']}")
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


@app.command(epilog="Example: loket runs stop 1hx7    loket runs stop --all")
def stop(
    run: Annotated[str | None, typer.Argument(metavar="[ID]", help="A run's id, or the start of it.")] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All unfinished runs: every execution token is revoked.")
    ] = False,
    json_: show.JsonFlag = False,
) -> None:
    """End an unfinished run, or all; what was begun is in the journal, and no call is made any more."""
    if (run is None) == (not every):
        raise BadInput("runs.stop", "name one run, or --all", "loket runs stop ID")
    result = client.perform("runs.stop", run=run)
    if json_:
        show.as_json(result)
    elif every:
        show.say(f"{len(result['stopped'])} stopped" if result["stopped"] else "no run is unfinished")
    else:
        show.say(f"{result['run']} is {result['status']}")


@app.command(epilog="Example: loket runs settle 1hx7 --not")
def settle(
    run: RunId,
    happened: Annotated[bool, typer.Option("--happened/--not", help="Whether the effect happened.")],
    json_: show.JsonFlag = False,
) -> None:
    """Say whether an effect that a crash interrupted did happen; the run goes on."""
    result = client.perform("runs.settle", run=run, happened=happened)
    show.as_json(result) if json_ else show.say(f"{result['run']} goes on")
