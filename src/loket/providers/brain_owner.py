"""What people do with a brain: read a memory's history, take everything out, check that it is sound."""

import itertools
from collections.abc import Iterator
from typing import Any

import apsw

from loket.contracts import Damaged
from loket.providers.brain_rows import public, read, timestamp
from loket.providers.brain_write import chain

TIMES = ("happened", "created", "closed", "forgotten")


def history(connection: apsw.Connection, identity: int) -> list[dict[str, Any]]:
    """A memory with all that it superseded and all that superseded it, oldest first.

    Each is as `brain.search` answers it, with `forgotten` (a time or None); the text of a forgotten one is empty.

    Empty where there is no such memory. Raises `Damaged` where a row is not what was written.
    """
    found = [row for each in chain(connection, identity) if (row := read(connection, each))]
    return [
        {**public(row, 0.0), "text": row["text"] or "", "forgotten": row["forgotten"] and timestamp(row["forgotten"])}
        for row in found
    ]


def export(connection: apsw.Connection, after: int = 0, limit: int = -1) -> Iterator[dict[str, Any]]:
    """Memories in the order in which they were stored, superseded and forgotten ones as well.

    `after` is the id behind which to go on, `limit` how many (-1: all).

    Each is an object of the row's columns (times in the form of RFC 3339) and `damaged`. Of a row that is not what was
    written only `id` is given, and `damaged` is true: so the rest can be saved.
    """
    wanted = itertools.islice(_ids(connection, after), None if limit < 0 else limit)
    for identity in wanted:
        try:
            row = read(connection, identity) or {"id": identity}
        except Damaged:
            yield {"id": identity, "damaged": True}
        else:
            times = {name: timestamp(row[name]) for name in TIMES if row.get(name) is not None}
            yield {**row, **times, "damaged": False}


def check(connection: apsw.Connection) -> list[str]:
    """What is wrong with a brain, a sentence each; empty where it is sound.

    SQLite's own check misses most damage inside pages (12 of 60 random overwrites were noticed), the index's check
    against its content finds most of it, and the digests find what was changed in the memories themselves.
    """
    findings: list[str] = []
    for name, examine in (("SQLite", _check_file), ("index", _check_index), ("memories", _check_rows)):
        try:
            findings += examine(connection)
        except (apsw.Error, UnicodeDecodeError) as error:
            findings.append(f"{name}: it cannot be read ({error})")
    return findings


def _check_file(connection: apsw.Connection) -> list[str]:
    return [f"SQLite: {line}" for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]


def _check_index(connection: apsw.Connection) -> list[str]:
    connection.execute("INSERT INTO recall (recall, rank) VALUES ('integrity-check', 1)")
    return []


def _check_rows(connection: apsw.Connection) -> list[str]:
    return [f"memory {row['id']}: it is not what was written" for row in export(connection) if row["damaged"]]


def _ids(connection: apsw.Connection, after: int = 0) -> Iterator[int]:
    """All ids, in order, a thousand at a time, so that no read stays open between two of them."""
    last = after
    while page := connection.execute("SELECT id FROM memory WHERE id > ? ORDER BY id LIMIT 1000", (last,)).fetchall():
        yield from (int(str(identity)) for (identity,) in page)
        last = int(str(page[-1][0]))
