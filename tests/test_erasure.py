"""Erasure: what is erased is nowhere in the home's files, and everything else still verifies."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import open_kernel
from live import environment, loket, prepare
from loket.app import Loket, running
from loket.backup import Parts, restore, take
from loket.chain import check_chain
from loket.cli.talk import _append
from loket.contracts import OWNER, Answer, BadInput, Call, Failed, Handler, Principal, RowKind
from loket.home import Home
from loket.kernel.journal import ERASED, Journal
from loket.operations import Operations
from loket.policy import PlainPolicy
from loket.retention import Retention
from loket.testing.models import InstantModel


def repeat(messages: Sequence[Mapping[str, Any]]) -> str:
    """A model that says again what it was told, memories included."""
    return f"I know: {messages[-1]['content'][-200:]}"


@asynccontextmanager
async def system_on(root: Path) -> AsyncIterator[Loket]:
    async with running(Home(root), llm=InstantModel(repeat), policy=PlainPolicy()) as system:
        yield system


def hits(root: Path, word: str) -> list[str]:
    """The files below a directory in which a word stands, as UTF-8, UTF-16 or JSON with escapes."""
    needles = {word.encode(), word.encode("utf-16-le"), json.dumps(word).strip('"').encode()}
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".wasm", ".cwasm", ".gguf")]
    return [str(path.relative_to(root)) for path in files if any(needle in path.read_bytes() for needle in needles)]


async def perform(system: Loket, name: str, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


async def say(system: Loket, text: str, conversation: str = "main") -> str:
    result = await perform(system, "ask", agent="main", text=text, conversation=conversation)
    return str(result["run"])


def test_an_erased_run_is_nowhere_in_the_home_and_the_journal_still_verifies(tmp_path: Path) -> None:
    """The words of a run, and of the runs that recalled it, are in no file; `verify` counts them as erased."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            kept = await say(system, "Cranberries ripen in autumn", "garden")
            secret = await say(system, "My sister is called Zsuzsannaxyz", "family")
            recalled = await say(system, "What is my sister called?", "family")
            assert "Zsuzsannaxyz" in json.dumps(await perform(system, "runs.show", run=recalled))
            done = await perform(system, "erase", runs=[secret])
            assert done["runs"] == [secret]
            assert recalled in done["carried"]
            assert kept not in done["carried"]
            verified = await perform(system, "runs.verify")
            assert verified["ok"], verified
            assert verified["erased"] == 1 + len(done["carried"])
            assert (await perform(system, "runs.show", run=secret))["erased"] is True
            found = await perform(system, "brain.search", agent="main", query="sister called")
            assert "Zsuzsannaxyz" not in json.dumps(found)
            assert "Cranberries" in json.dumps(await perform(system, "brain.search", agent="main", query="cranberries"))
        assert hits(root, "Zsuzsannaxyz") == []
        assert hits(root, "Cranberries")

    asyncio.run(go())


def test_only_leaves_what_others_got_to_know(tmp_path: Path) -> None:
    """With `only` just the named run goes, and a dry run changes nothing."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            first = await say(system, "The boat is named Albatrossqq")
            second = await say(system, "What is the boat named?")
            plan = await perform(system, "erase", runs=[first], dry_run=True)
            assert plan["carried"] == [second]
            assert (await perform(system, "runs.show", run=first))["erased"] is False
            done = await perform(system, "erase", runs=[first], only=True)
            assert done["carried"] == []
            assert (await perform(system, "runs.show", run=second))["erased"] is False
            assert (await perform(system, "runs.verify"))["ok"]

    asyncio.run(go())


def test_a_memory_is_erased_with_the_runs_that_it_came_from(tmp_path: Path) -> None:
    """`brain.correct` keeps history; erasing the memory takes its history and its sources."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            added = await perform(
                system, "brain.add", agent="main", text="Ana lives in Utrechtzz", subject="Ana", key="home"
            )
            identity = added["ids"][0]
            corrected = await perform(system, "brain.correct", agent="main", id=identity, text="Ana lives in Delftzz")
            history = await perform(system, "brain.history", agent="main", id=identity)
            assert [memory["text"] for memory in history["memories"]] == [
                "Ana lives in Utrechtzz",
                "Ana lives in Delftzz",
            ]
            await perform(system, "erase", agent="main", memory=corrected["id"])
            assert (await perform(system, "runs.verify"))["ok"]
        assert hits(root, "Utrechtzz") == hits(root, "Delftzz") == []

    asyncio.run(go())


def test_what_is_older_than_an_age_is_erased_once(tmp_path: Path) -> None:
    """Age counts from when a run was accepted; a second time there is nothing left to do."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run = await say(system, "Quincexx jam needs sugar")
            assert (await perform(system, "erase", older_than_days=1.0))["runs"] == []
            assert (await perform(system, "erase", older_than_days=0.0))["runs"] == [run]
            assert (await perform(system, "erase", older_than_days=0.0))["runs"] == []
        assert hits(root, "Quincexx") == []

    asyncio.run(go())


class Slow(InstantModel):
    """A model that takes its time."""

    def __init__(self) -> None:
        super().__init__(repeat)

    def handlers(self) -> Mapping[str, Handler]:
        return {**super().handlers(), "llm.complete": self._wait}

    async def _wait(self, call: Call) -> Answer:
        await asyncio.sleep(60)
        return await self._complete(call)


def test_a_run_that_is_not_finished_cannot_be_erased(tmp_path: Path) -> None:
    """It has to be stopped first, and the error says how."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with running(Home(root), llm=Slow()) as system:
            run = await system.send("main", "Hello")
            with pytest.raises(BadInput, match="is not finished") as caught:
                await perform(system, "erase", runs=[run])
            assert caught.value.remedy == f"loket runs stop {run}"
            system.engine.stop(run)
            await system.finished(run)
            await perform(system, "erase", runs=[run])
            assert (await perform(system, "runs.verify"))["ok"]

    asyncio.run(go())


def test_a_destroyed_key_without_the_owners_note_does_not_verify(tmp_path: Path) -> None:
    """Whoever destroys a key from outside cannot pass that off as an erasure."""
    database = open_kernel(tmp_path / "kernel.db", runs=("r1",))
    journal = Journal(database, b"k" * 32, lambda: 1.0)
    journal.append("r1", 0, RowKind.CALL, {"n": 1}, '{"answer":{}}')
    journal.sync()
    database.keys.destroy([1])
    assert "no erasure" in check_chain(journal)[0].reason
    journal.append("", 0, RowKind.NOTE, {"what": ERASED, "runs": ["r1"]}, "{}")
    assert check_chain(journal) == []
    database.close()


def test_a_lost_key_is_no_erasure(tmp_path: Path) -> None:
    """A slot that is not in the file is damage, and says what to restore."""
    database = open_kernel(tmp_path / "kernel.db", runs=("r1",))
    journal = Journal(database, b"k" * 32, lambda: 1.0)
    journal.append("r1", 0, RowKind.CALL, {"n": 1}, '{"answer":{}}')
    journal.sync()
    database.close()
    connection = apsw.Connection(str(tmp_path / "keys.db"))
    connection.execute("DELETE FROM run_keys")
    connection.close()
    database = open_kernel(tmp_path / "kernel.db")
    assert "value of row 1 was changed" in check_chain(Journal(database, b"k" * 32, lambda: 1.0))[0].reason
    database.close()


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from loket.app import running
from loket.home import Home
from loket.retention import Retention
from loket.testing.models import InstantModel

async def go(root, run, step):
    async with running(Home(Path(root)), llm=InstantModel(lambda _messages: "yes")) as system:
        eraser, seen = system.eraser, 0
        def die(*_args, **_named):
            os.kill(os.getpid(), signal.SIGKILL)
        target = {"brain": (system.brain, "erase"), "keys": (system.database, "destroy_keys"),
                  "done": (system.database, "erased")}[step]
        setattr(target[0], target[1], die)
        eraser.erase(eraser.plan([run], only=True), "runs")

asyncio.run(go(sys.argv[1], sys.argv[2], sys.argv[3]))
"""


@pytest.mark.parametrize("step", ["brain", "keys", "done"])
def test_an_erasure_that_is_killed_is_finished_by_the_next_start(tmp_path: Path, step: str) -> None:
    """`kill -9` behind the note: the next start carries it out."""
    root = prepare(tmp_path / "home")

    async def before() -> str:
        async with system_on(root) as system:
            return await say(system, "The vault code is Pelicanww")

    run = asyncio.run(before())
    killed = subprocess.run([sys.executable, "-c", KILLED, str(root), run, step], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL

    async def after() -> None:
        async with system_on(root) as system:
            assert (await perform(system, "runs.show", run=run))["erased"] is True
            assert (await perform(system, "runs.verify"))["ok"]

    asyncio.run(after())
    assert hits(root, "Pelicanww") == []


WORDS = st.sampled_from(["alphaqq", "bravoqq", "charlieqq", "deltaqq", "echoqq"])


@given(said=st.lists(WORDS, min_size=2, max_size=5), doomed=WORDS)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_erased_is_nowhere(tmp_path_factory: pytest.TempPathFactory, said: list[str], doomed: str) -> None:
    """Any messages, any of them erased: its word is in no file, and all that is left verifies."""
    root = prepare(tmp_path_factory.mktemp("erased") / "home")

    async def go() -> None:
        async with system_on(root) as system:
            runs = [(word, await say(system, f"Remember the word {word}", f"c{n}")) for n, word in enumerate(said)]
            named = [run for word, run in runs if word == doomed]
            if named:
                await perform(system, "erase", runs=named)
            assert (await perform(system, "runs.verify"))["ok"]
        assert hits(root, doomed) == []

    asyncio.run(go())


def test_the_command_shows_what_it_takes_and_asks_before_it_does(tmp_path: Path) -> None:
    """`--dry-run` lists, `--json` without `--yes` refuses, `--yes` erases, verify still exits 0; nothing goes twice."""
    root = prepare(tmp_path / "home")
    run = loket(root, "brain", "main", "add", "Ana likes Bergamotvv", "--json")
    assert run["ids"]
    newest = loket(root, "runs", "list", "--json")["runs"][0]["id"]
    assert newest in loket(root, "erase", "--run", newest, "--dry-run")
    refused = subprocess.run(
        [sys.executable, "-m", "loket.cli.main", "erase", "--run", newest, "--json"],
        env=environment(root),
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 2
    assert "--yes" in refused.stdout + refused.stderr
    erased = loket(root, "erase", "--run", newest, "--yes", "--json")
    assert erased["runs"] == [newest]
    assert (erased["things"], erased["again"]) == (1, [])
    assert "Nothing is left to erase: 1 run(s) were erased before" in loket(root, "erase", "--run", newest, "--dry-run")
    again = loket(root, "erase", "--run", newest, "--yes")
    assert f"Nothing was left to erase: 1 run(s) were erased before: {newest}" in again
    assert "Erased" not in again
    assert loket(root, "runs", "verify", "--json")["erased"] == 1
    assert hits(root, "Bergamotvv") == []


def test_retention_erases_what_is_older_than_its_agents_days(tmp_path: Path) -> None:
    """An agent's own days count, else those of all others; younger runs, and agents without days, stay."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        clock = [time.time() - 10 * 86_400]
        async with running(Home(root), llm=InstantModel(repeat), now=lambda: clock[0]) as system:
            old = await say(system, "The old word is Marigoldyy")
            clock[0] += 8 * 86_400
            young = await say(system, "The young word is Cornflower")
            kept = Retention(system.database, system.eraser, {"other": 1}, system.now)
            assert kept.apply() == 0
            retention = Retention(system.database, system.eraser, {"*": 1, "main": 5}, system.now)
            assert retention.due() == [old]
            assert retention.apply() == 1
            assert (await perform(system, "runs.show", run=young))["erased"] is False
            assert (await perform(system, "runs.verify"))["ok"]
            keeping = asyncio.create_task(retention.keep(0.01))
            clock[0] += 8 * 86_400
            for _ in range(1_000):
                if not retention.due():
                    break
                await asyncio.sleep(0.01)
            keeping.cancel()
            assert (await perform(system, "runs.show", run=young))["erased"] is True
        assert hits(root, "Marigoldyy") == []

    asyncio.run(go())


CHOICES: list[tuple[list[str], str]] = [
    (["--run", "zzz"], "no run"),
    (["--older-than", "soon"], "no age"),
    (["--memory", "7"], "AGENT:ID"),
    ([], "one of"),
]


@pytest.mark.parametrize(("words", "said"), CHOICES)
def test_what_cannot_be_meant_is_named(tmp_path: Path, words: list[str], said: str) -> None:
    """Wrong input names what is wrong and changes nothing."""
    root = prepare(tmp_path / "home")
    assert said in loket(root, "erase", *words, "--yes", code=2)


def test_a_key_that_was_put_back_does_not_verify(tmp_path: Path) -> None:
    """An old file of keys in the place of the newer one brings an erased run back, and `verify` says so."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run = await say(system, "The harbour is called Tamariskuu")
        old = (root / "keys.db").read_bytes()
        async with system_on(root) as system:
            await perform(system, "erase", runs=[run])
            assert (await perform(system, "runs.verify"))["ok"]
        (root / "keys.db").write_bytes(old)
        async with system_on(root) as system:
            verified = await perform(system, "runs.verify")
        assert not verified["ok"]
        assert "its key was put back" in verified["journal"]["faults"][0]["reason"]

    asyncio.run(go())


# What a hostile tester found


async def direct(
    system: Loket, capability: str, principal: Principal = OWNER, **args: Any
) -> tuple[str, dict[str, Any]]:
    """A call of somebody's for the agent `main`: its run, and its answer or error."""
    request = system._request("main", principal, None, "own", capability, args)
    ending = await system.perform(request)
    return request.id, dict(ending.answer or ending.error or {})


async def until(holds: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if holds():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not come to be in ten seconds")


CRASHED = """
import asyncio, sys
from pathlib import Path
from loket.app import running
from loket.contracts import Answer
from loket.home import Home
from loket.testing.models import InstantModel

class Slow(InstantModel):
    def handlers(self):
        return {**super().handlers(), "llm.complete": self.wait}

    async def wait(self, call):
        print(call.run, flush=True)
        await asyncio.sleep(60)

async def go(root):
    async with running(Home(root), llm=Slow(lambda _messages: "never")) as system:
        await system.send("main", "My pin is Unfinishedqq")
        await asyncio.sleep(60)

asyncio.run(go(Path(sys.argv[1])))
"""


def crashed_run(root: Path) -> str:
    """A run that `kill -9` left unfinished while its model thought."""
    with subprocess.Popen([sys.executable, "-c", CRASHED, str(root)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        run = process.stdout.readline().strip()
        process.kill()
    assert run
    return run


def test_a_run_that_a_crash_left_unfinished_is_not_erased_behind_its_back(tmp_path: Path) -> None:
    """Without a server the list of runs says that it is not finished; nothing is destroyed, and it goes on."""
    root = prepare(tmp_path / "home")
    run = crashed_run(root)
    said = loket(root, "erase", "--run", run, "--yes", code=2)
    assert "not finished" in said
    assert "loket up" in said

    async def after() -> None:
        async with system_on(root) as system:
            assert (await system.finished(run)).answer is not None

    asyncio.run(after())


def test_an_unfinished_run_that_nobody_can_read_does_not_keep_the_others_from_starting(tmp_path: Path) -> None:
    """It stays on the list, `verify` and `status` name it, and it can be erased."""
    root = prepare(tmp_path / "home")
    run = crashed_run(root)
    connection = apsw.Connection(str(root / "keys.db"))
    connection.execute("DELETE FROM run_keys")
    connection.close()

    async def after() -> None:
        async with system_on(root) as system:
            assert system.unreadable_runs == [run]
            assert system.database.unfinished_runs() == ([], [run])
            assert system.database.unfinished_runs([run]) == ([], [])
            assert (await perform(system, "status"))["unreadable"] == [run]
            listed = {one["id"]: one for one in (await perform(system, "runs.list"))["runs"]}
            assert "no key" in listed[run]["unreadable"]
            verified = await perform(system, "runs.verify")
            assert run in {fault["run"] for fault in verified["journal"]["faults"]}
            assert await say(system, "Hello")
            await perform(system, "erase", runs=[run])
            assert (await perform(system, "runs.verify"))["ok"]
        async with system_on(root) as system:
            assert system.unreadable_runs == []

    asyncio.run(after())


def test_a_brain_is_erased_in_slices(tmp_path: Path) -> None:
    """Each of them is far within the time that a lease has; no word stays, in the index neither."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            for part in range(15):
                items = [{"text": f"slicedqq{part}x{n} alpha beta gamma delta word{n * part}"} for n in range(64)]
                assert "ids" in (await direct(system, "brain.add", items=items))[1]
            leases: list[float | None] = []
            opened = system.brains.open
            with pytest.MonkeyPatch.context() as patch:

                def counted(agent: str, limit_s: float | None = None) -> Any:
                    leases.append(limit_s)
                    return opened(agent, limit_s)

                patch.setattr(system.brains, "open", counted)
                done = await perform(system, "erase", older_than_days=0.0)
            assert done["things"] == 15 * 64
            assert len(leases) > 15 * 64 // 300
            assert {limit for limit in leases if limit is not None} == {600.0}
            assert (await perform(system, "runs.verify"))["ok"]
        assert hits(root, "slicedqq") == []

    asyncio.run(go())


def test_an_erasure_that_a_store_refuses_goes_on_everywhere_else_and_is_tried_again(tmp_path: Path) -> None:
    """The keys go anyway, the start survives, `status`, `doctor` and retention know, and the next try finishes it."""
    root = prepare(tmp_path / "home")

    def refuse(_agent: str, _runs: Any) -> list[str]:
        raise Failed("test.refused", "the disk is in the way", "move the disk")

    async def go() -> None:
        async with system_on(root) as system:
            run, _ = await direct(system, "kv.set", key="k", value="Halfwayqq")
            stores = system.eraser._stores
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(stores["brain"], "erase", refuse)
                with pytest.raises(Failed, match="brain of main could not be erased: the disk is in the way") as caught:
                    await perform(system, "erase", runs=[run])
                assert caught.value.code == "erase.partly"
                assert "move the disk" in (caught.value.remedy or "")
                assert (await perform(system, "runs.show", run=run))["erased"] is True
                assert (await perform(system, "runs.verify"))["ok"]
                assert "the disk is in the way" in (await perform(system, "status"))["unfinished_erasure"]
                said: list[str] = []
                retention = Retention(system.database, system.eraser, {}, system.now)
                keeping = asyncio.create_task(retention.keep(0.01, said.append))
                await until(lambda: bool(said))
                assert not keeping.done()
                checks = {check["name"]: check["status"] for check in (await perform(system, "doctor"))["checks"]}
                assert checks["erasures"] == "warning"
            await until(lambda: not system.database.interrupted_erasures())
            await until(lambda: system.unfinished_erasure is None)
            keeping.cancel()
            assert (await perform(system, "status"))["unfinished_erasure"] is None
        assert hits(root, "Halfwayqq") == []

    asyncio.run(go())


def test_a_start_survives_an_erasure_that_cannot_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is in the way, and the start after that finishes it."""
    root = prepare(tmp_path / "home")

    async def before() -> str:
        async with system_on(root) as system:
            run = await say(system, "The lighthouse is Kestrelqq")
            system.journal.also(*system.database.erasing([run]))
            system.journal.append("", 0, RowKind.NOTE, {"what": ERASED, "runs": [run]}, "{}")
            system.journal.sync()
            return run

    async def after(undone: bool) -> None:
        async with system_on(root) as system:
            assert (system.unfinished_erasure is not None) is undone
            assert (await perform(system, "runs.show", run=run))["erased"] is True

    def refuse(*_args: Any) -> list[str]:
        raise Failed("test.refused", "the disk is in the way", "move the disk")

    run = asyncio.run(before())
    with monkeypatch.context() as patch:
        patch.setattr("loket.providers.kv.KvProvider.erase", refuse)
        asyncio.run(after(undone=True))
    asyncio.run(after(undone=False))
    assert hits(root, "Kestrelqq") == []


def test_a_file_that_became_a_directory_keeps_nothing_from_being_erased(tmp_path: Path) -> None:
    """The owner removed the file, and another run made a directory of its name: that stays, the run goes."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run, _ = await direct(system, "fs.write", path="notes", text="Bricksecretqq")
            (root / "files" / "main" / "notes").unlink()
            await direct(system, "fs.write", path="notes/today.md", text="harmless")
            assert (await perform(system, "erase", runs=[run]))["things"] == 0
            assert (await perform(system, "runs.show", run=run))["erased"] is True
            assert (root / "files" / "main" / "notes" / "today.md").read_text() == "harmless"
        async with system_on(root) as system:
            assert system.unfinished_erasure is None

    asyncio.run(go())


def test_a_file_that_the_owner_changed_is_left_and_named(tmp_path: Path) -> None:
    """What somebody else has written since is theirs; a restored home still knows which that is."""
    root, new = prepare(tmp_path / "home"), tmp_path / "new"

    async def go() -> None:
        async with system_on(root) as system:
            mine, _ = await direct(system, "fs.write", path="a/mine.txt", text="Untouchedqq")
            theirs, _ = await direct(system, "fs.write", path="a/theirs.txt", text="first")
            (root / "files" / "main" / "a" / "theirs.txt").write_text("the owner's own")
            await asyncio.to_thread(take, system.home, tmp_path / "bk", Parts(system.brains.copy), lambda _event: None)
        restore(tmp_path / "bk", new, keys=tmp_path / "bk-keys", emit=lambda _event: None)
        for home in (root, new):
            async with system_on(home) as system:
                done = await perform(system, "erase", runs=[mine, theirs])
                assert done["left"] == ["a/theirs.txt"]
                assert (home / "files" / "main" / "a" / "theirs.txt").read_text() == "the owner's own"
                assert not (home / "files" / "main" / "a" / "mine.txt").exists()

    asyncio.run(go())


def test_who_reads_between_the_plan_and_its_carrying_out_is_erased_too(tmp_path: Path) -> None:
    """Finished readers go along; one that works still is named."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            run, _ = await direct(system, "kv.set", key="k", value="Racesecretqq")
            doomed = await asyncio.to_thread(system.eraser.plan, [run])
            reader, answer = await direct(system, "kv.get", key="k")
            working, _ = await direct(system, "kv.get", key="k")
            assert answer["value"] == "Racesecretqq"
            system.eraser._unfinished = lambda: {working}
            done = await asyncio.to_thread(system.eraser.erase, doomed, "runs")
            assert reader in done.runs
            assert done.unfinished == (working,)
            system.eraser._unfinished = dict
            await perform(system, "erase", runs=[working])
            assert (await perform(system, "runs.verify"))["ok"]
        assert hits(root, "Racesecretqq") == []

    asyncio.run(go())


def test_a_memory_of_a_run_that_the_journal_does_not_know_is_erased_itself(tmp_path: Path) -> None:
    """A brain that was copied later than the journal has more than it; `--memory` never does nothing."""
    root, new = prepare(tmp_path / "home"), tmp_path / "new"

    async def go() -> None:
        async with system_on(root) as system:
            loop, late = asyncio.get_running_loop(), []

            def emit(event: dict[str, Any]) -> None:
                if event.get("step") == "kernel.db" and not late:
                    adding = direct(system, "brain.add", items=[{"text": "Latesecretqq"}])
                    late.append(asyncio.run_coroutine_threadsafe(adding, loop).result())

            await asyncio.to_thread(take, system.home, tmp_path / "bk", Parts(system.brains.copy), emit)
        restore(tmp_path / "bk", new, keys=tmp_path / "bk-keys", emit=lambda _event: None)
        identity = late[0][1]["ids"][0]
        async with system_on(new) as system:
            assert system.database.run(late[0][0]) is None
            planned = await perform(system, "erase", agent="main", memory=identity, dry_run=True)
            assert (planned["memories"], planned["things"]) == ([identity], 0)
            done = await perform(system, "erase", agent="main", memory=identity)
            assert (done["runs"], done["memories"], done["things"]) == ([], [identity], 1)
            notes = [row.meta for row in system.journal.rows("") if row.meta.get("what") == "erase.memories"]
            assert [note["memories"] for note in notes] == [[identity]]
        assert hits(new, "Latesecretqq") == []

    asyncio.run(go())


def test_who_corrected_or_listed_got_to_know_the_names(tmp_path: Path) -> None:
    """A correction inherits subject and speaker; a list shows names of directories, whoever wrote below them."""
    root = prepare(tmp_path / "home")

    async def go() -> None:
        async with system_on(root) as system:
            item = {"text": "lives in X", "subject": "Subjsecretqq", "key": "home", "speaker": "Speaksecretqq"}
            added, answer = await direct(system, "brain.add", items=[item])
            corrected, _ = await direct(system, "brain.correct", id=answer["ids"][0], text="lives in Delft")
            assert corrected in (await perform(system, "erase", runs=[added]))["carried"]
            first, _ = await direct(system, "fs.write", path="Dirsecretqq/a/one.txt", text="x")
            second, _ = await direct(system, "fs.write", path="Dirsecretqq/two.txt", text="x")
            lister, _ = await direct(system, "fs.list")
            other, _ = await direct(system, "fs.write", path="three.txt", text="x")
            carried = (await perform(system, "erase", runs=[first], dry_run=True))["carried"]
            assert carried == [lister]
            assert (await perform(system, "erase", runs=[second], dry_run=True))["carried"] == [lister]
            done = await perform(system, "erase", runs=[first, second])
            assert other not in done["carried"]
        assert [hits(root, word) for word in ("Subjsecretqq", "Speaksecretqq", "Dirsecretqq")] == [[], [], []]
        assert not (root / "files" / "main" / "Dirsecretqq").exists()

    asyncio.run(go())


def test_a_senders_name_does_not_stay_on_erased_memories(tmp_path: Path) -> None:
    """What is left of the source is what kind of principal asked; of memories that were forgotten before, too."""
    root = prepare(tmp_path / "home")
    sender = Principal("sender", "mail:ana@secretqq.example")

    async def go() -> None:
        async with system_on(root) as system:
            _, first = await direct(system, "brain.add", sender, items=[{"text": "hello"}])
            _, second = await direct(system, "brain.add", sender, items=[{"text": "goodbye"}])
            await direct(system, "brain.forget", id=second["ids"][0])
            await perform(system, "erase", sender="sender:mail:ana@secretqq.example")
            page = (await perform(system, "brain.export", agent="main"))["memories"]
            assert [(one["source"], one["damaged"]) for one in page] == [("sender", False)] * 2, first
        assert hits(root, "ana@secretqq.example") == []

    asyncio.run(go())


def test_what_is_typed_in_a_chat_is_added_and_never_written_back(tmp_path: Path) -> None:
    """The file is the user's alone, and lines from before an erasure do not come back with the next one."""
    path = tmp_path / "chat_history"
    _append(path, "My code is Histsecretqq")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("My code is Histsecretqq\n", 0o600)
    path.unlink()
    _append(path, "Something else")
    assert path.read_text() == "Something else\n"
