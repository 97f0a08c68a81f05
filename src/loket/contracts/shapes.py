"""The pieces of which the catalogue's JSON Schemas are made."""

from typing import Any

Schema = dict[str, Any]


def closed(properties: Schema, *required: str) -> Schema:
    """A JSON Schema of an object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def words(most: int, *, least: int = 1, about: str = "") -> Schema:
    """A JSON Schema of a text with so many characters."""
    schema: Schema = {"type": "string", "minLength": least, "maxLength": most}
    return {**schema, "description": about} if about else schema
