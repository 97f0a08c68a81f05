"""JSON Schemas, as far as plans need them: which type a part has, and what arguments with references must be like.

References are known by the schema of the answer that they point into, so a plan is checked before any data is there.
What a schema says in a way that is not seen through here (`allOf`, `if`, `$ref`) counts as anything: the counter looks
at the real value when the step is done.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loket.contracts import Json
from loket.orchestrator.reference import Path, is_reference

Schema: TypeAlias = Mapping[str, Any] | bool

ALL_TYPES = frozenset({"null", "boolean", "object", "array", "number", "string"})
_CHOICES = ("anyOf", "oneOf")
_OPAQUE = (
    "allOf",
    "if",
    "not",
    "$ref",
    "$dynamicRef",
    "dependentSchemas",
    "patternProperties",
    "unevaluatedProperties",
)
_INSTANCES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "number"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)


def types(schema: Schema) -> frozenset[str]:
    """The JSON types that a schema allows; `number` stands for integers too."""
    if isinstance(schema, bool):
        return ALL_TYPES if schema else frozenset()
    if "const" in schema or "enum" in schema:
        return frozenset(type_of(value) for value in schema.get("enum", [schema.get("const")]))
    named = schema.get("type")
    if named is not None:
        listed = [named] if isinstance(named, str) else named
        return frozenset("number" if name == "integer" else name for name in listed)
    for word in _CHOICES:
        if word in schema:
            return frozenset().union(*(types(choice) for choice in schema[word]))
    return ALL_TYPES


def type_of(value: Json) -> str:
    """The JSON type of a value."""
    return next((name for kind, name in _INSTANCES if isinstance(value, kind)), "null")


def part(schema: Schema, path: Path) -> Schema | str:
    """The schema of a part of a value; a text that says why there can be no such part."""
    for number, step in enumerate(path):
        if isinstance(schema, bool) or any(word in schema for word in (*_OPAQUE, *_CHOICES)):
            return True
        wanted = "array" if isinstance(step, int) else "object"
        if wanted not in types(schema):
            return f"{_where(path[:number])} is no {'list' if wanted == 'array' else 'object'}"
        found = _item(schema, step) if isinstance(step, int) else _field(schema, step)
        if found is False:
            has = ", ".join(list(schema.get("properties", {}))[:12]) or "nothing"
            return f"{_where(path[:number])} has no {step!r}; it has {has}"
        schema = found
    return schema


def _item(schema: Mapping[str, Any], place: int) -> Schema:
    first = schema.get("prefixItems", [])
    found: Schema = first[place] if place < len(first) else schema.get("items", True)
    return False if place >= schema.get("maxItems", place + 1) else found


def _field(schema: Mapping[str, Any], name: str) -> Schema:
    properties = schema.get("properties", {})
    found: Schema = properties[name] if name in properties else schema.get("additionalProperties", True)
    return found


def _where(path: Path) -> str:
    return "it" if not path else f"its part {'.'.join(map(str, path))}"


def loosened(schema: Schema, value: Json) -> Schema:
    """A schema that a value with references keeps to if it does, whatever the references stand for."""
    if is_reference(value):
        return True
    if isinstance(schema, bool) or not isinstance(value, dict | list) or not _has_reference(value):
        return schema
    if any(word in schema for word in _OPAQUE):
        return True
    changed: dict[str, Any] = {**schema}
    for word in _CHOICES:
        if word in changed:
            changed[word] = [loosened(choice, value) for choice in changed[word]]
    if "oneOf" in changed:  # with a reference in it more than one may fit
        changed["anyOf"] = changed.pop("oneOf")
    if isinstance(value, dict):
        loose = {name: _field(schema, name) for name, one in value.items() if _has_reference(one)}
        known = {name: loosened(field, value[name]) for name, field in loose.items() if field is not False}
        changed["properties"] = {**schema.get("properties", {}), **known}
    else:
        changed["prefixItems"] = [loosened(_item(schema, place), one) for place, one in enumerate(value)]
        changed.pop("uniqueItems", None)
    for word in ("const", "enum"):
        changed.pop(word, None)
    return changed


def _has_reference(value: Json) -> bool:
    if is_reference(value):
        return True
    if isinstance(value, dict | list):
        return any(_has_reference(one) for one in (value.values() if isinstance(value, dict) else value))
    return False


def at(schema: Schema, value: Json, visit: Callable[[Schema, Mapping[str, str], str], None], where: str) -> None:
    """Visit each reference in a value with the schema of its place, and the place's path."""
    if is_reference(value):
        visit(schema, value, where)
    elif isinstance(value, dict):
        for name, one in value.items():
            at(_below(schema, name), one, visit, f"{where}.{name}")
    elif isinstance(value, list):
        for place, one in enumerate(value):
            at(_below(schema, place), one, visit, f"{where}[{place}]")


def _below(schema: Schema, step: str | int) -> Schema:
    found = part(schema, (step,))
    return True if isinstance(found, str) else found  # what is not there at all, the check of the whole says


def sample(schema: Schema) -> Json:
    """A small value of a schema's type, for those who decide before the real one is there; it need not be valid."""
    if isinstance(schema, bool):
        return None
    for word in ("examples", "enum"):
        if schema.get(word):
            return schema[word][0]
    if "const" in schema:
        return schema["const"]
    kinds = types(schema)
    return next((make(schema) for name, make in _SAMPLES if name in kinds), None)


_SAMPLES: tuple[tuple[str, Callable[[Mapping[str, Any]], Json]], ...] = (
    ("string", lambda _schema: "?"),
    ("object", lambda schema: {name: sample(one) for name, one in schema.get("properties", {}).items()}),
    ("array", lambda schema: [sample(schema.get("items", True))]),
    ("number", lambda schema: schema.get("minimum", 0)),
    ("boolean", lambda _schema: False),
)


def planted(value: Json, path: Path) -> Json:
    """The value with this part in it, made where it is missing; every item of a list is its first."""
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(first, int):
        held = value[0] if isinstance(value, list) and value else None
        return [planted(held, rest)]
    fields = value if isinstance(value, dict) else {}
    return {**fields, first: planted(fields.get(first), rest)}
