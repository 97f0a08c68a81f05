"""The row about runs that wait: the memory of a process of its own in which all of them wait for a model."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from loket.bench import words
from loket.bench.place import Place, system_at
from loket.bench.rows import Peer, Taken
from loket.contracts import Answer, Call, Failed, Handler
from loket.home import Home

AGENTS = 10
SAMPLES = 10
_TOGETHER = 64
"""Messages that are sent at the same time."""
_TIMEOUT_S = 150


def suspended(place: Place, n: int) -> Taken:
    """Resident megabytes with `n` runs that wait; beside it the peak on the way there, and before the first run."""
    asyncio.run(_compile(place))
    home = place.home("suspended")
    command = [sys.executable, "-m", "loket.bench.suspended", str(home.root), str(n)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=_TIMEOUT_S)
    if done.returncode != 0:
        raise Failed("bench.child", f"the process with the waiting runs failed: {done.stderr.strip()[-500:]}")
    found = json.loads(done.stdout)
    peers = (
        Peer("the most that the process had on the way there", "MB", [found["peak"]]),
        Peer("the same process before the first run", "MB", [found["before"]]),
    )
    return Taken(found["resident"], peers, n=n)


async def _compile(place: Place) -> None:
    """Have the stock agent compiled by another process than the one whose memory counts, as it is after an install."""
    async with system_at(place.home("compiled"), SilentModel(0), 0):
        pass


class SilentModel:
    """A model that never answers. `all_wait` is set once `expected` calls wait for it; `waiting` counts them."""

    id = "llm"

    def __init__(self, expected: int) -> None:
        self.waiting = 0
        self.all_wait = asyncio.Event()
        self._expected = expected

    def handlers(self) -> Mapping[str, Handler]:
        """`llm.complete` (asynchronous) and `llm.models`."""
        return {"llm.complete": self._complete, "llm.models": self._models}

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def _complete(self, _call: Call) -> Answer:
        self.waiting += 1
        if self.waiting == self._expected:
            self.all_wait.set()
        await asyncio.Event().wait()
        raise Failed("model.silent", "this model never answers")

    def _models(self, _call: Call) -> Answer:
        return Answer({"models": [{"name": "silent", "local": True, "tools": True, "context": 8192}]})


async def _fill(home: Home, n: int) -> dict[str, object]:
    """Have `n` runs wait: `before`, `resident` (samples) and `peak`, in MB."""
    model = SilentModel(n)
    async with system_at(home, model, AGENTS) as (system, names):
        before = resident_mb()
        texts = words.messages(n)
        for first in range(0, n, _TOGETHER):
            batch = range(first, min(first + _TOGETHER, n))
            await asyncio.gather(*(system.send(names[i % AGENTS], texts[i], conversation=f"talk-{i}") for i in batch))
        await asyncio.wait_for(model.all_wait.wait(), _TIMEOUT_S)
        samples = []
        for _ in range(SAMPLES):
            await asyncio.sleep(0.05)
            samples.append(resident_mb())
    return {"before": before, "resident": samples, "peak": peak_mb()}


def resident_mb() -> float:
    """Megabytes (10^6 bytes) of this process that are in memory now; the peak where the system does not tell."""
    return _status_mb("VmRSS") or peak_mb()


def peak_mb() -> float:
    """The most megabytes (10^6 bytes) of this process that ever were in memory."""
    import resource

    # getrusage(2) counts bytes on macOS and kilobytes elsewhere; on Linux it remembers the parent's peak as well.
    unit = 1 if sys.platform == "darwin" else 1024
    return _status_mb("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def _status_mb(field: str) -> float:
    """A field of proc(5)'s `status` in megabytes; 0 where there is none."""
    try:
        found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def main() -> None:
    """Print the figures of this process as JSON: `HOME N`."""
    home, n = Home(Path(sys.argv[1])), int(sys.argv[2])
    found = asyncio.run(_fill(home, n))
    sys.stdout.write(json.dumps(found) + os.linesep)


if __name__ == "__main__":
    main()
