"""JSON Schema checks (draft 2020-12, formats asserted), by `jsonschema-rs`."""

from collections.abc import Callable, Mapping
from typing import Any

import jsonschema_rs

_SAID = 300
"""Characters of what is wrong with a value, and of where: the library quotes the value, which may have megabytes."""


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
        where = _shortened(".".join(str(part) for part in error.instance_path))
        return f"{where}: {_shortened(error.message)}" if where else _shortened(error.message)

    return check


def _shortened(text: str) -> str:
    """Its beginning and its end, where the reason stands behind the value that is quoted."""
    half = _SAID // 2
    return text if len(text) <= _SAID else f"{text[:half]}...{text[-half:]}"
