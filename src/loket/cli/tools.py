"""`loket run-sandbox`: one operation of a module, with exactly the contexts that are named."""

import sys
from typing import Annotated

import typer

from loket.cli import client, show

_EXAMPLE = (
    "loket run-sandbox --tool-name inventory.lookup --context read:inventory_data"
    ' --input-params \'{"sku": "XYZ-900", "location": "WH-A"}\''
)


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command("run-sandbox", epilog=f"Example: {_EXAMPLE}")(run_sandbox)


def run_sandbox(
    tool_name: Annotated[str, typer.Option(metavar="MODULE.OPERATION", help="For instance inventory.lookup.")],
    context: Annotated[
        list[str] | None,
        typer.Option(metavar="EFFECT:NAME", help="A context that the module declares; may be repeated."),
    ] = None,
    input_params: Annotated[
        str, typer.Option(metavar="JSON", help="The operation's arguments; - reads them from standard input.")
    ] = "{}",
    json_: show.JsonFlag = False,
) -> None:
    """Run one operation of a module with exactly these contexts: whatever else it tries is refused."""
    params = sys.stdin.read() if input_params == "-" else input_params
    result = client.perform("tools.run", tool=tool_name, contexts=context or [], params=params)
    if json_:
        show.as_json(result)
        return
    show.pairs(result["answer"].items())
    for one in result["refused"]:
        show.say(f"Refused: {one['message']} ({one['code']})")
        if one["remedy"]:
            show.say(f"  Remedy: {one['remedy']}")
    show.say(f"Run: loket runs show {result['run']}")
