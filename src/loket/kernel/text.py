"""Canonical JSON: one text for one value, because digests, commitments and replay compare texts."""

import json
from typing import Any, NoReturn

from loket.contracts import Refusal

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical(value: Any) -> str:
    """Write a value as JSON with sorted keys, no spaces, no escapes beyond those that JSON needs.

    RFC 8785 in spirit; numbers are written as Python writes them. Raises `ValueError` for NaN and infinities.
    """
    return _ENCODER.encode(value)


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


_DECODER = json.JSONDecoder(parse_constant=_constant)


def decode_object(text: str, what: str) -> tuple[dict[str, Any], str]:
    """Read a JSON object; the object and its canonical text.

    Raises `Refusal` (`arguments.invalid`) that says what is wrong with `what`.
    """
    try:
        value = _DECODER.decode(text)
        normal = _ENCODER.encode(value)
        normal.encode("utf-8")
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Refusal("arguments.invalid", f"{what} is no valid JSON: {reason}", "send a JSON object") from None
    if not isinstance(value, dict):
        raise Refusal(
            "arguments.invalid",
            f"{what} is a JSON {type(value).__name__}, and an object is needed",
            'send an object such as {"key": "value"}',
        )
    return value, normal
