"""What a version of a module asks for beyond the version before: an upgrade stops there, and the owner decides."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from loket.contracts import Capability, Constraint, Effect, Json, Limits, Match
from loket.contracts.catalogue import BY_ID
from loket.packages.manifest import Manifest, Operation

_STRENGTH = {
    Effect.READ: 0,
    Effect.PRIVATE: 1,
    Effect.MODIFY: 2,
    Effect.FETCH: 3,
    Effect.EGRESS: 4,
    Effect.MONEY: 5,
    Effect.DESTROY: 5,
    Effect.ACCOUNT: 5,
    Effect.EXECUTE: 5,
}
"""How much an effect can do; two of the same strength replace each other without a question."""


@dataclass(frozen=True, slots=True)
class More:
    """One thing that the owner has to know. `kind` is capability, constraint, limit, operation, kind, wire, version."""

    kind: str
    name: str
    said: str
    """A sentence for the owner."""

    def as_dict(self) -> dict[str, Any]:
        """The same as an object."""
        return {"kind": self.kind, "name": self.name, "said": self.said}


def more_than(before: Manifest, after: Manifest) -> list[More]:
    """All that one manifest asks for beyond another one, and that it is older; empty where nothing is to be asked."""
    found = [*_capabilities(before, after), *_limits(before.limits, after.limits), *_operations(before, after)]
    if _order(after.version) < _order(before.version):
        found.append(More("version", after.version, f"it is older than {before.version}, which is installed"))
    if before.kind != after.kind:
        found.append(More("kind", after.kind, f"it was of the kind {before.kind}, and is of the kind {after.kind} now"))
    if after.own is not None and before.own != after.own:
        found.append(More("wire", after.kind, f"its table [{after.kind}] says something else than before"))
    return found


def _order(version: str) -> tuple[list[int], bool, str]:
    """What orders versions: the three numbers, and one with a suffix comes before the one without."""
    numbers, _, suffix = version.partition("-")
    return [int(number) for number in numbers.split(".")], not suffix, suffix


def _capabilities(before: Manifest, after: Manifest) -> Iterator[More]:
    held = {want.name: want for want in before.capabilities}
    for want in after.capabilities:
        if want.name not in held:
            yield More("capability", want.name, f"it asks for {want.name}: {want.reason}")
            continue
        for name in wider(BY_ID.get(want.name), held[want.name].constraints, want.constraints):
            said = f"{want.name} within {name}: {_shown(held[want.name].constraints, name)} before,"
            yield More("constraint", f"{want.name}:{name}", f"{said} {_shown(want.constraints, name)} now")


def _shown(constraints: Mapping[str, Json], name: str) -> str:
    texts = constraints.get(name)
    return "anything" if texts is None else ", ".join(map(str, texts)) if isinstance(texts, list) else str(texts)


def wider(known: Capability | None, before: Mapping[str, Json], after: Mapping[str, Json]) -> list[str]:
    """The constraints within which the second of two askings gets more than the first; of a capability or of none."""
    rules = {rule.name: rule for rule in known.constraints} if known is not None else {}
    names = sorted({*before, *after})
    return [name for name in names if _wider(rules.get(name), before.get(name), after.get(name))]


def _wider(rule: Constraint | None, before: Json, after: Json) -> bool:
    """Whether a constraint allows more than before; None is one that is not there."""
    opens = rule is not None and rule.required
    if after is None:
        return not opens
    if before is None:
        return opens or rule is None or rule.match is Match.PROVIDER
    if not isinstance(before, list) or not isinstance(after, list):
        return bool(before != after)
    return not all(_covered(rule, text, before) for text in after)


def _covered(rule: Constraint | None, text: Json, before: list[Json]) -> bool:
    if text in before:
        return True
    if rule is None or not isinstance(text, str):
        return False
    texts = tuple(one for one in before if isinstance(one, str))
    if rule.match is Match.PREFIX:
        return text.startswith(texts)
    if rule.match is Match.HOST:
        return any(one.startswith("*.") and text.endswith(one[1:]) for one in texts)
    return False


def _limits(before: Limits, after: Limits) -> Iterator[More]:
    for limit in fields(Limits):
        old, new = getattr(before, limit.name), getattr(after, limit.name)
        if new > old:
            yield More("limit", limit.name, f"its limit {limit.name} was {old:,}, and is {new:,} now")


def _operations(before: Manifest, after: Manifest) -> Iterator[More]:
    held = {operation.name: operation for operation in before.operations}
    strongest = max((_STRENGTH[operation.effect] for operation in before.operations), default=0)
    for operation in after.operations:
        old = held.get(operation.name)
        if old is not None and _STRENGTH[operation.effect] > _STRENGTH[old.effect]:
            yield _stronger(operation, f"its effect was {old.effect.value}, and is {operation.effect.value} now")
        elif old is None and _STRENGTH[operation.effect] > strongest:
            yield _stronger(operation, f"it is new, and its effect is {operation.effect.value}")


def _stronger(operation: Operation, said: str) -> More:
    return More("operation", operation.name, f"the operation {operation.name}: {said}")
