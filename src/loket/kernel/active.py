"""An unfinished run and what hangs on it, for the engine."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from loket.contracts import Ending, Failed, LoketError, Refusal, RunEnded, RunStatus, Segment, Suspended
from loket.kernel.counter import Counter
from loket.kernel.state import RunState
from loket.kernel.text import decode_object


@dataclass(slots=True)
class Active:
    """An unfinished run and what hangs on it."""

    run: RunState
    ended: asyncio.Future[Ending]
    predecessor: "Active | None" = None
    """The run before it in its conversation, where that is unfinished."""
    interrupted: bool = False
    """Accepted before the last start: its journal has to be read first."""
    owner_spoke: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Host:
    """What the sandbox hands to a module: the counter, for one run."""

    __slots__ = ("_counter", "_park", "_run")

    def __init__(self, counter: Counter, run: RunState, park: Callable[[RunState], str]) -> None:
        self._counter = counter
        self._run = run
        self._park = park

    @property
    def live(self) -> bool:
        return self._run.live

    @property
    def stopped(self) -> LoketError | None:
        return self._run.stopped

    def __call__(self, capability: str, args: str) -> str:
        try:
            return self._counter.call(self._run, capability, args)
        except Suspended:
            return self._park(self._run)


def final_status(segment: Segment, error: LoketError | None) -> RunStatus:
    """How a run ended, from its last segment and the error that it ended with."""
    if error is None:
        return RunStatus.DONE
    if error.code == "run.stopped" and segment.ended is not None:
        return RunStatus.STOPPED
    if error.code.startswith("limit.") and segment.ended is not None:
        return RunStatus.LIMIT
    if segment.refusal is not None and isinstance(error, Refusal):
        return RunStatus.REFUSED
    return RunStatus.FAILED


def ending_of(run: RunState, segment: Segment, now: float) -> Ending:
    """How a run ended, from its last segment; an answer that is no JSON object is an error."""
    answer: Mapping[str, Any] | None = None
    error = segment.ended or segment.refusal
    if segment.answer is not None:
        try:
            answer, _text = decode_object(segment.answer, "the module's answer")
        except Refusal as wrong:
            error = RunEnded("module.answer", wrong.message, "answer with a JSON object")
    spent = run.spent
    return Ending(
        final_status(segment, error),
        now,
        answer,
        error.as_dict() if error is not None else None,
        spent.calls,
        spent.tokens,
        round(spent.money, 6),
        run.exposed,
        spent.others_tokens,
        spent.others_money,
    )


def fault(error: Exception) -> Failed:
    return Failed(
        "kernel.error",
        f"the kernel failed: {type(error).__name__}: {error}",
        "report it with `loket runs show`",
        blame="machine",
    )


def end_event(ending: Ending) -> dict[str, Any]:
    return {"status": ending.status.value, "answer": ending.answer, "error": ending.error}
