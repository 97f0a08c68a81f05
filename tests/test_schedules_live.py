"""Schedules in the whole system: real servers, `kill -9`, signed requests, an agent that sleeps, and backups."""

import asyncio
import json
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import GUESTS, built_guest
from live import Server, loket, prepare, serving, start
from loket.app import Loket, running
from loket.contracts import Damaged, RowKind
from loket.home import Home
from loket.operations import Operations
from loket.poison import Footprint, source_of
from loket.providers.vault import FileVault
from loket.quarantine import Quarantine
from loket.schedules import Schedules, backups, sign
from loket.store.agents import AgentDatabases
from loket.store.bus import Bus
from loket.store.check import query_file
from loket.store.schedules import ScheduleStore
from loket.stores import AGENT_MIGRATIONS
from loket.testing.models import InstantModel

WAIT_S = 60.0
NOW = 1_795_000_000.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with serving(prepare(tmp_path_factory.mktemp("schedules") / "home")) as made:
        yield made


def until(there: Callable[[], Any]) -> Any:
    """What is there in the end, looked at again and again."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        found = there()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("it did not come")


def add(server: Server, text: str, *words: str) -> dict[str, Any]:
    made: dict[str, Any] = loket(server.home, "schedule", "add", "main", text, *words, "--json")
    return made


def firings(server: Server, identity: str) -> list[dict[str, Any]]:
    """Those of a schedule that have ended, oldest first."""
    found = loket(server.home, "schedule", "show", identity, "--json")["firings"]
    return [one for one in reversed(found) if one["status"] == "done"]


def test_a_schedule_is_made_listed_shown_paused_run_and_removed_by_command(server: Server) -> None:
    """Each command in words and as JSON; what comes due is a run of the agent, which verifies."""
    made = add(server, "/remember eggs", "--every", "1s")
    done = until(lambda: firings(server, made["id"]))
    assert loket(server.home, "runs", "verify", done[0]["run"], "--json")["ok"] is True
    assert made["id"] in loket(server.home, "schedule", "list", "main")
    paused = loket(server.home, "schedule", "pause", made["id"][:6], "--json")
    assert (paused["paused"], paused["next"]) == (True, None)
    assert "paused" in loket(server.home, "schedule", "list")
    assert "Remembered" in loket(server.home, "schedule", "run", made["id"])
    assert "every 1s, next" in loket(server.home, "schedule", "resume", made["id"])
    assert loket(server.home, "schedule", "remove", made["id"], "--json") == {"id": made["id"], "removed": True}
    assert "there is no schedule" in loket(server.home, "schedule", "show", made["id"], code=2)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("hello",), "say when"),
        (("hello", "--every", "1h", "--cron", "* * * * *"), "say when"),
        (("hello", "--every", "soon"), "no length of time"),
        (("hello", "--cron", "61 * * * *"), "no cron expression"),
        (("--every", "1h"), "give a text, --plan or --call"),
        (("hello", "--every", "1h", "--missed", "perhaps"), "missed"),
        (("--call", "no.such", "--every", "1h"), "no capability"),
        (("hello", "--at", "2020-01-01T00:00:00Z"), "is over"),
    ],
)
def test_a_wrong_schedule_is_an_error_with_its_remedy(server: Server, words: tuple[str, ...], says: str) -> None:
    """Nothing is made."""
    before = loket(server.home, "schedule", "list", "--json")
    said = loket(server.home, "schedule", "add", "main", *words, code=None)
    assert says in said
    assert "Remedy" in said
    assert loket(server.home, "schedule", "list", "--json") == before


def test_a_call_comes_due_in_the_owners_name(server: Server) -> None:
    """A capability with its arguments, through the counter; its answer stands in the run."""
    words = ("--call", "kv.set", "--args", '{"key": "tick", "value": 1}', "--every", "1s")
    made = loket(server.home, "schedule", "add", "main", *words, "--json")
    done = until(lambda: firings(server, made["id"]))
    shown = loket(server.home, "runs", "show", done[0]["run"], "--json")
    assert (shown["operation"], shown["status"]) == ("kv.set", "done")
    loket(server.home, "schedule", "remove", made["id"])


def test_the_api_makes_shows_and_removes_schedules(server: Server) -> None:
    """The same operations; what the description says is what is answered."""
    new = {"agent": "main", "text": "/help", "when": {"cron": "0 8 * * *", "timezone": "Europe/Berlin"}}
    status, body = server.request("/v1/schedules", new, Content_Type="application/json")
    made = json.loads(body)
    assert (status, made["when"]) == (201, new["when"])
    assert json.loads(server.request("/v1/schedules?agent=main")[1])["schedules"] == [made]
    status, body = server.request(f"/v1/schedules/{made['id']}/run", b"{}")
    assert (status, json.loads(body)["status"]) == (200, "done")
    assert server.request("/v1/schedules/ffffffffff")[0] == 404
    loket(server.home, "schedule", "remove", made["id"])
    described = json.loads(server.request("/openapi.json")[1])["paths"]
    assert {"/v1/schedules", "/v1/schedules/{id}/pause", "/hooks/{id}"} <= described.keys()


def post(server: Server, path: str, body: bytes, *signatures: str) -> tuple[int, Any]:
    """A request of somebody who has no token."""
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", body, {"Content-Type": "text/plain"})
    for signature in signatures:
        request.add_header("Loket-Signature", signature)
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as answer:  # noqa: S310 - loopback
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_signed_request_is_a_run_and_an_unsigned_one_is_nothing(server: Server) -> None:
    """202 with the run, the same one for the same request; 403 without a signature that is right."""
    made = add(server, "/remember what came", "--webhook", "--most", "5")
    body = b"an order of eve@example.org"
    header = sign(made["secret"], int(time.time()), body)
    status, accepted = post(server, made["path"], body, header)
    assert status == 202
    assert post(server, made["path"], body, header) == (202, accepted)
    shown = until(lambda: _finished(server, accepted["run"]))
    start_row = next(row for row in shown["rows"] if row["kind"] == "start")
    said = start_row["value"] if isinstance(start_row.get("value"), dict) else start_row
    assert "an order of eve@example.org" in json.dumps(said)
    for wrong in ((), (header.replace("v1=", "v1=0"),), (sign("x", int(time.time()), body),)):
        assert post(server, made["path"], body, *wrong)[0] == 403
    assert post(server, "/hooks/ffffffffff", body, header)[0] == 403
    loket(server.home, "schedule", "pause", made["id"])
    fresh = sign(made["secret"], int(time.time()), b"later")
    assert post(server, made["path"], b"later", fresh)[0] == 409
    other = loket(server.home, "schedule", "secret", made["id"], "--json")["secret"]
    assert other != made["secret"]
    assert post(server, made["path"], b"later", fresh)[0] == 403
    loket(server.home, "schedule", "remove", made["id"])
    assert f"schedule-{made['id']}" not in loket(server.home, "vault", "list")


def _finished(server: Server, run: str) -> Any:
    shown = loket(server.home, "runs", "show", run, "--json")
    return shown if shown["status"] == "done" else None


def test_a_file_in_the_agents_folder_wakes_the_agent(server: Server) -> None:
    """Once it is there as a whole."""
    made = add(server, "/remember a file came", "--on-file", "inbox/*.txt")
    inbox = server.home / "files" / "main" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "order.txt").write_text("one")
    assert until(lambda: firings(server, made["id"]))
    loket(server.home, "schedule", "remove", made["id"])


def test_a_quiet_agent_is_woken(server: Server) -> None:
    """Seconds after its last run."""
    made = add(server, "/remember it is quiet", "--idle", "2s")
    assert until(lambda: firings(server, made["id"]))
    loket(server.home, "schedule", "remove", made["id"])


def test_a_server_that_is_killed_again_and_again_misses_and_repeats_nothing(tmp_path: Path) -> None:
    """Due each second, made up for one by one: after six kills every second since has exactly one run."""
    home = prepare(tmp_path / "home")
    server = start(home)
    words = ("--every", "1s", "--missed", "all", "--most", "100")
    made = loket(home, "schedule", "add", "main", "/remember tick", *words, "--json")
    for pause in (0.3, 1.1, 0.05, 0.7, 2.2, 0.02):
        time.sleep(pause)
        end(server, Server.kill)
        server = start(home)
    time.sleep(1.5)
    loket(home, "schedule", "pause", made["id"])
    until(lambda: all(one["status"] == "done" for one in _runs(home)))
    end(server, Server.stop)
    store = ScheduleStore(home / "schedules.db")
    (last,) = store.firings(made["id"], 1)
    store.close()
    dues = int(last.due) - int(made["made"])
    assert len([run for run in _runs(home) if run["operation"] == "loket:command"]) == dues


def end(server: Server, how: Callable[[Server], Any]) -> None:
    """Kill a server, or have it stop, and let go of what it said."""
    how(server)
    if server.process.stdout is not None:
        server.process.stdout.close()


def _runs(home: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = loket(home, "runs", "list", "--limit", "500", "--json")["runs"]
    return found


def puppet(sources: Path) -> Path:
    """An agent that does what it is told, and may sleep and make schedules."""
    made = sources / "puppet"
    made.mkdir(parents=True)
    asked = ("clock.sleep", "schedule.create", "schedule.list", "schedule.pause", "schedule.remove")
    more = "".join(f'[[capability]]\nname = "{one}"\nreason = "a test asks for it"\n\n' for one in asked)
    manifest = (GUESTS / "puppet" / "loket.toml").read_text()
    (made / "loket.toml").write_text(manifest.replace("[[operation]]", f"{more}[[operation]]", 1))
    shutil.copy(built_guest("puppet"), made / "module.wasm")
    return made


def told(*calls: tuple[str, dict[str, Any]]) -> str:
    return json.dumps([{"call": name, "args": args} for name, args in calls])


def test_a_run_that_sleeps_through_a_kill_wakes_when_it_was_to(tmp_path: Path) -> None:
    """It holds nothing meanwhile; the next process sleeps only what is left."""
    home = prepare(tmp_path / "home")
    loket(home, "install", str(puppet(tmp_path / "sources")), "--yes")
    server = start(home)
    body = {"text": told(("clock.sleep", {"seconds": 8}))}
    run = json.loads(server.request("/v1/agents/puppet/messages", body, Content_Type="application/json")[1])["run"]
    until(lambda: query_file(home / "schedules.db", "SELECT until FROM sleep"))
    end(server, Server.kill)
    with serving(home) as again:
        shown = until(lambda: _finished(again, run))
    assert 8 <= shown["ended"] - shown["accepted"] < 20
    assert loket(home, "runs", "verify", run, "--json")["ok"] is True


def on_system(root: Path, story: Any) -> Any:
    home = Home(prepare(root / "home"))

    async def main() -> Any:
        async with running(home, llm=InstantModel("yes")) as system:
            await system.installed.install(puppet(root / "sources"), "local", _ALL, "owner")
            return await story(system)

    return asyncio.run(main())


_ALL = ("schedule.create", "schedule.list", "schedule.pause", "schedule.remove", "kv.set")


async def _ask_and_allow(system: Loket, text: str) -> Any:
    """Send a message whose call the owner has to approve, and approve it."""
    owner = Operations(system).perform
    run = await system.send("puppet", text)
    async with asyncio.timeout(WAIT_S):
        while not (asked := (await owner("approvals.list", {}, lambda _event: None))["approvals"]):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    await owner("approvals.decide", {"ids": [asked[0]["id"]], "decision": "allow"}, lambda _event: None)
    return asked[0], await system.finished(run)


def test_an_agents_schedule_needs_the_owner_who_then_speaks_by_it(tmp_path: Path) -> None:
    """Text and times that are not in the owner's words are asked about; approved, they are the owner's words."""

    async def story(system: Loket) -> None:
        args = {"text": told(("kv.set", {"key": "due", "value": 1})), "when": {"every_s": 3600}}
        asked, ending = await _ask_and_allow(system, told(("schedule.create", args)))
        assert asked["critical"] == ["text", "when"]
        assert ending.answer is not None
        (one,) = system.schedules.store.all()
        assert (one.by, one.approved, one.agent) == ("agent:puppet", True, "puppet")
        assert "agent:puppet" in one.labels
        done = await system.runner.run_now(one.id)
        (first,) = [row for row in system.journal.rows(done.run) if row.kind is RowKind.START]
        said = json.loads(first.value)
        assert (said["words"], said["args"]["schedule"]) == (args["text"], one.id)
        assert (await system.finished(str(done.run))).status.value == "done"
        await system.installed.remove("puppet")
        assert system.schedules.store.all() == []

    on_system(tmp_path, story)


def test_a_schedule_that_came_of_a_bad_source_is_set_aside_and_given_back(tmp_path: Path) -> None:
    """As memories and files are: by its labels, and whole again afterwards."""
    store = ScheduleStore(tmp_path / "schedules.db")
    brains = AgentDatabases(tmp_path / "brains", AGENT_MIGRATIONS)
    bus = Bus(tmp_path / "bus.db")
    vault = FileVault(tmp_path / "vault", keyring=False)
    table = Schedules(store, vault, folder=tmp_path / "files", home=tmp_path, now=lambda: NOW)
    table.add("ana", what={"text": "mine"}, trigger={"every_s": 60})
    table.add(
        "ana",
        what={"text": "its"},
        trigger={"every_s": 60},
        by="agent:ana",
        run="r1",
        labels=("agent:ana", "host:example.org"),
        approved=False,
    )
    before = store.all()
    quarantine = Quarantine(brains, bus, tmp_path / "files", lambda: NOW, store)
    things = quarantine.find(["ana"], Footprint(source_of("host:example.org"), {}))
    assert [(thing.store, thing.about) for thing in things] == [("schedule", "its")]
    assert quarantine.take("q1", "host:example.org", "ana", things) == things
    assert [one.what["text"] for one in store.all()] == ["mine"]
    assert quarantine.restore("ana", "q1")[1] == []
    assert store.all() == before
    for one in (store, brains, bus):
        one.close()


def test_a_schedule_is_taken_along_by_a_backup_and_backups_by_schedule_are_kept_by_number(tmp_path: Path) -> None:
    """Three backups of which two are kept: each verified, the older ones readable with the newest keys."""
    home = prepare(tmp_path / "home")
    disk = tmp_path / "disk"
    words = ("schedule", "backup", "--every", "1d", "--keep", "2", str(disk), "--json")
    made = loket(home, *words)
    kept: list[str] = []
    for _ in range(3):
        done = loket(home, "schedule", "run", made["id"], "--json")
        kept.append(done["result"]["folder"])
        time.sleep(1.1)
    names = sorted(path.name for path in disk.iterdir())
    assert names == sorted([*(Path(one).name for one in kept[1:]), f"{Path(kept[2]).name}-keys"])
    keys = ("--keys", f"{kept[2]}-keys")
    loket(tmp_path / "restored", "restore", kept[1], *keys, "--home", str(tmp_path / "restored"))
    again = loket(tmp_path / "restored", "schedule", "list", "--json")["schedules"]
    assert [one["what"] for one in again] == [made["what"]]


def test_a_backup_that_is_not_what_was_written_removes_nothing(tmp_path: Path) -> None:
    """The older ones stay, and the schedule says what is wrong."""
    home = prepare(tmp_path / "home")
    disk = tmp_path / "disk"
    made = loket(home, "schedule", "backup", "--every", "1d", "--keep", "1", str(disk), "--json")
    first = loket(home, "schedule", "run", made["id"], "--json")["result"]["folder"]

    def spoil(target: Path, _what: Any) -> dict[str, Any]:
        shutil.copytree(first, target)
        (target / "config.toml").write_text("[models]\n")
        return {}

    key = FileVault(Home(home).vault, keyring=False).master.subkey("backup")
    with pytest.raises(Damaged):
        backups.run(made["id"], made["what"]["backup"], time.time() + 10, spoil, lambda: key)
    assert Path(first).is_dir()
