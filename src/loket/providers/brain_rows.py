"""Rows of the brain: their digest, and how they look outside."""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import apsw

from loket.contracts import Damaged, Refusal
from loket.providers.brain_query import fold

COLUMNS = (
    "id",
    "kind",
    "corrects",
    "text",
    "subject",
    "key",
    "speaker",
    "gist",
    "note",
    "conversation",
    "happened",
    "source",
    "run",
    "ordinal",
    "labels",
    "created",
    "closed",
    "replaced_by",
    "forgotten",
)
"""What of a row is hashed and shown, in this order. The folded columns follow from the others."""

SELECT = f"SELECT {', '.join(COLUMNS)}, digest FROM memory"  # noqa: S608 - fixed names

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False).encode


def digest(values: Iterable[Any]) -> bytes:
    """SHA-256 of a row's `COLUMNS` as a JSON array, UTF-8."""
    return hashlib.sha256(_encode(list(values)).encode()).digest()


def read(connection: apsw.Connection, identity: int) -> dict[str, Any] | None:
    """The row of a memory as an object of `COLUMNS`, None where there is none.

    Raises `Damaged` where the row is not what was written.
    """
    try:
        row = connection.execute(f"{SELECT} WHERE id = ?", (identity,)).fetchone()
    except UnicodeDecodeError:
        raise _damaged(identity) from None
    if row is None:
        return None
    if digest(row[:-1]) != row[-1]:
        raise _damaged(identity)
    return dict(zip(COLUMNS, row[:-1], strict=True))


def read_all(connection: apsw.Connection, identities: Sequence[int]) -> list[dict[str, Any]]:
    """The rows of several memories, in the order asked for, in one query. Raises `Damaged` as `read` does."""
    marks = ", ".join("?" * len(identities))
    try:
        found = {row[0]: row for row in connection.execute(f"{SELECT} WHERE id IN ({marks})", identities)}
    except UnicodeDecodeError:
        return [row for identity in identities if (row := read(connection, identity))]
    for row in found.values():
        if digest(row[:-1]) != row[-1]:
            raise _damaged(row[0])
    return [dict(zip(COLUMNS, found[each][:-1], strict=True)) for each in identities if each in found]


def _damaged(identity: int) -> Damaged:
    return Damaged(
        "brain.row",
        f"Memory {identity} of this brain is not what was written: its digest does not match",
        "Put a backup of the agent's brain in place; an export of this one marks the rows that are damaged",
    )


def seal(connection: apsw.Connection, identity: int) -> None:
    """Write the digest of a row that was just changed."""
    for row in connection.execute(f"{SELECT} WHERE id = ?", (identity,)).fetchall():
        connection.execute("UPDATE memory SET digest = ? WHERE id = ?", (digest(row[:-1]), identity))


def public(row: Mapping[str, Any], score: float) -> dict[str, Any]:
    """A memory as `brain.search` answers it."""
    return {
        "id": row["id"],
        "text": row["text"],
        "kind": row["kind"],
        "subject": row["subject"],
        "key": row["key"],
        "speaker": row["speaker"],
        "score": score,
        "source": row["source"],
        "run": row["run"],
        "labels": list(_labels(row["labels"])),
        "created": timestamp(row["created"]),
        "happened": timestamp(row["happened"]),
        "replaced_by": row["replaced_by"],
        "closed": None if row["closed"] is None else timestamp(row["closed"]),
    }


def folded(text: str | None) -> str | None:
    """A subject, key or speaker as it is compared; None for one that is empty."""
    return (fold(text) or None) if text else None


@lru_cache(4096)
def _labels(text: str) -> tuple[str, ...]:
    """The labels in a row; many rows have the same."""
    return tuple(json.loads(text))


@lru_cache(8192)
def timestamp(seconds: float) -> str:
    """Seconds since 1970 UTC in the form of RFC 3339, to the microsecond: `2026-11-21T06:31:00.250000Z`."""
    moment = dt.datetime.fromtimestamp(seconds, dt.UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_time(field: str, text: str) -> float:
    """Seconds since 1970 of an RFC 3339 date-time. Raises `Refusal` that names the field."""
    try:
        moment = dt.datetime.fromisoformat(text.upper())
        if moment.tzinfo is not None:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise Refusal(
        f"args.{field}",
        f"{field} is {text!r}, which is no date and time with a zone",
        f'Give {field} in the form of RFC 3339, for instance "2026-11-21T06:31:00Z"',
    )
