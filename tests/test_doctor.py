"""The doctor finds what is wrong with a home, mends what is safe, and changes nothing that somebody wrote."""

import json
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from guests_fixture import own_compiled
from live import free_port, loket, prepare, serving
from loket.backup.manifest import MARK
from loket.doctor import all_sound, examine
from loket.home import Home
from loket.providers.vault_key import master_key, subkey
from loket.store.agents import AgentDatabases
from loket.store.cipher import LEFT
from loket.testing.model_server import ModelServer, Reply


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A sound home with a talk, a memory and a secret."""
    with ModelServer(lambda _request: Reply("Hello")) as model:
        home = prepare(tmp_path_factory.mktemp("doctor") / "home", model.url)
        own_compiled(home)
        loket(home, "ask", "main", "My sister's name is Ana")
        loket(home, "vault", "put", "weather", stdin="sk-very-secret")
        home.chmod(0o700)
        yield home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A copy of it, to be harmed."""
    home = tmp_path / "home"
    shutil.copytree(made, home, symlinks=True)
    port = free_port()
    config = (made / "config.toml").read_text()
    (home / "config.toml").write_text(f"[server]\nport = {port}\n{config}")
    return home


def found(home: Path, name: str, *, fix: bool = False) -> list[dict[str, Any]]:
    return [check for check in examine(Home(home), fix=fix) if check["name"] == name]


def states(checks: list[dict[str, Any]]) -> set[str]:
    return {check["status"] for check in checks}


def everything(home: Path) -> dict[str, bytes]:
    files = (path for path in home.rglob("*") if path.is_file() and not path.name.endswith(("-shm", "-wal")))
    return {path.relative_to(home).as_posix(): path.read_bytes() for path in files}


def test_a_sound_home_has_nothing_to_complain_of(home: Path) -> None:
    """Every check is ok, with and without `--fix`, the exit code is 0, and nothing is changed or fixed."""
    before = everything(home)
    result = loket(home, "doctor", "--json")
    assert result["ok"]
    assert [check for check in result["checks"] if check["status"] != "ok"] == []
    assert {check["name"] for check in result["checks"]} == {
        "config", "versions", "home", "permissions", "server", "port", "disk", "leftovers", "databases", "brains",
        "journal", "erasures", "clock", "vault", "modules", "cache", "models", "sandbox",
    }  # fmt: skip
    assert all(set(c) == {"name", "status", "detail", "remedy", "fixable", "fixed"} for c in result["checks"])
    mended = loket(home, "doctor", "--fix", "--json")
    assert [check for check in mended["checks"] if check["fixed"]] == []
    after = everything(home)
    assert {name for name in before if before[name] != after.get(name)} == set()


def test_it_works_through_a_running_server(home: Path) -> None:
    """With `loket up` the same checks are made inside of it; the port is ours, and a harmed brain is found there."""
    with serving(home):
        result = loket(home, "doctor", "--json")
        assert result["ok"], result
        assert "runs on port" in next(c["detail"] for c in result["checks"] if c["name"] == "server")
        loket(home, "ask", "main", "and my brother's is Ben")
        assert loket(home, "doctor", "--fix", "--json")["ok"]


def test_rights_that_are_too_wide_are_narrowed(home: Path) -> None:
    """A file or folder that others can use fails with the command that mends it, and `--fix` does it."""
    for name in ("", "brains", "kernel.db", "brains/main.db"):
        (home / name).chmod(0o755 if (home / name).is_dir() else 0o644)
    bad = [check for check in found(home, "permissions") if check["status"] == "failed"]
    assert len(bad) == 4
    assert all(check["fixable"] and check["remedy"].startswith("chmod") for check in bad)
    assert "chmod 700" in loket(home, "doctor", code=1)
    assert all(check["fixed"] for check in found(home, "permissions", fix=True))
    assert stat.S_IMODE((home / "kernel.db").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert states(found(home, "permissions")) == {"ok"}


def test_what_a_crash_left_behind_is_cleared_away(home: Path) -> None:
    """A stale `server.json`, half-written files and unfinished backups go; a folder of somebody else stays."""
    (home / "server.json").write_text(json.dumps({"port": free_port(), "pid": 1}))
    (home / "server.json").chmod(0o600)
    (home / "vault" / ".secrets.json-abc").touch(0o600)
    (home / "brains" / f"main.db{LEFT}").touch(0o600)
    for name in ("b.partial", "mine.partial"):
        (home.parent / name).mkdir()
    (home.parent / "b.partial" / MARK).touch()
    assert states(found(home, "server")) == {"warning"}
    assert [check["fixable"] for check in found(home, "leftovers")] == [True] * 3
    mended = [check for check in examine(Home(home), fix=True) if check["fixed"]]
    assert sorted(check["name"] for check in mended) == ["leftovers", "leftovers", "leftovers", "server"]
    assert not (home / "server.json").exists()
    assert (home.parent / "mine.partial").is_dir()
    assert states(found(home, "leftovers") + found(home, "server")) == {"ok"}


def test_a_link_beside_the_home_is_nobodys_leftover(home: Path) -> None:
    """Neither the link goes, nor what it leads to, mark or not; and the doctor does not fail over it."""
    victim = home.parent / "victim"
    victim.mkdir()
    (victim / MARK).touch()
    (victim / "thesis.txt").write_text("forty pages")
    (home.parent / "x.partial").symlink_to(victim, target_is_directory=True)
    assert states(found(home, "leftovers", fix=True)) == {"ok"}
    assert (home.parent / "x.partial").is_symlink()
    assert (victim / "thesis.txt").read_text() == "forty pages"


def test_the_port_is_the_one_in_force(home: Path) -> None:
    """`--port` goes before the settings, as it does for `loket up`; a running server is asked at its own."""
    with ModelServer(lambda _request: Reply("x")) as other:
        taken = int(other.url.split(":")[2].split("/")[0])
        for words, status in ((("--port", str(taken)), "warning"), ((), "ok")):
            checks = loket(home, "doctor", *words, "--json")["checks"]
            [check] = [check for check in checks if check["name"] == "port"]
            assert check["status"] == status
        assert str(taken) not in check["detail"]
    checks = examine(Home(home), port=taken)
    assert f"port {taken} is free" in [check["detail"] for check in checks]


def test_an_index_that_lies_is_made_anew(home: Path) -> None:
    """A full-text index that is not what its content says fails; `--fix` rebuilds it, and memories are found again."""
    connection = apsw.Connection(str(home / "brains" / "main.db"))
    connection.execute("DELETE FROM recall_data WHERE id > 10").fetchall()
    connection.close()
    [check] = found(home, "brains")
    assert (check["status"], check["fixable"]) == ("failed", True)
    [check] = found(home, "brains", fix=True)
    assert (check["status"], check["fixed"]) == ("ok", "made anew from its content")
    assert states(found(home, "brains")) == {"ok"}
    memories = loket(home, "brain", "main", "search", "sister", "--json")["memories"]
    assert "My sister's name is Ana" in [memory["text"] for memory in memories]


@pytest.mark.parametrize("name", ["kernel.db", "keys.db", "brains/main.db"])
def test_a_damaged_database_is_found_and_left_as_it_is(home: Path, name: str) -> None:
    """`--fix` does not touch what it cannot make again; the remedy is a backup."""
    data = bytearray((home / name).read_bytes())
    data[4096:8192] = bytes(b ^ 0x5A for b in data[4096:8192])
    (home / name).write_bytes(data)
    checks = examine(Home(home), fix=True)
    bad = [c for c in checks if c["status"] == "failed" and Path(name).name in c["detail"]]
    assert bad
    assert "backup" in (bad[0]["remedy"] or "")
    assert not [check for check in checks if check["fixed"]]
    assert not all_sound(checks)
    assert loket(home, "doctor", code=1)


def test_a_file_that_is_no_database_is_named_and_the_rest_is_looked_at(home: Path) -> None:
    """One bad file does not keep the doctor from the others."""
    (home / "kernel.db").write_bytes(b"no database, and longer than a header" * 200)
    checks = examine(Home(home))
    assert {c["name"] for c in checks if c["status"] == "failed"} >= {"databases", "journal"}
    assert "keys.db is sound" in [c["detail"] for c in checks if c["name"] == "databases"]
    assert states(found(home, "brains")) == {"ok"}
    assert states(found(home, "vault")) == {"ok"}


def test_a_changed_journal_is_found(home: Path) -> None:
    """A row that was changed from outside fails, and so does a journal whose key is gone: no new one is made."""
    connection = apsw.Connection(str(home / "kernel.db"))
    connection.execute("DROP TRIGGER journal_append_only_update").fetchall()
    connection.execute("UPDATE journal SET at = at + 1 WHERE seq = 2").fetchall()
    connection.close()
    assert "row 2 does not follow" in found(home, "journal")[0]["detail"]
    (home / "vault" / "journal.key").unlink()
    assert "journal.key is missing" in found(home, "journal", fix=True)[0]["detail"]
    assert not (home / "vault" / "journal.key").exists()


@pytest.mark.parametrize(
    ("name", "harm", "says"),
    [
        ("vault", lambda home: (home / "vault" / "master.key").write_text("00" * 32), "is another one"),
        ("vault", lambda home: (home / "vault" / "secrets.json").write_text("{"), "is not the file"),
        ("modules", lambda home: next((home / "modules").iterdir()).write_bytes(b"x"), "not those that were accepted"),
        ("modules", lambda home: next((home / "modules").iterdir()).unlink(), "bytes are missing"),
        ("modules", lambda home: shutil.rmtree(home / "packages" / "main"), "main"),
        ("config", lambda home: (home / "config.toml").write_text("[server]\nprot = 1\n"), "unknown setting"),
    ],
)
def test_what_cannot_be_mended_is_named_with_its_remedy(home: Path, name: str, harm: Any, says: str) -> None:
    """Vault, modules and settings: the finding says what is wrong, and nothing is done about it."""
    harm(home)
    before = everything(home)
    bad = [check for check in found(home, name, fix=True) if check["status"] == "failed"]
    assert says in bad[0]["detail"]
    assert bad[0]["remedy"]
    assert not bad[0]["fixable"]
    assert everything(home) == before


def test_corrupt_compiled_code_is_deleted(home: Path) -> None:
    """The cache is checked against its own digests; what is wrong goes, and is compiled again when it is needed."""
    cache = (home / "cache").readlink()
    (home / "cache").unlink()
    (home / "cache").mkdir(mode=0o700)
    code = min(cache.glob("*.cwasm"), key=lambda path: path.stat().st_size)
    shutil.copy(code, home / "cache")
    shutil.copy(code.with_suffix(".json"), home / "cache")
    assert states(found(home, "cache")) == {"ok"}
    with (home / "cache" / code.name).open("ab") as file:
        file.write(b"x")
    [check] = found(home, "cache")
    assert (check["status"], check["fixable"]) == ("warning", True)
    assert found(home, "cache", fix=True)[0]["fixed"] == "deleted"
    assert list((home / "cache").iterdir()) == []


def test_encrypted_brains_are_looked_at_with_their_keys(home: Path) -> None:
    """An encrypted brain is sound with its key, and a failure that names the key without it."""
    master = master_key(home / "vault", keyring=False)
    store = AgentDatabases(
        home / "brains", ("CREATE TABLE n (t);",), key=lambda a: subkey(master, f"brain:{a}"), encrypted=True
    )
    with store.open("ana") as connection, connection:
        connection.execute("INSERT INTO n VALUES (1)")
    store.close()
    looked = found(home, "brains")
    assert looked[0]["detail"].startswith("2 brains are sound")
    assert looked[1]["detail"] == "1 brains are not plain yet", "the setting is off"
    other = AgentDatabases(home / "brains", ("CREATE TABLE n (t);",), key=lambda _a: b"w" * 32, encrypted=True)
    other.remove("ana")
    with other.open("ana") as connection, connection:
        connection.execute("INSERT INTO n VALUES (1)")
    other.close()
    assert "another key" in found(home, "brains")[0]["detail"]


def test_a_model_that_does_not_answer_and_a_port_that_is_taken_are_warnings(home: Path) -> None:
    """They keep nobody from working, so the exit code stays 0."""
    with ModelServer(lambda _request: Reply("x")) as other:
        port = int(other.url.split(":")[2].split("/")[0])
        (home / "config.toml").write_text(
            f'[server]\nport = {port}\n[models]\nchain = ["far"]\n[models.routes.far]\n'
            f'base_url = "http://127.0.0.1:{free_port()}/v1"\nmodel = "m"\n'
        )
        result = loket(home, "doctor", "--json")
    assert result["ok"]
    assert {c["name"] for c in result["checks"] if c["status"] == "warning"} == {"models", "port"}


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """The doctor says so, exits with 1, and leaves the place as it is."""
    assert "there is no home" in loket(tmp_path / "home", "doctor", code=1)
    assert not (tmp_path / "home").exists()
