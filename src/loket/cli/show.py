"""What commands print: one object with `--json`, else words and tables. Errors go to stderr."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from loket.contracts import BadInput, LoketError, Refusal

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
"""Exit codes: done, the work failed, wrong usage, refused."""


def as_json(value: Any) -> None:
    """Print a JSON value on one stream, readable for people too."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))  # noqa: T201 - printing is the point


def say(text: str = "") -> None:
    """Print a line, as it is."""
    print(text, flush=True)  # noqa: T201 - printing is the point


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Print a table, or a sentence where there is nothing."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
    if shown.row_count:
        Console().print(shown)
    else:
        say(empty)


def when(seconds: float | None) -> str:
    """A time as local people write it."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exit_code(error: LoketError) -> int:
    if isinstance(error, Refusal):
        return REFUSED
    return USAGE if isinstance(error, BadInput) else FAILED


def error(raised: LoketError, *, as_object: bool) -> None:
    """Print an error with its remedy on stderr; as an object on stdout too where JSON was asked for."""
    if as_object:
        as_json({"error": {**raised.as_dict(), "run": raised.run}})
    words = {"refusal": "Refused", "input": "Wrong input"}
    word = (
        words["refusal"]
        if isinstance(raised, Refusal)
        else words["input"]
        if isinstance(raised, BadInput)
        else "Failed"
    )
    lines = [f"{word}: {raised.message} ({raised.code})"]
    if raised.remedy:
        lines.append(f"Remedy: {raised.remedy}")
    if raised.run:
        lines.append(f"Run:    loket runs show {raised.run}")
    sys.stderr.write("\n".join(lines) + "\n")


def fields(value: Mapping[str, Any], *names: str) -> list[list[Any]]:
    """Rows of name and value, those that are there."""
    return [[name, value[name]] for name in names if value.get(name) not in (None, "", [], {})]


@contextlib.contextmanager
def progress(title: str, *, quiet: bool) -> Iterator[Callable[[dict[str, Any]], None] | None]:
    """A progress bar on stderr for events with `done` and `total`, where somebody watches."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def on_event(event: dict[str, Any]) -> None:
            if event["type"] == "progress":
                bar.update(task, completed=event["done"], total=event["total"])

        yield on_event
