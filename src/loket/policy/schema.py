"""The Cedar schema of what rules can say: entities, capabilities with their groups, and the context of each.

It is made from the catalogue, so a rule that names a capability, an argument or an attribute that is not there is found
where it is written, and not at the call that it was to stop.
"""

import json
from collections.abc import Iterable, Iterator

from loket.contracts import Capability, Effect
from loket.policy.entities import groups
from loket.policy.words import CONTEXT, PRINCIPALS


def schema_of(capabilities: Iterable[Capability]) -> str:
    """The schema in Cedar's own syntax."""
    return "\n".join(_lines(list(capabilities)))


def _lines(capabilities: list[Capability]) -> Iterator[str]:
    yield "entity Role;"
    yield "entity Module { publisher: String, name: String, version: String, digest: String };"
    for kind in PRINCIPALS.values():
        yield f"entity {kind} in [Role] {{ enabled: Bool }};"
    known = [*capabilities, *(_example(effect) for effect in Effect)]
    for group in sorted({*_FAMILIES, *(name for capability in known for name in groups(capability))}):
        yield f"action {json.dumps(group)};"
    for capability in known:
        yield _action(capability)


_FAMILIES = ("plan",)
"""Families of which rules speak whether or not a system has them."""


def _example(effect: Effect) -> Capability:
    """Stands for capabilities that are installed later, so that rules about any effect can be written today."""
    return Capability(f"{effect.value}:later", "", effect, {}, {})


def _action(capability: Capability) -> str:
    parents = ", ".join(f"Action::{json.dumps(name)}" for name in groups(capability))
    context = ", ".join(f"{name}: {_type(capability, word.type)}" for name, word in CONTEXT.items())
    return (
        f"action {json.dumps(capability.id)} in [{parents}] appliesTo {{ principal: [{', '.join(PRINCIPALS.values())}],"
        f" resource: [Module], context: {{ {context} }} }};"
    )


def _type(capability: Capability, kind: str) -> str:
    if kind not in ("text", "texts"):
        return kind
    names = capability.critical if kind == "text" else capability.arguments.get("properties", {})
    inner = "String" if kind == "text" else "Set<String>"
    return "{ " + ", ".join(f"{json.dumps(name)}?: {inner}" for name in names) + " }"
