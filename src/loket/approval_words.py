"""What an approval keeps of a call, what it is bound to, and the words of its refusals: pure functions."""

import hashlib
from collections.abc import Mapping
from typing import Any

from loket.contracts import Asked, Damaged, Refusal
from loket.kernel.text import canonical
from loket.store.approvals import Kept


def content(asked: Asked) -> dict[str, Any]:
    """What is shown of a call, and what an approval of it is bound to."""
    question, decision = asked.question, asked.decision
    return {
        "fingerprint": asked.fingerprint,
        "cover": cover(asked),
        "principal": str(question.principal),
        "conversation": question.run.conversation,
        "args": dict(question.args),
        "critical": [name for name in question.capability.critical if name in question.args],
        "labels": {name: list(labels) for name, labels in question.labels.items()},
        "findings": {name: [found.origin.value, found.why, found.record] for name, found in question.findings.items()},
        "exposed": list(question.exposed),
        "rules": list(decision.rules),
        "reason": decision.reason,
        "policy": decision.policy,
    }


def cover(asked: Asked) -> str:
    """What an approval for the whole run covers: SHA-256 (hex) over capability, critical values and deciding rules.

    A capability without critical arguments is covered with exactly the same arguments alone.
    """
    question = asked.question
    critical = {name: question.args[name] for name in question.capability.critical if name in question.args}
    bound = [question.capability.id, critical or dict(question.args), sorted(asked.decision.rules)]
    return hashlib.sha256(canonical(bound).encode()).hexdigest()


def said(row: Kept) -> Mapping[str, Any]:
    if row.unreadable is not None:
        raise Damaged("approval.damaged", f"approval {row.id} cannot be read: {row.unreadable}", "restore a backup")
    if row.said is None:
        raise Damaged("approval.erased", f"what approval {row.id} asked was erased with run {row.run}", "nothing helps")
    return row.said


def public(by: str) -> str:
    """Who approved, as the journal's facts may say it: a user's name goes with the run."""
    return "the owner" if by == "owner" else "a user"


def denied(ruling: Mapping[str, Any], asked: Asked) -> Refusal:
    why = f": {ruling['reason']}" if ruling["reason"] else ""
    return Refusal(
        "approval.denied",
        f"{public(ruling['by'])} denied it{why}",
        "do without it, or do it otherwise",
        rules=asked.decision.rules,
        blame="owner",
    )


def headless(asked: Asked) -> Refusal:
    return Refusal(
        "approval.headless",
        f"the owner would have to approve, and nobody is asked here: {asked.decision.reason}",
        'headless = "ask" under [approvals] in config.toml, or a rule of the policy that allows it',
        rules=asked.decision.rules,
        blame="owner",
    )


def late(asked: Asked, timeout_s: float) -> Refusal:
    """Nobody answered in time."""
    return Refusal(
        "approval.timeout",
        f"the owner did not answer within {timeout_s / 3600:g} h",
        "ask again in a new message; timeout_h under [approvals] in config.toml gives the owner longer",
        rules=asked.decision.rules,
        blame="owner",
    )


def flood(asked: Asked, most: int) -> Refusal:
    """The agent has asked too much that nobody has answered yet."""
    agent = asked.question.run.agent
    return Refusal(
        "approval.flood",
        f"{most} questions of {agent} wait for the owner already",
        f"decide on them: loket approvals list --agent {agent}",
        rules=asked.decision.rules,
    )
