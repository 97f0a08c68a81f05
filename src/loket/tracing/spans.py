"""Spans of a run, from the public facts of its journal rows.

A run is a span; each call is one of the counter below it, with an event for each decision; what the counter had
performed is one of the provider below that, and a model's answer one more. A run that a call started is below the
call. Nothing is measured for it while a run goes on: the journal has the times.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from loket.contracts import RowKind
from loket.ids import derived_id
from loket.tracing.facts import Fact
from loket.tracing.identity import span_id, trace_id
from loket.tracing.span import Attribute, Event, Layer, Span

_PLANS = "plan:"
"""How the operations of runs begin that carry out plans, or make them (see `loket.orchestrator`)."""
_NUMBERS, _TIME_DIGITS, _TIME_BITS = "0123456789abcdefghjkmnpqrstvwxyz", 9, 5
"""Of ids of runs (see `loket.ids`): the first nine digits are milliseconds since 1970."""
_ASKING = ("llm.complete", "llm.extract")
"""Capabilities that ask a model."""

_EARLIEST_S = 60.0
"""Seconds between a run's acceptance and its first row after which the id is not taken for a time."""


def spans_of(facts: Sequence[Fact], starter: str | None = None, link: tuple[str, str] | None = None) -> list[Span]:
    """The spans of one run, the run's own first; none where its first row is not among the facts.

    `starter` is the span of the call that started the run, `link` a trace's and a span's id of whoever sent it.
    """
    first = next((fact for fact in facts if fact.kind is RowKind.START), None)
    if first is None:
        return []
    trace = trace_id(first.facts["root"])
    ending = next((fact for fact in facts if fact.kind is RowKind.END), None)
    began = _accepted(first) if first.facts["parent"] is None else first.at
    run = _run_span(trace, first, ending, began, starter, link)
    spans = [run]
    if first.facts["parent"] is None:
        spans.append(_gateway_span(run, first))
    for rows in _calls(facts):
        spans += _call_spans(run, rows)
    return spans


def starters(run: str, facts: Iterable[Fact], agent: str) -> dict[str, str]:
    """Ids of the runs of an agent that the calls of a run may have started, each with the span of that call."""
    most = max((fact.ordinal for fact in facts), default=0) + 1  # the last call may not have a row yet
    found: dict[str, str] = {}
    for ordinal in range(1, most + 1):
        span = span_id(run, ordinal, Layer.COUNTER)
        found |= {derived_id(run, ordinal): span, derived_id(run, ordinal, agent): span}
    return found


def _run_span(
    trace: str, first: Fact, ending: Fact | None, began: float, starter: str | None, link: tuple[str, str] | None
) -> Span:
    facts = first.facts
    parent = facts["parent"]
    plan = str(facts["operation"]).startswith(_PLANS) and facts["module"] is not None
    layer = Layer.ORCHESTRATOR if plan else Layer.RUN
    attributes = _given(
        {
            "loket.layer": layer.value,
            "loket.run": first.run,
            "loket.root": facts["root"],
            "loket.parent": parent,
            "loket.principal": facts["principal"],
            "loket.operation": facts["operation"],
            "loket.module": facts["module"],
            "loket.version": facts["version"],
            "loket.digest": facts["digest"],
            "loket.commitment": first.commitment,
            "gen_ai.operation.name": "invoke_agent" if facts["module"] is not None and not plan else None,
            "gen_ai.agent.name": facts["agent"],
            "gen_ai.agent.version": facts["version"],
        }
    )
    failed = ""
    if ending is not None:
        status = ending.facts["status"]
        failed = "" if status == "done" else f"run.{status}"
        attributes |= _given({f"loket.{name}": ending.facts[name] for name in ("status", "calls", "tokens", "money")})
        attributes |= _given({"error.type": failed or None})
    return Span(
        trace,
        span_id(first.run, layer=Layer.RUN),
        starter or (span_id(parent, layer=Layer.RUN) if parent is not None else None),
        first.run,
        layer,
        f"{facts['operation']} {facts['agent']}"
        if plan or facts["module"] is None
        else f"invoke_agent {facts['agent']}",
        began,
        max(began, ending.at) if ending is not None else None,
        attributes,
        links=(link,) if link is not None else (),
        error=failed,
    )


def _gateway_span(run: Span, first: Fact) -> Span:
    """From the acceptance of a request until its run is on the disk."""
    attributes = _given({"loket.layer": Layer.GATEWAY.value, "loket.principal": first.facts["principal"]})
    identity = span_id(run.run, layer=Layer.GATEWAY)
    return Span(
        run.trace, identity, run.id, run.run, Layer.GATEWAY, "accept", run.start, max(run.start, first.at), attributes
    )


def _calls(facts: Iterable[Fact]) -> Iterator[list[Fact]]:
    """The rows of each call, in order: one of a read or a refusal; intents (one an attempt) and the outcome else."""
    rows: list[Fact] = []
    for fact in facts:
        if fact.kind not in (RowKind.CALL, RowKind.INTENT, RowKind.OUTCOME):
            continue
        if rows and rows[0].ordinal != fact.ordinal:
            yield rows
            rows = []
        rows.append(fact)
    if rows:
        yield rows


def _call_spans(run: Span, rows: Sequence[Fact]) -> Iterator[Span]:
    """The counter's span of a call; below it the provider's where something was performed, and the model's."""
    last, first = rows[-1], rows[0]
    done = last if last.kind is not RowKind.INTENT else None
    took = done.facts["ms"] / 1000 if done is not None else 0.0
    end = max(run.start, done.at) if done is not None else None
    start = max(run.start, first.at if first.kind is RowKind.INTENT else first.at - took)
    error = str(done.facts.get("error", "")) if done is not None else ""
    capability = str(last.facts["capability"])
    attributes = _given(
        {
            "loket.layer": Layer.COUNTER.value,
            "loket.capability": capability,
            "loket.effect": last.facts.get("effect"),
            "loket.ordinal": last.ordinal,
            "loket.attempt": last.facts.get("attempt"),
            "loket.commitment": last.commitment,
            "loket.commitment.intent": first.commitment if first is not last else None,
            "error.type": error or None,
        }
    )
    events = tuple(
        Event(
            "decision", min(max(start, fact.at), end) if fact.kind is RowKind.INTENT and end else start, _decision(fact)
        )
        for fact in rows
        if fact.kind is not RowKind.OUTCOME
    )
    identity = span_id(run.run, last.ordinal, Layer.COUNTER)
    counter = Span(
        run.trace, identity, run.id, run.run, Layer.COUNTER, f"call {capability}", start, end, attributes, events,
        error=error,
    )  # fmt: skip
    yield counter
    if done is not None and end is not None and done.facts["decision"] == "allow":
        yield from _performed(counter, done, max(start, end - took))


def _decision(fact: Fact) -> dict[str, Attribute]:
    """What was decided, by which rules of which policy. The reason is left out: it is words."""
    return _given(
        {
            "loket.decision": fact.facts["decision"],
            "loket.rules": tuple(fact.facts["rules"]),
            "loket.policy": fact.facts["policy"] or None,
            "loket.principal": fact.facts["principal"],
            "loket.attempt": fact.facts.get("attempt"),
        }
    )


def _performed(counter: Span, done: Fact, start: float) -> Iterator[Span]:
    family = str(done.facts["capability"]).partition(".")[0]
    attributes = _given({"loket.layer": Layer.PROVIDER.value, "loket.provider": family})
    identity = span_id(counter.run, done.ordinal, Layer.PROVIDER)
    name = f"provider {family}"
    yield Span(
        counter.trace, identity, counter.id, counter.run, Layer.PROVIDER, name, start, counter.end, attributes,
        error=counter.error,
    )  # fmt: skip
    if done.facts["capability"] in _ASKING:
        yield Span(
            counter.trace, span_id(counter.run, done.ordinal, Layer.MODEL), identity, counter.run, Layer.MODEL, "chat",
            start, counter.end, _model(done.facts.get("usage") or {}, counter.error), error=counter.error,
        )  # fmt: skip


def _model(usage: Mapping[str, Any], error: str) -> dict[str, Attribute]:
    """By OpenTelemetry's semantic conventions for generative AI; old rows do not say which model answered."""
    return _given(
        {
            "loket.layer": Layer.MODEL.value,
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "loket",
            "gen_ai.usage.input_tokens": usage.get("in"),
            "gen_ai.usage.output_tokens": usage.get("out"),
            "gen_ai.request.model": usage.get("model"),
            "loket.money": usage.get("money"),
            "error.type": error or None,
        }
    )


def _given(attributes: Mapping[str, Any]) -> dict[str, Attribute]:
    return {name: value for name, value in attributes.items() if value is not None}


def _accepted(first: Fact) -> float:
    """When a run was accepted, in seconds since 1970: its id says so; where it does not, its first row does."""
    digits = first.run[:_TIME_DIGITS]
    if len(digits) < _TIME_DIGITS or any(digit not in _NUMBERS for digit in digits):
        return first.at
    number = 0
    for digit in digits:
        number = number << _TIME_BITS | _NUMBERS.index(digit)
    return number / 1000 if 0 <= first.at - number / 1000 <= _EARLIEST_S else first.at
