"""The policy in Cedar: rules that are parsed once, and a decision for each question that they can tell apart.

Cedar says which rules match; the verdict follows from them in this order:

1. a `forbid` that matches denies;
2. a `forbid` with `@verdict("ask")` asks, unless an approved rule for exactly these values matches;
3. a `permit` that matches allows;
4. a `permit` with `@verdict("ask")` asks;
5. nothing matches: denied.

The obligations of all matching rules come on top. A rule that cannot be evaluated raises, which is a denial: Cedar
itself would pass over it, a `forbid` too.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cedarpy import PolicySet, is_authorized

from loket.contracts import BadInput, Capability, Decision, Failed, Question, Verdict
from loket.policy.entities import Budget, Key, Members, View, groups, nobody, request_of, small
from loket.policy.generate import generate_rule, narrowest, quoted_word
from loket.policy.rules import Kind, Rule, parse, policy_set, within

NO_RULE = "none"
"""Stands for the rules of a decision where none matched."""

_MOST = 16_384
"""Decisions that are kept."""

_LONGEST = 1_000
"""Characters of a rule that is shown as a remedy: a longer one is nothing that a person would look over."""


@dataclass(frozen=True, slots=True)
class Scoped:
    """The rules whose scope can hold a capability, ready to be evaluated, and what they look at."""

    rules: Mapping[str, Rule]
    policies: PolicySet
    uses: tuple[str, ...]


class CedarPolicy:
    """Decides by Cedar rules: a pure function of the question, of the roles, and (where rules ask) of clock and budget.

    `rules` have unique ids. The same attributes give the identical `Decision`. Thread-safe.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        *,
        members: Members = nobody,
        now: Callable[[], float] = time.time,
        budget: Budget | None = None,
    ) -> None:
        self.rules = {rule.id: rule for rule in rules}
        self.digest = hashlib.sha256("\n".join(rule.text for rule in rules).encode()).hexdigest()[:16]
        """Of the text of all rules, stored with every decision."""
        self._view = View(members, now, budget)
        self._scoped: dict[tuple[str, str], Scoped] = {}
        self._decided: dict[Key, Decision] = {}

    def decide(self, question: Question) -> Decision:
        """The decision. Raises `Failed` where a rule cannot be evaluated."""
        scoped = self._scope(question.capability)
        key = self._view.key(question, scoped.uses)
        decision = self._decided.get(key)
        if decision is None:
            decision = self._keep(key, self._combined(self._matching(scoped, key, question), question))
        if decision.verdict is Verdict.ALLOW or decision.remedy is not None:
            return decision
        return self._with_remedy(key, decision, question)

    def matching(self, question: Question) -> list[Rule]:
        """All rules that match a question, in the order of their ids. Raises `Failed`."""
        scoped = self._scope(question.capability)
        return self._matching(scoped, self._view.key(question, scoped.uses), question)

    def _scope(self, capability: Capability) -> Scoped:
        name = (capability.id, capability.effect.value)
        known = self._scoped.get(name)
        if known is None:
            known = self._scoped.setdefault(name, _scoped(self.rules.values(), capability))
        return known

    @staticmethod
    def _matching(scoped: Scoped, key: Key, question: Question) -> list[Rule]:
        request, entities = request_of(key, scoped.uses, question)
        result = is_authorized(request, scoped.policies, entities)
        if result.diagnostics.errors:
            raise Failed("policy.evaluation", "; ".join(result.diagnostics.errors), "loket policy check", blame="owner")
        return [scoped.rules[name] for name in sorted(result.diagnostics.reasons)]

    def _combined(self, matching: Sequence[Rule], question: Question) -> Decision:
        verdict, deciding = verdict_of(matching, question.capability)
        obligations = dict.fromkeys(name for rule in matching for name in rule.obligations)
        return Decision(
            verdict,
            tuple(rule.id for rule in deciding) or (NO_RULE,),
            _reason(verdict, deciding),
            self.digest,
            tuple(obligations) if verdict is not Verdict.DENY else (),
            _own_remedy(verdict, deciding),
        )

    def _keep(self, key: Key, decision: Decision) -> Decision:
        if not small(key):
            return decision
        if len(self._decided) >= _MOST:
            self._decided.clear()
        return self._decided.setdefault(key, decision)

    def _with_remedy(self, key: Key, decision: Decision, question: Question) -> Decision:
        """The decision with the rule that would allow this call, which has its values."""
        whole = (*key, *narrowest(question))
        known = self._decided.get(whole)
        return known or self._keep(whole, replace(decision, remedy=remedy_of(generate_rule(question))))


def verdict_of(matching: Sequence[Rule], capability: Capability) -> tuple[Verdict, list[Rule]]:
    """The verdict that follows from the rules that match, and those that decided."""
    by_kind = {kind: [rule for rule in matching if rule.kind is kind] for kind in Kind}
    allowing = by_kind[Kind.ALLOW]
    if by_kind[Kind.DENY]:
        return Verdict.DENY, by_kind[Kind.DENY]
    if by_kind[Kind.MUST_ASK] and (allowing or by_kind[Kind.ASK]):
        exact = [rule for rule in allowing if is_exact(rule, capability)]
        return (Verdict.ALLOW, exact) if exact else (Verdict.ASK, by_kind[Kind.MUST_ASK])
    if allowing:
        return Verdict.ALLOW, allowing
    if by_kind[Kind.ASK]:
        return Verdict.ASK, by_kind[Kind.ASK]
    return Verdict.DENY, []


def is_exact(rule: Rule, capability: Capability) -> bool:
    """Whether a rule names one principal, one capability, and of each critical argument its value or its absence."""
    return bool(capability.critical) and rule.pinned is not None and rule.pinned.issuperset(capability.critical)


def narrower(text: str, question: Question) -> bool:
    """Whether a text is one permit that allows nothing beyond what `generate_rule` would of a question."""
    try:
        rules = parse("the rule", text)
    except BadInput:
        return False
    return len(rules) == 1 and within(rules[0], parse("proposed", generate_rule(question))[0])


def _reason(verdict: Verdict, deciding: Sequence[Rule]) -> str:
    """Why, in the words of the rules; a decision that stops a call names them too."""
    said = "; ".join(dict.fromkeys(rule.reason or f"the rule {rule.id} says so" for rule in deciding))
    named = ", ".join(rule.id for rule in deciding if rule.reason)
    if verdict is Verdict.ALLOW or (deciding and not named):
        return said
    return f"{said} ({named})" if deciding else "no rule allows it"


def remedy_of(rule: str) -> str:
    """The command that adds a rule, with the rule in it."""
    if len(rule) > _LONGEST:
        return "loket policy add FILE, with a rule for these values"
    return f"loket policy add --rule {quoted_word(rule)}"


def _own_remedy(verdict: Verdict, deciding: Sequence[Rule]) -> str | None:
    """What the deciding rules say would help; of a rule that forbids, how to take it away."""
    said = [rule.remedy for rule in deciding if rule.remedy]
    if said or verdict is not Verdict.DENY or not deciding:
        return "; ".join(dict.fromkeys(said)) or None
    return f"loket policy remove {deciding[0].id}  # it is in {deciding[0].place}"


def _scoped(rules: Iterable[Rule], capability: Capability) -> Scoped:
    inside = frozenset(groups(capability))
    found = {rule.id: rule for rule in rules if rule.covers(capability.id, inside)}
    policies = policy_set({name: rule.body for name, rule in found.items()})
    used = frozenset().union(*(rule.uses for rule in found.values()))
    return Scoped(found, policies, tuple(sorted(used)))
