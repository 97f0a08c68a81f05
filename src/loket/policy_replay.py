"""The policy's time machine: decides every journaled call again, under other rules, and says what would change.

A question is rebuilt from the journal alone. The start row has the request; the row of a call has its arguments, their
labels and the origins of the critical ones; what the run had seen by then follows from the rows before it.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from loket.contracts import (
    Capability,
    Decision,
    Finding,
    Json,
    Labels,
    LoketError,
    Origin,
    Policy,
    Question,
    Recorded,
    Refusal,
    Row,
    RowKind,
    RunRequest,
    Verdict,
    join_labels,
)
from loket.kernel import refs
from loket.kernel.state import recorded_from
from loket.store.kernel import request_of


@dataclass(frozen=True, slots=True)
class Then:
    """A call as it was decided: the question, the verdict and the rules on its row, and when (seconds since 1970)."""

    run: str
    ordinal: int
    at: float
    question: Question
    verdict: Verdict
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """A call that would be decided otherwise."""

    then: Then
    decision: Decision


@dataclass(slots=True)
class Outcome:
    """What a replay found. `unknown` calls could not be asked about: their arguments or their capability are gone."""

    runs: int = 0
    calls: int = 0
    unknown: int = 0
    changes: list[Change] = field(default_factory=list)


Find = Callable[[str], Capability]
"""A capability by its id. Raises `Refusal` where there is none."""


def replay(
    runs: Iterable[str],
    rows_of: Callable[[str], Iterable[Row]],
    find: Find,
    policy: Policy,
    at: Callable[[float], None],
    progress: Callable[[int], None] = lambda _done: None,
) -> Outcome:
    """Decide every call of some runs again. `at` sets the clock of the policy to when a call was made.

    A rule that cannot be evaluated denies, as it would have then.
    """
    outcome = Outcome()
    for run in runs:
        outcome.runs += 1
        for then in calls_of(list(rows_of(run)), find):
            outcome.calls += 1
            if then is None:
                outcome.unknown += 1
                continue
            at(then.at)
            decision = _decided(policy, then.question)
            if decision.verdict is not then.verdict:
                outcome.changes.append(Change(then, decision))
        progress(outcome.runs)
    return outcome


def _decided(policy: Policy, question: Question) -> Decision:
    try:
        return policy.decide(question)
    except LoketError as error:
        return Decision(Verdict.DENY, ("policy.failed",), error.message, "", (), error.remedy)


def calls_of(rows: list[Row], find: Find) -> Iterator[Then | None]:
    """The calls of a run on which the policy decided, in order; None for one that cannot be asked about any more."""
    if not rows or rows[0].kind is not RowKind.START or not _readable(rows):
        return
    request, _seed = request_of(rows[0])
    history, _open, _end = recorded_from(rows)
    exposed = request.labels
    asked = {row.ordinal: row for row in reversed(rows) if row.kind in (RowKind.CALL, RowKind.INTENT)}
    for ordinal in sorted(asked):
        row = asked[ordinal]
        if _was_decided(row.meta):
            yield _then(request, row, history[: ordinal - 1], exposed, find)
        if ordinal <= len(history) and not history[ordinal - 1].by_reference:
            exposed = join_labels(exposed, history[ordinal - 1].labels)


def _readable(rows: list[Row]) -> bool:
    return all(row.value and not row.erased for row in rows)


def _was_decided(facts: Mapping[str, Any]) -> bool:
    """Whether a call got as far as the policy: a broken one leaves no digest."""
    return bool(facts.get("policy")) or str(facts.get("error", "")).startswith("policy.")


def _then(request: RunRequest, row: Row, before: list[Recorded], exposed: Labels, find: Find) -> Then | None:
    """A call as its row has it; None where its arguments were too long to be kept, or its capability is gone."""
    value, facts = json.loads(row.value), row.meta
    try:
        capability = find(str(facts["capability"]))
        args = _args(value, before)
    except Refusal:
        return None
    if args is None:
        return None
    labels = {name: tuple(found) for name, found in value.get("arg_labels", {}).items()}
    findings = {name: Finding(Origin(origin), why) for name, (origin, why) in value.get("origins", {}).items()}
    question = Question(request.principal, request, capability, args, labels, findings, exposed)
    verdict = recorded_verdict(facts)
    return Then(row.run, row.ordinal, row.at, question, verdict, tuple(facts.get("rules", ())))


def _args(value: Mapping[str, Any], before: list[Recorded]) -> Mapping[str, Json] | None:
    given = value.get("args")
    refused = "error" in value and "answer" not in value
    if not isinstance(given, dict) or (refused and given.keys() == {"bytes", "sha256"}):
        return None
    resolved = refs.resolve({name: part for name, part in given.items() if name != refs.AS}, before)
    return resolved if isinstance(resolved, dict) else None


def recorded_verdict(facts: Mapping[str, Any]) -> Verdict:
    """What the policy had said: a call that the owner approved was asked about, one over its quota was allowed."""
    rules, error = facts.get("rules", ()), str(facts.get("error", ""))
    if any(str(rule).startswith("approval:") for rule in rules) or error.startswith("approval."):
        return Verdict.ASK
    if facts.get("decision") != Verdict.DENY.value:
        return Verdict(facts["decision"])
    if error == "policy.ask":
        return Verdict.ASK
    return Verdict.DENY if error.startswith("policy.") else Verdict.ALLOW
