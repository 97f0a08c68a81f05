"""JSON Schema checks (draft 2020-12, formats asserted), by `jsonschema-rs`.

What is wrong is said in one sentence: where (`items[0].date`), what stands there with its JSON type, and what was
expected there, in words made from the schema.
"""

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import jsonschema_rs

Schema: TypeAlias = Any
"""A schema: an object, or a boolean."""

MOST = 300
"""Characters of a sentence: values come from anywhere, and may have megabytes."""

_VALUE, _PLACE, _EXPECTED, _NAME = 60, 80, 130, 40
"""Characters of its parts."""
_LISTED = 8
"""Choices, or names of fields, that are listed."""
_LOOKED_AT = 20
"""Errors of one value among which the one to tell is chosen."""
_NESTED = 3
"""Levels of a schema that are put into words."""

_PLAIN = re.compile(
    "type|enum|const|format|pattern|minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|uniqueItems"
    "|(min|max)(Length|Items|Properties)|anyOf|oneOf"
)
"""Keywords whose schema can be put into words; of the others the library's message is told."""

_UNKNOWN = ("additionalProperties", "unevaluatedProperties")

_FORMATS = {
    "date": "a date in ISO 8601 such as 2026-11-21",
    "date-time": "a date and time in ISO 8601 such as 2026-11-21T09:30:00Z",
    "time": "a time in ISO 8601 such as 09:30:00Z",
    "duration": "a duration in ISO 8601 such as P3DT4H",
    "email": "an e-mail address such as ana@example.org",
    "uri": "a URI such as https://example.org/page",
    "uuid": "a UUID such as 7f1c0b9e-58a4-4d6f-9b1e-2f5a6c7d8e90",
    "ipv4": "an IPv4 address such as 192.0.2.1",
    "ipv6": "an IPv6 address such as 2001:db8::1",
    "hostname": "a host's name such as example.org",
    "regex": "a regular expression",
}


def _fetch_nothing(address: str) -> Any:
    """A schema reaches nothing but itself."""
    raise ValueError(f"a schema may refer to itself alone, not to {address}")


def compile_check(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """A function that checks a JSON value: a sentence of at most 300 characters about one wrong place, or None.

    Raises `ValueError` where the schema itself is wrong.
    """
    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True, retriever=_fetch_nothing)
    is_valid = validator.is_valid

    def check(value: Any) -> str | None:
        if is_valid(value):
            return None
        errors = list(itertools.islice(validator.iter_errors(value), _LOOKED_AT))
        unknown = (error for error in errors if _keyword(error) in _UNKNOWN)  # it says why another one is missing
        return _short(_sentence(schema, next(unknown, errors[0])), MOST)

    return check


def _keyword(error: jsonschema_rs.ValidationError) -> str:
    return str(error.schema_path[-1]) if error.schema_path else ""


def _sentence(schema: Schema, error: jsonschema_rs.ValidationError) -> str:
    keyword, place = _keyword(error), _place(error.instance_path)
    around = _at(schema, error.schema_path[:-1])
    if keyword == "required":
        missing = str(getattr(error.kind, "property", ""))
        wanted = _at(around, ["properties", missing])
        said = f"; expected {_short(_words(schema, wanted), _EXPECTED)}" if wanted is not None else ""
        return f"{_inside(place, missing)} is missing{said}"
    if keyword in _UNKNOWN:
        return _unknown(place, [str(name) for name in getattr(error.kind, "unexpected", [])], around)
    shown = f"{place or 'the value'} is {_shown(error.instance)}"
    if _PLAIN.fullmatch(keyword) and isinstance(around, dict):
        return f"{shown}; expected {_short(_words(schema, around), _EXPECTED)}"
    reason = "nothing may stand here" if getattr(error.kind, "name", "") == "falseSchema" else error.message
    return f"{shown}; {_short(reason, _EXPECTED)}"


def _unknown(place: str, names: list[str], around: Schema) -> str:
    known = list(around.get("properties", {})) if isinstance(around, dict) else []
    name = names[0] if names else "?"
    near = difflib.get_close_matches(name[:_NAME], known, n=1, cutoff=0.5)
    hint = f'did you mean "{near[0]}"?' if near else f"known: {_listed(known) or 'none'}"
    return f"{_inside(place, name)} is no field that is known; {_short(hint, _EXPECTED)}"


def _inside(place: str, name: str) -> str:
    """A field of what stands at a place; names that are no plain words are quoted."""
    word = _short(name, _NAME)
    if word.isidentifier():
        return f"{place}.{word}" if place else word
    return f"{place}[{json.dumps(word, ensure_ascii=False)}]"


def _place(path: Iterable[str | int]) -> str:
    place = ""
    for part in path:
        place = f"{place}[{part}]" if isinstance(part, int) else _inside(place, part)
    return _short(place, _PLACE)


def _at(schema: Schema, path: Iterable[str | int]) -> Schema:
    """The part of a schema at a path, through references within it; None where that is not plain."""
    here = schema
    for part in path:
        if part == "$ref" and isinstance(here, dict):
            here = _referred(schema, here)
            continue
        try:
            here = here[int(part) if isinstance(here, list) else part]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return here


def _referred(schema: Schema, here: Mapping[str, Any]) -> Schema:
    """What a schema's `$ref` means, where that is a pointer into the same document."""
    pointer = str(here.get("$ref", ""))
    if not pointer.startswith("#"):
        return None
    steps = [step.replace("~1", "/").replace("~0", "~") for step in pointer[1:].split("/")[1:]]
    return None if "$ref" in steps else _at(schema, steps)


def _words(root: Schema, schema: Schema, depth: int = 0) -> str:
    """What a schema expects, in words."""
    if not isinstance(schema, dict) or depth > _NESTED:
        return "another value"
    if "$ref" in schema:
        return _words(root, _referred(root, schema), depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return " or ".join(dict.fromkeys(_words(root, one, depth + 1) for one in schema[keyword]))
    if "const" in schema:
        return _json(schema["const"])
    if "enum" in schema:
        return f"one of {_listed(schema['enum'])}"
    types = schema.get("type", [])
    kinds = [_kind(name, schema) for name in ([types] if isinstance(types, str) else types)]
    return " or ".join(kinds) or _kind("", schema)


def _kind(name: str, schema: Mapping[str, Any]) -> str:
    """One type with what narrows it."""
    if name in ("string", "") and "format" in schema:
        return _FORMATS.get(schema["format"], f'a string with the format "{schema["format"]}"')
    details = {
        "string": _string(schema),
        "integer": _range(schema, "minimum", "maximum"),
        "number": _range(schema, "minimum", "maximum"),
        "array": _range(schema, "minItems", "maxItems", " items"),
        "object": _range(schema, "minProperties", "maxProperties", " fields"),
    }
    found = details.get(name, "") if name else next(filter(None, details.values()), "")
    return f"{_article(name)}{found}" if name else f"a value{found}"


def _string(schema: Mapping[str, Any]) -> str:
    pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
    return pattern + _range(schema, "minLength", "maxLength", " characters")


def _range(schema: Mapping[str, Any], low: str, high: str, unit: str = "") -> str:
    """A range in words, `of` sizes; exclusive bounds and multiples of numbers are part of it."""
    least, most = schema.get(low), schema.get(high)
    said = []
    if least is not None and most is not None:
        said.append(f"{'of' if unit else 'from'} {least:,} to {most:,}")
    elif least is not None:
        said.append(f"of at least {least:,}")
    elif most is not None:
        said.append(f"of at most {most:,}")
    if low == "minimum":
        bounds = (("exclusiveMinimum", "above"), ("exclusiveMaximum", "below"), ("multipleOf", "that is a multiple of"))
        said += [f"{words} {schema[name]:,}" for name, words in bounds if name in schema]
    if unit == " items" and schema.get("uniqueItems"):
        said.append("without twins")
    return "".join(f" {one}{unit if one.startswith('of') else ''}" for one in said)


def _article(name: str) -> str:
    return {"null": "null", "boolean": "true or false"}.get(name, f"{'an' if name[0] in 'aio' else 'a'} {name}")


def _shown(value: Any) -> str:
    """A value with its JSON type, shortened."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else f"the boolean {_json(value)}"
    if isinstance(value, str) and len(value) > _VALUE:
        return f"a string of {len(value):,} characters that begins {_json(value[: _VALUE // 2])}"
    if isinstance(value, str):
        return f"the string {_json(value)}"
    if isinstance(value, list):
        return f"an array with {_counted(len(value), 'item')}"
    if isinstance(value, dict):
        return f"an object with {_counted(len(value), 'field')}"
    return f"the {'integer' if isinstance(value, int) else 'number'} {_short(_json(value), _VALUE)}"


def _counted(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number:,} {noun}s"


def _listed(values: Iterable[Any]) -> str:
    shown = [_short(_json(value) if not isinstance(value, str) else value, _NAME) for value in values]
    more = f" and {len(shown) - _LISTED} more" if len(shown) > _LISTED else ""
    return ", ".join(shown[:_LISTED]) + more


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _short(text: str, most: int) -> str:
    """Its beginning and its end."""
    return text if len(text) <= most else f"{text[: most // 2]}...{text[3 + len(text) - (most - most // 2) :]}"
