"""The plain policy: what was granted is allowed where it stays with the owner; the rest would have to be asked.

A rule's id is stored with every decision. The rules are data, so that they can be shown and digested.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from loket.contracts import Decision, Effect, Question, Verdict


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: the first that applies decides."""

    id: str
    verdict: Verdict
    reason: str
    applies: Callable[[Question], bool]


_OWN = frozenset({"brain", "kv", "fs"})
_INSIDE = frozenset({"agent", "message", "plan"})

RULES = (
    Rule(
        "plain.host",
        Verdict.ALLOW,
        "Loket itself keeps the agent's lessons",
        lambda q: q.run.module is None and q.principal.kind == "host" and q.capability.family == "brain",
    ),
    Rule(
        "plain.owner",
        Verdict.ALLOW,
        "the owner asks",
        lambda q: q.run.module is None and q.principal.kind == "owner",
    ),
    Rule(
        "plain.read",
        Verdict.ALLOW,
        "it was granted and changes nothing",
        lambda q: q.capability.effect in (Effect.READ, Effect.PRIVATE),
    ),
    Rule(
        "plain.own-store",
        Verdict.ALLOW,
        "it was granted and changes only what belongs to the agent",
        lambda q: q.capability.family in _OWN and q.capability.effect in (Effect.MODIFY, Effect.DESTROY),
    ),
    Rule(
        "plain.model",
        Verdict.ALLOW,
        "it was granted and asks a model that the owner has chosen",
        lambda q: q.capability.family == "llm",
    ),
    Rule(
        "plain.inside",
        Verdict.ALLOW,
        "it was granted and stays among the owner's agents, each within its own grants",
        lambda q: q.capability.family in _INSIDE,
    ),
    Rule(
        "plain.granted-host",
        Verdict.ALLOW,
        "it was granted for this host and sends nothing but the request",
        lambda q: q.capability.effect is Effect.FETCH and q.capability.family == "net",
    ),
    Rule("plain.ask", Verdict.ASK, "it reaches beyond the agent's own data", lambda _q: True),
)

DIGEST = hashlib.sha256("\n".join(f"{r.id} {r.verdict.value} {r.reason}" for r in RULES).encode()).hexdigest()[:16]
"""Digest of the policy's text, stored with every decision."""


_DECISIONS = {
    rule.id: Decision(
        rule.verdict,
        (rule.id,),
        rule.reason,
        DIGEST,
        (),
        None if rule.verdict is Verdict.ALLOW else "approvals come with the gateway; ask for something local",
    )
    for rule in RULES
}


class PlainPolicy:
    """Decides by `RULES`: each has one decision, made beforehand."""

    def decide(self, question: Question) -> Decision:
        for rule in RULES:
            if rule.applies(question):
                return _DECISIONS[rule.id]
        return _DECISIONS[RULES[-1].id]
