"""A backup of a home in use comes back as a home that verifies; what is not whole is refused first."""

import hashlib
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from live import environment, loket, prepare, serving, talking
from loket.backup import Parts, restore, take
from loket.backup.manifest import CONTENT, KEYS, MARK, NAME, PARTIAL, now, write_manifest
from loket.contracts import BadInput, Damaged, Failed
from loket.home import Home
from loket.providers.vault_key import master_key, subkey
from loket.store.agents import AgentDatabases
from loket.testing.model_server import ModelServer, Reply, Request

SECRET = "sk-very-secret-0123456789"
NOTES = ("CREATE TABLE note (text TEXT);",)


def echo(request: Request) -> Reply:
    return Reply(f"You said: {request.body['messages'][-1]['content'][-40:]}")


def silent(_event: dict[str, Any]) -> None:
    """Nobody watches."""


def texts(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def with_cache(home: Path, like: Path) -> Path:
    """A restored home with the compiled code of another one, so that a test does not wait for the compiler."""
    shutil.rmtree(home / "cache")
    (home / "cache").symlink_to((like / "cache").readlink(), target_is_directory=True)
    return home


def restored(source: Path, folder: Path, home: Path, *more: str, code: int = 0) -> Any:
    result = loket(home, "restore", str(folder), *more, "--json", code=code)
    if home.is_dir():
        with_cache(home, source)
    return result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home with a talk, a memory, a secret and a file of an agent."""
    with ModelServer(echo) as model:
        home = prepare(tmp_path_factory.mktemp("backup") / "home", model.url)
        loket(home, "ask", "main", "My sister's name is Ana")
        loket(home, "brain", "main", "add", "Ana lives in Utrecht")
        loket(home, "vault", "put", "weather", stdin=SECRET)
        (home / "files" / "main" / ".notes").mkdir(parents=True)
        (home / "files" / "main" / ".notes" / "today.txt").write_text("buy bread")
        yield home


@pytest.fixture(scope="module")
def backup(home: Path) -> Path:
    loket(home, "backup", str(home.parent / "backup"))
    return home.parent / "backup"


def test_a_restored_home_has_everything_and_verifies(home: Path, backup: Path, tmp_path: Path) -> None:
    """Runs, memories, secrets, files and settings are there, the journal verifies, and its runs replay."""
    result = restored(home, backup, tmp_path / "new")
    assert (result["ok"], result["erased"], result["unreadable"], result["journal"]["faults"]) == (True, 0, 0, [])
    new = tmp_path / "new"
    verified = loket(new, "runs", "verify", "--json")
    assert (verified["ok"], verified["failed"]) == (True, 0)
    assert verified["verified"] >= 2
    found = loket(new, "brain", "main", "search", "where does Ana live", "--json")["memories"]
    assert "Ana lives in Utrecht" in [memory["text"] for memory in found]
    assert loket(new, "vault", "list", "--json") == {"secrets": ["weather"]}
    assert (new / "files" / "main" / ".notes" / "today.txt").read_text() == "buy bread"
    assert (new / "config.toml").read_text() == (home / "config.toml").read_text()
    assert "You said" in loket(new, "ask", "main", "Hello again")


def test_only_the_owner_can_read_a_backup_and_what_comes_from_it(home: Path, backup: Path, tmp_path: Path) -> None:
    """Directories are 0700 and files 0600, in both folders and in the new home."""
    restore(backup, tmp_path / "new", keys=backup.with_name("backup-keys"), emit=silent)
    for folder in (backup, backup.with_name("backup-keys"), tmp_path / "new"):
        for path in (folder, *folder.rglob("*")):
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    assert not list(home.parent.glob(f"*{PARTIAL}"))
    assert not list(tmp_path.glob(f"*{PARTIAL}"))


def test_keys_are_kept_apart(home: Path, backup: Path) -> None:
    """The content has no key, no secret and nothing that a run said; what can be made again is in neither folder."""
    key = (home / "vault" / "master.key").read_bytes().strip()
    content, keys = texts(backup), texts(backup.with_name("backup-keys"))
    assert key not in content
    assert key in keys
    assert SECRET.encode() not in content + keys
    assert b"My sister's name" not in (backup / "kernel.db").read_bytes()
    names = {path.relative_to(backup).parts[0] for path in backup.rglob("*") if path.is_file()}
    assert names >= {NAME, "brains", "config.toml", "files", "kernel.db", "modules", "packages"}
    assert not names & {"vault", "keys.db", "cache", "logs", "models", "token", "lock", "server.json", MARK}


def test_the_manifest_names_each_file_with_its_digest(backup: Path) -> None:
    """Format, version, time, and SHA-256 and size of all files but itself."""
    manifest = json.loads((backup / NAME).read_text())
    assert manifest["format"] == 1
    assert manifest["created"].endswith("+00:00")
    files = {path.relative_to(backup).as_posix(): path.stat().st_size for path in backup.rglob("*") if path.is_file()}
    del files[NAME]
    assert {name: file["size"] for name, file in manifest["files"].items()} == files
    program = subprocess.run(["sha256sum", "kernel.db"], cwd=backup, capture_output=True, text=True, check=True)  # noqa: S607 - any sha256sum will do
    assert program.stdout.split()[0] == manifest["files"]["kernel.db"]["sha256"]


def test_a_backup_while_the_server_answers_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Backups taken in the middle of many messages restore, verify, and every run that they have comes to its end."""
    with ModelServer(echo) as model:
        home = prepare(tmp_path / "home", model.url)
        with serving(home) as server, talking(server, "main", "fact {}".format) as ends:
            for number in range(3):
                loket(home, "backup", str(tmp_path / f"backup-{number}"))
        assert len(ends) >= 12
        assert set(ends) == {"done"}
        for number in (1, 2):
            new = tmp_path / f"new-{number}"
            assert restored(home, tmp_path / f"backup-{number}", new)["ok"]
            loket(new, "ask", "main", "and now go on")
            verified = loket(new, "runs", "verify", "--json")
            assert (verified["ok"], verified["failed"]) == (True, 0)
            assert {run["status"] for run in loket(new, "runs", "list", "--json")["runs"]} == {"done"}
            said = [m["text"] for m in loket(new, "brain", "main", "export", "--json")["memories"]]
            facts = [text for text in said if text.startswith("fact ")]
            assert len(facts) == len(set(facts)) > 0


def test_what_is_no_file_is_left_out(home: Path, tmp_path: Path) -> None:
    """A pipe that a program of a server made would be read for ever, and a socket cannot be copied."""
    odd = home / "mcp" / "odd"
    odd.mkdir(parents=True)
    os.mkfifo(odd / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(home / "left.sock"))
    try:
        loket(home, "backup", str(tmp_path / "backup"))
    finally:
        (odd / "pipe").unlink()
        (home / "left.sock").unlink()
    names = {path.name for path in (tmp_path / "backup").rglob("*")}
    assert "kernel.db" in names
    assert not {"pipe", "left.sock"} & names


def test_the_journal_is_copied_before_what_effects_have_changed(home: Path, tmp_path: Path) -> None:
    """A brain is copied when the journal already is, and the keys when the brains are."""
    seen: list[set[str]] = []

    def copy_brain(agent: str, target: Path) -> None:
        seen.append({path.name for path in tmp_path.rglob("*.db")})
        shutil.copyfile(home / "brains" / f"{agent}.db", target)

    take(Home(home), tmp_path / "backup", Parts(copy_brain), silent)
    assert seen == [{"kernel.db"}]
    assert (tmp_path / "backup-keys" / "keys.db").is_file()


def test_what_was_erased_stays_erased_when_an_older_backup_comes_back(tmp_path: Path) -> None:
    """The old content with the keys of today: the erased run is unreadable, its memories gone, the rest verifies."""
    with ModelServer(echo) as model:
        home = prepare(tmp_path / "home", model.url)
        gone = loket(home, "ask", "main", "My PIN is 123454321", "--conversation", "a", "--json")["run"]
        kept = loket(home, "brain", "main", "add", "Ana lives in Utrecht", "--json")
        loket(home, "backup", str(tmp_path / "old"))
        loket(home, "erase", "--run", gone, "--only", "--yes")
        loket(home, "backup", str(tmp_path / "young"))
        result = restored(home, tmp_path / "old", tmp_path / "new", "--keys", str(tmp_path / "young-keys"))
        assert (result["ok"], result["erased"], result["unreadable"]) == (True, 1, 0)
        new = tmp_path / "new"
        verified = loket(new, "runs", "verify", "--json")
        assert (verified["ok"], verified["erased"]) == (True, 1)
        assert "123454321" not in json.dumps(loket(new, "runs", "show", gone, "--json"))
        said = [m["text"] for m in loket(new, "brain", "main", "export", "--json")["memories"]]
        assert "Ana lives in Utrecht" in said, kept
        assert not [text for text in said if text and "123454321" in text]
        assert "You said" in loket(new, "ask", "main", "Hello")
        for path in (path for path in new.rglob("*") if path.is_file() and "cache" not in path.parts):
            assert b"123454321" not in path.read_bytes(), path


def test_without_keys_what_is_left_works_and_the_rest_counts_as_erased(home: Path, tmp_path: Path) -> None:
    """`--no-keys` makes one folder; `--without-keys` restores it: memories are there, runs erased, new ones work."""
    result = loket(home, "backup", str(tmp_path / "bare"), "--no-keys", "--json")
    assert result["keys"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bare"]
    assert "--without-keys" in loket(tmp_path / "new", "restore", str(tmp_path / "bare"), code=2)
    assert not (tmp_path / "new" / "kernel.db").exists()
    result = restored(home, tmp_path / "bare", tmp_path / "new", "--without-keys")
    assert (result["ok"], result["erased"]) == (True, 0)
    assert result["unreadable"] >= 2
    verified = loket(tmp_path / "new", "runs", "verify", "--json")
    assert (verified["ok"], verified["verified"]) == (True, 0)
    found = loket(tmp_path / "new", "brain", "main", "search", "where does Ana live", "--json")["memories"]
    assert "Ana lives in Utrecht" in [memory["text"] for memory in found]
    assert loket(tmp_path / "new", "vault", "list", "--json") == {"secrets": []}
    loket(tmp_path / "new", "ask", "main", "Hello")
    assert loket(tmp_path / "new", "runs", "verify", "--json")["verified"] >= 1


@pytest.mark.parametrize("keys", [True, False])
def test_a_run_that_was_unfinished_goes_on_with_keys_and_is_ended_without(tmp_path: Path, keys: bool) -> None:
    """A restored home starts either way: nobody can go on with what nobody can read."""
    asked, slow = threading.Event(), threading.Event()

    def reply(_request: Request) -> Reply:
        asked.set()
        slow.wait(60)
        return Reply("Hello at last")

    with ModelServer(reply) as model:
        home = prepare(tmp_path / "home", model.url)
        with serving(home) as server:
            words = [sys.executable, "-m", "loket.cli.main", "ask", "main", "My sister's name is Ana"]
            asking = subprocess.Popen(words, env=environment(home), stderr=subprocess.DEVNULL)
            assert asked.wait(60)
            server.kill()
            asking.wait(60)
        assert loket(home, "status", "--json")["unfinished"] == 1
        loket(home, "backup", str(tmp_path / "backup"))
        slow.set()
        new = tmp_path / "new"
        assert restored(home, tmp_path / "backup", new, *([] if keys else ["--without-keys"]))["ok"]
        assert loket(new, "status", "--json")["unfinished"] == (1 if keys else 0)
        assert "Hello at last" in loket(new, "ask", "main", "and now?")
        runs = loket(new, "runs", "list", "--json")["runs"]
        assert [run["status"] for run in runs] == ["done", "done" if keys else "failed"]
        assert loket(new, "runs", "verify", "--json")["ok"]


@pytest.mark.parametrize("harm", ["byte", "gone", "keys", "manifest", "outside", "newer", "link"])
def test_a_backup_that_is_not_whole_is_refused_and_nothing_is_made(backup: Path, tmp_path: Path, harm: str) -> None:
    """Every digest is compared before anything is written; a path that leads out of the backup is no path of one."""
    folder, keys, new = tmp_path / "backup", tmp_path / "backup-keys", tmp_path / "new"
    shutil.copytree(backup, folder)
    shutil.copytree(backup.with_name("backup-keys"), keys)
    manifest = json.loads((folder / NAME).read_text())
    brain = folder / "brains" / "main.db"
    if harm == "byte":
        data = bytearray(brain.read_bytes())
        data[len(data) // 2] ^= 1
        brain.write_bytes(data)
    elif harm == "gone":
        brain.unlink()
    elif harm == "keys":
        (keys / "vault" / "journal.key").write_text("00" * 32)
    elif harm == "manifest":
        (folder / NAME).write_text("{")
    elif harm == "outside":
        manifest["files"]["../stolen"] = manifest["files"]["kernel.db"]
        (folder / NAME).write_text(json.dumps(manifest))
    elif harm == "newer":
        (folder / NAME).write_text(json.dumps({**manifest, "format": 2}))
    else:
        brain.rename(tmp_path / "elsewhere.db")
        brain.symlink_to(tmp_path / "elsewhere.db")
    with pytest.raises(BadInput if harm == "newer" else Damaged) as caught:
        restore(folder, new, keys=keys, emit=silent)
    assert caught.value.remedy
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("new")]


def test_a_journal_that_was_changed_in_the_backup_is_told(backup: Path, tmp_path: Path) -> None:
    """Also without keys, where only the chain can be looked at."""
    import apsw

    folder = tmp_path / "backup"
    shutil.copytree(backup, folder)
    connection = apsw.Connection(str(folder / "kernel.db"))
    connection.execute("DROP TRIGGER journal_append_only_update").fetchall()
    connection.execute("UPDATE journal SET at = at + 1 WHERE seq = 2").fetchall()
    connection.close()
    fresh_digests(folder)
    done = restore(folder, tmp_path / "new", keys=None, emit=silent)
    assert (done.ok, done.vouched) == (False, False)
    assert "row 2 does not follow" in done.faults[0]


@pytest.mark.parametrize("harm", ["kernel.db", "added", "unsealed", "sealed anew", "nothing"])
def test_a_backup_that_somebody_changed_is_refused_also_with_fresh_digests(
    backup: Path, tmp_path: Path, harm: str
) -> None:
    """The seal is by a key that is not in the folder: a grant that was planted does not become one of the home."""
    import apsw

    folder, keys = tmp_path / "backup", backup.with_name("backup-keys")
    shutil.copytree(backup, folder)
    if harm == "kernel.db":
        connection = apsw.Connection(str(folder / "kernel.db"))
        connection.execute(
            """INSERT INTO grants VALUES ('loket', 'main', 'no.such', '{}', 'owner', 1.0, 'x')"""
        ).fetchall()
        connection.close()
    elif harm == "added":
        (folder / "packages" / "README.md").write_text("new")
    if harm != "nothing":
        fresh_digests(folder)
    manifest = json.loads((folder / NAME).read_text())
    if harm == "unsealed":
        del manifest["seal"]
        (folder / NAME).write_text(json.dumps(manifest))
    elif harm == "sealed anew":
        shutil.copyfile(folder / "config.toml", folder / "second.toml")
        write_manifest_anew(folder, b"k" * 32)
    if harm == "nothing":
        assert restore(folder, tmp_path / "new", keys=keys, emit=silent).vouched
        return
    with pytest.raises(Damaged) as caught:
        restore(folder, tmp_path / "new", keys=keys, emit=silent)
    assert (caught.value.code, (tmp_path / "new").exists()) == ("backup.forged", False)
    bare = loket(tmp_path / "bare", "restore", str(folder), "--without-keys")
    assert "Nobody vouches for the content" in bare


@pytest.mark.parametrize(
    "name",
    ["cache/x.cwasm", "token", "server.json", "lock", "logs/a.log", "chat_history", "vault/master.key", "keys.db",
     "Cache/x.cwasm", "./cache/x.cwasm", "TOKEN", "kernel.db-wal", "brains/main.db-wal", ".hidden", "packages/.x/a"],
)  # fmt: skip
@pytest.mark.parametrize("with_keys", [True, False])
def test_nothing_is_restored_that_no_backup_has(backup: Path, tmp_path: Path, name: str, with_keys: bool) -> None:
    """Code for the cache, a token, a lock: whatever a backup leaves out has been added by somebody else."""
    folder = tmp_path / "backup"
    shutil.copytree(backup, folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("planted")
    manifest = json.loads((folder / NAME).read_text())
    manifest["files"][name] = {"sha256": hashlib.sha256(b"planted").hexdigest(), "size": 7}
    (folder / NAME).write_text(json.dumps(manifest))
    with pytest.raises(Damaged, match="which Loket puts into no backup") as caught:
        restore(folder, tmp_path / "new", keys=backup.with_name("backup-keys") if with_keys else None, emit=silent)
    assert (caught.value.code, (tmp_path / "new").exists()) == ("backup.forged", False)


def test_a_folder_with_keys_brings_nothing_but_keys(backup: Path, tmp_path: Path) -> None:
    """Otherwise its `kernel.db` would take the place of the one in the backup."""
    keys = tmp_path / "backup-keys"
    shutil.copytree(backup.with_name("backup-keys"), keys)
    shutil.copyfile(backup / "kernel.db", keys / "kernel.db")
    rewrite(keys)
    with pytest.raises(Damaged, match="which Loket puts into no backup"):
        restore(backup, tmp_path / "new", keys=keys, emit=silent)


def fresh_digests(folder: Path) -> None:
    """What whoever changes a backup can do: a manifest that fits what is there, with the seal that was there."""
    manifest = json.loads((folder / NAME).read_text())
    for path in (path for path in folder.rglob("*") if path.is_file() and path.name != NAME):
        data = path.read_bytes()
        digest = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        manifest["files"][path.relative_to(folder).as_posix()] = digest
    (folder / NAME).write_text(json.dumps(manifest))


def write_manifest_anew(folder: Path, key: bytes) -> None:
    """A manifest with a seal by another key."""
    (folder / NAME).unlink()
    write_manifest(folder, CONTENT, "1", now(), key)


def test_folders_in_the_way_are_refused(home: Path, backup: Path, tmp_path: Path) -> None:
    """Neither a backup nor a home is ever written over; a backup inside the home would hold itself."""
    for words, says in (
        (("backup", str(backup)), "is there already"),
        (("backup", str(home / "backups")), "inside the home"),
        (("restore", str(backup)), "is not empty"),
    ):
        assert says in loket(home, *words, code=2)
    (tmp_path / f"mine{PARTIAL}").mkdir()
    assert "in the way" in loket(home, "backup", str(tmp_path / "mine"), code=2)
    assert "no complete backup" in loket(tmp_path / "new", "restore", str(tmp_path), "--without-keys", code=2)
    keys = str(backup.with_name("backup-keys"))
    assert "its content is needed" in loket(tmp_path / "new", "restore", keys, "--keys", keys, code=2)


def test_a_backup_that_was_killed_is_no_backup_and_the_next_one_clears_up(home: Path, tmp_path: Path) -> None:
    """Until the last rename there is no folder of the name; what was left behind is deleted by the next attempt."""
    (home / "files" / "main" / "big").write_bytes(os.urandom(60_000_000))
    process = subprocess.Popen(
        [sys.executable, "-m", "loket.cli.main", "backup", str(tmp_path / "b")], env=environment(home)
    )
    until = time.monotonic() + 60
    while not (tmp_path / f"b{PARTIAL}" / "files" / "main" / "big").exists() and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / f"b{PARTIAL}" / MARK).is_file()
    assert not (tmp_path / "b").exists()
    (home / "files" / "main" / "big").unlink()
    loket(home, "backup", str(tmp_path / "b"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b-keys"]


def test_two_backups_into_one_folder_do_not_disturb_each_other(home: Path, tmp_path: Path) -> None:
    """The second is refused while the first is at work, and the first is whole; one that failed leaves nothing."""

    def again(agent: str, target: Path) -> None:
        with pytest.raises(BadInput, match="in the way"):
            take(Home(home), tmp_path / "b", Parts(again), silent)
        shutil.copyfile(home / "brains" / f"{agent}.db", target)

    take(Home(home), tmp_path / "b", Parts(again), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b-keys"]

    def broken(_agent: str, _target: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(Failed, match="No space left"):
        take(Home(home), tmp_path / "c", Parts(broken), silent)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "b-keys"]


def test_encrypted_brains_stay_encrypted_and_come_back_with_their_keys(
    home: Path, backup: Path, tmp_path: Path
) -> None:
    """A backup has nothing of them in plain; with keys they are checked and read, without keys they are left out."""
    own = tmp_path / "home"
    shutil.copytree(home, own, ignore=shutil.ignore_patterns("cache", "brains"))
    master = master_key(own / "vault", keyring=False)

    def brains(root: Path) -> AgentDatabases:
        return AgentDatabases(root / "brains", NOTES, key=lambda a: subkey(master, f"brain:{a}"), encrypted=True)

    store = brains(own)
    with store.open("ana") as connection, connection:
        connection.execute("INSERT INTO note VALUES ('the bird sings at four')")
    take(Home(own), tmp_path / "backup", Parts(store.copy), silent)
    store.close()
    assert b"the bird sings" not in texts(tmp_path)
    restore(tmp_path / "backup", tmp_path / "new", keys=tmp_path / "backup-keys", emit=silent)
    again = brains(tmp_path / "new")
    with again.open("ana") as connection:
        assert connection.execute("SELECT text FROM note").get == "the bird sings at four"
    again.close()
    assert restore(tmp_path / "backup", tmp_path / "bare", keys=None, emit=silent).brains == ("ana",)
    assert not list((tmp_path / "bare" / "brains").iterdir())
    shutil.copytree(backup.with_name("backup-keys"), tmp_path / "other-keys")
    shutil.rmtree(tmp_path / "other-keys" / "vault")
    master_key(tmp_path / "foreign" / "vault", keyring=False)
    shutil.copytree(tmp_path / "foreign" / "vault", tmp_path / "other-keys" / "vault")
    rewrite(tmp_path / "other-keys")
    with pytest.raises(Damaged, match="they are of another home"):
        restore(tmp_path / "backup", tmp_path / "wrong", keys=tmp_path / "other-keys", emit=silent)
    assert not (tmp_path / "wrong").exists()


def rewrite(folder: Path) -> None:
    """A manifest that fits what is in a folder of keys."""
    (folder / NAME).unlink()
    write_manifest(folder, KEYS, "1", now())
