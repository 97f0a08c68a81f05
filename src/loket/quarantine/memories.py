"""Memories that are set aside, and given back as they were.

What stays of one is its row without words, as of one that is forgotten. What it had superseded is believed again.
"""

from collections.abc import Mapping
from typing import Any

import apsw

from loket.contracts import Json
from loket.providers import brain_write
from loket.providers.brain_rows import COLUMNS, folded, seal
from loket.quarantine.rows import insert, row_of

_FOLDED = ("subject_folded", "key_folded")
MEMORY = (*COLUMNS, *_FOLDED)
DOCUMENT = (
    "id", "asks", "dated", "past", "told_by", "about", "before1", "before2",
    "text", "speaker", "date", "note", "gist", "topic",
)  # fmt: skip

_INDEX = f"INSERT INTO recall (rowid, {brain_write.FIELDS}) SELECT id, {brain_write.FIELDS} FROM indexed WHERE id = ?"  # noqa: S608 - fixed names
_UNINDEX = (
    f"INSERT INTO recall (recall, rowid, {brain_write.FIELDS})"  # noqa: S608 - fixed names
    f" SELECT 'delete', id, {brain_write.FIELDS} FROM indexed WHERE id = ?"
)


def take(connection: apsw.Connection, runs: Mapping[int, str], now: float) -> dict[int, dict[str, Json]]:
    """Take memories out, inside the caller's transaction: by id, what `give_back` needs.

    `runs` has the run that must have stored each; one that is not so any more, or is forgotten, is left out.
    """
    found = {one: row_of(connection, "memory", MEMORY, "id = ? AND forgotten IS NULL", (one,)) for one in runs}
    rows = {one: row for one, row in found.items() if row is not None and row["run"] == runs[one]}
    documents = {one: row_of(connection, "document", DOCUMENT, "id = ?", (one,)) for one in rows}
    brain_write.erase(connection, sorted(rows), now)
    revived = _revive(connection, rows)
    return {
        one: {"memory": row, "document": documents[one], "revived": revived.get(one, [])} for one, row in rows.items()
    }


def _revive(connection: apsw.Connection, taken: Mapping[int, Mapping[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Believe again what was superseded by nothing but memories that are taken; by the one that superseded it."""
    revived: dict[int, list[dict[str, Any]]] = {}
    sql = "SELECT id, closed, replaced_by FROM memory WHERE replaced_by = ? AND forgotten IS NULL ORDER BY id DESC"
    for one in sorted(taken):
        if not _is_end(one, taken):
            continue
        for identity, closed, replaced_by in connection.execute(sql, (one,)).fetchall():
            if _open_again(connection, int(str(identity))):
                was = {"id": identity, "closed": closed, "replaced_by": replaced_by}
                revived.setdefault(one, []).append(was)
    return revived


def _is_end(one: int, taken: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether all that superseded a memory is taken as well."""
    at: int | None = one
    while at is not None:
        row = taken.get(at)
        if row is None:
            return False
        at = row["replaced_by"]
        if at is None and row["closed"] is not None:
            return False
    return True


def _open_again(connection: apsw.Connection, identity: int) -> bool:
    """Believe a superseded memory again, unless another one about the same is believed."""
    row = row_of(connection, "memory", MEMORY, "id = ?", (identity,))
    if row is None or _rival(connection, row) is not None:
        return False
    connection.execute("UPDATE memory SET closed = NULL, replaced_by = NULL WHERE id = ?", (identity,))
    connection.execute("UPDATE document SET past = 0 WHERE id = ?", (identity,))
    seal(connection, identity)
    return True


def _rival(connection: apsw.Connection, row: Mapping[str, Any]) -> int | None:
    """The memory about the same property of the same subject that is believed; None where there is none."""
    sql = "SELECT id FROM memory WHERE subject_folded = ? AND key_folded = ? AND closed IS NULL AND id <> ?"
    found = connection.execute(sql, (folded(row["subject"]), folded(row["key"]), row["id"])).fetchone()
    return int(str(found[0])) if found is not None else None


def give_back(connection: apsw.Connection, said: Mapping[str, Any], now: float) -> None:
    """Put a memory back as it was; where another one about the same is believed since, it is superseded by that."""
    memory, document = dict(said["memory"]), dict(said["document"] or {})
    identity = memory["id"]
    for was in said["revived"]:
        still = row_of(connection, "memory", MEMORY, "id = ? AND closed IS NULL", (was["id"],))
        if still is not None:
            sql = "UPDATE memory SET closed = ?, replaced_by = ? WHERE id = ?"
            connection.execute(sql, (was["closed"], was["replaced_by"], was["id"]))
            connection.execute("UPDATE document SET past = 1 WHERE id = ?", (was["id"],))
            seal(connection, was["id"])
    rival = _rival(connection, memory) if memory["closed"] is None else None
    if rival is not None:
        memory |= {"closed": now, "replaced_by": rival}
        document |= {"past": 1} if document else {}
    places = ", ".join(f"{name} = ?" for name in MEMORY if name != "id")
    values = [memory[name] for name in MEMORY if name != "id"]
    connection.execute(f"UPDATE memory SET {places} WHERE id = ?", (*values, identity))  # noqa: S608 - fixed names
    seal(connection, identity)
    if document:
        _put_document(connection, document)


def _put_document(connection: apsw.Connection, document: Mapping[str, Any]) -> None:
    """Index a memory again, and those that show it as what was said before them."""
    sql = "SELECT id FROM document WHERE before1 = ?1 OR before2 = ?1"
    beside = [one for (one,) in connection.execute(sql, (document["id"],)).fetchall()]
    for one in beside:
        connection.execute(_UNINDEX, (one,))
    insert(connection, "document", DOCUMENT, document)
    for one in (document["id"], *beside):
        connection.execute(_INDEX, (one,))
