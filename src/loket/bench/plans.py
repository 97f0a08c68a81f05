"""Plans: what a plan of 20 steps takes, and plans under `kill -9`.

The campaign runs a process that runs plans, kills it at a random moment while some dozens of them are under way, and
starts it again on the same home, until as many plans as asked for were interrupted. Each plan stores a memory of its
own at each of its steps, with waits in between, so at each kill plans are at steps of every number. At the end every
accepted plan must be done, with each of its memories there once: none is lost, and no effect is done twice.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loket.app import Loket, running
from loket.bench.place import Place, system_at
from loket.bench.rows import Peer, Taken
from loket.contracts import OWNER, Answer, Call, Capability, Effect, Failed, Handler, RunRequest
from loket.home import Home
from loket.ids import derived_id, new_id
from loket.orchestrator import RUN
from loket.testing.models import InstantModel

KILLS = 1_000
"""Plans that are to be interrupted."""

_WARM = 5
_STEPS = 6
"""Steps of a plan in the campaign that store something; as many wait."""
_AT_ONCE = 40
"""Plans of one life of the process."""
_ROWS = 3
"""Journal rows of a step and the wait after it."""
_IN_START = 0.1
"""Share of the kills that come while it starts."""
_START_S = 1.5
_LIFE_S = 120.0

_AGENT = "worker-0"
_GRANTED = ("kv.get", "kv.set", "brain.add", "brain.search", "plan.run", "plan.check")


# How long a plan takes


def twenty(_number: int) -> dict[str, Any]:
    """A plan of 20 local steps: 5 values stored, 10 read, 5 searches of the brain; most of them hang together."""
    steps: list[dict[str, Any]] = []
    for number in range(5):
        key, stored, read = f"plan/{number}", f"set{number}", f"get{number}"
        value: Any = {"n": number} if number == 0 else {"$step": f"get{number - 1}.value"}
        steps += [
            {"id": stored, "call": "kv.set", "args": {"key": key, "value": value}},
            {"id": read, "call": "kv.get", "args": {"key": key}, "after": [stored]},
            {"id": f"find{number}", "call": "brain.search", "args": {"query": "bicycle Dresden", "limit": 3}},
            {"id": f"again{number}", "call": "kv.get", "args": {"key": key}, "after": [read]},
        ]
    return {"title": "Twenty steps", "steps": steps, "answer": {"value": {"$step": "again4.value"}}}


def plan_20_steps(place: Place, n: int) -> Taken:
    """`n` plans of 20 steps, each from the call of `plan.run` to its answer, check and journal included; in ms.

    Beside it what the disk takes for as many synced writes as such a plan makes.
    """
    return asyncio.run(_timed(place, n))


async def _timed(place: Place, n: int) -> Taken:
    async with system_at(place.home("plans"), InstantModel(lambda _: ""), 1) as (system, names):
        await _grant(system, names[0])
        await system.direct(names[0], "brain.add", {"items": [{"text": "Ana called about the bicycle from Dresden"}]})
        samples = []
        for number in range(_WARM + n):
            began = time.perf_counter()
            ending = await system.direct(names[0], "plan.run", {"plan": twenty(number)})
            samples.append((time.perf_counter() - began) * 1000)
            if ending.answer is None or ending.answer["status"] != "done":
                raise Failed("bench.plan", f"a plan was not done: {ending.error or ending.answer}")
        return Taken(samples[_WARM:], (_synced(place.root, n),))


_SYNCED = 16
"""Synced writes of such a plan: 5 intents and 5 values, and the rows of its two runs."""


def _synced(root: Path, n: int) -> Peer:
    """As many writes of 4 KiB, each on the disk when it returns."""
    samples = []
    with tempfile.TemporaryFile(dir=root) as file:
        for _ in range(n):
            began = time.perf_counter()
            for _write in range(_SYNCED):
                file.write(b"x" * 4096)
                file.flush()
                os.fsync(file.fileno())
            samples.append((time.perf_counter() - began) * 1000)
    return Peer(f"{_SYNCED} synced writes of 4 KiB on the same disk, and nothing else", "ms", samples)


async def _grant(system: Loket, agent: str) -> None:
    for capability in _GRANTED:
        await asyncio.to_thread(system.installed.allow, agent, capability, {})


# Plans under kill -9


@dataclass
class Outcome:
    """What the campaign found. `wrong` has a sentence for each promise that was broken."""

    seed: int
    plans: int = 0
    lives: int = 0
    kills: int = 0
    runs: set[str] = field(default_factory=set)
    """Of the plans that were interrupted, each at least once."""
    steps: Counter[int] = field(default_factory=Counter)
    """By number of steps done: how often a plan was interrupted there."""
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def interrupted(self) -> int:
        return len(self.runs)

    @property
    def command(self) -> str:
        return f"loket bench plans --kills {self.interrupted} --seed {self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """`plans`, `interrupted`, `kills`, `lost`, `doubled` (sentences), `steps`, `seconds`, `seed`, `command`."""
        steps = {str(number): count for number, count in sorted(self.steps.items())}
        counted = {name: getattr(self, name) for name in ("plans", "interrupted", "kills", "lost", "doubled")}
        return {**counted, "steps": steps, "seconds": self.seconds, "seed": self.seed, "command": self.command}


def measured(place: Place, n: int) -> Taken:
    """The campaign until `n` plans were interrupted, with a seed of its own: what was lost or done twice."""
    outcome = campaign(place, n, random.SystemRandom().getrandbits(32), lambda _line: None)
    counted = {"kill -9": outcome.kills, "plans": outcome.plans, "lost": len(outcome.lost)}
    peers = [Peer(name, "in all", [float(number)]) for name, number in counted.items()]
    return Taken([float(len(outcome.lost) + len(outcome.doubled))], peers, n=outcome.interrupted)


def campaign(place: Place, interrupted: int, seed: int, say: Callable[[str], None]) -> Outcome:
    """Kill the process until so many plans were interrupted, let it finish, and count."""
    outcome, began = Outcome(seed), time.monotonic()
    chance = random.Random(seed)  # noqa: S311 - a schedule that its seed repeats
    home = place.home("plans-killed")
    asyncio.run(_furnish(home))
    accepted: dict[str, str] = {}
    while outcome.interrupted < interrupted:
        _life(home, outcome, accepted, chance)
        say(f"{outcome.interrupted} of {interrupted} plans interrupted by {outcome.kills} kills")
    _life(home, outcome, accepted, None)
    asyncio.run(_count(home, outcome, accepted))
    outcome.plans, outcome.seconds = len(accepted), round(time.monotonic() - began, 1)
    return outcome


async def _furnish(home: Home) -> None:
    async with system_at(home, InstantModel(lambda _: ""), 1) as (system, names):
        await _grant(system, names[0])


def _life(home: Home, outcome: Outcome, accepted: dict[str, str], chance: random.Random | None) -> None:
    """One life of the process: it goes on with what it finds, and gets new plans unless it may live to its end.

    It is killed after a random number of steps of all its plans together, or while it starts.
    """
    first = _AT_ONCE * outcome.lives
    count = _AT_ONCE if chance is not None else 0
    process = subprocess.Popen(
        [sys.executable, "-m", "loket.bench.plans", str(home.root), str(first), str(count)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        if chance is None:
            _followed(process, outcome, accepted, None)
            if process.wait(_LIFE_S) != 0:
                raise Failed("bench.plan", f"the process ended with {process.returncode}")
            return
        if chance.random() < _IN_START:
            time.sleep(chance.uniform(0.0, _START_S))
        else:
            _followed(process, outcome, accepted, chance.randint(1, 2 * _AT_ONCE * _STEPS))
        outcome.kills += process.poll() is None
    finally:
        process.kill()
        rest, _nothing = process.communicate()
        for line in rest.splitlines():  # what it said before it was killed; the last line may be half a line
            if line.endswith("}"):
                _note(json.loads(line), outcome, accepted)
    outcome.lives += 1


def _followed(process: "subprocess.Popen[str]", outcome: Outcome, accepted: dict[str, str], steps: int | None) -> None:
    """Read what a process says, until so many steps were done, or to its end."""
    done = 0
    for line in process.stdout or ():
        said = json.loads(line)
        _note(said, outcome, accepted)
        done += said["what"] == "step"
        if done == steps:
            return


def _note(said: dict[str, Any], outcome: Outcome, accepted: dict[str, str]) -> None:
    if said["what"] == "accepted":
        accepted[said["mark"]] = said["run"]
    elif said["what"] == "found":
        outcome.runs.update(said["steps"])
        outcome.steps.update(said["steps"].values())


async def _count(home: Home, outcome: Outcome, accepted: dict[str, str]) -> None:
    """Each accepted plan is done with all its steps, and each step's memory is there once."""
    async with _system(home) as system:
        stored: Counter[str] = Counter()
        after = 0
        while page := (await system.direct(_AGENT, "brain.export", {"after": after})).answer:
            if not page["memories"]:
                break
            stored.update(memory["text"] for memory in page["memories"])
            after = page["memories"][-1]["id"]
        for mark, run in accepted.items():
            found = await asyncio.to_thread(system.database.run, run)
            if found is None or found["status"] != "done" or found["answer"]["status"] != "done":
                outcome.lost.append(f"plan {mark} (run {run}) is not done")
            outcome.lost += [f"{mark}/{n} is not there" for n in range(_STEPS) if not stored[f"{mark}/{n}"]]
    outcome.doubled += [f"{text} is there {times} times" for text, times in stored.items() if times > 1]


# The process that is killed


class Pause:
    """`pause.wait`: waits some milliseconds, so that plans are suspended between their steps."""

    id = "pause"
    declared = Capability(
        "pause.wait",
        "wait some milliseconds",
        Effect.READ,
        {"type": "object", "required": ["ms"], "properties": {"ms": {"type": "integer"}}},
        {"type": "object"},
        waits=True,
    )

    def handlers(self) -> dict[str, Handler]:
        return {"pause.wait": self.wait}

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    async def wait(self, call: Call) -> Answer:
        _say({"what": "step"})
        await asyncio.sleep(call.args["ms"] / 1000)
        return Answer({})


def stored(mark: str) -> dict[str, Any]:
    """A plan that stores a memory and waits, in turn; each wait comes after what was stored before it."""
    steps: list[dict[str, Any]] = []
    for number in range(_STEPS):
        after = [f"wait{number - 1}"] if number else []
        keep = {"items": [{"text": f"{mark}/{number}", "kind": "fact"}]}
        pause = random.Random(f"{mark}/{number}").randint(5, 120)  # noqa: S311 - times of waiting
        steps.append({"id": f"keep{number}", "call": "brain.add", "args": keep, "after": after})
        steps.append({"id": f"wait{number}", "call": "pause.wait", "args": {"ms": pause}, "after": [f"keep{number}"]})
    return {"title": mark, "steps": steps}


def _system(home: Home) -> Any:
    pause = Pause()
    return running(home, llm=InstantModel(lambda _: ""), more_capabilities=(pause.declared,), more_providers=(pause,))


async def _worker(home: Home, first: int, count: int) -> None:
    """Go on with what was interrupted, start so many plans, and say what was accepted, a JSON line each."""
    async with _system(home) as system:
        await asyncio.to_thread(system.installed.allow, _AGENT, "pause.wait", {})
        found = system.engine.unfinished()
        plans = [run for run, state in found.items() if state.request.operation == RUN]
        steps = {run: len(list(system.journal.rows(run))) // _ROWS for run in plans}
        _say({"what": "found", "steps": steps})
        asked = [asyncio.create_task(_one(system, f"p{first + number}")) for number in range(count)]
        await asyncio.gather(*asked, *(system.finished(run) for run in found))


async def _one(system: Loket, mark: str) -> None:
    """A plan of its own; what is acknowledged is the run of the call, which waits for it."""
    run = new_id(system.now())
    request = RunRequest(
        run, run, _AGENT, OWNER, None, run, "plan.run", {"plan": stored(mark)}, ("owner",), system.now()
    )
    await system.engine.submit(request)
    _say({"what": "accepted", "mark": mark, "run": derived_id(run, 1)})
    await system.finished(run)


def _say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str]) -> None:
    """`python -m loket.bench.plans HOME FIRST COUNT`: the process that is killed."""
    root, first, count = arguments
    asyncio.run(_worker(Home(Path(root)), int(first), int(count)))


if __name__ == "__main__":
    main(sys.argv[1:])
