"""What commands print: one object with `--json`, else words and tables. Errors go to stderr."""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from loket.contracts import BadInput, LoketError, Refusal

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
"""Exit codes: done, the work failed, wrong usage, refused."""

_WORDS = {"refusal": "Refused", "input": "Wrong input", "ended": "Run ended", "damaged": "Damaged"}
"""How the branches of the error tree are called; all others are `Failed`."""

_TURNING = (*range(0x2028, 0x202F), *range(0x2066, 0x206A))
"""What begins a line, or turns the order of what follows: a text would be read otherwise than it is."""
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160), *_TURNING) if chr(code) not in "\n\t"}
"""What could command a terminal: texts come from models and from wherever those have read."""
_ESCAPED = {code: f"\\u{code:04x}" for code in (*range(127, 160), *_TURNING)}
"""The same in JSON, where control characters of ASCII are escaped already."""

_GAP = 2
"""Spaces between columns."""


def clean(text: str) -> str:
    """A text without characters that a terminal would obey."""
    return text.translate(_CONTROLS)


def as_json(value: Any) -> None:
    """Print a JSON value on one stream, readable for people too."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    print(text.translate(_ESCAPED))  # noqa: T201 - printing is the point


def say(text: str = "") -> None:
    """Print a line for a person."""
    print(clean(text), flush=True)  # noqa: T201 - printing is the point


def word(value: Any) -> str:
    """A value in words: nothing for None, lists with commas, objects as JSON."""
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(word(one) for one in value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    empty: str,
    *,
    whole: Collection[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table, or a sentence where there is nothing.

    Columns in `whole` (ids, names to copy) are never cut or folded. Where the terminal is too narrow, those in `spare`
    are left out, the last one first, and then the others are folded. What is not read by a terminal is never folded.
    """
    cells = [[clean(word(cell)) for cell in row] for row in rows]
    if not cells:
        say(empty)
        return
    from rich.console import Console

    console = Console()
    width = console.width if sys.stdout.isatty() or "COLUMNS" in os.environ else None
    kept = _kept(columns, cells, list(spare), width)
    console.width = max(console.width, _width(cells, columns, kept)) if width is None else width
    console.print(_built(columns, cells, kept, whole))


def _kept(columns: Sequence[str], cells: list[list[str]], spare: list[str], width: int | None) -> list[int]:
    """The places of the columns that are shown."""
    kept = list(range(len(columns)))
    while spare and width is not None and _width(cells, columns, kept) > width:
        kept.remove(columns.index(spare.pop()))
    return kept


def _width(cells: list[list[str]], columns: Sequence[str], kept: list[int]) -> int:
    """The width that these columns want, in cells of a terminal."""
    return sum(_column_width(cells, columns, place) for place in kept) + _GAP * (len(kept) - 1)


def _column_width(cells: list[list[str]], columns: Sequence[str], place: int) -> int:
    from rich.cells import cell_len

    return max(cell_len(line) for row in [columns, *cells] for line in (row[place].splitlines() or [""]))


def _built(columns: Sequence[str], cells: list[list[str]], kept: list[int], whole: Collection[str]) -> Any:
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for place in kept:
        fixed = columns[place] in whole
        least = _column_width(cells, columns, place) if fixed else None
        shown.add_column(columns[place], overflow="fold", no_wrap=fixed, min_width=least)
    for row in cells:
        shown.add_row(*(Text(row[place]) for place in kept))
    return shown


def pairs(facts: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, a line each; what is not there is left out."""
    given = [(name, word(value)) for name, value in facts if value not in (None, "", [], {})]
    indent = max((len(name) for name, _ in given), default=0) + _GAP
    for name, value in given:
        say(f"{name:<{indent}}" + value.replace("\n", "\n" + " " * indent))


def when(time: float | str | None) -> str:
    """A time (seconds since 1970, or ISO 8601) as local people write it."""
    if time is None:
        return ""
    moment = datetime.fromisoformat(time) if isinstance(time, str) else datetime.fromtimestamp(time, UTC)
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def exit_code(error: LoketError) -> int:
    if isinstance(error, Refusal):
        return REFUSED
    return USAGE if isinstance(error, BadInput) else FAILED


def error(raised: LoketError, *, as_object: bool) -> None:
    """Print an error with its remedy on stderr; as an object on stdout too where JSON was asked for."""
    if as_object:
        as_json({"error": {**raised.as_dict(), "run": raised.run}})
    lines = [f"{_WORDS.get(raised.kind, 'Failed')}: {raised.message} ({raised.code})"]
    if raised.remedy:
        lines.append(f"Remedy: {raised.remedy}")
    if raised.run:
        lines.append(f"Run:    loket runs show {raised.run}")
    sys.stderr.write(clean("\n".join(lines)) + "\n")


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
