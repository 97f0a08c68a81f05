"""Rules as they are written in Cedar, read once: their ids, their verdicts, what they look at, where they stand.

Cedar (https://www.cedarpolicy.com) knows `permit` and `forbid`. Annotations say the rest:

* `@id("...")` names the rule; every decision stores the ids of the rules that made it.
* `@verdict("ask")` on a permit: allowed once the owner approves. On a forbid: not without the owner's approval.
* `@verdict("oblige")` on a permit: it allows nothing, its obligations come on top of whatever is decided.
* `@obligation("redact, local-model")`, `@reason("...")`, `@remedy("...")`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import cedarpy

from loket.contracts import BadInput
from loket.policy.words import CONTEXT

_ANNOTATIONS = frozenset({"id", "verdict", "obligation", "reason", "remedy"})
_ID = re.compile(r"[a-z0-9][a-zA-Z0-9._-]{0,79}")
_OBLIGATION = re.compile(r"[a-z][a-z0-9-]{0,39}")


class Kind(StrEnum):
    """What a rule does where it matches."""

    DENY = "deny"
    """`forbid`: wins over everything."""
    MUST_ASK = "must ask"
    """`@verdict("ask") forbid`: whatever allows it, the owner is asked; only an approved rule for exactly these values
    lifts it."""
    ALLOW = "allow"
    """`permit`."""
    ASK = "ask"
    """`@verdict("ask") permit`: the owner is asked where nothing else allows it."""
    OBLIGE = "oblige"
    """`@verdict("oblige") permit`: decides nothing."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `body` is its JSON form in Cedar's own format; `file` and `line` say where its text begins."""

    id: str
    kind: Kind
    text: str
    file: str
    line: int
    body: Mapping[str, Any]
    obligations: tuple[str, ...] = ()
    reason: str = ""
    remedy: str | None = None
    uses: frozenset[str] = frozenset()
    """The attributes of `context` that it looks at, and `resource` where it looks at the module."""
    pinned: frozenset[str] | None = None
    """The arguments that it compares with one value each; None where it holds for several agents or capabilities."""
    actions: frozenset[str] | None = field(default=None)
    """The capabilities and groups in its scope; None for all."""

    @property
    def place(self) -> str:
        return f"{self.file}, line {self.line}"

    def covers(self, action: str, groups: frozenset[str]) -> bool:
        """Whether its scope can hold a capability that is in these groups."""
        return self.actions is None or action in self.actions or bool(self.actions & groups)


def parse(file: str, text: str) -> list[Rule]:
    """The rules in a text, in order. Raises `BadInput` with the file, the line, what is wrong and what to do."""
    return [_rule(file, line, statement) for line, statement in statements(text)]


def parse_all(file: str, text: str) -> tuple[list[Rule], list[BadInput]]:
    """The rules in a text that can be read, and what is wrong with the others."""
    rules: list[Rule] = []
    faults: list[BadInput] = []
    for line, statement in statements(text):
        try:
            rules.append(_rule(file, line, statement))
        except BadInput as error:
            faults.append(error)
    return rules, faults


def statements(text: str) -> Iterator[tuple[int, str]]:
    """Each policy's text with the line on which it begins; comments between policies are left out.

    A policy ends at a semicolon outside of texts and comments; what is left at the end is one that does not end.
    """
    start, at = None, 0
    for match in _TOKEN.finditer(text):
        piece = match.group()
        if piece.startswith("//") or piece.isspace():
            continue
        if start is None:
            start = match.start()
        if piece == ";":
            yield text.count("\n", 0, start) + 1, text[start : match.end()]
            start = None
        at = match.end()
    if start is not None:
        yield text.count("\n", 0, start) + 1, text[start:at]


_TOKEN = re.compile(r'//[^\n]*|"(?:[^"\\]|\\.)*"?|\s+|;|[^\s;"/]+|/', re.DOTALL)


def policy_set(bodies: Mapping[str, Mapping[str, Any]]) -> cedarpy.PolicySet:
    """Rules in their JSON form by id, ready to be evaluated. Raises `ValueError`."""
    return cedarpy.PolicySet.from_json_str(json.dumps({"staticPolicies": bodies, "templates": {}, "templateLinks": []}))


_DEEPEST = 32
_MOST_STEPS = 600
_STEP = re.compile(r"&&|\|\||[-+*.!]|\bif\b")
_SAID = re.compile(r'"(?:[^"\\]|\\.)*"?|//[^\n]*', re.DOTALL)


def _check_depth(file: str, line: int, text: str) -> None:
    """Cedar's parser recurses on the machine's stack, where a text that nests too deeply would end the process."""
    code = _SAID.sub("", text)
    depth = most = 0
    for sign in code:
        depth += (sign in "([{") - (sign in ")]}")
        most = max(most, depth)
    if most > _DEEPEST or len(_STEP.findall(code)) > _MOST_STEPS:
        raise wrong(file, line, "it nests too deeply, or has too many conditions", "write several rules")


def _rule(file: str, line: int, text: str) -> Rule:
    _check_depth(file, line, text)
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise wrong(file, line, f"it is no Cedar policy: {error}", _SYNTAX) from None
    if parsed["templates"] or len(parsed["staticPolicies"]) != 1:
        raise wrong(file, line, "it is a template: ?principal and ?resource stand for nothing here", "name them")
    body = parsed["staticPolicies"]["policy0"]
    plain = {**body, "effect": "permit", "annotations": {}}
    try:
        policy_set({"rule": plain})
    except ValueError:
        raise wrong(file, line, "its condition has too many parts", "write: when { ... } when { ... }") from None
    notes = {name: value or "" for name, value in body.get("annotations", {}).items()}
    _check_notes(file, line, notes)
    return Rule(
        id=notes["id"],
        kind=_kind(file, line, body["effect"], notes.get("verdict")),
        text=text,
        file=file,
        line=line,
        body=plain,
        obligations=_obligations(file, line, notes.get("obligation", "")),
        reason=notes.get("reason", ""),
        remedy=notes.get("remedy"),
        uses=_uses(file, line, body),
        pinned=_pinned(body),
        actions=_actions(body["action"]),
    )


_SYNTAX = 'write: @id("mine.1") permit(principal == Agent::"main", action == Action::"net.fetch", resource);'


def wrong(file: str, line: int, what: str, remedy: str) -> BadInput:
    """The error of a rule that cannot be used."""
    return BadInput("policy.rule", f"{file}, line {line}: {what}", remedy)


def _check_notes(file: str, line: int, notes: Mapping[str, str]) -> None:
    unknown = sorted(notes.keys() - _ANNOTATIONS)
    if unknown:
        known = ", ".join(f"@{name}" for name in sorted(_ANNOTATIONS))
        raise wrong(file, line, f"there is no annotation @{unknown[0]}", f"there are {known}")
    if not _ID.fullmatch(notes.get("id", "")):
        what = f"{notes['id']!r} is no id" if "id" in notes else "it has no @id"
        raise wrong(file, line, what, 'put a name before it: @id("mine.weather")')


def _kind(file: str, line: int, effect: str, verdict: str | None) -> Kind:
    kinds = {
        ("permit", None): Kind.ALLOW,
        ("permit", "ask"): Kind.ASK,
        ("permit", "oblige"): Kind.OBLIGE,
        ("forbid", None): Kind.DENY,
        ("forbid", "ask"): Kind.MUST_ASK,
    }
    if (effect, verdict) not in kinds:
        raise wrong(file, line, f'@verdict("{verdict}") of a {effect} means nothing', 'write @verdict("ask") or none')
    return kinds[effect, verdict]


def _obligations(file: str, line: int, text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",")) if text else ()
    for name in names:
        if not _OBLIGATION.fullmatch(name):
            raise wrong(file, line, f"{name!r} is no name of an obligation", '@obligation("redact, local-model")')
    return names


# What a rule looks at


def _uses(file: str, line: int, body: Mapping[str, Any]) -> frozenset[str]:
    used = frozenset(_attributes(body["conditions"]))
    unknown = sorted(used - CONTEXT.keys() - {"resource"})
    if unknown:
        raise wrong(file, line, f"context has no {unknown[0]}", f"it has {', '.join(sorted(CONTEXT))}")
    return used


def _attributes(node: Any) -> Iterator[str]:
    """The attributes of `context` in an expression; all of them where it is used as a whole."""
    if isinstance(node, list):
        for part in node:
            yield from _attributes(part)
    elif isinstance(node, dict):
        if node == {"Var": "context"}:
            yield from CONTEXT
        elif node == {"Var": "resource"}:
            yield "resource"
        elif (found := _attribute(node)) is not None:
            yield found
        else:
            for part in node.values():
                yield from _attributes(part)


def _attribute(node: Mapping[str, Any]) -> str | None:
    """The attribute that `context.NAME` or `context has NAME` is about."""
    for operator in (".", "has"):
        inner = node.get(operator)
        if isinstance(inner, dict) and inner.get("left") == {"Var": "context"}:
            return str(inner["attr"])
    return None


def _actions(scope: Mapping[str, Any]) -> frozenset[str] | None:
    if scope["op"] == "All":
        return None
    entities = scope["entities"] if "entities" in scope else [scope["entity"]]
    return frozenset(str(entity["id"]) for entity in entities)


# Whether a rule is for exactly one call


def within(rule: Rule, other: Rule) -> bool:
    """Whether a permit allows nothing that another does not: the same scope, and all of its conditions, or more."""
    if rule.kind is not Kind.ALLOW or any(rule.body[part] != other.body[part] for part in _SCOPE):
        return False
    held = list(_required(rule.body))
    return all(part in held for part in _required(other.body))


_SCOPE = ("principal", "action", "resource")


def _required(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a rule's conditions that all have to hold."""
    for condition in body["conditions"]:
        if condition["kind"] == "when":
            yield from _all(condition["body"])
        else:
            yield condition


def _pinned(body: Mapping[str, Any]) -> frozenset[str] | None:
    """The arguments that must have one exact value (or be absent), of a rule for one principal and one capability."""
    if body["effect"] != "permit" or body["principal"]["op"] != "==" or body["action"]["op"] != "==":
        return None
    return frozenset(name for name in map(_equated, _required(body)) if name is not None)


def _all(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of a conjunction."""
    if "&&" in node:
        yield from _all(node["&&"]["left"])
        yield from _all(node["&&"]["right"])
    else:
        yield node


def _equated(node: Mapping[str, Any]) -> str | None:
    """The argument of `context.values["NAME"] == "TEXT"`, in either order, or of `!(context.values has "NAME")`."""
    negated = node.get("!")
    absent = negated["arg"].get("has") if negated is not None else None
    if absent is not None:
        return str(absent["attr"]) if absent["left"] == _VALUES else None
    sides = node.get("==")
    if sides is None:
        return None
    for one, other in ((sides["left"], sides["right"]), (sides["right"], sides["left"])):
        inner = one.get(".")
        if inner and inner["left"] == _VALUES and isinstance(other.get("Value"), str):
            return str(inner["attr"])
    return None


_VALUES = {".": {"left": {"Var": "context"}, "attr": "values"}}
