"""The policy: a pure function of a question, outside the kernel."""

from loket.policy.cedar import NO_RULE, CedarPolicy, narrower
from loket.policy.entities import Budget, Members, Standing, nobody
from loket.policy.files import APPROVED, DEFAULT, HomePolicy, load, packaged
from loket.policy.generate import Scope, approved_rule, generate_rule
from loket.policy.labels import PlainLabeller
from loket.policy.plain import PlainPolicy
from loket.policy.rules import Kind, Rule, parse

__all__ = [
    "APPROVED",
    "DEFAULT",
    "NO_RULE",
    "Budget",
    "CedarPolicy",
    "HomePolicy",
    "Kind",
    "Members",
    "PlainLabeller",
    "PlainPolicy",
    "Rule",
    "Scope",
    "Standing",
    "approved_rule",
    "generate_rule",
    "load",
    "narrower",
    "nobody",
    "packaged",
    "parse",
]
