"""Databases are durable, private and migrated; agents' files are few at a time and never taken from a user."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from loket.contracts import BadInput, Damaged, Failed
from loket.store.agents import AgentDatabases
from loket.store.database import open_database

NOTES = ("CREATE TABLE note (text TEXT);",)
MORE = (*NOTES, "CREATE TABLE tag (name TEXT); INSERT INTO tag VALUES ('first');")


def texts(connection: apsw.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY rowid")]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentDatabases]:
    store = AgentDatabases(tmp_path / "brains", NOTES, limit=3)
    yield store
    store.close()


def test_a_new_database_is_durable_and_private(tmp_path: Path) -> None:
    """A database is in WAL mode, synchronous FULL, with foreign keys and zeroed free space, readable by its user."""
    with open_database(tmp_path / "a.db", migrations=NOTES) as connection:
        connection.execute("INSERT INTO note VALUES ('x')")
    assert connection.pragma("journal_mode") == "wal"
    assert connection.pragma("synchronous") == 2
    assert connection.pragma("foreign_keys") == 1
    assert connection.pragma("secure_delete") == 1
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    connection.close()
    assert modes == {0o600}


def test_missing_migrations_run_once(tmp_path: Path) -> None:
    """Opening with more migrations runs those that the file has not had, and keeps its rows."""
    first = open_database(tmp_path / "a.db", migrations=NOTES)
    first.execute("INSERT INTO note VALUES ('kept')")
    first.close()
    for _ in range(2):
        again = open_database(tmp_path / "a.db", migrations=MORE)
        assert texts(again) == ["kept"]
        assert again.execute("SELECT count(*) FROM tag").get == 1
        assert again.pragma("user_version") == 2
        again.close()


def test_a_migration_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A migration is all or nothing: its statements before the error are undone."""
    with pytest.raises(Failed):
        open_database(tmp_path / "a.db", migrations=(*NOTES, "CREATE TABLE half (x); SELECT * FROM nowhere;"))
    connection = apsw.Connection(str(tmp_path / "a.db"))
    assert connection.pragma("user_version") == 1
    assert [name for (name,) in connection.execute("SELECT name FROM sqlite_schema")] == ["note"]
    connection.close()


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    """A file of a newer Loket is not touched, and the error says what to install."""
    open_database(tmp_path / "a.db", migrations=MORE).close()
    with pytest.raises(Damaged, match="version 2") as caught:
        open_database(tmp_path / "a.db", migrations=NOTES)
    assert "newer" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "content", [b"not a database at all, and longer than a header" * 30, b"SQLite format 3\0" * 99]
)
def test_a_file_that_is_no_database_is_damaged(tmp_path: Path, content: bytes) -> None:
    """A corrupt file is named, with a remedy."""
    path = tmp_path / "a.db"
    path.write_bytes(content)
    with pytest.raises(Damaged, match=r"a\.db") as caught:
        open_database(path, migrations=NOTES)
    assert "backup" in (caught.value.remedy or "")


def test_a_folder_in_the_way_fails(tmp_path: Path) -> None:
    """What cannot be opened at all is a failure, not damage."""
    (tmp_path / "a.db").mkdir()
    with pytest.raises(Failed):
        open_database(tmp_path / "a.db", migrations=NOTES)


def test_agents_have_files_of_their_own(store: AgentDatabases, tmp_path: Path) -> None:
    """What one agent writes, another does not see; the file is named after the agent."""
    with store.open("ana") as connection, connection:
        connection.execute("INSERT INTO note VALUES ('mine')")
    with store.open("ben") as connection:
        assert texts(connection) == []
    assert sorted(path.name for path in (tmp_path / "brains").glob("*.db")) == ["ana.db", "ben.db"]


@pytest.mark.parametrize("name", ["", "a", "A1", "1a", "../x", "a/b", "a.b", "a" * 42, "ana\n", "añ"])
def test_names_that_are_no_agents_are_refused(store: AgentDatabases, name: str) -> None:
    """No name leads out of the folder, and no file is made for a bad one."""
    with pytest.raises(BadInput, match="name"), store.open(name):
        pass


def test_no_more_files_are_open_than_the_limit_allows(store: AgentDatabases) -> None:
    """The least recently used file is closed where room is needed, and its rows are there when it is opened again."""
    for name in ("ag1", "ag2", "ag3", "ag4", "ag5"):
        with store.open(name) as connection, connection:
            connection.execute("INSERT INTO note VALUES (?)", (name,))
    assert list(store._slots) == ["ag3", "ag4", "ag5"]
    with store.open("ag1") as connection:
        assert texts(connection) == ["ag1"]


def test_a_file_in_use_is_never_closed(tmp_path: Path) -> None:
    """With every place in use, a caller waits until one is given back; the user's connection stays open."""
    store = AgentDatabases(tmp_path, NOTES, limit=1)
    waited = threading.Event()

    def other() -> None:
        with store.open("ben") as connection, connection:
            connection.execute("INSERT INTO note VALUES ('b')")
        waited.set()

    thread = threading.Thread(target=other)
    with store.open("ana") as connection:
        thread.start()
        thread.join(0.05)
        assert not waited.is_set()
        with connection:
            connection.execute("INSERT INTO note VALUES ('a')")
        assert texts(connection) == ["a"]
    thread.join(60)
    assert waited.is_set()
    assert list(store._slots) == ["ben"]
    store.close()


def test_one_caller_at_a_time_has_an_agent(store: AgentDatabases) -> None:
    """Threads that share an agent take turns: no update is lost."""
    with store.open("ana") as connection, connection:
        connection.execute("INSERT INTO note VALUES (0)")

    def add() -> None:
        for _ in range(25):
            with store.open("ana") as connection:
                value = int(texts(connection)[0])
                connection.execute("UPDATE note SET text = ?", (value + 1,))

    threads = [threading.Thread(target=add) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with store.open("ana") as connection:
        assert texts(connection) == ["150"]


def test_many_threads_and_agents_share_few_files(tmp_path: Path) -> None:
    """Eight threads over forty agents and five places lose nothing."""
    store = AgentDatabases(tmp_path, NOTES, limit=5)

    def work(number: int) -> None:
        for step in range(20):
            with store.open(f"agent-{(number * 7 + step * 3) % 40}") as connection, connection:
                connection.execute("INSERT INTO note VALUES (?)", (f"{number}/{step}",))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = []
    for number in range(40):
        with store.open(f"agent-{number}") as connection:
            found += texts(connection)
    store.close()
    assert sorted(found) == sorted(f"{number}/{step}" for number in range(8) for step in range(20))


THOUSAND = """
import resource, sys
from pathlib import Path
from loket.store.agents import AgentDatabases
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
store = AgentDatabases(Path(sys.argv[1]), ("CREATE TABLE note (text TEXT);",))
for turn in range(2):
    for number in range(1000):
        with store.open(f"agent-{number}") as connection:
            connection.execute("PRAGMA synchronous = OFF")  # a thousand syncs prove nothing here
            connection.execute("INSERT INTO note VALUES (?)", (turn,))
total = 0
for number in range(1000):
    with store.open(f"agent-{number}") as connection:
        total += connection.execute("SELECT count(*) FROM note").get
store.close()
print(total)
"""


def test_a_thousand_agents_fit_under_three_hundred_files(tmp_path: Path) -> None:
    """1,000 agents are opened, written and read in a process that may have 300 files open."""
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", THOUSAND, str(tmp_path)], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout.strip(), done.stderr) == ("2000", "")


def test_removing_an_agent_deletes_all_its_files(store: AgentDatabases, tmp_path: Path) -> None:
    """After a removal no file of the agent is left, and opening it starts anew."""
    with store.open("ana") as connection:
        connection.execute("INSERT INTO note VALUES ('gone')")
    assert store.remove("ana")
    assert list((tmp_path / "brains").iterdir()) == []
    assert not store.remove("ana")
    with store.open("ana") as connection:
        assert texts(connection) == []


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    """Opening after the close is a failure, not a hang."""
    store = AgentDatabases(tmp_path, NOTES)
    store.close()
    with pytest.raises(Failed, match="closed"), store.open("ana"):
        pass


def test_errors_of_sqlite_come_out_as_ours(store: AgentDatabases) -> None:
    """A provider sees `Failed` and `Damaged`, never an error of the driver; the place is given back."""
    with pytest.raises(Failed), store.open("ana") as connection:
        connection.execute("SELECT * FROM nowhere")
    with store.open("ana") as connection:
        assert texts(connection) == []


def test_a_damaged_page_is_reported_as_damage(tmp_path: Path) -> None:
    """A page that was overwritten is `Damaged` when a query meets it."""
    store = AgentDatabases(tmp_path, NOTES)
    with store.open("ana") as connection, connection:
        connection.executemany("INSERT INTO note VALUES (?)", [("text " * 200,) for _ in range(50)])
    store.close()
    path = tmp_path / "ana.db"
    content = bytearray(path.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    path.write_bytes(content)
    again = AgentDatabases(tmp_path, NOTES)
    with pytest.raises(Damaged), again.open("ana") as connection:
        texts(connection)
    again.close()


def test_the_folder_and_its_files_are_private(store: AgentDatabases, tmp_path: Path) -> None:
    """The agents' folder is made for its user alone."""
    with store.open("ana"):
        pass
    assert stat.S_IMODE((tmp_path / "brains").stat().st_mode) == 0o700
    assert stat.S_IMODE(Path(store.path("ana")).stat().st_mode) == 0o600


def test_a_limit_below_one_is_refused(tmp_path: Path) -> None:
    """A store that could open nothing is refused when it is made."""
    with pytest.raises(BadInput, match="limit"):
        AgentDatabases(tmp_path, NOTES, limit=0)


def test_a_statement_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    """What runs on an agent's file is under a time limit; the connection serves the next caller."""
    store = AgentDatabases(tmp_path, ("CREATE TABLE t (x)",), limit_s=0.05)
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
    with pytest.raises(Failed, match="took too long"), store.open("slow") as connection:
        connection.execute(endless).fetchall()
    with store.open("slow") as connection:
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    store.close()
