"""Real `loket` processes on a home of their own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guests_fixture import COMPILED

WAIT_S = 90.0
"""Bound on a server's start; compiling a guest for the first time is part of it."""


def environment(home: Path, columns: int = 200) -> dict[str, str]:
    return {**os.environ, "LOKET_HOME": str(home), "NO_COLOR": "1", "COLUMNS": str(columns)}


def prepare(home: Path, model_url: str | None = None) -> Path:
    """A home with a shared cache of compiled code, and a model at a URL (no model without one)."""
    home.mkdir(mode=0o700)
    COMPILED.mkdir(parents=True, exist_ok=True)
    (home / "cache").symlink_to(COMPILED, target_is_directory=True)
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
        return self.process.wait(timeout=30)

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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
