"""What a call writes on its row: public facts, and what was said as JSON text.

In the kernel because the proof is read from it: principal, request root, labels, decision and rule ids are on every
row from the first day. The facts outlive an erasure, so they name no person and quote nobody: who that was, the labels
and the words of a refusal are part of the value.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from loket.contracts import Facts, Labels, LoketError, Refusal, RowKind, Usage, Verdict
from loket.kernel.state import Pending, RunState
from loket.kernel.text import canonical, decode_object, labels_text

_REFUSED_ARGS = 2000
"""Characters of a refused call's arguments that are kept."""

_NAME = 200
"""Characters that are kept of a capability's name, which a module may have made up."""


UNKNOWN = "?"
"""Stands for a capability that does not exist; the value has the name that the module gave."""


def named(capability: str) -> str:
    """A capability's name as rows have it."""
    return capability[:_NAME]


def start(run: RunState) -> str:
    """The value of a run's first row as JSON text."""
    request = run.request
    said: dict[str, Any] = {
        "conversation": request.conversation,
        "labels": request.labels,
        "principal": str(request.principal),
    }
    if request.rights is not None:
        said["rights"] = request.rights
    words = f',"words":{canonical(request.words)}' if request.words else ""
    return f'{{"args":{run.args},{canonical(said)[1:-1]},"seed":"{run.seed.hex()}"{words}}}'


def call_facts(run: RunState, kind: RowKind, pending: Pending, error: LoketError | None, usage: Usage | None) -> str:
    """The facts of a call that was allowed, as canonical JSON: of its intent, its outcome, or both in one row."""
    before, after = _decided(run, pending)
    parts = [f'{{"attempt":{pending.call.attempt}', before]
    if error is not None:
        parts.append(f'"error":{canonical(error.code)}')
    if kind is RowKind.INTENT:
        parts.append(f'"held":{pending.reservation.tokens}')
    else:
        parts.append(f'"ms":{_ms_since(pending.started)}')
    parts.append(after)
    if usage is not None and usage != Usage():
        counted = {"in": usage.tokens_in, "out": usage.tokens_out, "money": usage.money}
        if usage.counted:
            counted["elsewhere"] = True
        parts.append(f'"usage":{canonical(counted)}')
    return ",".join(parts) + "}"


def _decided(run: RunState, pending: Pending) -> tuple[str, str]:
    """What a decision puts on a row, without braces: the facts before and after `error`. Made once a run."""
    call, decision = pending.call, pending.decision
    known = run.decided.get(call.capability)
    if known is not None and known[0] is decision:
        return known[1]
    before = {
        "capability": call.capability,
        "decision": decision.verdict.value,
        "effect": pending.capability.effect.value,
    }
    after = {
        "policy": decision.policy,
        "principal": call.principal.public,
        "reason": decision.reason,
        "root": run.request.root,
        "rules": decision.rules,
    }
    if decision.obligations:
        after["obligations"] = decision.obligations
    texts = (canonical(before)[1:-1], canonical(after)[1:-1])
    run.decided[call.capability] = (decision, texts)
    return texts


def refusal_facts(run: RunState, capability: str, refusal: Refusal, started: float) -> str:
    """The facts of a call that was refused; `capability` is `UNKNOWN` for one that does not exist."""
    facts = {
        "capability": capability,
        "principal": run.request.principal.public,
        "root": run.request.root,
        "decision": Verdict.DENY.value,
        "rules": refusal.rules or (refusal.code,),
        "policy": run.policy,
        "ms": _ms_since(started),
        "error": refusal.code,
    }
    return canonical(facts)


def _ms_since(started: float) -> float:
    return round((time.perf_counter() - started) * 1000, 3)


def whole(args: str) -> str:
    """Arguments as canonical JSON where they can be read, else the text itself as a JSON string."""
    try:
        return decode_object(args, "")[1]
    except Refusal:
        return canonical(args.encode("utf-8", "replace").decode())


def safe(args: str) -> str:
    """Arguments of a refused call for its row: long ones by size and digest, so that they do not fill the journal."""
    text = whole(args)
    if len(text) <= _REFUSED_ARGS:
        return text
    raw = text.encode()
    return canonical({"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()})


def call_value(
    run: RunState, kind: RowKind, pending: Pending, answer: str | None, labels: Labels, error: LoketError | None
) -> str:
    """The value of a call's row as JSON text: of an outcome only what came back."""
    parts = []
    if answer is not None:
        parts.append(f'"answer":{answer}')
    if kind is not RowKind.OUTCOME:
        parts.append(f'"arg_labels":{_arg_labels(pending.facts.labels)},"args":{pending.text}')
    side = None if kind is RowKind.OUTCOME else run.sides.record()
    return _value(parts, error, labels, None if kind is RowKind.OUTCOME else pending.facts, side)


def _arg_labels(labels: Mapping[str, Labels]) -> str:
    return "{" + ",".join([f"{canonical(name)}:{labels_text(labels[name])}" for name in sorted(labels)]) + "}"


def refusal_value(
    unknown: str | None,
    args: str,
    refusal: Refusal,
    labels: Labels,
    facts: Facts | None,
    side: Mapping[str, Any] | None,
) -> str:
    """The value of a refused call's row as JSON text. `unknown` is the name of a capability that does not exist."""
    name = [f'"capability":{canonical(named(unknown))}'] if unknown is not None else []
    known = [f'"arg_labels":{_arg_labels(facts.labels)}'] if facts is not None else []
    return _value([*known, f'"args":{args}', *name], refusal, labels, facts, side)


def _value(
    parts: list[str], error: LoketError | None, labels: Labels, facts: Facts | None, side: Mapping[str, Any] | None
) -> str:
    if error is not None:
        parts.append(f'"error":{canonical(error.as_dict())}')
    if labels:
        parts.append(f'"labels":{labels_text(labels)}')
    if facts is not None and facts.findings:
        origins = {name: [found.origin.value, found.why] for name, found in facts.findings.items()}
        parts.append(f'"origins":{canonical(origins)}')
    if side is not None:
        parts.append(f'"sides":{canonical(side)}')
    return "{" + ",".join(parts) + "}"


def event(pending: Pending, error: LoketError | None) -> dict[str, Any]:
    """What those who watch a run are told of a call."""
    return {
        "capability": pending.call.capability,
        "decision": pending.decision.verdict.value,
        "reason": pending.decision.reason,
        "error": error.code if error else None,
    }
