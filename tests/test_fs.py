"""Files of agents: nothing outside of an agent's folder is read or written, and no write is lost or done twice."""

import contextlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import Rig
from loket.contracts import OWNER, Call, Failed, Grant, Refusal
from loket.providers.fs import FS_MIGRATIONS, FsProvider
from loket.providers.fs_paths import temporary
from loket.store.agents import AgentDatabases

SECRET = "xylophone-secret"


class Agent:
    """Calls the provider as one agent, each call with the next ordinal."""

    def __init__(self, provider: FsProvider, name: str = "main", run: str = "run") -> None:
        self.provider = provider
        self.name = name
        self.run = run
        self.ordinal = 0

    def __call__(self, capability: str, *, ordinal: int | None = None, **args: object) -> dict:
        self.ordinal += 1
        number = self.ordinal if ordinal is None else ordinal
        call = Call(self.run, number, self.name, "", OWNER, f"fs.{capability}", args, ())
        return dict(self.provider.handlers()[call.capability](call).value)

    def names(self, **args: object) -> list[str]:
        return [entry["name"] for entry in self("list", **args)["entries"]]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentDatabases]:
    store = AgentDatabases(tmp_path / "brains", FS_MIGRATIONS)
    yield store
    store.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def provider(root: Path, store: AgentDatabases) -> FsProvider:
    return FsProvider(root, store)


@pytest.fixture
def fs(provider: FsProvider) -> Agent:
    return Agent(provider)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory beside the agents' folders, with a file that nobody may read or change."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret.md").write_text(SECRET)
    (folder / "linked.md").write_text(SECRET)  # a file of its own for the hard link, which refuses by itself
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_was_written_is_read(fs: Agent, root: Path) -> None:
    """A text comes back as it was, a second write replaces it, and only the owner's user can read the files."""
    assert fs("write", path="notes/today.md", text="Ana called ☎") == {"size": 14}
    assert fs("read", path="notes/today.md") == {"text": "Ana called ☎", "size": 14, "more": False}
    fs("write", path="notes/today.md", text="\x00")
    assert fs("read", path="notes/today.md")["text"] == "\x00"
    assert (root / "main/notes/today.md").stat().st_mode & 0o777 == 0o600
    assert {path.stat().st_mode & 0o777 for path in (root, root / "main", root / "main/notes")} == {0o700}


def test_agents_do_not_share_files(fs: Agent, provider: FsProvider) -> None:
    """A file is private to its agent."""
    fs("write", path="a", text="mine")
    with pytest.raises(Refusal, match="there is no a in the agent's folder"):
        Agent(provider, "other")("read", path="a")
    with pytest.raises(Refusal, match="no name of an agent"):
        Agent(provider, "..")("list")


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 7, 100])
def test_a_long_file_is_read_in_pieces_of_whole_characters(fs: Agent, limit: int) -> None:
    """Pieces put together are the text, whatever the limit; only one character may be longer than it."""
    text = "aé☎🎈" * 9 + "z"
    fs("write", path="a", text=text)
    pieces, offset, more = [], 0, True
    while more:
        piece = fs("read", path="a", offset=offset, limit=limit)
        assert 0 < len(piece["text"].encode()) <= max(limit, 4)
        assert len(piece["text"].encode()) <= limit or len(piece["text"]) == 1
        pieces.append(piece["text"])
        offset += len(piece["text"].encode())
        more = piece["more"]
    assert "".join(pieces) == text
    assert fs("read", path="a", offset=9_999) == {"text": "", "size": len(text.encode()), "more": False}


def test_an_offset_within_a_character_is_refused(fs: Agent) -> None:
    """The refusal says how to go on, instead of inventing a character."""
    fs("write", path="a", text="☎☎")
    with pytest.raises(Refusal, match="middle of a character") as refused:
        fs("read", path="a", offset=1)
    assert refused.value.code == "fs.offset"


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"PK\x03\x04\x9c", b"ab\xe2\x98", b"\x80"])
def test_what_is_no_text_is_refused(fs: Agent, root: Path, data: bytes) -> None:
    """Bytes that are no UTF-8, a broken end included, are named and not guessed."""
    fs("write", path="b", text="")
    (root / "main/a").write_bytes(data)
    with pytest.raises(Refusal, match="a is no text in UTF-8") as refused:
        fs("read", path="a")
    assert refused.value.code == "fs.not_text"


def test_half_a_surrogate_pair_is_no_text(fs: Agent) -> None:
    """A text that no file can hold is refused by name, and so is one of more than a MiB."""
    with pytest.raises(Refusal, match="text holds half"):
        fs("write", path="a", text="\ud800")
    with pytest.raises(Refusal, match="1,048,576 are allowed"):
        fs("write", path="a", text="é" * (1 << 19) + "a")
    assert fs("write", path="a", text="é" * (1 << 19)) == {"size": 1 << 20}


HOSTILE = [
    *("/etc/passwd", "../outside/secret.md", "a/../../outside/secret.md", "a/..", "..", ".", "./a", "a/./b"),
    *("a//b", "a/", "/", "a\x00b", "a\nb", "a\\b", "..\\outside", "a\ud800", "a\u202eb", "a\u200bb", "a\u0301e"),
    *("\u2028", "x" * 256, "é" * 128, "/".join("a" * 33), ".loket-x", "a/.LOKET-1", "\ufeffa", ""),
]


@pytest.mark.parametrize("path", HOSTILE)
def test_a_path_has_one_spelling(fs: Agent, path: str) -> None:
    """Whatever is not names with slashes between them is refused, so a prefix compares with what is opened."""
    for ask in (lambda: fs("read", path=path), lambda: fs("write", path=path, text="x")):
        with pytest.raises(Refusal) as refused:
            ask()
        assert refused.value.code == "fs.path"
        assert "notes/today.md" in (refused.value.remedy or "")
        str(refused.value).encode()  # can be written into the journal


PIECES = [
    *HOSTILE,
    "link",
    "hard",
    "pipe",
    "dir",
    "dir/link",
    "secret.txt",
    "outside",
    "%2e%2e",
    "\uff0e\uff0e",
    "~",
    "ok",
]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=5).map("/".join) | st.text(max_size=40))
def test_no_path_leads_out_of_the_folder(fs: Agent, root: Path, outside: Path, path: str) -> None:
    """Whatever text is given, nothing outside is read or written, and every refusal is one of ours."""
    _traps(root / "main", outside)
    before, refused = contents(outside), list[Refusal]()
    for ask in (
        lambda: fs("read", path=path),
        lambda: fs("list", path=path),
        lambda: fs("write", path=path, text="written"),
    ):
        try:
            answer = ask()
        except Refusal as refusal:
            refused.append(refusal)
        else:
            assert SECRET not in str(answer)
            assert "secret.md" not in str(answer)
    assert all(refusal.code.startswith("fs.") and str(root) not in refusal.message for refusal in refused)
    assert contents(outside) == before
    assert {entry.name for entry in root.iterdir()} == {"main"}


def _traps(folder: Path, outside: Path) -> None:
    """Ways out of a folder: links to a directory and to a file, a hard link, a pipe, a link further down."""
    if (folder / "dir/link").is_symlink():
        return
    (folder / "dir").mkdir(parents=True)
    (folder / "link").symlink_to(outside)
    (folder / "dir/link").symlink_to(outside / "secret.md")
    (folder / "hard").hardlink_to(outside / "linked.md")
    os.mkfifo(folder / "pipe")


def test_links_pipes_and_sockets_are_refused(fs: Agent, root: Path, outside: Path) -> None:
    """Each is refused in words, at once, to read and to write, and none is listed."""
    _traps(root / "main", outside)
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(root / "main")  # the name of a socket must be short
        listening.bind("socket")
        os.chdir(here)
        for path in ("link/secret.md", "dir/link", "hard", "pipe", "socket", "link", "dir"):
            for ask in (lambda path=path: fs("read", path=path), lambda path=path: fs("write", path=path, text="x")):
                with pytest.raises(Refusal) as refused:
                    ask()
                assert refused.value.code in ("fs.link", "fs.kind")
        assert fs.names() == ["dir"]
        assert fs.names(path="dir") == []
    assert contents(outside) == dict.fromkeys(("secret.md", "linked.md"), SECRET.encode())


def test_a_folder_that_is_a_link_itself_is_refused(fs: Agent, root: Path, outside: Path) -> None:
    """The agent's own folder is opened without following links too."""
    root.mkdir()
    (root / "main").symlink_to(outside)
    with pytest.raises(Refusal, match="symbolic link"):
        fs("read", path="secret.md")
    with pytest.raises(Refusal, match="symbolic link"):
        fs("list")


def test_swapping_a_directory_for_a_link_wins_nothing(fs: Agent, root: Path, outside: Path) -> None:
    """While `notes` turns into a link and back as fast as it can, no secret is read and nothing outside changes."""
    fs("write", path="notes/secret.md", text="harmless")
    swapped = threading.Event()
    stop = threading.Event()

    def swap() -> None:
        folder = root / "main/notes"
        for number in itertools.count():
            aside = root / f"main/aside{number}"
            folder.rename(aside)
            with contextlib.suppress(FileExistsError):  # a write has made it anew
                folder.symlink_to(outside)
                swapped.set()
                folder.unlink()
            with contextlib.suppress(OSError):  # the same, and there is a file in it
                aside.rename(folder)
            if stop.is_set():
                return

    thread = threading.Thread(target=swap)
    thread.start()
    assert swapped.wait(60)
    seen = dict.fromkeys(("read", "fs.link", "fs.missing"), 0)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        try:
            assert fs("read", path="notes/secret.md")["text"] in ("harmless", "again")
            seen["read"] += 1
            fs("write", path="notes/secret.md", text="again")
        except Refusal as refusal:
            seen[refusal.code] += 1
    stop.set()
    thread.join()
    assert seen["read"], seen
    assert seen["fs.link"], seen
    assert contents(outside) == dict.fromkeys(("secret.md", "linked.md"), SECRET.encode())


def test_directories_are_listed_in_order(fs: Agent) -> None:
    """Names come in the order of code points, after a name and up to a limit; a slash at the end changes nothing."""
    assert fs("list") == {"entries": []}
    for path in ("b", "notes/2", "notes/10", "notes/é", "notes-private/x", "Z"):
        fs("write", path=path, text="12345")
    assert fs.names() == ["Z", "b", "notes", "notes-private"]
    assert fs.names(path="notes/") == fs.names(path="notes") == ["10", "2", "é"]
    assert fs.names(path="notes", after="10", limit=1) == ["2"]
    entries = {entry["name"]: entry for entry in fs("list")["entries"]}
    assert (entries["b"]["kind"], entries["b"]["size"]) == ("file", 5)
    assert (entries["notes"]["kind"], entries["notes"]["size"]) == ("directory", 0)
    assert entries["b"]["modified"].endswith("Z")
    with pytest.raises(Refusal, match="there is no nothing"):
        fs("list", path="nothing")
    with pytest.raises(Refusal) as refused:
        fs("list", path="b")
    assert refused.value.code == "fs.link"


def test_a_repeated_write_changes_nothing(fs: Agent) -> None:
    """The same run and ordinal gets its answer, also when another write came after it."""
    fs("write", path="a", text="one", ordinal=50)
    fs("write", path="a", text="second", ordinal=51)
    assert fs("write", path="a", text="one", ordinal=50) == {"size": 3}
    assert fs("read", path="a")["text"] == "second"


KILLED = """
import sys
from pathlib import Path
from loket.contracts import OWNER, Call
from loket.providers.fs import FS_MIGRATIONS, FsProvider
from loket.store.agents import AgentDatabases
home, left = Path(sys.argv[1]), [int(sys.argv[2])]
provider = FsProvider(home / "files", AgentDatabases(home / "brains", FS_MIGRATIONS))
call = lambda n, text: Call("run", n, "main", "", OWNER, "fs.write", {"path": "d/a", "text": text}, ())
provider.write(call(1, "old"))

def die(event, args):
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.listdir"):
        left[0] -= 1
        if left[0] == 0:
            import os
            os._exit(9)

sys.addaudithook(die)
provider.write(call(2, "new"))
"""


def test_a_write_that_is_killed_anywhere_happens_once(tmp_path: Path) -> None:
    """Killed at each step, the file is whole, old or new; the repeated call makes it new and leaves nothing behind."""
    seen, step, code = set(), 0, 9
    while code == 9:
        step += 1
        home = tmp_path / str(step)
        code = subprocess.run([sys.executable, "-c", KILLED, str(home), str(step)], check=False).returncode
        assert code in (0, 9)
        file = home / "files/main/d/a"
        seen.add(file.read_text())
        store = AgentDatabases(home / "brains", FS_MIGRATIONS)
        fs = Agent(FsProvider(home / "files", store))
        assert fs("write", path="d/a", text="new", ordinal=2) == {"size": 3}
        assert file.read_text() == "new"
        assert [path.name for path in file.parent.iterdir()] == ["a"]
        store.close()
    assert seen == {"old", "new"}
    assert step > 4


def test_a_decided_write_is_finished_but_never_done_again(fs: Agent, root: Path, store: AgentDatabases) -> None:
    """After a crash between the row and the name, the repeated call gives the name; a second repetition does not."""
    fs("write", path="a", text="first", ordinal=1)
    (root / "main" / temporary("run", 2)).write_text("second")
    with store.open("main") as connection:
        connection.execute("INSERT INTO fs_applied VALUES ('run', 2, 6)")
    assert fs("write", path="a", text="second", ordinal=2) == {"size": 6}
    assert fs("read", path="a")["text"] == "second"
    fs("write", path="a", text="third", ordinal=3)
    fs("write", path="a", text="second", ordinal=2)
    assert fs("read", path="a")["text"] == "third"


def test_a_write_that_fails_leaves_the_file_as_it_was(provider: FsProvider, root: Path, store: AgentDatabases) -> None:
    """Where the name cannot be given, rows and file stay those of the write before."""
    fs, other = Agent(provider, run="early"), Agent(provider, run="late")
    fs("write", path="a", text="first")

    def in_the_way() -> float:  # the time is asked for between the check of the target and the renaming
        (root / "main/b").mkdir(exist_ok=True)
        (root / "main/b/x").write_text("x")
        return 1.0

    failing = Agent(FsProvider(root, store, now=in_the_way), run="late")
    with pytest.raises(Refusal, match="not the kind"):
        failing("write", path="b", text="never")
    with store.open("main") as connection:
        assert list(connection.execute("SELECT path, run FROM fs_origin")) == [("a", "early")]
        assert list(connection.execute("SELECT run FROM fs_applied")) == [("early",)]
    assert sorted(path.name for path in (root / "main").iterdir()) == ["a", "b"]
    assert other("read", path="a")["text"] == "first"


def test_an_agent_has_a_quota(root: Path, store: AgentDatabases) -> None:
    """Files and directories count in blocks, replacing counts the difference, what the owner removes is free again."""
    fs = Agent(FsProvider(root, store, quota_mb=1))
    fs("write", path="a", text="x" * 700_000)
    with pytest.raises(Refusal, match=r"quota_mb = 1") as refused:
        fs("write", path="deep/b", text="x" * 400_000)
    assert refused.value.code == "fs.quota"
    assert not (root / "main/deep").exists()
    fs("write", path="a", text="x" * 1_000_000)
    fs("write", path="a", text="x" * 10)
    fs("write", path="b", text="x" * 1_000_000)
    (root / "main/b").unlink()
    fs("write", path="c", text="x" * 1_000_000)
    Agent(FsProvider(root, store, quota_mb=1), "other")("write", path="c", text="x" * 1_000_000)


def test_empty_files_use_up_the_quota_too(root: Path, store: AgentDatabases) -> None:
    """A module cannot fill the file system with names, and shortening a file always works."""
    fs = Agent(FsProvider(root, store, quota_mb=1))
    with store.open("main") as connection:
        connection.pragma("synchronous", "off")
    for number in range(256):
        fs("write", path=f"{number}", text="")
    with pytest.raises(Refusal, match="quota"):
        fs("write", path="256", text="")
    fs("write", path="7", text="short")


def test_files_of_erased_runs_are_gone(provider: FsProvider, root: Path, store: AgentDatabases, tmp_path: Path) -> None:
    """What an erased run wrote last goes with its directories, what another wrote after it stays, no bytes remain."""
    first, second = Agent(provider, run="r1"), Agent(provider, run="r2")
    first("write", path="xylophone/deep/plan.md", text="a violet walrus")
    first("write", path="shared.md", text="draft")
    second("write", path="shared.md", text="final")
    second("write", path="kept/x.md", text="kept")
    first("write", path="kept/y.md", text="a violet walrus")
    staged = root / "main/kept" / temporary("r1", 9)
    staged.write_text("a violet walrus")
    assert provider.erase("main", {"r1", "r0"}) == ["kept/y.md", "xylophone/deep/plan.md"]
    assert second.names() == ["kept", "shared.md"]
    assert second.names(path="kept") == ["x.md"]
    assert second("read", path="shared.md")["text"] == "final"
    store.close()
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert b"xylophone" not in path.read_bytes()
        assert b"walrus" not in path.read_bytes()
    assert not [path for path in tmp_path.rglob("*") if "xylophone" in path.name or path.name.startswith(".loket-")]


def test_erasing_twice_or_nothing_is_fine(provider: FsProvider, root: Path, outside: Path) -> None:
    """An agent without files, files that the owner removed, and a directory that became a link erase to nothing."""
    assert provider.erase("main", ["r1"]) == []
    fs = Agent(provider, run="r1")
    fs("write", path="a", text="x")
    fs("write", path="d/secret.md", text="x")
    (root / "main/a").unlink()
    (root / "main/d/secret.md").unlink()
    (root / "main/d").rmdir()
    (root / "main/d").symlink_to(outside)
    assert provider.erase("main", ["r1"]) == []
    assert contents(outside) == dict.fromkeys(("secret.md", "linked.md"), SECRET.encode())
    assert provider.erase("main", ["r1"]) == []


def test_parents_go_where_a_crash_came_between_the_file_and_them(provider: FsProvider, root: Path) -> None:
    """The file is gone already, and so may be the deepest directory: what is empty above goes too."""
    fs = Agent(provider, run="doomed")
    fs("write", path="secret/a/x.txt", text="x")
    fs("write", path="secret/b/y.txt", text="y")
    (root / "main" / "secret" / "a" / "x.txt").unlink()
    (root / "main" / "secret" / "b" / "y.txt").unlink()
    (root / "main" / "secret" / "b").rmdir()
    assert provider.erase("main", ["doomed"]) == []
    assert list((root / "main").iterdir()) == []


def test_one_file_that_cannot_be_deleted_hinders_no_other(provider: FsProvider, root: Path) -> None:
    """The others go, the error names it, and what is known of it is kept for the next try."""
    fs = Agent(provider, run="doomed")
    for name in ("a", "b", "c"):
        fs("write", path=f"{name}.txt", text=name)
    real = os.unlink

    def unlink(name: str, *, dir_fd: int | None = None) -> None:
        if name == "b.txt":
            raise PermissionError(13, "Permission denied")
        real(name, dir_fd=dir_fd)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "supports_dir_fd", {*os.supports_dir_fd, unlink})
        patch.setattr(os, "unlink", unlink)
        with pytest.raises(Failed, match=r"b\.txt"):
            provider.erase("main", ["doomed"])
    assert [path.name for path in (root / "main").iterdir()] == ["b.txt"]
    assert provider.erase("main", ["doomed"]) == ["b.txt"]


def test_a_file_that_was_changed_since_is_not_erased(provider: FsProvider, root: Path) -> None:
    """Its size or time tells; one that an earlier version recorded without them is erased as before."""
    fs = Agent(provider, run="doomed")
    for name in ("longer", "touched", "old", "same"):
        fs("write", path=name, text="x")
    (root / "main" / "longer").write_text("longer")
    os.utime(root / "main" / "touched", ns=(1, 1))
    with provider._store.open("main") as connection:
        connection.execute("UPDATE fs_origin SET size = NULL, modified = NULL WHERE path = 'old'")
    os.utime(root / "main" / "old", ns=(1, 1))
    assert provider.kept("main", ["doomed"]) == ["longer", "touched"]
    assert provider.erase("main", ["doomed"]) == ["old", "same"]
    assert provider.kept("main", ["doomed"]) == []


def test_a_system_without_relative_opening_fails_closed(fs: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where paths cannot be followed step by step, nothing is read or written, and the error says what would help."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    for ask in (lambda: fs("read", path="a"), lambda: fs("write", path="a", text=""), lambda: fs("list")):
        with pytest.raises(Failed, match="without following links") as failed:
            ask()
        assert "WSL" in (failed.value.remedy or "")


def test_a_write_that_the_system_refuses_leaves_nothing_behind(fs: Agent) -> None:
    """A file larger than this process may write: the error says so, the old text and nothing else is there."""
    script = """
import resource, signal, sys
from pathlib import Path
from loket.contracts import OWNER, Call, Failed
from loket.providers.fs import FS_MIGRATIONS, FsProvider
from loket.store.agents import AgentDatabases
home = Path(sys.argv[1])
provider = FsProvider(home / "files", AgentDatabases(home / "brains", FS_MIGRATIONS))
write = lambda n, text: provider.write(Call("r", n, "main", "", OWNER, "fs.write", {"path": "a", "text": text}, ()))
write(1, "old")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    write(2, "x" * 1_000_000)
except Failed as failed:
    print(failed.code, failed.message, (home / "files/main/a").read_text(), len(list((home / "files/main").iterdir())))
"""
    home = fs.provider._root.parent
    done = subprocess.run([sys.executable, "-c", script, str(home)], check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "fs.failed the system refused a: File too large old 1", done.stderr


@pytest.fixture
def counter(tmp_path: Path, provider: FsProvider) -> Iterator[SimpleNamespace]:
    """A real counter in front of the provider; `ask(capability, json)` calls as a module."""
    rig = Rig(tmp_path, provider)
    module = rig.module("tester", "fs.read", "fs.write", "fs.list")
    rig.grants.allow(Grant("local", "tester", "fs.read", {"paths": ["notes/"]}, "owner", 0.0))
    rig.grants.allow(Grant("local", "tester", "fs.list", {"paths": ["notes/"]}, "owner", 0.0))
    run = rig.run(module)
    yield SimpleNamespace(rig=rig, run=run, ask=lambda name, args: rig.counter.call(run, name, args))
    rig.close()


def test_the_counter_keeps_a_module_to_its_prefixes(counter: SimpleNamespace) -> None:
    """A granted prefix is read and listed, its neighbour and every odd spelling of it are refused with the line."""
    counter.ask("fs.write", '{"path": "notes/a.md", "text": "Ana"}')
    counter.ask("fs.write", '{"path": "notes-private/a.md", "text": "Ana"}')
    assert counter.ask("fs.read", '{"path": "notes/a.md"}') == '{"more":false,"size":3,"text":"Ana"}'
    assert '"name":"a.md"' in counter.ask("fs.list", '{"path": "notes/"}')
    with pytest.raises(Refusal) as refused:
        counter.ask("fs.read", '{"path": "notes-private/a.md"}')
    assert refused.value.remedy == "loket grants allow tester fs.read --add paths=notes-private/a.md"
    for path in ("notes/../notes-private/a.md", "notes//../notes-private/a.md", "notes/./../notes-private/a.md"):
        with pytest.raises(Refusal) as refused:
            counter.ask("fs.read", f'{{"path": "{path}"}}')
        assert refused.value.code == "fs.path"


def test_reading_ten_kilobytes_is_quick(counter: SimpleNamespace) -> None:
    """A read of 10 kB through the counter: the median stays below 3 ms, ten times what `loket bench` asks for."""
    counter.ask("fs.write", '{"path": "notes/a.md", "text": "' + "x" * 10_000 + '"}')
    times = []
    for _ in range(150):
        started = time.perf_counter()
        counter.ask("fs.read", '{"path": "notes/a.md"}')
        times.append(time.perf_counter() - started)
    assert sorted(times)[75] < 0.003
