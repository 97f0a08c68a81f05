"""Looks at databases as they are: whether they are sound, and what is in them, without bringing them up to date."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw

from loket.store.cipher import unlock
from loket.store.database import BUSY_MS, storage_error

_INDEXES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL TABLE%USING fts5%'"


@contextlib.contextmanager
def opened(path: Path, key: bytes | None = None) -> Iterator[apsw.Connection]:
    """A connection to a database that is there, encrypted with `key`. Raises `Damaged` and `Failed`."""
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as connection:
            connection.set_busy_timeout(BUSY_MS)
            if key is not None:
                unlock(connection, key)
            yield connection
    except apsw.Error as error:
        raise storage_error(error, path, encrypted=key is not None) from error


def query_file(path: Path, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    """The rows of one statement on a database that is not encrypted. Raises `Damaged` and `Failed`."""
    with opened(path) as connection:
        return list(connection.execute(sql, values))


def faults(connection: apsw.Connection) -> list[str]:
    """What SQLite finds wrong with an open database; nothing where it is sound. At most 20 things."""
    try:
        found = [str(text) for (text,) in connection.execute("PRAGMA integrity_check(20)")]
    except (apsw.CorruptError, apsw.NotADBError) as error:
        return [str(error)]
    return [] if found == ["ok"] else found


def bad_indexes(connection: apsw.Connection) -> list[str]:
    """Names of the full-text indexes that are not what their content says."""
    names = [str(name) for (name,) in connection.execute(_INDEXES)]
    return [name for name in names if not _index_is_sound(connection, name)]


def _index_is_sound(connection: apsw.Connection, name: str) -> bool:
    try:
        _command(connection, name, "integrity-check", 1)
    except apsw.CorruptError:
        return False
    return True


def rebuild_index(connection: apsw.Connection, name: str) -> None:
    """Make a full-text index anew from its content."""
    with connection:
        _command(connection, name, "rebuild", 0)


def _command(connection: apsw.Connection, name: str, command: str, rank: int) -> None:
    """A command to FTS5 is an insert into the table's own column; `rank` 1 compares with the content, too."""
    table = '"' + name.replace('"', '""') + '"'
    connection.execute(f"INSERT INTO {table} ({table}, rank) VALUES (?, ?)", (command, rank)).fetchall()  # noqa: S608 - quoted above
