"""Rows of an agent's file as JSON objects, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from loket.contracts import Json


def row_of(
    connection: apsw.Connection, table: str, columns: Sequence[str], condition: str, values: tuple[Any, ...]
) -> dict[str, Json] | None:
    """The first row that fits, None where there is none. Names of tables and columns are the caller's own."""
    sql = f"SELECT {', '.join(columns)} FROM {table} WHERE {condition}"  # noqa: S608 - fixed names
    found = connection.execute(sql, values).fetchone()
    return dict(zip(columns, found, strict=True)) if found is not None else None


def insert(
    connection: apsw.Connection, table: str, columns: Sequence[str], row: Mapping[str, Any], *, replace: bool = False
) -> None:
    """Insert a row; with `replace` in the place of one that is there."""
    verb, marks = "INSERT OR REPLACE" if replace else "INSERT", ", ".join("?" * len(columns))
    sql = f"{verb} INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    connection.execute(sql, tuple(row[name] for name in columns))
