"""Real `loket` processes on a home of their own."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guests_fixture import share_compiled

WAIT_S = 300.0
"""Bound on a server's start and on a command; compiling a guest for the first time is part of either."""


def environment(home: Path, columns: int = 200) -> dict[str, str]:
    return {**os.environ, "LOKET_HOME": str(home), "NO_COLOR": "1", "COLUMNS": str(columns)}


def prepare(home: Path, model_url: str | None = None) -> Path:
    """A home with a shared cache of compiled code, and a model at a URL (no model without one)."""
    home.mkdir(mode=0o700)
    share_compiled(home)
    route = f'[models.routes.test]\nbase_url = "{model_url}"\nmodel = "test-model"\nretries = 0\n' if model_url else ""
    chain = '["test"]' if model_url else "[]"
    (home / "config.toml").write_text(f"[models]\nchain = {chain}\n{route}")
    return home


def loket(home: Path, *words: str, code: int | None = 0, stdin: str = "", columns: int = 200) -> Any:
    """Run a command to its end. Its JSON where `--json` is among the words, else its standard output."""
    done = subprocess.run(
        [sys.executable, "-m", "loket.cli.main", *words],
        env=environment(home, columns),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in words else done.stdout + done.stderr


@dataclass
class Server:
    """A running `loket up`."""

    process: subprocess.Popen[str]
    port: int
    home: Path

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=WAIT_S)

    def request(self, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
        """One request with the home's token; status and body."""
        token = (self.home / "token").read_text()
        given = {"Authorization": f"Bearer {token}", **{k.replace("_", "-"): v for k, v in headers.items()}}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, given)
        try:
            with urllib.request.urlopen(asked, timeout=WAIT_S) as answer:  # noqa: S310 - loopback
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def free_port() -> int:
    """A port that nobody listens on, below those that the system gives to connections: nothing takes it meanwhile."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def start(home: Path) -> Server:
    """`loket up`, ready to accept messages."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "loket.cli.main", "up", "--port", str(port)],
        env=environment(home),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    server = Server(process, port, home)
    try:
        _until_ready(server)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    return server


def _until_ready(server: Server) -> None:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        stdout = server.process.stdout
        assert server.process.poll() is None, stdout.read() if stdout else ""
        with contextlib.suppress(OSError):
            if server.request("/healthz")[0] == 200:
                return
        time.sleep(0.05)
    raise AssertionError("the server did not become ready")


@contextlib.contextmanager
def serving(home: Path) -> Iterator[Server]:
    server = start(home)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()
        if server.process.stdout is not None:
            server.process.stdout.close()


@contextlib.contextmanager
def talking(server: Server, agent: str, text: Callable[[int], str]) -> Iterator[list[str]]:
    """Messages to an agent, each when the one before it is answered, as long as the context lasts; how they ended.

    The `n`th of them, from 0, is `text(n)`.
    """
    ends: list[str] = []
    stop = threading.Event()
    headers = {"Content_Type": "application/json", "Accept": "text/event-stream"}

    def talk() -> None:
        while not stop.is_set():
            body = {"text": text(len(ends)), "conversation": "talk"}
            answer = server.request(f"/v1/agents/{agent}/messages", body, **headers)
            ends.append(json.loads(answer[1].rpartition("data: ")[2]).get("status", answer[1]))

    thread = threading.Thread(target=talk, name="talk")
    thread.start()
    try:
        yield ends
    finally:
        stop.set()
        thread.join()
