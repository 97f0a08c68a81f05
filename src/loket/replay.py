"""Replay and verification: a module run again on its journal must make the same calls and give the same answer.

Outside the kernel, as it decides nothing and changes nothing: it rests on the journal and the module's bytes alone.
"""

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from loket.chain import Fault, check_chain
from loket.contracts import Guest, LoketError, ModuleRef, Row, RowKind, RunRequest, Segment, Token
from loket.kernel.counter import Counter
from loket.kernel.journal import Journal
from loket.kernel.state import RunState, recorded_from
from loket.kernel.text import canonical, decode_object

_CUT = frozenset(
    {
        "limit.cpu",
        "limit.calls",
        "limit.loop",
        "limit.wall",
        "limit.bytes",
        "canary.seen",
        "run.stopped",
        "token.expired",
        "token.revoked",
        "module.revoked",
    }
)
"""Endings that came from outside the module: what it would have done next is not in the journal."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one run: `reason` is empty where it verified."""

    run: str
    calls: int
    reason: str = ""
    erased: bool = False
    """Its values were destroyed: there is nothing to replay, and its rows still verify."""

    @property
    def ok(self) -> bool:
        return not self.reason


class _ReplayHost:
    """The counter on a journal: CPU time counts only behind the last call of a run that its CPU limit ended."""

    stopped: LoketError | None = None

    def __init__(self, counter: Counter, run: RunState, *, cut: bool) -> None:
        self._counter = counter
        self._run = run
        self._cut = cut
        self.asked_on = False

    @property
    def live(self) -> bool:
        return self._cut and self._run.position >= len(self._run.history)

    def __call__(self, capability: str, args: str) -> str:
        if self.live and not self._counter.is_side(capability):
            self.asked_on = True
        return self._counter.call(self._run, capability, args)


class Replayer:
    """Replays runs. `request_of` rebuilds a request and the seed from a start row; `load` gives a guest."""

    def __init__(
        self,
        counter: Counter,
        journal: Journal,
        load: Callable[[ModuleRef], Guest],
        request_of: Callable[[Row], tuple[RunRequest, bytes]],
    ) -> None:
        self._counter = counter
        self._journal = journal
        self._load = load
        self._request_of = request_of

    def replay(self, run: str) -> Verdict:
        """Run a finished run again on its journal and compare."""
        rows = list(self._journal.rows(run))
        if not rows or rows[0].kind is not RowKind.START:
            return Verdict(run, 0, "its first row is missing")
        if rows[0].erased:
            return Verdict(run, sum(row.kind in (RowKind.CALL, RowKind.OUTCOME) for row in rows), erased=True)
        try:
            request, seed = self._request_of(rows[0])
            history, opened, end = recorded_from(rows)
        except (LoketError, ValueError, KeyError, TypeError) as error:
            return Verdict(run, 0, f"its rows cannot be read: {error}")
        if end is None:
            return Verdict(run, len(history), "it is not finished")
        state = RunState(
            request,
            canonical(request.args),
            _NO_TOKEN,
            seed,
            request.labels,
            history=history,
            end=end,
            replay_only=True,
        )
        state.open = opened
        return self._compare(state, json.loads(rows[-1].value))

    def _compare(self, state: RunState, recorded: dict[str, Any]) -> Verdict:
        run, calls = state.request.id, len(state.history)
        error = recorded.get("error") or {}
        code = error.get("code", "")
        cut = code == "kernel.error" or (error.get("kind") == "ended" and code in _CUT)
        try:
            host = _ReplayHost(self._counter, state, cut=cut)
            segment = self._again(state, host)
        except LoketError as error:
            return Verdict(run, calls, f"{error.code}: {error.message}")
        return Verdict(run, calls, "" if host.asked_on else _difference(state, segment, recorded, code, cut=cut))

    def _again(self, state: RunState, host: _ReplayHost) -> Segment:
        request = state.request
        if request.module is not None:
            return self._load(request.module).run(host, request.operation, state.args, request.module.limits)
        try:
            return Segment(answer=host(request.operation, state.args))
        except LoketError as error:
            return Segment(refusal=error)

    def verify(
        self, runs: Iterable[str], progress: Callable[[int], None] | None = None, erasing: Collection[str] = ()
    ) -> tuple[list[Verdict], list[Fault]]:
        """Check the whole journal, then replay these runs; what became of each, and the journal's own faults."""
        faults = check_chain(self._journal, erasing=erasing)
        blamed = {fault.run: fault.reason for fault in reversed(faults) if fault.run}
        verdicts = []
        for count, run in enumerate(runs, 1):
            verdict = self.replay(run)
            verdicts.append(Verdict(run, verdict.calls, blamed.get(run, verdict.reason), verdict.erased))
            if progress is not None:
                progress(count)
        return verdicts, faults


_NO_TOKEN = Token("", "", 0.0, b"")


def _difference(state: RunState, segment: Segment, recorded: dict[str, Any], code: str, *, cut: bool) -> str:
    """How the replay differs from the journal, in words; empty where it does not."""
    error = segment.ended or segment.refusal
    if segment.ended is not None and segment.ended.code == "replay.diverged":
        return segment.ended.message
    if cut:
        return ""
    if state.position < len(state.history):
        missing = state.history[state.position]
        return f"the module ended before call {missing.ordinal} ({missing.capability}) of the journal"
    if state.end is not None and not state.sides.matches(state.end.sides):
        return "the clock, random or log calls before its end are not those in the journal"
    return _other_ending(segment, error, recorded, code)


def _is_object(answer: str) -> bool:
    try:
        decode_object(answer, "the answer")
    except LoketError:
        return False
    return True


def _other_ending(segment: Segment, error: LoketError | None, recorded: dict[str, Any], code: str) -> str:
    if code == "module.answer":
        return "" if segment.answer is not None and not _is_object(segment.answer) else "it answers properly now"
    if code:
        return "" if error is not None and error.code == code else f"it ended with {code}, and now does not"
    if segment.answer is None:
        return f"it answered then, and ends with {error.code if error else 'nothing'} now"
    same = decode_object(segment.answer, "the answer")[1] == canonical(recorded["answer"])
    return "" if same else "its answer is not the one in the journal"
