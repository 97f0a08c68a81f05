"""The benchmarks: every row runs, small, and has the fields that others rely on. No test looks at a time."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import share_compiled
from loket.bench import BENCHMARKS, Benchmark, Peer, Place, Row, chosen, machine, measure, words, working_place
from loket.bench.rows import figures
from loket.contracts import BadInput

FIELDS = {"name", "unit", "p50", "p99", "n", "target", "command", "met", "peers"}
SMALL = {
    "hot-load": 5,
    "many-modules": 5,
    "counter-call": 100,
    "turns": 3,
    "turn": 2,
    "ask": 1,
    "start": 2,
    "start-memory": 2,
    "suspended": 3,
}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """Homes that use the compiled code which other tests keep."""
    with working_place() as made:
        share_compiled(made.root)
        yield made


def checked(row: Row) -> dict[str, Any]:
    """The row as JSON, its fields checked."""
    shown: dict[str, Any] = json.loads(json.dumps(row.as_dict()))
    assert set(shown) == FIELDS
    assert shown["command"] == f"loket bench {shown['name']}"
    assert shown["p50"] > 0
    assert shown["p99"] > 0
    assert shown["n"] > 0
    assert shown["peers"]
    for peer in shown["peers"]:
        assert set(peer) in ({"name", "unit", "p50", "p99", "n"}, {"name", "reason"})
    return shown


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda benchmark: benchmark.name)
def test_a_row_is_measured_with_its_peer_beside_it(benchmark: Benchmark, place: Place) -> None:
    """Every benchmark runs on a real system, here a small one, and gives all fields of its row."""
    shown = checked(measure(benchmark, place, SMALL.get(benchmark.name, 60)))
    assert (shown["name"], shown["unit"], shown["target"]) == (benchmark.name, benchmark.unit, benchmark.target)


def test_the_rows_are_those_of_the_specification() -> None:
    """Names, units and targets are fixed: others rely on them."""
    assert {b.name: (b.unit, b.target, b.rate) for b in BENCHMARKS} == {
        "mcp-calls": ("calls/s", 1000, True),
        "mcp-ready": ("s", 1, False),
        "counter-call": ("microseconds", 100, False),
        "policy-decision": ("microseconds", 50, False),
        "fresh-sandbox": ("ms", 3, False),
        "sandbox-launch": ("ms", 60, False),
        "js-sandbox": ("ms", 1, False),
        "turns": ("turns/s", 200, True),
        "turn": ("ms", 15, False),
        "ask": ("s", 0.4, False),
        "fs-read": ("ms", 0.3, False),
        "net-fetch": ("ms", 3, False),
        "start": ("s", 1.5, False),
        "start-memory": ("MB", 150, False),
        "many-agents": ("ms", 20, False),
        "hot-load": ("ms", 50, False),
        "many-modules": ("s", 3, False),
        "suspended": ("MB", 300, False),
        "brain-search-1k": ("ms", 1, False),
        "brain-search-100k": ("ms", 15, False),
        "plan-20-steps": ("ms", 60, False),
    }


def test_p99_is_the_slow_end_of_times_and_the_low_end_of_rates() -> None:
    """The 99th of 100 samples in the order from good to bad."""
    samples = [float(n) for n in range(1, 101)]
    assert figures(samples, rate=False) == {"p50": 50.5, "p99": 99.0, "n": 100}
    assert figures(samples, rate=True) == {"p50": 50.5, "p99": 2.0, "n": 100}
    assert figures([7.0], rate=False) == {"p50": 7.0, "p99": 7.0, "n": 1}


def test_a_peer_that_cannot_run_here_says_why() -> None:
    """A missing peer is shown with its reason, never with made-up figures."""
    assert Peer("bwrap", reason="not installed").as_dict() == {"name": "bwrap", "reason": "not installed"}


def test_an_unknown_row_is_wrong_usage_and_the_nearest_is_named() -> None:
    """A name that is no benchmark's is refused before anything is measured."""
    with pytest.raises(BadInput) as error:
        chosen(["counter-cal"])
    assert error.value.remedy == "did you mean counter-call?"
    assert [b.name for b in chosen(["turn", "counter-call"])] == ["counter-call", "turn"]


def test_the_machine_is_described_without_its_name(place: Place) -> None:
    """Processor, cores and versions are told; neither a host's name nor a folder of it."""
    described = machine(place)
    assert described["cores"] >= 1
    assert described["processor"]
    assert str(place.root) not in json.dumps(described)
    assert os.uname().nodename not in json.dumps(described)


def test_the_texts_are_varied_and_the_same_in_every_run() -> None:
    """Memories and questions follow from a fixed seed, and hardly any two are alike."""
    told = list(words.memories(500))
    assert told == list(words.memories(500))
    assert len(set(told)) > 450
    assert len(set(words.questions(100))) > 80


def test_the_place_is_removed_with_all_homes_in_it() -> None:
    """Nothing is left of a benchmark."""
    with working_place() as made:
        home = made.home("one")
        home.prepare()
        assert home.cache.resolve() == (made.root / "cache").resolve()
    assert not made.root.exists()


def test_the_command_prints_machine_and_rows_as_json(tmp_path: Path) -> None:
    """`loket bench --list --json` names the rows on stdout; an unknown name ends with 2."""
    environment = {**os.environ, "LOKET_HOME": str(tmp_path)}

    def bench(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "loket.cli.main", "bench", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)

    listed = bench("--list", "--json")
    assert [row["name"] for row in json.loads(listed.stdout)["rows"]] == [b.name for b in BENCHMARKS]
    wrong = bench("nothing", "--json")
    assert wrong.returncode == 2
    assert json.loads(wrong.stdout)["error"]["code"] == "bench.unknown"
    assert not any(tmp_path.iterdir())
