"""The running server: its door, streaming, hot load, and what survives `kill -9`."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guests import wat
from live import Server, environment, loket, prepare, serving, start
from loket.testing.model_server import ModelServer, Reply


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer([Reply("Paris is the capital.")]) as model:
        yield model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Server]:
    home = prepare(tmp_path_factory.mktemp("up") / "home", model.url)
    with serving(home) as server:
        yield server


def events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_message_is_answered_as_a_stream(server: Server) -> None:
    """Accepted, calls and pieces while they happen, the end, and the result with the fixed fields."""
    status, body = server.request("/v1/operations/ask", {"agent": "main", "text": "capital?"})
    assert status == 200
    got = events(body)
    assert got[0]["type"] == "accepted"
    assert "".join(event["text"] for event in got if event["type"] == "piece") == "Paris is the capital."
    assert next(event["capability"] for event in got if event["type"] == "call") == "kv.get"
    assert got[-1]["type"] == "result"
    assert got[-1]["value"]["answer"] == "Paris is the capital."
    assert got[-1]["value"]["run"] == got[0]["run"]


def test_the_command_line_speaks_to_the_running_server(server: Server) -> None:
    """With a server running, commands go through it: the run is there at once."""
    result = loket(server.home, "ask", "main", "hello", "--json")
    assert result["answer"] == "Paris is the capital."
    assert result["run"] in [run["id"] for run in loket(server.home, "runs", "list", "--json")["runs"]]
    assert loket(server.home, "runs", "verify", "--json")["ok"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Authorization": "Bearer wrong"}, 401, "gateway.token"),
        ({"Authorization": ""}, 401, "gateway.token"),
        ({"Host": "evil.example"}, 403, "gateway.host"),
        ({"Host": "127.0.0.1.evil.example:80"}, 403, "gateway.host"),
        ({"Origin": "http://evil.example"}, 403, "gateway.origin"),
    ],
)
def test_whoever_is_not_the_owner_gets_nothing(server: Server, headers: dict[str, str], status: int, code: str) -> None:
    """No token, a wrong one, a foreign host (DNS rebinding), a web page: refused before anything is looked at."""
    got, body = server.request("/v1/operations/status", {}, **headers)
    assert got == status
    assert json.loads(body)["error"]["code"] == code


@pytest.mark.parametrize("body", [b"{", b"[1]", b"\xff", b'{"agent": "main", "text": 5}', b'{"agent": "main"}'])
def test_a_bad_body_is_an_error_that_says_what_is_wrong(server: Server, body: bytes) -> None:
    """Bad JSON, wrong types and missing fields are named, and the server goes on."""
    _status, text = server.request("/v1/operations/ask", body)
    last = json.loads(text.splitlines()[-1])
    error = last.get("error", last)
    assert error["code"].startswith(("gateway.body", "arguments."))
    assert server.request("/healthz")[0] == 200


def test_a_body_has_a_size(server: Server) -> None:
    """Nine megabytes are refused."""
    status, body = server.request("/v1/operations/ask", b'{"text": "' + b"x" * (9 << 20) + b'"}')
    assert status == 400
    assert json.loads(body)["error"]["code"] == "gateway.body"


def test_the_token_and_all_files_are_the_owners_alone(server: Server) -> None:
    """Nothing in the home can be read by anyone else."""
    for path in (server.home / "token", server.home / "kernel.db", server.home / "vault" / "journal.key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    for folder in ("brains", "vault", "modules"):
        assert stat.S_IMODE((server.home / folder).stat().st_mode) == 0o700


def test_the_server_listens_on_loopback_alone(server: Server) -> None:
    """Every listening socket of the process is 127.0.0.1."""
    inodes = {
        str(link.readlink())[8:-1]
        for link in Path(f"/proc/{server.process.pid}/fd").iterdir()
        if str(link.readlink()).startswith("socket:")
    }
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    listening = [line[1] for line in lines if line[3] == "0A" and line[9] in inodes]
    assert listening
    assert all(address.startswith("0100007F:") for address in listening)


def test_a_message_that_is_sent_twice_is_answered_once(server: Server) -> None:
    """The same message id is one run, also when both come at once."""
    results: list[Any] = []
    body = {"agent": "main", "text": "once", "message": "m-1"}

    def send() -> None:
        results.append(events(server.request("/v1/operations/ask", body)[1])[-1]["value"]["run"])

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(set(results)) == 1


def test_a_module_is_loaded_and_removed_while_the_server_runs(server: Server, tmp_path: Path) -> None:
    """Hot load: installed, asked, replaced and removed without a restart; a second import is refused at install."""
    folder = tmp_path / "echo"
    folder.mkdir()
    manifest = (
        'id = "echo"\nversion = "1.0.0"\nkind = "agent"\nsummary = "Answers with what it gets"\nentry = "module.wasm"\n'
    )
    (folder / "loket.toml").write_text(manifest)
    (folder / "module.wasm").write_text(wat.SECOND_IMPORT)
    assert "the only import of a module" in loket(server.home, "install", str(folder), code=2)
    assert "echo" not in [agent["id"] for agent in loket(server.home, "agents", "--json")["agents"]]
    (folder / "module.wasm").write_text(wat.ECHO)
    loket(server.home, "install", str(folder))
    assert loket(server.home, "ask", "echo", "anybody?", "--json")["answer"] == "anybody?"
    loket(server.home, "remove", "echo")
    assert "there is no agent" in loket(server.home, "ask", "echo", "anybody?", code=2)


def test_a_second_server_on_the_same_home_is_refused(server: Server) -> None:
    """One kernel a home: the second one says who holds it."""
    done = subprocess.run(
        [sys.executable, "-m", "loket.cli.main", "up", "--port", "0"],
        env=environment(server.home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "another Loket process holds" in done.stderr


def test_a_port_that_is_taken_is_named(server: Server, tmp_path: Path) -> None:
    """The error names the port and the way out."""
    home = prepare(tmp_path / "home")
    assert "--port ANOTHER" in loket(home, "up", "--port", str(server.port), code=2)


def test_a_kill_in_the_middle_of_an_answer_loses_nothing(tmp_path: Path) -> None:
    """Killed while the model thinks; after the next start the accepted message is answered once, and all verifies."""
    with ModelServer([Reply("too late", latency_s=30), Reply("here I am")]) as model:
        home = prepare(tmp_path / "home", model.url)
        server = start(home)
        asking = threading.Thread(
            target=loket, args=(home, "ask", "main", "are you there?", "--message", "q1"), kwargs={"code": None}
        )
        asking.start()
        assert model.asked.wait(60)
        server.kill()
        asking.join()
        if server.process.stdout is not None:
            server.process.stdout.close()
        with serving(home) as again:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                runs = json.loads(again.request("/v1/operations/runs.list", {})[1])["value"]["runs"]
                if runs and runs[0]["status"] == "done":
                    break
                time.sleep(0.05)
            assert [run["status"] for run in runs] == ["done"]
            assert runs[0]["answer"]["text"] == "here I am"
            same = loket(home, "ask", "main", "are you there?", "--message", "q1", "--json")
            assert same["run"] == runs[0]["id"]
            assert loket(home, "runs", "verify", "--json")["ok"]
            rows = loket(home, "runs", "show", runs[0]["id"], "--json")["rows"]
            attempts = [
                row["attempt"] for row in rows if row["kind"] == "intent" and row["capability"] == "llm.complete"
            ]
            assert attempts == [1, 2]
            assert again.stop() == 0


def test_keys_are_seen_by_nobody_but_the_endpoint(tmp_path: Path) -> None:
    """A key given on the command line is in the vault and in the request, and in no other file of the home."""
    secret = "sk-very-secret-4711"
    with ModelServer([Reply("ok")]) as model:
        home = prepare(tmp_path / "home", model.url)
        os.environ["TEST_KEY_OF_LOKET"] = secret
        try:
            loket(home, "model", "use", "test", "--key", "mine", "--key-env", "TEST_KEY_OF_LOKET", "--json")
        finally:
            del os.environ["TEST_KEY_OF_LOKET"]
        loket(home, "ask", "main", "hello")
        assert model.requests[0].headers["authorization"] == f"Bearer {secret}"
    holding = [
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_file() and "cache" not in path.parts and secret.encode() in path.read_bytes()
    ]
    assert holding == ["vault/secrets.json"]
