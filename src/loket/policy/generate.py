"""The rule that would allow one call again: for this agent, this capability and these values, and for nothing else."""

import hashlib
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from loket.contracts import BadInput, Principal, Question
from loket.policy.words import PRINCIPALS

_SENSITIVE = ("confidential", "secret")
"""Kinds of labels that a rule does not take on afterwards: a call that has seen more than the approved one asks."""

_PRINTABLE = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


@dataclass(frozen=True, slots=True)
class Scope:
    """How an owner narrows a rule; without any of them it holds for the agent, the capability and the values."""

    conversation: bool = False
    """Only in this conversation."""
    digest: bool = False
    """Only for exactly these bytes of the module."""
    until: int | None = None
    """Up to and with this day, as a number: 20261231."""


def generate_rule(question: Question, scope: Scope | None = None) -> str:
    """A Cedar permit that allows this call again, in one line; its id is made of its text.

    It names the principal, the module and the capability, and every critical argument with its exact value; those
    that are absent have to be absent. A run that has seen confidential things when this one had not is not covered.
    """
    head = (
        f"permit(principal == {principal_text(question)}, action == Action::{quoted(question.capability.id)},"
        f" resource == Module::{quoted(module_name(question))})"
    )
    conditions = [f"when {{ {condition} }}" for condition in _conditions(question, scope or Scope())]
    body = " ".join([head, *conditions]) + ";"
    return f"@id({quoted(rule_id(body))}) {body}"


def approved_rule(question: Question) -> str:
    """The rule that an approval can become. Raises `BadInput` for a capability without critical arguments."""
    if not question.capability.critical:
        raise BadInput(
            "approval.rule",
            f"{question.capability.id} has no argument that says who, where or how much: a rule would allow every call",
            "approve it once, or for this run: --run",
        )
    return generate_rule(question)


def rule_id(body: str) -> str:
    """The id of a generated rule."""
    return f"approved.{hashlib.sha256(body.encode()).hexdigest()[:12]}"


def _conditions(question: Question, scope: Scope) -> Iterator[str]:
    values = dict(critical_values(question))
    for name in question.capability.critical:
        has = f"context.values has {quoted(name)}"
        if name in values:
            yield f"{has} && context.values[{quoted(name)}] == {quoted(values[name])}"
        else:
            yield f"!({has})"
    fresh = _unseen(question)
    if fresh and question.capability.effect.changes:
        yield f"!(context.seen.containsAny([{', '.join(map(quoted, fresh))}]))"
    if scope.conversation:
        yield f"context.conversation == {quoted(question.run.conversation)}"
    if scope.digest and question.run.module is not None:
        yield f"resource.digest == {quoted(question.run.module.digest)}"
    if scope.until is not None:
        yield f"context.today <= {scope.until:d}"


def narrowest(question: Question) -> tuple[Any, ...]:
    """What the generated rule of a question depends on beyond its principal, its module and its capability."""
    return (critical_values(question), _unseen(question))


def _unseen(question: Question) -> tuple[str, ...]:
    labels = [question.exposed, *(question.labels_of(name) for name in question.args)]
    seen = {label.partition(":")[0] for one in labels for label in one}
    return tuple(kind for kind in _SENSITIVE if kind not in seen)


def critical_values(question: Question) -> tuple[tuple[str, str], ...]:
    """The critical arguments that are present, as text; what is no text, as canonical JSON."""
    args = question.args
    return tuple((name, value_text(args[name])) for name in question.capability.critical if name in args)


def value_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def principal_text(question: Question) -> str:
    """The principal as Cedar writes it: `Agent::"main"`."""
    kind, name = principal_entity(question.principal)
    return f"{kind}::{quoted(name)}"


def principal_entity(principal: Principal) -> tuple[str, str]:
    """Type and id of a principal's entity. One of a kind that rules do not know is a sender whom no rule names."""
    kind = PRINCIPALS.get(principal.kind)
    return (kind, principal.id or principal.kind) if kind is not None else ("Sender", f"?{principal}")


def module_name(question: Question) -> str:
    """The id of the module's entity: publisher and name; without a module a slash and the agent's name."""
    module = question.run.module
    return f"{module.publisher}/{module.id}" if module is not None else f"/{question.run.agent}"


def quoted(text: str) -> str:
    """A text as Cedar writes it; whatever cannot be printed is escaped."""
    return '"' + "".join(_PRINTABLE.get(sign) or _sign(sign) for sign in text) + '"'


def _sign(sign: str) -> str:
    return sign if sign.isprintable() else f"\\u{{{ord(sign):x}}}"


def quoted_word(text: str) -> str:
    """A text as one word of a shell's line."""
    return shlex.quote(text)
