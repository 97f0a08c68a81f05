"""The one way out of a module: `call`."""

import json
from collections.abc import Callable
from typing import Any

from componentize_py_types import Err
from wit_world.imports import counter

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


class Refused(Exception):
    """The counter, or another module, said no. Raise it yourself to answer with a refusal.

    `code` is stable and dotted (`grant.missing`), `message` a sentence for a person, `remedy` the line or the
    command that would allow it, or None.
    """

    def __init__(self, code: str, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


class _Border:
    """Whether the module runs. While it is being built there is no counter yet."""

    open = False


border = _Border()


def call(capability: str, /, **arguments: Any) -> dict[str, Any]:
    """Ask the counter for a capability: `call("kv.get", key="visits")` -> `{"found": True, "value": 3}`.

    `arguments` are JSON values; the answer is the JSON object that the capability's schema describes. An argument
    whose name is no Python word goes in with `**{"as": value}`.

    Raises `Refused` where the counter says no or the call did not work, `TypeError` or `ValueError` for what JSON
    cannot say, and `RuntimeError` while the module is being built.
    """
    if not border.open:
        raise RuntimeError(f'call("{capability}") while the module is being built: call it inside an operation')
    try:
        answer = counter.call(capability, to_json(arguments))
    except Err as error:
        refusal = error.value
        raise Refused(refusal.code, refusal.message, refusal.remedy) from None
    value: dict[str, Any] = json.loads(answer)
    return value


def to_json(value: Any) -> str:
    """JSON text of a value. Half a surrogate pair, which no JSON text can carry in UTF-8, becomes a question mark."""
    text = _encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text


def either_of(routed: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    """Answer with the original while the module is being built, with the routed one afterwards."""

    def either(*args: Any, **keywords: Any) -> Any:
        return routed(*args, **keywords) if border.open else original(*args, **keywords)

    return either
