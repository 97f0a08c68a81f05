"""How a journal value is encrypted, and the encryption of what an earlier version left plain."""

import json
from typing import Any

import apsw

from loket.contracts import RowKind
from loket.store.keys import RunKeys

SALT = 16
"""Bytes of salt before each encrypted value."""

WHO, OUTCOME = b"who ", b"outcome "
"""Begin what a run's encrypted columns are bound to."""

_TRIGGER = "journal_append_only_update"
"""What refuses that rows of the journal are changed: it is away while they are encrypted, and then as it was."""


def row_label(run: str, ordinal: int, kind: RowKind) -> bytes:
    """What a row's ciphertext is bound to, so that it fits no other row."""
    return f"{run} {ordinal} {kind.value}".encode()


def json_bytes(value: object) -> bytes:
    """A JSON value as it is encrypted; half a surrogate pair, which is no text, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def encrypt_plain(connection: apsw.Connection, keys: RunKeys) -> int:
    """Encrypt the runs that have no key yet, in one transaction; how many there were.

    Salts and values only move into the ciphertext, so the chain stays as it is.
    """
    runs: list[Any] = connection.execute(
        "SELECT id, conversation, principal, answer, error, ended FROM runs WHERE slot IS NULL"
    ).fetchall()
    if not runs:
        return 0
    with connection:
        trigger = connection.execute("SELECT sql FROM sqlite_schema WHERE name = ?", (_TRIGGER,)).get
        connection.execute(f"DROP TRIGGER {_TRIGGER}").fetchall()
        for run, conversation, principal, answer, error, ended in runs:
            slot = keys.take()
            who = json_bytes({"conversation": conversation, "principal": principal})
            ends = (("answer", answer), ("error", error))
            outcome = json_bytes({name: json.loads(text) for name, text in ends if text})
            connection.execute(
                "UPDATE runs SET slot=?, who=?, outcome=?, conversation='', principal=?, answer=NULL, error=NULL"
                " WHERE id=?",
                (
                    slot,
                    keys.seal(slot, who, WHO + run.encode()),
                    keys.seal(slot, outcome, OUTCOME + run.encode()) if ended is not None else None,
                    principal.partition(":")[0],
                    run,
                ),
            )
            _encrypt_rows(connection, keys, run, slot)
        connection.execute(trigger).fetchall()
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    return len(runs)


def _encrypt_rows(connection: apsw.Connection, keys: RunKeys, run: str, slot: int) -> None:
    rows: list[Any] = connection.execute(
        "SELECT seq, ordinal, kind, salt, value FROM journal WHERE run = ?", (run,)
    ).fetchall()
    for seq, ordinal, kind, salt, value in rows:
        sealed = keys.seal(slot, salt + value, row_label(run, ordinal, RowKind(kind)))
        connection.execute("UPDATE journal SET salt = x'', value = ? WHERE seq = ?", (sealed, seq))
