"""What people do with a brain: read a memory's history, take everything out, check that it is sound."""

from collections.abc import Iterator
from typing import Any

import apsw

from loket.contracts import BadInput
from loket.providers.brain_rows import COLUMNS, SELECT, public, read, sound, timestamp
from loket.providers.brain_write import chain

TIMES = ("happened", "created", "closed", "forgotten")


def history(connection: apsw.Connection, identity: int) -> list[dict[str, Any]]:
    """A memory with all that it superseded and all that superseded it, oldest first.

    Each is as `brain.search` answers it, with `forgotten` (a time or None); the text of a forgotten one is empty.

    Raises `BadInput` where there is no such memory, `Damaged` where a row is not what was written.
    """
    found = [row for each in chain(connection, identity) if (row := read(connection, each))]
    if not found:
        raise BadInput("brain.unknown", f"id: there is no memory {identity}", "Take an id from a search or an export")
    return [
        {**public(row, 0.0), "text": row["text"] or "", "forgotten": row["forgotten"] and timestamp(row["forgotten"])}
        for row in found
    ]


def export(connection: apsw.Connection) -> Iterator[dict[str, Any]]:
    """Every memory in the order in which it was stored, superseded and forgotten ones as well.

    Each is an object of the row's columns (times in the form of RFC 3339), and `damaged`: whether the row is not what
    was written (then it is shown as it stands, so that the rest can be saved).
    """
    for row in connection.execute(f"{SELECT} ORDER BY id"):
        memory = dict(zip(COLUMNS, row[:-1], strict=True))
        if sound(row):
            times = {name: timestamp(memory[name]) for name in TIMES if memory[name] is not None}
            yield {**memory, **times, "damaged": False}
        else:
            yield {**memory, "damaged": True}


def check(connection: apsw.Connection) -> list[str]:
    """What is wrong with a brain, a sentence each; empty where it is sound.

    SQLite's own check misses most damage inside pages (12 of 60 random overwrites were noticed), the index's check
    against its content finds most of it, and the digests find what was changed in the memories themselves.
    """
    findings = [f"SQLite: {line}" for (line,) in _reading(connection, "PRAGMA integrity_check") if line != "ok"]
    try:
        connection.execute("INSERT INTO recall (recall, rank) VALUES ('integrity-check', 1)")
    except apsw.Error as error:
        findings.append(f"index: it does not match the memories ({error})")
    rows = _reading(connection, f"{SELECT} ORDER BY id")
    findings += [f"memory {row[0]}: it is not what was written" for row in rows if len(row) == 1 or not sound(row)]
    return findings


def _reading(connection: apsw.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    """The rows of a query, and a last one with the error where the file cannot be read further."""
    try:
        yield from connection.execute(sql)
    except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
        yield (f"cannot be read further ({error})",)
