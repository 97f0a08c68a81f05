"""What a call writes on its row: public facts, and what was said as JSON text.

In the kernel because the proof is read from it: principal, request root, labels, decision and rule ids are on every
row from the first day. The facts outlive an erasure, so they name no person and quote nobody: who that was, the labels
and the words of a refusal are part of the value.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from loket.contracts import Capability, Facts, Labels, LoketError, Refusal, RowKind, Usage, Verdict
from loket.kernel.state import Pending, RunState
from loket.kernel.text import canonical, decode_object, labels_text

_REFUSED_ARGS = 2000
"""Characters of a refused call's arguments that are kept."""

_NAME = 200
"""Characters that are kept of a capability's name, which a module may have made up."""

_NOTHING = Usage()

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
    call, decision = pending.call, pending.decision
    facts: dict[str, Any] = {
        "attempt": call.attempt,
        "capability": call.capability,
        "decision": decision.verdict.value,
        "effect": pending.capability.effect.value,
        "policy": decision.policy,
        "principal": call.principal.public,
        "reason": decision.reason,
        "root": run.request.root,
        "rules": decision.rules,
    }
    facts |= {"held": pending.held} if kind is RowKind.INTENT else {"ms": _ms_since(pending.started)}
    if error is not None:
        facts["error"] = error.code
    if decision.obligations:
        facts["obligations"] = decision.obligations
    if usage is not None and usage != _NOTHING:
        facts["usage"] = {"in": usage.tokens_in, "out": usage.tokens_out, "money": usage.money}
        facts["usage"] |= {"elsewhere": True} if usage.counted else {}
        facts["usage"] |= {"model": usage.model} if usage.model else {}
    return canonical(facts)


def usage_of(fact: Mapping[str, Any]) -> Usage:
    """What a row's fact says that a call cost."""
    counted = bool(fact.get("elsewhere"))
    return Usage(fact["in"], fact["out"], fact["money"], counted, str(fact.get("model", "")))


def refusal_facts(run: RunState, known: Capability | None, refusal: Refusal, started: float) -> str:
    """The facts of a call that was refused; None stands for a capability that does not exist."""
    facts: dict[str, Any] = {
        "capability": known.id if known is not None else UNKNOWN,
        "principal": run.request.principal.public,
        "root": run.request.root,
        "decision": Verdict.DENY.value,
        "rules": refusal.rules or (refusal.code,),
        "policy": run.policy,
        "ms": _ms_since(started),
        "error": refusal.code,
    }
    if known is not None:
        facts["effect"] = known.effect.value
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
