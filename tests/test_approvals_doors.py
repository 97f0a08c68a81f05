"""Approvals at every door: the command line with and without a server, its terminal, and the HTTP API."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import jsonschema_rs
import pytest

from live import Server, environment, loket, prepare, serving, start
from loket.gateway.approval_routes import APPROVAL, ROUTES
from test_agents import folder

ASKS = """
@id("test.ask")
@verdict("ask")
@reason("memories are the owner's")
forbid (principal is Agent, action in [Action::"brain.add", Action::"brain.forget"], resource);
"""


def asking_home(path: Path) -> Path:
    """A home whose owner is asked before the agent remembers or forgets."""
    home = prepare(path)
    (home / "policies").mkdir(mode=0o700)
    (home / "policies" / "ask.cedar").write_text(ASKS)
    return home


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = asking_home(tmp_path_factory.mktemp("approvals") / "home")
    with serving(home) as server:
        yield server


def asked(home: Path, text: str, *words: str) -> dict[str, Any]:
    """Have the agent ask about a memory, where nobody sits at a terminal; the question."""
    said = loket(home, "ask", "main", f"/remember {text}", "--json", *words, code=4)
    (one,) = said["waiting"]
    assert one["run"] == said["run"]
    return dict(one)


def ended(home: Path, run: str) -> dict[str, Any]:
    """The run with its rows, once it has ended."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        shown = loket(home, "runs", "show", run, "--json")
        if shown["ended"] is not None:
            return dict(shown)
        time.sleep(0.05)
    raise AssertionError(f"run {run} does not end")


def memories(home: Path) -> list[str]:
    """What the agent remembers; what it learned from denials left out."""
    found = loket(home, "brain", "main", "search", "", "--json")["memories"]
    return [memory["text"] for memory in found if memory["kind"] != "lesson"]


def test_without_a_terminal_asking_says_how_to_approve_and_has_an_exit_code_of_its_own(server: Server) -> None:
    """4, and the lines to copy; once approved, the same message gives the answer."""
    words = ("ask", "main", "/remember tea at four", "--message", "tea")
    said = loket(server.home, *words, code=4)
    (one,) = loket(server.home, "approvals", "list", "--json")["approvals"]
    assert f"loket approvals approve {one['id']}" in said
    assert "tea at four" in said
    assert f"waits for you: brain.add (loket approvals show {one['id']})" in loket(
        server.home, "runs", "show", one["run"]
    )
    assert loket(server.home, *words, "--json", code=4)["waiting"][0]["id"] == one["id"]
    assert "Approved: brain.add of main" in loket(server.home, "approvals", "approve", one["id"])
    assert "Remembered as number" in loket(server.home, *words)
    assert loket(server.home, "approvals", "list", "--json")["approvals"] == []
    assert loket(server.home, "runs", "verify", one["run"], "--json")["ok"]


def test_a_denial_carries_the_owners_reason_into_the_run(server: Server) -> None:
    """The refused row has code, reason and rule; approving afterwards is refused, with exit code 2."""
    one = asked(server.home, "a secret")
    loket(server.home, "approvals", "deny", one["id"][:19], "--reason", "not in here")
    run = ended(server.home, one["run"])
    (row,) = [row for row in run["rows"] if row.get("capability") == "brain.add"]
    assert row["value"]["error"]["code"] == "approval.denied"
    assert row["value"]["error"]["message"] == "the owner denied it: not in here"
    assert "is denied already" in loket(server.home, "approvals", "approve", one["id"], code=2)
    assert "a secret" not in memories(server.home)


def test_a_rule_is_shown_before_it_is_saved_and_a_broader_one_is_refused(server: Server, tmp_path: Path) -> None:
    """The proposed rule names the memory that is forgotten; one without its name is refused, and nothing is done."""
    number = loket(server.home, "brain", "main", "add", "old news", "--json")["ids"][0]
    said = loket(server.home, "ask", "main", f"/forget {number}", "--json", code=4)
    (one,) = said["waiting"]
    assert one["critical"] == ["id"]
    rule = loket(server.home, "approvals", "show", one["id"], "--json")["rule"]
    assert f'"{number}"' in rule
    broad = tmp_path / "broad.cedar"
    broad.write_text('@id("mine") permit(principal == Agent::"main", action == Action::"brain.forget", resource);')
    words = ("approvals", "approve", one["id"], "--rule", "--yes")
    assert "would allow more than approval" in loket(server.home, *words, "--narrow", str(broad), code=2)
    assert "nobody can be asked here" in loket(server.home, *words[:-1], code=2)
    assert loket(server.home, "approvals", "show", one["id"], "--json")["status"] == "open"
    decided = loket(server.home, *words, "--json")["approvals"][0]
    assert decided["decision"]["rule"] == rule
    assert rule in (server.home / "policies" / "approved.cedar").read_text()
    assert ended(server.home, one["run"])["status"] == "done"


def test_what_a_request_asks_for_is_approved_with_one_word(server: Server) -> None:
    """`--all-of` lists each, and needs a word or --yes; a run that asks for nothing is an error."""
    one = asked(server.home, "all of it", "--conversation", "batch")
    words = ("approvals", "approve", "--all-of", one["run"])
    assert "nobody can be asked here" in loket(server.home, *words, code=2)
    code, said = at_terminal(server.home, *words, typed=["y\n"])
    assert code == 0
    assert "all of it" in said
    assert "Approve this?" in said
    ended(server.home, one["run"])
    assert "asks for nothing" in loket(server.home, *words, code=2)


def test_texts_that_command_a_terminal_are_shown_as_escapes(server: Server) -> None:
    """Escape sequences, a reversed direction, breaks of lines and fillers cannot hide or fake a line."""
    one = asked(server.home, "pay\x1b[2K\u202eevil\u3164\napproval    fake  allowed", "--conversation", "escapes")
    said = loket(server.home, "approvals", "show", one["id"]) + loket(server.home, "approvals", "list")
    assert not {"\x1b", "\u202e", "\u3164"} & set(said)
    assert "\\u001b[2K\\u202eevil\\u3164\\napproval    fake" in said
    assert sum(line.startswith("approval    ") for line in said.splitlines()) == 1
    loket(server.home, "approvals", "deny", one["id"])


def test_the_api_lists_shows_and_decides(server: Server) -> None:
    """Answers fit their description; unknown, closed and wrong ones have their statuses; a token may only look."""
    one = asked(server.home, "by the API", "--conversation", "api")
    path = f"/v1/approvals/{one['id']}"
    status, text = server.request("/v1/approvals?run=" + one["run"])
    assert (status, [each["id"] for each in json.loads(text)["approvals"]]) == (200, [one["id"]])
    status, text = server.request(path)
    check = jsonschema_rs.validator_for(APPROVAL)
    assert (status, check.is_valid(json.loads(text))) == (200, True)
    assert json.loads(text)["args"]["items"][0]["text"] == "by the API"
    json_type = {"Content_Type": "application/json"}
    token = loket(server.home, "token", "create", "looker", "--json")["secret"]
    as_token = {"Authorization": f"Bearer {token}"}
    assert server.request(path, **as_token)[0] == 200
    for body, code, more in (
        ({"decision": "allow"}, 403, as_token),
        ({"decision": "maybe"}, 400, {}),
        ({}, 400, {}),
        ({"decision": "allow", "scope": "always"}, 400, {}),
        ({"decision": "deny", "scope": "run"}, 400, {}),
        ({"decision": "allow", "by": "owner"}, 400, {}),
        ({"decision": "allow", "scope": "once", "rule": "permit(principal, action, resource);"}, 400, {}),
    ):
        assert server.request(path, body, **json_type, **more)[0] == code, body
    assert server.request("/v1/approvals/zzz")[0] == 404
    assert server.request("/v1/approvals/zzz", {"decision": "allow"}, **json_type)[0] == 404
    status, text = server.request(path, {"decision": "allow"}, **json_type)
    assert (status, json.loads(text)["status"]) == (200, "allowed")
    assert check.is_valid(json.loads(text))
    assert server.request(path, {"decision": "deny"}, **json_type)[0] == 409
    assert ended(server.home, one["run"])["status"] == "done"
    assert {endpoint.access.value for endpoint in ROUTES if endpoint.method == "POST"} == {"owner"}


def test_the_event_asking_names_the_approval(server: Server) -> None:
    """In the stream of the message, and for whoever begins to watch while the run waits."""
    body = {"text": "/remember by events", "conversation": "events"}
    done = subprocess.Popen(
        [sys.executable, "-c", STREAM, str(server.port), (server.home / "token").read_text(), json.dumps(body)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert done.stdout is not None
    asking = json.loads(done.stdout.readline())
    (one,) = loket(server.home, "approvals", "list", "--run", asking["run"], "--json")["approvals"]
    assert (asking["approval"], asking["capability"]) == (one["id"], "brain.add")
    loket(server.home, "approvals", "approve", one["id"])
    assert json.loads(done.stdout.readline())["status"] == "done"
    done.wait(120)
    done.stdout.close()


@contextmanager
def streamed(server: Server, text: str, conversation: str) -> Iterator[IO[str]]:
    """A message by the API, as a stream; what it waits for and its end come as lines."""
    body = json.dumps({"text": text, "conversation": conversation})
    words = [sys.executable, "-c", STREAM, str(server.port), (server.home / "token").read_text(), body]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout
        finally:
            process.kill()


def test_a_message_behind_a_run_that_asks_says_so_at_once(server: Server) -> None:
    """Exit code 4 and the line to copy, also as JSON; the API's stream has the same event; then both are done."""
    one = asked(server.home, "in front", "--conversation", "queue")
    words = ("ask", "main", "/recall", "--conversation", "queue", "--message", "second")
    said = loket(server.home, *words, code=4)
    assert f"is behind run {one['run']}, which waits for approval {one['id']}: loket approvals show {one['id']}" in said
    assert f"loket approvals approve {one['id']}" in said
    as_json = loket(server.home, *words, "--json", code=4)
    assert (as_json["behind"], [each["id"] for each in as_json["waiting"]]) == (one["run"], [one["id"]])
    with streamed(server, "/recall", "queue") as stream:
        event = json.loads(stream.readline())
        assert {event[name] for name in ("behind", "asks")} == {one["run"]}
        assert (event["type"], event["approval"], event["capability"]) == ("behind", one["id"], "brain.add")
        loket(server.home, "approvals", "approve", one["id"])
        assert json.loads(stream.readline())["status"] == "done"
    assert loket(server.home, *words)
    assert ended(server.home, as_json["run"])["status"] == "done"


def test_a_message_that_is_behind_a_run_which_begins_to_ask_is_told_too(server: Server) -> None:
    """Behind a second question of the run in front: the event comes when that one is asked."""
    first = asked(server.home, "one", "--conversation", "later")
    with streamed(server, "/remember two", "later") as two:
        assert json.loads(two.readline())["approval"] == first["id"]
        with streamed(server, "/recall", "later") as three:
            assert json.loads(three.readline())["approval"] == first["id"]
            loket(server.home, "approvals", "approve", first["id"])
            own = json.loads(two.readline())
            assert (own["type"], own["asks"]) == ("asking", own["run"])
            behind = json.loads(three.readline())
            assert (behind["type"], behind["behind"], behind["approval"]) == ("behind", own["run"], own["approval"])
            loket(server.home, "approvals", "deny", own["approval"])
            assert [json.loads(lines.readline())["type"] for lines in (two, three)] == ["end", "end"]


def test_with_wait_a_message_waits_for_whoever_decides_elsewhere(server: Server, tmp_path: Path) -> None:
    """It says what it waits for, and ends with the answer; without a server nobody could decide, and it says that."""
    one = asked(server.home, "first of two", "--conversation", "patient")
    words = [
        sys.executable,
        "-m",
        "loket.cli.main",
        "ask",
        "main",
        "/remember x",
        "--conversation",
        "patient",
        "--wait",
    ]
    with subprocess.Popen(
        words, env=environment(server.home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        assert waiting.stderr is not None
        assert f"is behind run {one['run']}" in waiting.stderr.readline()
        loket(server.home, "approvals", "approve", one["id"])
        own = waiting.stderr.readline()
        loket(server.home, "approvals", "approve", own.split()[-1])
        assert waiting.wait(30) == 0
        assert "Remembered as number" in waiting.stdout.read()
    alone = prepare(tmp_path / "home")
    assert "loket up" in loket(alone, "ask", "main", "/help", "--wait", code=2)


def test_without_a_server_a_message_behind_a_run_that_asks_says_so_too(tmp_path: Path) -> None:
    """The run in front asks again, in the same words, and the message behind it is accepted and waits."""
    home = asking_home(tmp_path / "home")
    one = asked(home, "alone in front")
    said = loket(home, "ask", "main", "/recall", "--message", "m", code=4)
    assert f"is behind run {one['run']}, which waits for approval {one['id']}" in said
    assert f"run {one['run']} is done" in loket(home, "approvals", "approve", one["id"])
    assert [run["status"] for run in loket(home, "runs", "list", "--json")["runs"]] == ["done", "done"]


ASKS_BEN = """
@id("test.ben")
@verdict("ask")
@reason("ben sends nothing unseen")
forbid (principal is Agent, action == Action::"message.send", resource);
"""


def test_a_run_whose_child_asks_waits_for_the_same_approval(tmp_path: Path) -> None:
    """Shown to whoever sent the message, in the list and with the run; approved, the parent answers."""
    home = prepare(tmp_path / "home")
    (home / "policies").mkdir(mode=0o700)
    (home / "policies" / "ask.cedar").write_text(ASKS_BEN)
    for name in ("ana", "ben"):
        loket(home, "install", str(folder(tmp_path / "sources", name)), "--yes")
    words = ("ask", "ana", "ask ben: send ana: hi", "--message", "m")
    with serving(home) as server:
        said = loket(home, *words, "--json", code=4)
        (one,) = said["waiting"]
        assert one["agent"] == "ben"
        assert [link["agent"] for link in one["chain"]] == ["ben", "ana"]
        assert one["chain"][1]["run"] == said["run"] != one["run"]
        assert f"waits too   ana, run {said['run']}" in loket(home, *words, code=4)
        assert f"ana {said['run']}" in loket(home, "approvals", "list")
        shown = loket(home, "runs", "show", said["run"])
        assert f"loket approvals show {one['id']}" in shown
        loket(home, "approvals", "approve", one["id"])
        assert "ben said:" in loket(home, *words)
        assert loket(home, "runs", "verify", "--json")["ok"]
        assert server.stop() == 0


def test_whoever_watches_sees_each_question_once_when_it_comes(server: Server) -> None:
    """`loket approvals watch --json` prints a question in one line, without what a terminal would obey."""
    words = [sys.executable, "-m", "loket.cli.main", "approvals", "watch", "--json"]
    with subprocess.Popen(words, env=environment(server.home), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        one = asked(server.home, "seen \x1b[2J", "--conversation", "watch")
        seen = json.loads(watching.stdout.readline())
        assert (seen["id"], seen["args"]) == (one["id"], one["args"])
        loket(server.home, "approvals", "deny", one["id"])
        watching.terminate()
        assert watching.stdout.read() == ""


STREAM = """
import http.client, json, sys
connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
headers = {"Authorization": "Bearer " + sys.argv[2], "Accept": "text/event-stream", "Content-Type": "application/json"}
connection.request("POST", "/v1/agents/main/messages", sys.argv[3], headers)
kind = ""
for line in connection.getresponse():
    name, _, data = line.decode().strip().partition(": ")
    if name == "event":
        kind = data
    elif name == "data" and kind in ("asking", "behind", "end"):
        print(data, flush=True)
        if kind == "end":
            break
"""


def at_terminal(home: Path, *words: str, typed: list[str]) -> tuple[int, str]:
    """Run a command at a terminal of its own, and type a line whenever it stops at a question; code and screen."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "loket.cli.main", *words],
        env=environment(home),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    screen, lines, seen, until = "", list(typed), 0, time.monotonic() + 60
    while time.monotonic() < until:
        if select.select([ours], [], [], 0.2)[0]:
            try:
                screen += os.read(ours, 65536).decode("utf-8", "replace")
            except OSError:
                break
        fresh = screen[seen:].rstrip(" ")
        if lines and fresh.endswith(("]ater:", "told):", "[y/N]:")):
            seen = len(screen)
            os.write(ours, lines.pop(0).encode())
    os.close(ours)
    return process.wait(120), screen


@pytest.mark.parametrize("served", [True, False])
def test_at_a_terminal_the_question_is_answered_where_the_message_was_sent(tmp_path: Path, served: bool) -> None:
    """Approved, the answer follows; denied with a reason, too; left for later, it exits with 4."""
    home = asking_home(tmp_path / "home")
    server = start(home) if served else None
    try:
        code, screen = at_terminal(home, "ask", "main", "/remember green tea", typed=["o\n"])
        assert code == 0, screen
        assert "Remembered as number" in screen
        code, screen = at_terminal(home, "ask", "main", "/remember black tea", typed=["d\n", "too bitter\n"])
        assert "too bitter" in screen
        code, screen = at_terminal(home, "ask", "main", "/remember white tea", typed=["l\n"])
        assert code == 4
        assert "loket approvals approve" in screen
        assert memories(home) == ["green tea"]
        decided = loket(home, "approvals", "list", "--all", "--json")["approvals"]
        assert [one["status"] for one in decided] == ["open", "denied", "allowed"]
    finally:
        if server is not None:
            server.stop()
            assert server.process.stdout is not None
            server.process.stdout.close()


def test_without_a_server_an_approval_makes_the_run_go_on_to_its_end(tmp_path: Path) -> None:
    """The command that approves does it; `watch` needs a server, and says so; an erased run's question says so."""
    home = asking_home(tmp_path / "home")
    one = asked(home, "alone")
    assert loket(home, "approvals", "show", one["id"], "--json")["status"] == "open"
    loket(home, "approvals", "approve", one["id"])
    assert loket(home, "runs", "list", "--json")["runs"][0]["status"] == "done"
    assert memories(home) == ["alone"]
    assert "loket up" in loket(home, "approvals", "watch", code=1)
    loket(home, "erase", "--run", one["run"], "--yes")
    shown = loket(home, "approvals", "show", one["id"], "--json")
    assert (shown["erased"], shown["args"], shown["decision"]) == (True, None, None)
    assert "erased with the run" in loket(home, "approvals", "show", one["id"])
    assert loket(home, "runs", "verify", "--json")["ok"]


def test_a_killed_server_asks_the_same_question_after_the_next_start(tmp_path: Path) -> None:
    """Killed while it waits, and again after the approval: one memory, one question, and all of it verifies."""
    home = asking_home(tmp_path / "home")
    with serving(home) as server:
        one = asked(home, "once only")
        server.kill()
    with serving(home) as server:
        (same,) = loket(home, "approvals", "list", "--json")["approvals"]
        assert same["id"] == one["id"]
        loket(home, "approvals", "approve", one["id"], "--run")
        server.kill()
    with serving(home) as server:
        assert ended(home, one["run"])["status"] == "done"
        assert memories(home) == ["once only"]
        assert loket(home, "runs", "verify", "--json")["ok"]
        shown = loket(home, "approvals", "show", one["id"], "--json")
        assert (shown["status"], shown["used"] is not None) == ("allowed", True)
        assert server.stop() == 0


def test_where_nobody_is_asked_the_refusal_names_the_setting(tmp_path: Path) -> None:
    """`headless = "deny"`: the run goes on at once, nothing waits."""
    home = asking_home(tmp_path / "home")
    with (home / "config.toml").open("a") as file:
        file.write('[approvals]\nheadless = "deny"\n')
    said = loket(home, "ask", "main", "/remember nothing", code=None)
    assert "headless" in said or "nobody is asked" in said
    assert loket(home, "approvals", "list", "--all", "--json")["approvals"] == []
