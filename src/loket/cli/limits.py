"""`loket limits`: what may be used, and what is used now."""

from typing import Annotated, Any

import typer

from loket.cli import client, show

app = typer.Typer(help="What agents may use, and what is used now.", no_args_is_help=True)


@app.callback()
def limits() -> None:
    """What agents may use, and what is used now."""


@app.command("show", epilog="Example: loket limits show --agent main")
def show_limits(
    agent: Annotated[
        str | None, typer.Option("--agent", metavar="AGENT", help="Of the agents, this one alone.")
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Bounds, what is used of them, when they begin anew, and where in config.toml they stand."""
    result = client.perform("limits.show", agent=agent)
    if json_:
        show.as_json(result)
        return
    rows = [_row(one) for one in result["limits"] if one["bound"] is not None or one["used"]]
    columns = ["whose", "setting", "bound", "used", "held", "room again", "table in config.toml"]
    empty = "nothing is bounded, and nothing was used today"
    show.table(columns, rows, empty, whole=("whose", "setting"), spare=("held", "room again"))
    show.say(f"A call that fails {result['repeats']} times in a row ends its run when it comes again.")


def _row(one: dict[str, Any]) -> list[Any]:
    single = one["used"] is None
    return [
        f"{one['holder']} {one['name']}".strip(),
        one["setting"],
        "none" if one["bound"] is None else _number(one["bound"]),
        "each run" if single else _number(one["used"]),
        "" if single else _number(one["in_flight"]),
        show.when(one["resets"]) if one["bound"] is not None else "",
        f"[{one['table']}]",
    ]


def _number(value: float) -> str:
    return f"{value:,.3f}".rstrip("0").rstrip(".")
