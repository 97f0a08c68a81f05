"""What an approval stands for, and what a run shows: records instead of bare ids, the chain of runs, no canary."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from live import Server, loket, prepare, serving
from loket.approvals import TIMEOUT_S
from loket.contracts.catalogue import BY_ID
from loket.provenance import Judge, Owner, Reading, Request
from test_agents import folder
from test_approvals_doors import ASKS_BEN, asking_home, ended


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(asking_home(tmp_path_factory.mktemp("shown") / "home")) as server:
        yield server


def test_an_approval_shows_the_record_that_an_id_stands_for(server: Server) -> None:
    """In the list, in words and as JSON: the memory's text and its day, with nothing that a terminal would obey."""
    number = loket(server.home, "brain", "main", "add", 'Buy "milk"\x1b[2J', "--json")["ids"][0]
    one = loket(server.home, "ask", "main", f"/forget {number}", "--json", code=4)["waiting"][0]
    assert re.fullmatch(r'memory "Buy \\"milk\\".*", 20\d\d-\d\d-\d\d', one["origins"]["id"]["record"])
    said = loket(server.home, "approvals", "show", one["id"])
    (line,) = [line for line in said.splitlines() if line.strip().startswith("id = ")]
    assert line.startswith(f'    id = {number}  (memory "Buy ')
    assert "\x1b" not in said + loket(server.home, "approvals", "list")
    assert 'memory "Buy' in loket(server.home, "approvals", "list")
    loket(server.home, "approvals", "deny", one["id"])
    assert ended(server.home, one["run"])["status"] == "done"


def test_a_record_comes_from_clean_reads_alone() -> None:
    """An id of what no clean read found stands for nothing; of a list, each record is named."""
    search, forget = BY_ID["brain.search"], BY_ID["brain.forget"]
    judge = Judge(Request("forget the milk"), Owner())
    memory = {"id": 3, "text": "Buy milk", "created": "2026-11-02T08:00:00Z", "labels": ["owner"]}
    judge.add([Reading(search, {"query": "milk"}, {"memories": [memory]}, 1)])
    judge.closure()
    assert judge.record(forget, "id", 3) == 'memory "Buy milk", 2026-11-02'
    assert judge.record(forget, "id", 4) == ""
    assert judge.record(forget, "id", [3, 4]) == 'memory "Buy milk", 2026-11-02'
    poisoned = Judge(Request("forget the milk"), Owner())
    poisoned.add([Reading(search, {"query": "what a page said"}, {"memories": [memory]}, 1)])
    poisoned.closure()
    assert poisoned.record(forget, "id", 3) == ""


@pytest.mark.parametrize("name", ["agent.ask", "plan.make", "plan.run"])
def test_the_limit_of_a_call_that_waits_for_a_run_leaves_the_owner_time(name: str) -> None:
    """The counter ends no such call while an approval that its child waits for may still come."""
    assert BY_ID[name].timeout_s > TIMEOUT_S


def test_no_canary_is_shown_with_a_run(server: Server) -> None:
    """Neither in words nor as JSON nor by the API, in no row; the rows are there."""
    run = loket(server.home, "ask", "main", "hello", "--json", code=4)["run"]
    shown = loket(server.home, "runs", "show", run, "--json", "--full")
    rules = shown["rows"][0]["value"]["args"]["rules"]
    assert rules.endswith("for nobody else: [canary]")
    _status, text = server.request(f"/v1/runs/{run}")
    for said in (json.dumps(shown), loket(server.home, "runs", "show", run, "--full"), text):
        assert not re.search(r"nobody else: [0-9A-Z]{4}-", said)


def test_a_run_shows_whose_question_it_waits_for_and_all_runs_are_stopped_at_once(tmp_path: Path) -> None:
    """The parent names the child that asks; `runs stop --all` ends both, and says how many; then there is none."""
    home = prepare(tmp_path / "home")
    (home / "policies").mkdir(mode=0o700)
    (home / "policies" / "ask.cedar").write_text(ASKS_BEN)
    for name in ("ana", "ben"):
        loket(home, "install", str(folder(tmp_path / "sources", name)), "--yes")
    with serving(home):
        said = loket(home, "ask", "ana", "ask ben: send ana: hi", "--json", code=4)
        (one,) = said["waiting"]
        line = f"waits for you: message.send of ben, run {one['run']}, (loket approvals show {one['id']})"
        assert line in loket(home, "runs", "show", said["run"])
        assert "waits for you: message.send (loket" in loket(home, "runs", "show", one["run"])
        assert "name one run" in loket(home, "runs", "stop", code=2)
        assert sorted(loket(home, "runs", "stop", "--all", "--json")["stopped"]) == sorted([said["run"], one["run"]])
        assert {run["status"] for run in loket(home, "runs", "list", "--json")["runs"]} == {"stopped"}
        assert "no run is unfinished" in loket(home, "runs", "stop", "--all")
