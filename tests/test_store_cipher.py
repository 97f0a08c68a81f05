"""Encryption of databases: nothing of a brain can be read without its key, and turning it on or off loses nothing."""

import contextlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from loket.contracts import Damaged, Failed
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases
from loket.store.cipher import LEFT, convert, is_plain
from loket.store.database import open_database
from loket.testing.disk import PowerLoss

NOTES = ("CREATE TABLE note (text TEXT);",)


def texts(connection: apsw.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT text FROM note ORDER BY rowid")]


SECRET = "the bird sings at four"


def key_of(agent: str) -> bytes:
    return agent.encode().ljust(32, b".")


def bytes_of(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def kept(folder: Path, *, encrypted: bool, limit: int = 3) -> AgentDatabases:
    return AgentDatabases(folder, NOTES, limit, key=key_of, encrypted=encrypted)


def write(store: AgentDatabases, agent: str = "ana", text: str = SECRET) -> None:
    with store.open(agent) as connection, connection:
        connection.execute("INSERT INTO note VALUES (?)", (text,))


def test_an_encrypted_file_shows_nothing_and_is_read_again(tmp_path: Path) -> None:
    """Neither the file nor its log has a word of what was written, while it is open and after; its key reads it."""
    store = kept(tmp_path, encrypted=True)
    write(store)
    assert (tmp_path / "ana.db-wal").stat().st_size > 0
    assert SECRET.encode() not in bytes_of(tmp_path)
    store.close()
    assert SECRET.encode() not in bytes_of(tmp_path)
    again = kept(tmp_path, encrypted=True)
    with again.open("ana") as connection:
        assert texts(connection) == [SECRET]
        assert connection.pragma("journal_mode") == "wal"
        assert connection.pragma("synchronous") == 2
    again.close()


@pytest.mark.parametrize("encrypted", [True, False])
def test_another_key_is_damage_with_a_remedy_and_changes_nothing(tmp_path: Path, encrypted: bool) -> None:
    """With a wrong key the file is neither read nor decrypted nor written; the error says what to put back."""
    store = kept(tmp_path, encrypted=True)
    write(store)
    store.close()
    before = (tmp_path / "ana.db").read_bytes()
    wrong = AgentDatabases(tmp_path, NOTES, key=lambda _agent: b"w" * 32, encrypted=encrypted)
    with pytest.raises(Damaged, match="another key") as caught, wrong.open("ana"):
        pass
    wrong.close()
    assert "vault/master.key" in (caught.value.remedy or "")
    assert (tmp_path / "ana.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["ana.db"]


def test_an_encrypted_file_without_any_key_is_damaged(tmp_path: Path) -> None:
    """A store that knows no keys does not take an encrypted file for an empty one."""
    store = kept(tmp_path, encrypted=True)
    write(store)
    store.close()
    plain = AgentDatabases(tmp_path, NOTES)
    with pytest.raises(Damaged), plain.open("ana"):
        pass
    plain.close()


def test_a_changed_page_of_an_encrypted_file_is_damage(tmp_path: Path) -> None:
    """Pages are authenticated: one flipped bit is an error, never data."""
    store = kept(tmp_path, encrypted=True)
    with store.open("ana") as connection, connection:
        connection.executemany("INSERT INTO note VALUES (?)", [("text " * 200,) for _ in range(50)])
    store.close()
    content = bytearray((tmp_path / "ana.db").read_bytes())
    content[len(content) - 2000] ^= 1
    (tmp_path / "ana.db").write_bytes(content)
    again = kept(tmp_path, encrypted=True)
    with pytest.raises(Damaged), again.open("ana") as connection:
        texts(connection)
    again.close()


def test_the_setting_encrypts_what_is_there_and_decrypts_it_again(tmp_path: Path) -> None:
    """A plain file is encrypted when it is opened with the setting, and plain again without it, with its index."""
    for encrypted in (False, True, False, True):
        store = AgentDatabases(tmp_path, BRAIN_MIGRATIONS, key=key_of, encrypted=encrypted)
        with store.open("ana") as connection, connection:
            connection.execute(
                "INSERT INTO recall (rowid, text) VALUES ((SELECT count(*) + 1 FROM recall_docsize), ?)", (SECRET,)
            )
        store.close()
        assert is_plain(tmp_path / "ana.db") is not encrypted
        assert (b"bird" in bytes_of(tmp_path)) is not encrypted
        assert [path.name for path in tmp_path.iterdir()] == ["ana.db"]
    with store_of(tmp_path) as connection:
        assert connection.execute("SELECT count(*) FROM recall WHERE recall MATCH 'sings'").get == 4


@contextlib.contextmanager
def store_of(folder: Path) -> Iterator[apsw.Connection]:
    store = AgentDatabases(folder, BRAIN_MIGRATIONS, key=key_of, encrypted=True)
    with store.open("ana") as connection:
        yield connection
    store.close()


KILLED = """
import os, sys
from pathlib import Path
from loket.store.agents import AgentDatabases
store = AgentDatabases(Path(sys.argv[1]), ("CREATE TABLE note (text TEXT);",))
with store.open("ana") as connection, connection:
    connection.execute("INSERT INTO note VALUES (?)", (sys.argv[2],))
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_left_in_the_log_is_encrypted_too(tmp_path: Path) -> None:
    """A plain file whose log was not folded in keeps every committed row when it is encrypted."""
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), SECRET], check=False, timeout=60)
    assert SECRET.encode() in (tmp_path / "ana.db-wal").read_bytes()
    store = kept(tmp_path, encrypted=True)
    with store.open("ana") as connection:
        assert texts(connection) == [SECRET]
    store.close()
    assert SECRET.encode() not in bytes_of(tmp_path)


TURNING = """
import sys
from pathlib import Path
from loket.store.agents import AgentDatabases
turn = 0
while True:
    turn += 1
    store = AgentDatabases(Path(sys.argv[1]), ("CREATE TABLE note (text TEXT);",), key=lambda a: b"k" * 32,
                           encrypted=turn % 2 == 1)
    with store.open("ana") as connection:
        assert connection.execute("SELECT count(*) FROM note").get >= 500
        with connection:
            connection.execute("INSERT INTO note VALUES ('more')")
    store.close()
    print(turn, flush=True)
"""


def test_a_kill_in_the_middle_of_encrypting_leaves_a_whole_brain(tmp_path: Path) -> None:
    """Killed 15 times at any moment while it is encrypted and decrypted in turn, the file opens and lost nothing."""
    store = AgentDatabases(tmp_path, NOTES)
    with store.open("ana") as connection, connection:
        connection.executemany("INSERT INTO note VALUES (?)", [("text " * 100,) for _ in range(500)])
    store.close()
    chance, told = random.Random(7), 0  # noqa: S311 - a test's choice, repeatable by its seed
    for _ in range(15):
        process = subprocess.Popen([sys.executable, "-c", TURNING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        time.sleep(chance.random() * 0.15)
        process.kill()
        told += 1 + len(process.communicate()[0].splitlines())
        store = AgentDatabases(tmp_path, NOTES, key=lambda _agent: b"k" * 32, encrypted=chance.random() < 0.5)
        with store.open("ana") as connection:
            assert connection.pragma("integrity_check") == "ok"
            written = connection.execute("SELECT count(*) FROM note").get - 500
        store.close()
        assert told <= written <= told + 15
        assert not list(tmp_path.glob(f"*{LEFT}"))


def test_a_copy_is_made_of_one_moment_and_stays_encrypted(tmp_path: Path) -> None:
    """The copy of an agent in use is a sound file of its own, with the same key and nothing in plain."""
    for encrypted in (False, True):
        store = kept(tmp_path / str(encrypted), encrypted=encrypted)
        write(store)
        (tmp_path / f"copy-{encrypted}").mkdir()
        store.copy("ana", tmp_path / f"copy-{encrypted}" / "ana.db")
        write(store, text="later")
        store.close()
        copied = kept(tmp_path / f"copy-{encrypted}", encrypted=encrypted)
        with copied.open("ana") as connection:
            assert texts(connection) == [SECRET]
        copied.close()
        assert (SECRET.encode() in bytes_of(tmp_path / f"copy-{encrypted}")) is not encrypted


def test_a_copy_is_not_cut_short_by_the_time_limit_of_calls(tmp_path: Path) -> None:
    """The limit is for what providers do; copying a large brain takes as long as it takes."""
    store = AgentDatabases(tmp_path, NOTES, key=key_of, encrypted=True)
    with store.open("ana") as connection, connection:
        connection.executemany("INSERT INTO note VALUES (?)", [("text " * 200,) for _ in range(30_000)])
    store.close()
    hurried = AgentDatabases(tmp_path, NOTES, key=key_of, encrypted=True, limit_s=0.0)
    hurried.copy("ana", tmp_path / "copy.db")
    hurried.close()
    copied = open_database(tmp_path / "copy.db", migrations=NOTES, key=key_of("ana"))
    assert copied.execute("SELECT count(*) FROM note").get == 30_000
    copied.close()


def test_a_conversion_that_finds_no_room_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    """Where the copy cannot be made, the error says so and the file opens as before."""
    store = AgentDatabases(tmp_path, NOTES)
    write(store)
    store.close()
    (tmp_path / f"ana.db{LEFT}").mkdir()
    with pytest.raises(Failed, match="could not be encrypted") as caught:
        convert(tmp_path / "ana.db", old=None, new=b"k" * 32)
    assert caught.value.remedy
    again = AgentDatabases(tmp_path, NOTES)
    with again.open("ana") as connection:
        assert texts(connection) == [SECRET]
    again.close()


def test_an_encrypted_file_loses_nothing_when_the_power_goes(tmp_path: Path) -> None:
    """On a disk that loses unsynced writes every committed row is there, and the file still opens with its key."""
    disk = PowerLoss("lossy-cipher")
    (tmp_path / "a").mkdir()
    connection = open_database(
        tmp_path / "a" / "ana.db", migrations=NOTES, vfs="multipleciphers-lossy-cipher", key=b"k" * 32
    )
    for number in range(30):
        with connection:
            connection.execute("INSERT INTO note VALUES (?)", (f"{SECRET} {number}",))
        disk.crash(tmp_path / "a", tmp_path / f"after-{number}", number)
    connection.close()
    assert SECRET.encode() not in bytes_of(tmp_path)
    for number in range(30):
        again = open_database(tmp_path / f"after-{number}" / "ana.db", migrations=NOTES, key=b"k" * 32)
        assert texts(again) == [f"{SECRET} {n}" for n in range(number + 1)]
        assert again.pragma("integrity_check") == "ok"
        again.close()
