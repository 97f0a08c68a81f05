"""What a call writes on its row: public facts, and what was said as JSON text.

In the kernel because the proof is read from it: principal, request root, labels, decision and rule ids are on every
row from the first day.
"""

import hashlib
import time
from collections.abc import Mapping
from typing import Any

from loket.contracts import Labels, LoketError, Refusal, RowKind, Usage, Verdict
from loket.kernel.state import Pending, RunState
from loket.kernel.text import canonical, decode_object

_REFUSED_ARGS = 2000
"""Characters of a refused call's arguments that are kept."""

_NAME = 200
"""Characters that are kept of a capability's name, which a module may have made up."""


def named(capability: str) -> str:
    """A capability's name as rows have it."""
    return capability[:_NAME]


def call_facts(
    run: RunState, kind: RowKind, pending: Pending, labels: Labels, error: LoketError | None, usage: Usage | None
) -> dict[str, Any]:
    """The facts of a call that was allowed: of its intent, its outcome, or both in one row."""
    call, decision = pending.call, pending.decision
    facts: dict[str, Any] = {
        "capability": call.capability,
        "effect": pending.capability.effect.value,
        "principal": str(call.principal),
        "root": run.request.root,
        "decision": decision.verdict.value,
        "rules": decision.rules,
        "policy": decision.policy,
        "reason": decision.reason,
        "attempt": call.attempt,
    }
    if kind is not RowKind.OUTCOME:
        facts["arg_labels"] = pending.arg_labels
    if kind is RowKind.INTENT:
        facts["held"] = pending.reservation.tokens
    else:
        facts["labels"] = labels
        facts["ms"] = _ms_since(pending.started)
    if usage is not None and usage != Usage():
        facts["usage"] = {"in": usage.tokens_in, "out": usage.tokens_out, "money": usage.money}
    if error is not None:
        facts["error"] = error.code
    return facts


def refusal_facts(run: RunState, capability: str, refusal: Refusal, policy: str, started: float) -> dict[str, Any]:
    """The facts of a call that was refused."""
    return {
        "capability": named(capability),
        "principal": str(run.request.principal),
        "root": run.request.root,
        "decision": Verdict.DENY.value,
        "rules": refusal.rules or (refusal.code,),
        "policy": policy,
        "reason": refusal.message,
        "labels": (),
        "ms": _ms_since(started),
        "error": refusal.code,
    }


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


def value(args: str | None, answer: str | None, error: LoketError | None, side: Mapping[str, Any] | None) -> str:
    """A row's value as JSON text, from parts that are canonical already."""
    parts = []
    if answer is not None:
        parts.append(f'"answer":{answer}')
    if args is not None:
        parts.append(f'"args":{args}')
    if error is not None:
        parts.append(f'"error":{canonical(error.as_dict())}')
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
