"""Definitions of tools: the canonical form that an approval is bound to, and how two of them differ.

A server can change what a tool says it does while its name stays the same. So all that a model or a person could be
told of it is hashed: name, title, description, schemas, annotations and `_meta`.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from loket.contracts import Json
from loket.mcp.settings import canonical

LARGEST = 65_536
"""Characters of a definition's canonical JSON."""


def normal(definition: Mapping[str, Json]) -> dict[str, Json]:
    """A definition as it came, without fields that say nothing."""
    return {key: value for key, value in definition.items() if value is not None}


def digest(definition: Mapping[str, Json]) -> str:
    """SHA-256 (hex) of the definition's canonical JSON."""
    return hashlib.sha256(canonical(normal(definition)).encode("utf-8", "surrogatepass")).hexdigest()


def difference(before: Mapping[str, Json] | None, after: Mapping[str, Json] | None, name: str) -> str:
    """The unified diff of two definitions, as JSON with sorted keys; empty where they are the same."""
    found = difflib.unified_diff(_lines(before), _lines(after), f"{name} (approved)", f"{name} (now)", lineterm="")
    return "\n".join(found)


def _lines(definition: Mapping[str, Json] | None) -> list[str]:
    if definition is None:
        return []
    return json.dumps(normal(definition), sort_keys=True, indent=1, ensure_ascii=False).splitlines()


def texts(definition: Mapping[str, Json]) -> Iterator[tuple[str, str]]:
    """What a model would read of a tool: each text with its place."""
    for key in ("title", "description"):
        if isinstance(definition.get(key), str):
            yield key, definition[key]
    yield from _described("inputSchema", definition.get("inputSchema"))
    yield from _described("outputSchema", definition.get("outputSchema"))


def _described(place: str, schema: Any) -> Iterator[tuple[str, str]]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            if isinstance(value, str) and key in ("title", "description", "$comment", "pattern"):
                yield f"{place}.{key}", value
            yield from _described(f"{place}.{key}", value)
    elif isinstance(schema, list):
        for number, value in enumerate(schema):
            if isinstance(value, str):
                yield f"{place}[{number}]", value
            yield from _described(f"{place}[{number}]", value)
