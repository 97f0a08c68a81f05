"""JSON Schema checks (draft 2020-12, formats asserted), by `jsonschema-rs`."""

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs


def _fetch_nothing(address: str) -> Any:
    """A schema reaches nothing but itself."""
    raise ValueError(f"a schema may refer to itself alone, not to {address}")


def compile_check(schema: Mapping[str, Any]) -> Callable[[Any], str | None]:
    """A function that checks a JSON value: a sentence that names the first wrong field, or None.

    Raises `ValueError` where the schema itself is wrong.
    """
    validator = jsonschema_rs.Draft202012Validator(dict(schema), validate_formats=True, retriever=_fetch_nothing)
    is_valid = validator.is_valid

    def check(value: Any) -> str | None:
        if is_valid(value):
            return None
        error = next(iter(validator.iter_errors(value)))
        where = ".".join(str(part) for part in error.instance_path)
        return f"{where}: {error.message}" if where else error.message

    return check
