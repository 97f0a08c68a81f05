"""An agent in each language: reads, fetches, is refused, learns, asks, publishes; is erased, backed up and restored.

Real processes, real servers on loopback, one home for each language; the other language's scout listens to it.
"""

import json
import re
import secrets
import shlex
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import ROOT, built
from live import Server, loket, prepare, serving, talking
from loket.testing.model_server import ModelServer, Reply, Request
from test_backup import with_cache
from test_erasure import hits

SCOUTS = {"python": "scout-python", "javascript": "scout-javascript"}

_SCOUTS = """
@id("scouts.fetch")
@reason("the owner has scouts look at the addresses in their notes, at the hosts that were granted")
permit (principal, action == Action::"net.fetch", resource)
when { !context.direct };

@id("scouts.tell")
@reason("the owner has scouts ask and tell each other what they found")
permit (principal, action in [Action::"agent", Action::"message"], resource)
when { !context.direct };
"""
"""What the owner of these homes allows beyond the default: a scout reads pages, and goes on from there."""


class Site(ThreadingHTTPServer):
    """A web server whose pages have a word each that stands nowhere else."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Page)
        self.host = f"127.0.0.1:{self.server_port}"
        self.words: list[str] = []


class _Page(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        word = f"lantern{''.join(secrets.choice('abcdefghijkmnopqrstuvwxyz') for _ in range(16))}"
        self.server.words.append(word)
        body = f"This page is about the {word}.".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@contextmanager
def site() -> Iterator[Site]:
    with Site() as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.02,), name="site")
        thread.start()
        try:
            yield made
        finally:
            made.shutdown()
            thread.join()


def about(request: Request) -> Reply:
    """A model that names the rare words that it was just told."""
    found = re.findall(r"lantern[a-z]+", str(request.body["messages"][-1]["content"]))
    return Reply(f"It is about the {found[-1]}." if found else "About nothing.")


def copy_of(name: str, folder: Path) -> Path:
    """A copy of an example with its component, which `loket build` makes once for each state of its sources."""
    source, copy = ROOT / "examples" / name, folder / name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.wasm"))

    def make(_source: Path, made: Path) -> None:
        loket(folder, "build", str(copy))
        shutil.move(copy / "module.wasm", made)

    shutil.copy(built(source, make), copy / "module.wasm")
    return copy


@dataclass
class Scouted:
    """A home with a running server, and what happened in it. `open` is the host that was granted, `shut` the other."""

    home: Path
    server: Server
    agent: str
    listener: str
    open: Site
    shut: Site
    first: dict[str, Any] = field(default_factory=dict)
    heard: str = ""
    second: dict[str, Any] = field(default_factory=dict)
    third: dict[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> str:
        """What allows the host that was not granted."""
        return f"loket grants allow {self.agent} net.fetch --add hosts={self.shut.host}"

    def go(self) -> dict[str, Any]:
        return dict(loket(self.home, "ask", self.agent, "go", "--json"))

    def calls(self, run: str, capability: str) -> list[dict[str, Any]]:
        """The rows of a run that say how calls of a capability ended."""
        rows = loket(self.home, "runs", "show", run, "--json")["rows"]
        return [row for row in rows if row.get("capability") == capability and row["kind"] != "intent"]

    def note(self) -> str:
        """What the listener has heard, once it has answered all that was sent to it."""
        until = time.monotonic() + 120
        while time.monotonic() < until:
            runs = loket(self.home, "runs", "list", "--json")["runs"]
            mine = [run for run in runs if run["agent"] == self.listener and run["parent"]]
            if mine and all(run["status"] == "done" for run in mine):
                return (self.home / "files" / self.listener / "notes" / "heard.txt").read_text()
            time.sleep(0.1)
        raise AssertionError("the listener heard nothing")


@pytest.fixture(scope="module", params=SCOUTS)
def scouted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scouted]:
    """Built, installed and granted; it has looked three times, the third time after the owner ran the line."""
    agent = SCOUTS[request.param]
    listener = next(name for name in SCOUTS.values() if name != agent)
    folder = tmp_path_factory.mktemp(agent)
    with ModelServer(about) as model, site() as granted, site() as refused:
        home = prepare(folder / "home", model.url)
        (home / "policies").mkdir(mode=0o700)
        (home / "policies" / "scouts.cedar").write_text(_SCOUTS)
        with ThreadPoolExecutor() as pool:
            modules = list(pool.map(lambda name: copy_of(name, folder), (agent, listener)))
        for module in modules:
            loket(home, "install", str(module), "--yes")
        with serving(home) as server:
            made = Scouted(home, server, agent, listener, granted, refused)
            _look(made)
            yield made


def _look(made: Scouted) -> None:
    hosts = json.dumps([made.open.host])
    private = json.dumps([made.open.host, made.shut.host])
    grant = ["grants", "allow", made.agent, "net.fetch", "--constraint", f"hosts={hosts}"]
    loket(made.home, *grant, "--constraint", f"private={private}")
    loket(made.home, "ask", made.listener, "listen")
    loket(made.home, "ask", made.agent, f"look at http://{made.open.host}/ and http://{made.shut.host}/")
    made.first = made.go()
    made.heard = made.note()
    loket(made.home, "lessons", made.agent)  # waits until they are drawn
    made.second = made.go()
    loket(made.home, *shlex.split(made.line)[1:])
    loket(made.home, "lessons", made.agent)
    made.third = made.go()


def test_a_refusal_shows_the_line_that_would_allow_it(scouted: Scouted) -> None:
    """A file of its own is read, the granted host fetched, the next one refused, with the line that allows it."""
    run = scouted.first["run"]
    assert [row["decision"] for row in scouted.calls(run, "fs.read")] == ["allow"]
    fetched, refused = scouted.calls(run, "net.fetch")
    assert scouted.open.words[0] in fetched["value"]["answer"]["text"]
    assert (refused["decision"], refused["value"]["error"]["code"]) == ("deny", "grant.constraint")
    assert refused["value"]["error"]["remedy"] == scouted.line
    assert scouted.line in scouted.first["answer"].splitlines()[-1]


def test_what_was_refused_is_not_tried_again_until_the_owner_allows_it(scouted: Scouted) -> None:
    """The second run makes no call for that host; once the owner ran the line that it was told, the third does."""
    assert [row["decision"] for row in scouted.calls(scouted.second["run"], "net.fetch")] == ["allow"]
    assert f"{scouted.shut.host}: not tried again." in scouted.second["answer"]
    assert scouted.line in scouted.second["answer"]
    after = scouted.calls(scouted.third["run"], "net.fetch")
    assert [row["value"]["answer"]["status"] for row in after] == [200, 200]
    assert len(scouted.shut.words) == 1
    assert scouted.shut.words[0] in scouted.third["answer"]


def test_another_agent_is_asked_and_a_third_one_hears_of_it(scouted: Scouted) -> None:
    """The stock agent's answer, a run of its own, is in the report, which the subscriber gets with topic and sender."""
    (asked,) = scouted.calls(scouted.first["run"], "agent.ask")
    child = loket(scouted.home, "runs", "show", asked["value"]["answer"]["run"], "--json")
    assert (child["agent"], child["parent"]) == ("main", scouted.first["run"])
    assert asked["value"]["answer"]["text"] == f"It is about the {scouted.open.words[0]}."
    (published,) = scouted.calls(scouted.first["run"], "message.publish")
    assert published["value"]["answer"]["delivered"] == [scouted.listener]
    assert scouted.heard == f"{scouted.agent} on scout/report: {scouted.first['answer']}"


@dataclass
class Erased:
    """A home whose first and third run were erased, and what is left of them.

    `words` are those of the pages that these fetched, `before` and `left` the files that had and have them; `sent` and
    `greeted` are how the messages in between ended.
    """

    scouted: Scouted
    words: list[str]
    before: list[str]
    backup: Path
    today: Path
    sent: list[str]
    greeted: list[str]
    done: dict[str, Any]
    left: list[str]
    verified: dict[str, Any]


def anywhere(root: Path, words: list[str]) -> list[str]:
    return sorted({name for word in words for name in hits(root, word)})


@pytest.fixture(scope="module")
def erased(scouted: Scouted) -> Erased:
    """While messages are answered: a backup, then the erasure of two runs; and a second backup."""
    home, old, new = scouted.home, scouted.home.parent / "old", scouted.home.parent / "new"
    words = [scouted.open.words[0], scouted.open.words[2], scouted.shut.words[0]]
    before = anywhere(home, words)
    runs = ["--run", scouted.first["run"], "--run", scouted.third["run"]]
    with talking(scouted.server, scouted.listener, lambda _n: f"look at http://{scouted.open.host}/") as sent:
        with talking(scouted.server, "main", lambda _n: "Good morning") as greeted:
            loket(home, "backup", str(old))
        done = loket(home, "erase", *runs, "--yes", "--json")
    left = anywhere(home, words)
    loket(home, "backup", str(new))
    verified = loket(home, "runs", "verify", "--json")
    return Erased(scouted, words, before, old, new, sent, greeted, done, left, verified)


def test_erased_runs_are_in_no_file_and_the_journal_verifies(erased: Erased) -> None:
    """What they fetched had come into a brain and the notes of other agents; it is nowhere, and all else verifies."""
    assert {f"files/{erased.scouted.listener}/notes/heard.txt", "brains/main.db-wal"} <= set(erased.before)
    assert erased.left == []
    assert anywhere(erased.scouted.home, erased.words) == []
    assert anywhere(erased.today, erased.words) == []
    gone = erased.done["runs"] + erased.done["carried"]
    assert {erased.scouted.first["run"], erased.scouted.third["run"]} <= set(gone)
    assert (erased.verified["ok"], erased.verified["failed"], erased.verified["erased"]) == (True, 0, len(gone))
    assert erased.verified["verified"] > len(erased.sent)


def test_a_backup_from_the_middle_of_the_work_restores_and_verifies(erased: Erased, tmp_path: Path) -> None:
    """Taken while messages were answered, it comes back with the keys of that moment, and every run replays."""
    second = restored(erased, tmp_path / "second")
    verified = loket(second, "runs", "verify", "--json")
    assert (verified["ok"], verified["failed"], verified["erased"]) == (True, 0, 0)
    shown = loket(second, "runs", "show", erased.scouted.first["run"], "--json")
    assert erased.words[0] in shown["answer"]["text"]
    assert set(erased.sent) == set(erased.greeted) == {"done"}


def test_an_old_backup_with_the_keys_of_today_gives_nothing_back(erased: Erased, tmp_path: Path) -> None:
    """The runs that were erased after the backup are erased in what comes back; their words are in no file there."""
    third = restored(erased, tmp_path / "third", "--keys", f"{erased.today}-keys")
    verified = loket(third, "runs", "verify", "--json")
    assert (verified["ok"], verified["failed"]) == (True, 0)
    assert verified["erased"] > 0
    assert loket(third, "runs", "show", erased.scouted.first["run"], "--json")["erased"] is True
    assert anywhere(third, erased.words) == []


def restored(erased: Erased, home: Path, *more: str) -> Path:
    result = loket(home, "restore", str(erased.backup), *more, "--json")
    assert (result["ok"], result["vouched"], result["journal"]["faults"]) == (True, True, [])
    return with_cache(home, erased.scouted.home)
