"""The list of benchmarks, in the order of the report, and how they are run."""

import difflib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loket.bench.place import Place
from loket.bench.rows import Row, Taken, figures
from loket.contracts import BadInput


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One row of the report: what is measured, in which unit, and what it should reach.

    `n` is its size (what that counts is in the function's docstring), `code` names the function, `MODULE:FUNCTION` in
    this package, which takes a place and a size. `rate` says that more is better.
    """

    name: str
    about: str
    unit: str
    target: float
    n: int
    code: str
    rate: bool = False

    def take(self, place: Place, n: int) -> Taken:
        """Measure with the size `n`."""
        module, _, function = self.code.partition(":")
        measure_it: Callable[[Place, int], Taken] = getattr(importlib.import_module(f"loket.bench.{module}"), function)
        return measure_it(place, n)


BENCHMARKS = (
    Benchmark(
        "counter-call",
        "a call of kv.get by a Python guest, granted and journaled; over batches of 100",
        "microseconds",
        100,
        10_000,
        "sandbox:counter_call",
    ),
    Benchmark(
        "policy-decision",
        "a decision of the default policy that was made before, in the stock wiring; over batches of 100",
        "microseconds",
        50,
        10_000,
        "security_decision:policy_decision",
    ),
    Benchmark(
        "fresh-sandbox",
        "a Python guest from nothing to its first answer",
        "ms",
        3,
        300,
        "sandbox:fresh_sandbox",
    ),
    Benchmark(
        "js-sandbox",
        "a JavaScript guest from nothing to its first answer",
        "ms",
        1,
        300,
        "sandbox:js_sandbox",
    ),
    Benchmark(
        "sandbox-launch",
        "a program of this machine in the process sandbox, from nothing until it has ended",
        "ms",
        60,
        40,
        "jail:launch",
    ),
    Benchmark(
        "turns",
        "turns a second of the stock agent with a model that answers at once, durable; over windows of 100 turns",
        "turns/s",
        200,
        3_000,
        "turns:turns",
        rate=True,
    ),
    Benchmark(
        "turn",
        "one turn of the stock agent with a model that answers at once, inside a running server",
        "ms",
        15,
        200,
        "turns:turn",
    ),
    Benchmark(
        "ask",
        "the command `loket ask main ...` against a running server, from start to exit",
        "s",
        0.4,
        15,
        "server:ask",
    ),
    Benchmark(
        "mcp-calls",
        "calls of kv.get a second at one connection of `loket mcp`, granted and journaled; windows of 500 on their way",
        "calls/s",
        1_000,
        5_000,
        "mcp:calls",
        rate=True,
    ),
    Benchmark(
        "mcp-ready",
        "`loket mcp` against a running server, from the start of the process until it has listed its tools",
        "s",
        1,
        5,
        "mcp:ready",
    ),
    Benchmark(
        "fs-read",
        "fs.read of 10 kB by a Python guest, granted and journaled",
        "ms",
        0.3,
        2_000,
        "tools:fs_read",
    ),
    Benchmark(
        "net-fetch",
        "net.fetch of 10 kB on loopback by a Python guest, granted and journaled",
        "ms",
        3,
        600,
        "tools:net_fetch",
    ),
    Benchmark(
        "start",
        "`loket up` without a model, from the start of the process to the answer of a first message",
        "s",
        1.5,
        5,
        "start:start",
    ),
    Benchmark(
        "start-memory",
        "resident memory of `loket up` without a model, after a first message",
        "MB",
        150,
        3,
        "start:memory",
    ),
    Benchmark(
        "many-agents",
        "a first message to one of 1,000 agents, each with 1,000 memories, without a model",
        "ms",
        20,
        1_000,
        "start:many",
    ),
    Benchmark(
        "hot-load",
        "a Python module's upgrade in a running system, from the owner's word until it can be run; compiled before",
        "ms",
        50,
        30,
        "modules:hot_load",
    ),
    Benchmark(
        "many-modules",
        "`loket up` with 1,000 installed modules, from the start of the process to the answer of a first message",
        "s",
        3,
        1_000,
        "modules:many_modules",
    ),
    Benchmark(
        "suspended",
        "resident memory of the whole process with 2,000 runs that wait for a model",
        "MB",
        300,
        2_000,
        "suspended:suspended",
    ),
    Benchmark(
        "brain-search-1k",
        "brain.search among 1,000 memories",
        "ms",
        1,
        1_000,
        "brains:search",
    ),
    Benchmark(
        "brain-search-100k",
        "brain.search among 100,000 memories",
        "ms",
        15,
        100_000,
        "brains:search",
    ),
    Benchmark(
        "plan-20-steps",
        "a plan of 20 local steps, 5 of them effects, from the call to its answer; check and journal included",
        "ms",
        60,
        200,
        "plans:plan_20_steps",
    ),
)

CAMPAIGN = Benchmark(
    "durability",
    "messages lost and effects done twice under 500 kill -9 of a server and 200 power losses, each in mid-run",
    "violations",
    0,
    500,
    "durability:measured",
)
"""It takes minutes, so it is run by its name alone."""

PLANS_KILLED = Benchmark(
    "plans",
    "effects lost and done twice over plans that were interrupted by kill -9, each at some step",
    "effects",
    0,
    1_000,
    "plans:measured",
)
"""The same."""

SECURITY = Benchmark(
    "security",
    "questions that ordinary requests need, attacks of a lost model that reach their goal, and the injection filter",
    "rows that miss their target",
    0,
    1,
    "security:measured",
)
"""It has rows of its own (`loket bench security`), and is run alone too."""


def chosen(names: Sequence[str]) -> tuple[Benchmark, ...]:
    """The benchmarks of these names in the order of the report; without names all of them but those that are run alone.

    Raises `BadInput` for an unknown name.
    """
    known = {benchmark.name: benchmark for benchmark in (*BENCHMARKS, CAMPAIGN, PLANS_KILLED, SECURITY)}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "loket bench --list"
            raise BadInput("bench.unknown", f"there is no benchmark {name!r}", hint)
    return tuple(benchmark for benchmark in known.values() if benchmark.name in names) if names else BENCHMARKS


def measure(benchmark: Benchmark, place: Place, n: int | None = None) -> Row:
    """Measure one benchmark, with the size `n` or its own. Raises `Failed` where what is measured does not work."""
    return reported(benchmark, benchmark.take(place, n if n is not None else benchmark.n))


def reported(benchmark: Benchmark, taken: Taken, command: str | None = None) -> Row:
    """The row of what a benchmark measured; `command` repeats it, where its name alone does not."""
    found = figures(taken.samples, rate=benchmark.rate)
    p50, p99, samples = found["p50"], found["p99"], found["n"]
    return Row(
        name=benchmark.name,
        unit=benchmark.unit,
        p50=p50,
        p99=p99,
        n=taken.n if taken.n is not None else samples,
        target=benchmark.target,
        command=command or f"loket bench {benchmark.name}",
        met=p50 >= benchmark.target if benchmark.rate else p50 <= benchmark.target,
        peers=tuple(peer.as_dict() for peer in taken.peers),
    )
