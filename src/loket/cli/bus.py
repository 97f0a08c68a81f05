"""`loket subscriptions`: which agents hear which topics."""

from typing import Annotated

import typer

from loket.cli import client, show
from loket.cli.arguments import Agent

app = typer.Typer(help="Which agents hear which topics: list, remove.", invoke_without_command=True)


@app.callback(epilog="Example: loket subscriptions --json")
def subscriptions(context: typer.Context, json_: show.JsonFlag = False) -> None:
    """List subscriptions, or remove one."""
    if context.invoked_subcommand is not None:
        return
    result = client.perform("subscriptions.list")
    if json_:
        show.as_json(result)
        return
    rows = [
        [one["agent"], one["topic"], "yes" if one["hears"] else "no", show.when(one["since"]), one["run"]]
        for one in result["subscriptions"]
    ]
    columns = ["agent", "topic", "hears it", "since", "by run"]
    show.table(columns, rows, "no agent subscribes to anything", whole=("agent", "topic"), spare=("by run", "since"))


@app.command(epilog="Example: loket subscriptions remove diary weather/")
def remove(
    agent: Agent,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="As `loket subscriptions` shows it.")],
    json_: show.JsonFlag = False,
) -> None:
    """Take a subscription back, from the next message on."""
    result = client.perform("subscriptions.remove", agent=agent, topic=topic)
    show.as_json(result) if json_ else show.say(f"{agent} hears {topic} no more")
