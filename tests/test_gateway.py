"""The running server: its door, streaming, hot load, and what survives `kill -9`."""

import json
import os
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

from guests import wat
from live import Server, environment, free_port, loket, prepare, serving, start
from loket.durable import write_private
from loket.home import Home, hold
from loket.testing.model_server import ModelServer, Reply, Request


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
    assert next(event["capability"] for event in got if event["type"] == "call") == "brain.search"
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
    assert status == 413
    assert json.loads(body)["error"]["code"] == "gateway.size"


def test_the_token_and_all_files_are_the_owners_alone(server: Server) -> None:
    """Nothing in the home can be read by anyone else."""
    for path in (
        server.home / "token",
        server.home / "kernel.db",
        server.home / "gateway.db",
        server.home / "vault" / "journal.key",
    ):
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


def test_a_second_server_on_the_same_home_is_named(server: Server) -> None:
    """One kernel a home: `up` says where the first one is and which process, whatever port it was given."""
    for port in ("0", str(server.port)):
        said = loket(server.home, "up", "--port", port, code=1)
        assert f"Loket already runs on this home: http://127.0.0.1:{server.port} (pid {server.process.pid})" in said
        assert f"kill {server.process.pid}" in said


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


def test_a_question_without_a_server_goes_on_with_what_is_unfinished_and_looking_does_not(tmp_path: Path) -> None:
    """A killed server leaves a run: `runs list` leaves it alone, `ask` answers its own question first, then waits."""
    latencies = iter((30.0, 1.0))

    def answer(request: Request) -> Reply:
        slow = "slow" in request.body["messages"][-1]["content"]
        return Reply("answered", latency_s=next(latencies) if slow else 0.0)

    with ModelServer(answer) as model:
        home = prepare(tmp_path / "home", model.url)
        with serving(home) as server:
            words = ("ask", "main", "slow", "--conversation", "other")
            asking = threading.Thread(target=loket, args=(home, *words), kwargs={"code": 1})
            asking.start()
            assert model.asked.wait(60)
            server.kill()
            asking.join()
        (left,) = loket(home, "runs", "list", "--json")["runs"]
        assert left["ended"] is None
        assert len(model.requests) == 1
        said = loket(home, "ask", "main", "quick")
        assert "answered" in said
        assert "Going on with 1 earlier run" in said
        assert {run["status"] for run in loket(home, "runs", "list", "--json")["runs"]} == {"done"}


def test_what_a_server_may_have_accepted_is_not_sent_again(tmp_path: Path) -> None:
    """A connection that is lost after the request is an error that says so; the message went out once."""
    home = Home(prepare(tmp_path / "home"))
    home.prepare()
    received: list[bytes] = []

    def accept_and_leave(listener: socket.socket) -> None:
        while True:
            try:
                connection, _address = listener.accept()
            except OSError:
                return
            with connection:
                received.append(connection.recv(1 << 16))

    with hold(home), socket.create_server(("127.0.0.1", 0)) as listener:
        taking = threading.Thread(target=accept_and_leave, args=(listener,))
        taking.start()
        write_private(home.server, json.dumps({"port": listener.getsockname()[1], "pid": 1}).encode())
        said = loket(home.root, "ask", "main", "once", code=1)
        listener.shutdown(socket.SHUT_RDWR)
        taking.join()
    assert "Failed: the server stopped before the answer was there" in said
    assert len([data for data in received if data]) == 1


def test_another_program_on_the_port_is_not_taken_for_loket(tmp_path: Path) -> None:
    """An answer that no Loket gives is an error that says what it was, not a crash."""
    home = Home(prepare(tmp_path / "home"))
    home.prepare()
    with ModelServer([Reply("hello")]) as model, hold(home):
        write_private(home.server, json.dumps({"port": int(model.url.split(":")[2].split("/")[0]), "pid": 1}).encode())
        assert "(server.answer)" in loket(home.root, "status", code=1)


def test_ctrl_c_in_a_chat_stops_waiting_and_the_chat_goes_on(tmp_path: Path) -> None:
    """The first answer is not waited for, the second one is given; the run of the first can still be looked at."""

    def answer(request: Request) -> Reply:
        return Reply("tea", latency_s=30.0 if "slow" in request.body["messages"][-1]["content"] else 0.0)

    with ModelServer(answer) as model:
        home = prepare(tmp_path / "home", model.url)
        with serving(home), _chat(home) as chat:
            assert chat.stdin is not None
            chat.stdin.write("slow\n")
            chat.stdin.flush()
            assert model.asked.wait(60)
            chat.send_signal(signal.SIGINT)
            assert chat.stderr is not None
            while "Stopped waiting" not in (line := chat.stderr.readline()):
                assert line
            stop = line.partition("loket runs stop ")[2].split()[0]
            loket(home, "runs", "stop", stop)
            said, _rest = chat.communicate("quick\n\n", timeout=60)
    assert chat.returncode == 0
    assert said.startswith("Loket ")
    assert "main> tea" in said


def _chat(home: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loket.cli.main", "chat"],
        env=environment(home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_chat_for_programs_is_json_lines(server: Server) -> None:
    """`chat --json` answers each line with one object on one line, errors as well, and prints nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "loket.cli.main", "chat", "--json"],
        env=environment(server.home),
        input="hello\nagain\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [json.loads(line)["answer"] for line in done.stdout.splitlines()] == ["Paris is the capital."] * 2


def test_asking_a_server_loads_nothing_that_is_slow(server: Server) -> None:
    """`loket ask` against a server, and `--help`, import no engine, database driver, client or web framework."""
    program = (
        "import sys\n"
        "from loket.cli.main import entry\n"
        "sys.argv = ['loket', *sys.argv[1:]]\n"
        "try:\n    entry()\nexcept SystemExit as ended:\n    assert not ended.code, ended.code\n"
        "slow = {'wasmtime', 'apsw', 'openai', 'starlette', 'uvicorn', 'jsonschema_rs', 'tomlkit', 'rich'}\n"
        "assert not slow & sys.modules.keys(), slow & sys.modules.keys()\n"
        "assert not {'loket.app', 'loket.gateway', 'loket.server'} & sys.modules.keys()\n"
    )
    for words in (["--help"], ["ask", "main", "hello"], ["ask", "main", "hello", "--json"]):
        subprocess.run([sys.executable, "-c", program, *words], env=environment(server.home), timeout=60, check=True)


def test_a_local_model_that_is_not_there_is_warned_about(tmp_path: Path) -> None:
    """`model use` says on stderr when nothing answers at its first route, and not when something does."""
    with ModelServer([Reply("ok")]) as model:
        home = prepare(tmp_path / "home", model.url)
        away = f"http://127.0.0.1:{free_port()}/v1"
        with serving(home):
            warned = loket(home, "model", "use", "mine", "test", "--base-url", away, "--model", "m")
            assert f"Warning: nothing answers at {away}" in warned
            routes = [line.split()[:2] for line in warned.splitlines()[1:3]]
            assert routes == [["1", "mine"], ["2", "test"]]
            fine = loket(home, "model", "use", "test", "mine")
            assert "Warning" not in fine
            assert [line.split()[:2] for line in fine.splitlines()[1:3]] == [["1", "test"], ["2", "mine"]]


def test_keys_are_seen_by_nobody_but_the_endpoint(tmp_path: Path) -> None:
    """A key given on the command line is in the request; in the home's files it is nowhere as it is."""
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
    assert holding == []
