"""`loket commands`: what can be typed to an agent instead of a message."""

import typer

from loket.cli import client, show


def add_to(app: typer.Typer) -> None:
    """Add this file's command."""
    app.command("commands", epilog='Example: loket commands --json; loket ask main "/recall sister"')(commands)


def commands(json_: show.JsonFlag = False) -> None:
    """List the slash commands: Loket's own, and those of installed modules."""
    found = client.perform("slash.list")
    if json_:
        show.as_json(found)
        return
    rows = [
        [one["usage"], one["summary"], "the owner" if one["owner"] else "", one["module"] or ""]
        for one in found["commands"]
    ]
    show.table(["type", "to", "only", "from"], rows, "there are no commands", whole=("type",))
