"""Clock, randomness and logs: capabilities like any other, that must not flood the journal.

In the kernel because replay rests on them: a run has one seed, from which all its random bytes follow; one reading of
the clock serves until the next other call; logs are kept up to so many bytes. All three are recorded on the run's next
row (`Sides`), not on rows of their own.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from loket.kernel.state import RunState
from loket.kernel.text import canonical

LINE = 16
"""Bytes that a line of the log counts for beside its text."""

SEED = 32
"""Bytes of a run's seed."""


def random_bytes(seed: bytes, index: int, n: int) -> bytes:
    """The `index`-th request of a run for `n` random bytes: SHAKE-256 over seed and index (FIPS 202)."""
    return hashlib.shake_256(seed + index.to_bytes(8, "big")).digest(n)


def answer(run: RunState, capability: str, args: dict[str, Any], text: str, now: Callable[[], float]) -> str:
    """The answer of a side capability as JSON text, live or replayed; the call (`text`: its arguments) is noted."""
    value = _perform(run, capability, args, now)
    run.sides.note(capability, text)
    return canonical(value)


def _perform(run: RunState, capability: str, args: dict[str, Any], now: Callable[[], float]) -> dict[str, Any]:
    if capability == "clock.now":
        return {"seconds": _clock(run, now)}
    if capability == "random.bytes":
        run.randoms += 1
        return {"hex": random_bytes(run.seed, run.randoms, int(args["n"])).hex()}
    _log(run, str(args.get("level", "info")), str(args["text"]))
    return {}


def _clock(run: RunState, now: Callable[[], float]) -> float:
    if run.sides.clock is None:
        recorded = run.recorded_sides() or {}
        run.sides.clock = float(recorded["clock"]) if "clock" in recorded else now()
    return run.sides.clock


def _log(run: RunState, level: str, text: str) -> None:
    size = len(text.encode()) + LINE
    module = run.request.module
    if module is not None and run.logged + size > module.limits.log_kb << 10:
        run.sides.dropped += size
        return
    run.logged += size
    run.sides.logs.append([level, text])
    if run.live:
        run.emit("log", {"level": level, "text": text})
