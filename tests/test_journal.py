"""The journal: append-only, chained, durable."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import KEY, open_kernel
from loket.chain import check_chain
from loket.contracts import Damaged, RowKind
from loket.kernel.journal import Journal
from loket.testing.disk import PowerLoss

RUNS = ("r", "r0", "r1", "r2")


def fill(path: Path, count: int, vfs: str | None = None) -> None:
    database = open_kernel(path, vfs, runs=RUNS)
    journal = Journal(database, KEY, lambda: 1.5)
    for number in range(count):
        journal.append(f"r{number % 3}", number, RowKind.CALL, {"n": number}, '{"answer":{"é":"☃"}}')
    journal.sync()
    database.close()


def faults(path: Path) -> list[str]:
    """What is wrong with the journal at `path`."""
    database = open_kernel(path)
    try:
        return [fault.reason for fault in check_chain(Journal(database, KEY, lambda: 1.5))]
    finally:
        database.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    database = open_kernel(tmp_path / "kernel.db", runs=RUNS)
    yield Journal(database, KEY, lambda: 1.5)
    database.close()


def test_rows_come_back_in_order_and_verify(journal: Journal) -> None:
    """What was appended is read back as it was, and the chain holds."""
    for number in range(5):
        journal.append("r", number, RowKind.CALL, {"n": number}, f'{{"answer":{number}}}')
    assert [row.ordinal for row in journal.rows("r")] == [0, 1, 2, 3, 4]
    assert [row.meta for row in journal.rows("r")][3] == {"n": 3}
    assert check_chain(journal) == []


@pytest.mark.parametrize("run", [None, "r"])
def test_large_rows_are_read_a_few_at_a_time(journal: Journal, run: str | None) -> None:
    """Forty rows of 900 kB are read with less memory than half of them, whether of one run or of all."""
    import tracemalloc

    for number in range(40):
        journal.append("r", number, RowKind.CALL, {"n": number}, '{"answer":"' + "x" * 900_000 + '"}')
        journal.sync()
    tracemalloc.start()
    try:
        assert sum(len(row.value) for row in journal.rows(run)) > 36_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 18_000_000
    assert [row.meta["n"] for row in journal.rows(run)] == list(range(40))


def test_nothing_is_on_the_disk_before_sync_and_all_after_it(tmp_path: Path) -> None:
    """`append` does not write; `sync` writes all that was appended, in one transaction."""
    database, other = open_kernel(tmp_path / "kernel.db", runs=RUNS), open_kernel(tmp_path / "kernel.db", runs=RUNS)
    journal = Journal(database, KEY, lambda: 0.0)
    for number in range(3):
        journal.append("r", number, RowKind.CALL, {}, "{}")
    assert other.head() is None
    journal.sync()
    head = other.head()
    assert head is not None
    assert head[0] == 3
    database.close()
    other.close()


def test_the_database_itself_refuses_to_change_or_delete_a_row(tmp_path: Path) -> None:
    """Append-only is enforced in the file, not only by convention."""
    fill(tmp_path / "kernel.db", 2)
    connection = apsw.Connection(str(tmp_path / "kernel.db"))
    for sql in ("UPDATE journal SET ordinal = 9", "DELETE FROM journal"):
        with pytest.raises(apsw.ConstraintError, match="append-only"):
            connection.execute(sql)
    connection.close()


CHANGES = (
    'UPDATE journal SET value = CAST(\'{"answer":{"e":1}}\' AS BLOB) WHERE seq = {n}',
    "UPDATE journal SET facts = '{{\"n\":-1}}' WHERE seq = {n}",
    "UPDATE journal SET at = at + 1 WHERE seq = {n}",
    "UPDATE journal SET run = 'rx' WHERE seq = {n}",
    "UPDATE journal SET ordinal = ordinal + 1 WHERE seq = {n}",
    "UPDATE journal SET kind = 'intent' WHERE seq = {n}",
    "UPDATE journal SET salt = zeroblob(16) WHERE seq = {n}",
    "UPDATE journal SET commitment = zeroblob(32) WHERE seq = {n}",
    "UPDATE journal SET hash = zeroblob(32) WHERE seq = {n}",
    "DELETE FROM journal WHERE seq = {n}",
    "DELETE FROM journal WHERE seq >= {n}",
    "UPDATE journal SET seq = seq + 1000 WHERE seq = {n}",
    "UPDATE seal SET seq = {n} - 1",
    "UPDATE seal SET seal = zeroblob(32)",
)


@given(change=st.sampled_from(CHANGES), row=st.integers(1, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_journal_that_was_changed_never_verifies(
    tmp_path_factory: pytest.TempPathFactory, change: str, row: int
) -> None:
    """Any change of any row, its removal, or a cut of the end is found."""
    path = tmp_path_factory.mktemp("j") / "kernel.db"
    fill(path, 9)
    connection = apsw.Connection(str(path))
    connection.execute("DROP TRIGGER journal_append_only_update; DROP TRIGGER journal_append_only_delete")
    connection.execute(change.replace("{n}", str(row)).replace("{{", "{").replace("}}", "}"))
    connection.close()
    assert faults(path)


def test_a_journal_with_a_broken_seal_can_be_looked_at_but_not_written(tmp_path: Path) -> None:
    """The journal opens, says what is wrong with it, and takes no more rows."""
    fill(tmp_path / "kernel.db", 3)
    connection = apsw.Connection(str(tmp_path / "kernel.db"))
    connection.execute("UPDATE seal SET seal = zeroblob(32)")
    connection.close()
    database = open_kernel(tmp_path / "kernel.db", runs=RUNS)
    journal = Journal(database, KEY, lambda: 1.5)
    assert journal.broken
    assert [fault.reason for fault in check_chain(journal)] == ["the journal ends at another row than its seal says"]
    with pytest.raises(Damaged, match="does not match its seal"):
        journal.append("r", 9, RowKind.CALL, {}, "{}")
    database.close()


def test_a_chain_that_was_computed_anew_without_the_key_does_not_verify(tmp_path: Path) -> None:
    """Whoever rewrites every row and hash still cannot make the seal."""
    fill(tmp_path / "kernel.db", 4)
    forged = tmp_path / "forged.db"
    database = open_kernel(forged, runs=RUNS)
    journal = Journal(database, b"x" * 32, lambda: 1.5)
    journal.append("r0", 0, RowKind.CALL, {"n": 0}, '{"answer":{"forged":true}}')
    journal.sync()
    database.close()
    assert faults(tmp_path / "kernel.db") == []
    assert "seal" in faults(forged)[0]


def test_when_the_disk_refuses_the_journal_refuses_everything_after(journal: Journal) -> None:
    """A write that failed is never followed by work that could not be recorded."""
    journal.append("r", 0, RowKind.CALL, {}, "{}", (("INSERT INTO no_such_table VALUES (1)", ()),))
    with pytest.raises(Damaged, match="cannot be written"):
        journal.sync()
    with pytest.raises(Damaged, match="nothing is done any more"):
        journal.append("r", 1, RowKind.CALL, {}, "{}")


def test_no_synced_row_is_lost_when_the_power_goes(tmp_path: Path) -> None:
    """Power cuts at 40 points, unsynced writes lost or torn: what `sync` acknowledged is there and verifies."""
    disk = PowerLoss("power-journal")
    home = tmp_path / "home"
    home.mkdir()
    database = open_kernel(home / "kernel.db", disk.name, runs=RUNS)
    journal = Journal(database, KEY, lambda: 1.5)
    for seed in range(40):
        for number in range(1 + seed % 4):
            journal.append("r", number, RowKind.CALL, {"seed": seed}, '{"answer":1}')
        journal.sync()
        acknowledged = journal.append("r", 99, RowKind.CALL, {}, '{"answer":"not synced"}') - 1
        disk.crash(home, tmp_path / f"after{seed}", seed)
        after = open_kernel(tmp_path / f"after{seed}" / "kernel.db")
        found = Journal(after, KEY, lambda: 1.5)
        assert check_chain(found) == []
        head = after.head()
        assert head is not None
        assert head[0] >= acknowledged
        after.close()
    database.close()


def test_the_power_loss_disk_does_lose_what_was_not_synced(tmp_path: Path) -> None:
    """The check above can fail: without syncs, acknowledged rows are gone."""
    disk = PowerLoss("power-none")
    home = tmp_path / "home"
    home.mkdir()
    connection = apsw.Connection(str(home / "a.db"), vfs=disk.name)
    connection.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF; CREATE TABLE t (x)").fetchall()
    lost = 0
    for seed in range(20):
        connection.execute("INSERT INTO t VALUES (?)", (seed,))
        disk.crash(home, tmp_path / f"after{seed}", seed)
        after = apsw.Connection(str(tmp_path / f"after{seed}" / "a.db"))
        try:
            lost += after.execute("SELECT count(*) FROM t").get != seed + 1
        except apsw.Error:
            lost += 1
        after.close()
    connection.close()
    assert lost > 0


WRITER = """
import sys, time
from pathlib import Path
from loket.contracts import RowKind
from loket.kernel.journal import Journal
from kit import open_kernel
journal = Journal(open_kernel(Path(sys.argv[1]), runs=("r",)), b"k" * 32, time.time)
while True:
    for n in range(3):
        seq = journal.append("r", n, RowKind.CALL, {"n": n}, '{"answer":"' + "x" * 500 + '"}')
    journal.sync(seq)
    print(seq, flush=True)
"""


def test_no_acknowledged_row_is_lost_to_kill_9(tmp_path: Path) -> None:
    """A process that is killed while it writes, ten times over one file: what it acknowledged is there."""
    path, acknowledged = tmp_path / "kernel.db", 0
    for round_ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(path)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(5 + 7 * round_):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = max([acknowledged, *(int(line) for line in process.stdout if line.strip().isdigit())])
        process.wait()
        process.stdout.close()
        assert faults(path) == []
        database = open_kernel(path)
        head = database.head()
        database.close()
        assert head is not None
        assert head[0] >= acknowledged
