"""Policy tests: what the rules have to say to questions that are written down, in a file of TOML.

```toml
[[case]]
name = "a link out of a mail asks once private data was read"
capability = "net.fetch"
args = { url = "https://example.org/?q=1" }
origins = { url = "untrusted" }
seen = ["owner", "private"]
verdict = "ask"
rule = "default.ask"
```
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from loket.contracts import (
    BadInput,
    Capability,
    Finding,
    ModuleRef,
    Origin,
    Principal,
    Question,
    RunRequest,
    Verdict,
    join_labels,
)
from loket.policy.cedar import CedarPolicy
from loket.policy.entities import Standing
from loket.policy.rules import Rule


@dataclass(frozen=True, slots=True)
class Case:
    """One question in words, with the answer that is expected of it where it is a test."""

    capability: str
    name: str = ""
    principal: str = "agent:main"
    module: str = ""
    """Publisher and id; `local` and the principal's name if left out."""
    direct: bool = False
    """Without a module: the principal makes the call."""
    args: Mapping[str, Any] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    seen: Sequence[str] = ("owner",)
    """Labels of all that the run has seen."""
    roles: Sequence[str] = ()
    enabled: bool = True
    words: str = ""
    conversation: str = "main"
    operation: str = "message"
    depth: int = 1
    at: datetime | None = None
    verdict: str = ""
    rule: str = ""
    """One of the rules that decided."""
    obligations: Sequence[str] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """How a case came out; `wrong` is empty where it came out as expected."""

    name: str
    verdict: str
    rules: tuple[str, ...]
    wrong: str


_FIELDS = {known.name: known for known in fields(Case)}


def read_cases(file: str, text: str) -> list[Case]:
    """The cases of a file. Raises `BadInput` that names the case and the key."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadInput("policy.test", f"{file} is no TOML: {error}", "see docs/policy.md, Tests") from None
    cases = tables.get("case", [])
    if tables.keys() - {"case"} or not isinstance(cases, list) or not cases:
        raise BadInput("policy.test", f"{file} has to be a list of [[case]] and nothing else", "see docs/policy.md")
    return [_case(f"{file}, case {number}", table) for number, table in enumerate(cases, 1)]


def _case(place: str, table: Mapping[str, Any]) -> Case:
    for key in table.keys() - _FIELDS.keys():
        raise BadInput("policy.test", f"{place}: there is no key {key}", f"there are {', '.join(_FIELDS)}")
    for key in ("capability", "verdict"):
        if not isinstance(table.get(key), str):
            raise BadInput("policy.test", f"{place} has no {key}", f'add {key} = "..."')
    if table["verdict"] not in list(Verdict):
        raise BadInput("policy.test", f"{place}: there is no verdict {table['verdict']!r}", "allow, ask or deny")
    for key, value in table.items():
        if not isinstance(value, _TYPES.get(key, str)):
            raise BadInput("policy.test", f"{place}: {key} is of another type", "see docs/policy.md, Tests")
    return Case(**table)


_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("args", "origins", "labels"), dict),
    **dict.fromkeys(("seen", "roles", "obligations"), list),
    **dict.fromkeys(("direct", "enabled"), bool),
    "depth": int,
    "at": datetime,
}
"""The types of the keys that are no texts."""


def question_of(case: Case, capability: Capability) -> Question:
    """The question that a case is. Raises `BadInput` for an origin that does not exist."""
    kind, _, who = case.principal.partition(":")
    principal = Principal(kind, who)
    publisher, slash, name = case.module.partition("/")
    ref = ModuleRef(publisher if slash else "local", (name if slash else publisher) or who or "main", "1.0.0", "0" * 64)
    seen = join_labels((), tuple(case.seen))
    run = RunRequest(
        id="case",
        root="case",
        agent=ref.id,
        principal=principal,
        module=None if case.direct else ref,
        conversation=case.conversation,
        operation=case.operation,
        args={},
        labels=seen,
        accepted=0.0,
        depth=case.depth,
        words=case.words,
    )
    labels = {name: join_labels((), tuple(found)) for name, found in case.labels.items()}
    findings = {name: Finding(_origin(origin), "") for name, origin in case.origins.items()}
    return Question(principal, run, capability, case.args, labels, findings, seen)


def _origin(text: str) -> Origin:
    try:
        return Origin(text)
    except ValueError:
        known = ", ".join(Origin)
        raise BadInput("policy.origin", f"there is no origin {text!r}", f"there are {known}") from None


class Bench:
    """Decides cases by some rules: roles and clock are each case's own."""

    def __init__(self, rules: Sequence[Rule], find: Callable[[str], Capability], now: Callable[[], float]) -> None:
        self._find = find
        self._now = now
        self._at = 0.0
        self._standing = Standing()
        self.policy = CedarPolicy(rules, members=lambda _principal: self._standing, now=lambda: self._at)

    def question(self, case: Case) -> Question:
        """The question of a case, with its roles and its time set. Raises what finding the capability raises."""
        self._at = case.at.timestamp() if case.at is not None else self._now()
        self._standing = Standing(tuple(case.roles), case.enabled)
        return question_of(case, self._find(case.capability))

    def run(self, cases: Sequence[Case]) -> Iterator[Result]:
        """How each case comes out."""
        for case in cases:
            decision = self.policy.decide(self.question(case))
            wrong = []
            if decision.verdict.value != case.verdict:
                wrong.append(f"{case.verdict} was expected, and it is {decision.verdict.value}")
            if case.rule and case.rule not in decision.rules:
                wrong.append(f"{case.rule} was to decide, and {', '.join(decision.rules)} did")
            if case.obligations is not None and set(case.obligations) != set(decision.obligations):
                wrong.append(f"obliges to {', '.join(decision.obligations) or 'nothing'}")
            yield Result(case.name or case.capability, decision.verdict.value, decision.rules, "; ".join(wrong))
