"""An approved tool as a capability, and its answers as values.

Whatever a server's annotations say, a tool is taken to send what it is given to somebody (`egress`), and every argument
that can hold a text is taken to say whom or what: a server can say `readOnlyHint` and do anything. The owner, who knows
what it is, can say otherwise when approving.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from loket.contracts import Answer, Capability, Effect, Json, OnUncertain
from loket.mcp.names import capability_id
from loket.store.mcp import KeptTool

_SUMMARY = 1_000
"""Characters of a description that stand in a summary."""
_ANSWER_KB = 1_024
_TEXT = 384 << 10
"""Characters of the texts in an answer, and of its data as JSON."""
_INLINE = 96 << 10
"""Bytes of pictures and the like that stand in an answer, all together; of a larger one its digest is there."""
_PARTS = 64

_ANSWER: Mapping[str, Json] = {
    "type": "object",
    "properties": {
        "data": {"description": "the structured answer, where there is one"},
        "text": {"type": "string"},
        "parts": {"type": "array", "items": {"type": "object"}, "description": "pictures, links, files"},
        "truncated": {"type": "boolean", "description": "whether something was too large"},
    },
    "additionalProperties": False,
}


def capability_of(tool: KeptTool, timeout_s: float) -> Capability:
    """The capability of a tool that was approved. Raises `BadInput` for a name that cannot be one."""
    definition = tool.approved or tool.definition
    effect = Effect(tool.effect or Effect.EGRESS)
    safe = tool.repeatable or not effect.changes
    return Capability(
        id=capability_id(tool.server, tool.name),
        summary=summary(definition),
        effect=effect,
        arguments=arguments(definition),
        answer=_answer_schema(definition.get("outputSchema")),
        critical=tool.critical,
        on_uncertain=OnUncertain.REPEAT if safe else OnUncertain.ASK,
        timeout_s=timeout_s,
        answer_kb=_ANSWER_KB,
        waits=True,
    )


def summary(definition: Mapping[str, Json]) -> str:
    """What a tool says it does: the beginning of its description, or its title."""
    said = definition.get("description") or definition.get("title") or definition.get("name") or ""
    return str(said).strip()[:_SUMMARY]


_OPEN = frozenset(
    {"additionalProperties", "patternProperties", "unevaluatedProperties", "$ref", "allOf", "anyOf", "oneOf"}
)
"""Keywords that say which other arguments there may be."""


def arguments(definition: Mapping[str, Json]) -> dict[str, Json]:
    """The schema of a tool's arguments. What it does not speak of is refused, unless it leaves that open in words."""
    schema = definition.get("inputSchema")
    given = dict(schema) if isinstance(schema, Mapping) else {}
    given["type"] = "object"
    if not given.keys() & _OPEN:
        given["additionalProperties"] = False
    return given


def texts_of(definition: Mapping[str, Json]) -> tuple[str, ...]:
    """Names of the arguments that can hold a text: what is critical, unless the owner says otherwise."""
    found = list(_properties(arguments(definition)))
    return tuple(dict.fromkeys(name for name, schema in found if _holds_text(schema)))


_PARTS_OF = ("allOf", "anyOf", "oneOf")
_PART_OF = ("if", "then", "else", "not")


def _properties(schema: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Properties that a schema speaks of, those of its branches too: an argument may be declared in any of them."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    own = schema.get("properties")
    yield from ((str(name), one) for name, one in own.items()) if isinstance(own, Mapping) else ()
    branches = [schema.get(key) for key in _PART_OF]
    for key in _PARTS_OF:
        several = schema.get(key)
        branches += several if isinstance(several, list) else []
    dependent = schema.get("dependentSchemas")
    branches += list(dependent.values()) if isinstance(dependent, Mapping) else []
    for branch in branches:
        yield from _properties(branch, depth + 1)


_DEEPEST = 16
"""Branches inside branches that are looked at."""
_NO_TEXT = frozenset({"integer", "number", "boolean", "null"})


def _holds_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return schema is not False
    if "const" in schema or "enum" in schema:
        return False
    kind = schema.get("type")
    kinds = set(kind) if isinstance(kind, list) else {kind}
    if None not in kinds and kinds <= _NO_TEXT:
        return False
    choices = schema.get("anyOf") or schema.get("oneOf")
    if kind is None and isinstance(choices, list):
        return any(_holds_text(choice) for choice in choices)
    if kind == "array" and "items" in schema and "prefixItems" not in schema:
        return _holds_text(schema["items"])
    return True


def _answer_schema(output: Any) -> Mapping[str, Json]:
    """The schema of answers; the tool's own stands in it where it refers to nothing by its place."""
    if not isinstance(output, Mapping) or "$ref" in json.dumps(output) or "$dynamicRef" in json.dumps(output):
        return _ANSWER
    data = {key: value for key, value in output.items() if key not in ("$schema", "$id")}
    return {**_ANSWER, "properties": {**_ANSWER["properties"], "data": data}}


# Answers


def answer_of(result: Mapping[str, Json], label: str) -> Answer:
    """The answer of a tool's result (`CallToolResult` as JSON), within bounds, labelled with where it is from."""
    value: dict[str, Json] = {}
    data = result.get("structuredContent")
    truncated = False
    if data is not None:
        if len(json.dumps(data)) <= _TEXT:
            value["data"] = data
        else:
            truncated = True
    blocks = [block for block in result.get("content") or [] if isinstance(block, Mapping)]
    text, cut = _text(blocks)
    if data is None and _is_json(text):
        value["data"] = json.loads(text)
    elif text and not (data is not None and _says(text, data)):
        value["text"] = text
    parts = list(_parts(blocks[:_PARTS]))
    if parts:
        value["parts"] = parts
    if truncated or cut or len(blocks) > _PARTS:
        value["truncated"] = True
    return Answer(value, (label,))


def said(result: Mapping[str, Json], most: int) -> str:
    """The texts of a result, for a message."""
    blocks = [block for block in result.get("content") or [] if isinstance(block, Mapping)]
    return _text(blocks)[0][:most]


def _text(blocks: list[Mapping[str, Json]]) -> tuple[str, bool]:
    """The texts of an answer, a line each, and whether something was left out."""
    text = "\n".join(str(block.get("text", "")) for block in blocks if block.get("type") == "text")
    return (text[:_TEXT], len(text) > _TEXT)


def _is_json(text: str) -> bool:
    """Whether a text is an object or a list of JSON, and nothing else."""
    if text[:1] not in ("{", "["):
        return False
    try:
        json.dumps(json.loads(text, parse_constant=_no_constant), allow_nan=False)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _says(text: str, data: Json) -> bool:
    """Whether a text says the data again, as servers do for older clients."""
    if isinstance(data, Mapping) and list(data) == ["result"] and data["result"] == text:
        return True
    return _is_json(text) and json.loads(text) == data


def _parts(blocks: list[Mapping[str, Json]]) -> Iterator[dict[str, Json]]:
    """What is no text: pictures, sounds and files with their digests, and links."""
    left = _INLINE
    for block in blocks:
        kind = block.get("type")
        if kind in ("image", "audio"):
            part, used = _bytes(block.get("data"), left)
            left -= used
            yield {"type": kind, "mime": str(block.get("mimeType", ""))[:100], **part}
        elif kind == "resource_link":
            yield {"type": "link", **_short(block, "uri", "name", "title", "description", "mimeType")}
        elif kind == "resource" and isinstance(block.get("resource"), Mapping):
            part, used = _resource(block["resource"], left)
            left -= used
            yield part


def _resource(resource: Mapping[str, Json], left: int) -> tuple[dict[str, Json], int]:
    about = {"type": "resource", **_short(resource, "uri", "mimeType")}
    if isinstance(resource.get("text"), str):
        text = resource["text"][: max(left, 0)]
        return {**about, "text": text}, len(text)
    part, used = _bytes(resource.get("blob"), left)
    return {**about, **part}, used


def _bytes(encoded: Any, left: int) -> tuple[dict[str, Json], int]:
    """Bytes by their size and digest, and themselves in base64 where there is room; and how many were used of it."""
    try:
        raw = base64.b64decode(str(encoded), validate=True)
    except ValueError:
        return {"bytes": 0, "damaged": True}, 0
    part: dict[str, Json] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    if len(raw) > left:
        return part, 0
    return {**part, "base64": base64.b64encode(raw).decode()}, len(raw)


def _short(value: Mapping[str, Json], *names: str) -> dict[str, Json]:
    return {name: str(value[name])[:2_000] for name in names if value.get(name) is not None}
