"""`kernel.db`: what an earlier version left plain is encrypted at the first opening, under the journal's own rule."""

from pathlib import Path

import apsw
import pytest

from kit import open_kernel
from loket.contracts import Limits, RowKind
from loket.store.database import open_database
from loket.store.kernel import MIGRATIONS

TRIGGER = "SELECT sql FROM sqlite_schema WHERE name = 'journal_append_only_update'"


def earlier(path: Path) -> None:
    """A file of the first version with one finished run of one row, all of it plain."""
    connection = open_database(path, migrations=MIGRATIONS[:1])
    connection.execute(
        "INSERT INTO runs (id, agent, conversation, principal, root, operation, status, accepted, ended, answer)"
        " VALUES ('r1', 'main', 'home', 'sender:mail:ana', 'r1', 'message', 'done', 1, 2, '\"said so\"')"
    ).fetchall()
    connection.execute(
        "INSERT INTO journal VALUES (1, 'r1', 0, 'start', 1, '{\"limits\": {\"calls\": 7}}',"
        " CAST('plain words' AS BLOB), zeroblob(16), zeroblob(32), zeroblob(32))"
    ).fetchall()
    connection.close()


def test_what_an_earlier_version_left_plain_is_encrypted_and_the_journal_stays_append_only(tmp_path: Path) -> None:
    """The words are readable as before and plain in no file; the trigger is the one that the migration made."""
    path = tmp_path / "kernel.db"
    earlier(path)
    made = apsw.Connection(str(path))
    trigger = made.execute(TRIGGER).get
    made.close()
    database = open_kernel(path)
    (row,) = database.rows("r1")
    assert (row.kind, row.value) == (RowKind.START, b"plain words")
    run = database.run("r1") or {}
    assert (run["principal"], run["conversation"], run["answer"]) == ("sender:mail:ana", "home", "said so")
    database.close()
    assert not [file for file in tmp_path.iterdir() if b"plain words" in file.read_bytes()]
    connection = apsw.Connection(str(path))
    assert connection.execute(TRIGGER).get == trigger
    with pytest.raises(apsw.ConstraintError, match="append-only"):
        connection.execute("UPDATE journal SET facts = '{}'").fetchall()
    connection.close()


def test_the_limits_of_a_root_are_read_where_its_words_cannot_be(tmp_path: Path) -> None:
    """They are public facts of its first row: nothing is decrypted for them. A run that is unknown has the defaults."""
    earlier(tmp_path / "kernel.db")
    database = open_kernel(tmp_path / "kernel.db")
    database.destroy_keys(["r1"])
    assert database.used_by_root("r1") == (Limits(calls=7), 0, 0.0)
    assert database.used_by_root("unknown") == (Limits(), 0, 0.0)
    database.close()
