"""Waits until runs have come to rest, for whoever is about to close a system."""

import asyncio
import time
from collections.abc import Collection

from loket.contracts import RunStatus
from loket.kernel.engine import Engine

_LOOK_S = 0.05
"""Seconds between two looks at which runs ask the owner."""

_DRAIN_S = 10.0


async def drain(engine: Engine) -> None:
    """Wait, at most ten seconds, until no run computes; runs that wait are not waited for."""
    await _ended(engine, _of(engine, {RunStatus.RUNNING, RunStatus.ACCEPTED}), _DRAIN_S)


async def finish_others(engine: Engine, timeout_s: float) -> None:
    """Wait, at most so many seconds, until no run is unfinished but those that ask the owner."""
    until = time.monotonic() + timeout_s
    while (runs := _of(engine, set(RunStatus) - {RunStatus.ASKING})) and (left := until - time.monotonic()) > 0:
        await _ended(engine, runs, min(left, _LOOK_S))  # one that asks meanwhile is waited for no more


def _of(engine: Engine, statuses: Collection[RunStatus]) -> list[str]:
    return [run for run, state in engine.unfinished().items() if state.status in statuses]


async def _ended(engine: Engine, runs: Collection[str], timeout_s: float) -> None:
    """Wait, at most so many seconds, for the end of all of these."""
    waits = [asyncio.ensure_future(engine.result(run)) for run in runs]
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(*waits, return_exceptions=True)  # one may have ended before it was looked at
    except TimeoutError:
        pass
