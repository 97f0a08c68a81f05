"""The row about the command line: `loket ask` against a server in a process of its own."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from loket.bench import words
from loket.bench.place import Place
from loket.bench.rows import Peer, Taken
from loket.bench.turns import ask_over_http
from loket.contracts import Failed
from loket.home import Home
from loket.testing.model_server import ModelServer, Reply

_START_S = 120.0
"""Seconds in which a server has to start; the first one compiles the stock agent."""
_STOP_S = 20.0
_ASK_S = 60.0

_CONFIG = """\
[models]
chain = ["{model}"]

[models.routes.{model}]
base_url = "{url}"
model = "{model}"
"""


def ask(place: Place, n: int) -> Taken:
    """`n` processes of `loket ask`; beside them an empty Python process, and the same messages without a process."""
    home = place.home("ask")
    with ModelServer((Reply("Noted."),), models=("instant",)) as model:
        use_model(home, model.url, "instant")
        given = environment(place, home)
        with serving(home, given) as (_process, port):
            _ask(given, "Hello")
            texts = words.messages(n)
            commands = [_ask(given, text) for text in texts]
            requests = [_timed(home, port, text) for text in texts]
    peers = (
        Peer("python -c pass", "s", [_run([sys.executable, "-c", "pass"], given) for _ in range(n)]),
        Peer("the same server and model without the process: one HTTP request", "s", requests),
    )
    return Taken(commands, peers)


def use_model(home: Home, url: str, model: str) -> None:
    """Write the settings of a home that has one model, at the server of this address."""
    home.config.write_text(_CONFIG.format(url=url, model=model), encoding="utf-8")


def environment(place: Place, home: Home) -> dict[str, str]:
    """What the processes see: the home, a free port, and a cache of bytecode, which an installed command has too."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    cache = str(place.root / "bytecode")
    return {**kept, "LOKET_HOME": str(home.root), "LOKET_PORT": "0", "PYTHONPYCACHEPREFIX": cache}


def loket() -> list[str]:
    """The command that is installed beside this Python, or the module where there is none."""
    script = Path(sys.executable).with_name("loket")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "loket.cli.main"]


@contextlib.contextmanager
def serving(home: Home, environment: Mapping[str, str]) -> "Iterator[tuple[subprocess.Popen[bytes], int]]":
    """`loket up` on a free port until the context ends: its process, and the port."""
    log = home.root / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*loket(), "up"], env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process, _port(process, home, log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _port(process: "subprocess.Popen[bytes]", home: Home, log: Path) -> int:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        said = home.running()
        if said is not None:
            return int(said["port"])
        time.sleep(0.005)
    raise Failed("bench.server", f"`loket up` did not start: {log.read_text(errors='replace')[-500:]}")


def _ask(environment: Mapping[str, str], text: str) -> float:
    return _run([*loket(), "ask", "main", text], environment)


def _run(command: list[str], environment: Mapping[str, str]) -> float:
    """Seconds of a process from start to exit. Raises `Failed` where it fails."""
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=_ASK_S)
    taken = time.perf_counter() - started
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise Failed("bench.command", f"{' '.join(command[-3:-1])} ended with {done.returncode}: {said}")
    return taken


def _timed(home: Home, port: int, text: str) -> float:
    started = time.perf_counter()
    ask_over_http(home, port, text)
    return time.perf_counter() - started
