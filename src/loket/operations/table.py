"""The table of operations: each is declared once, and its arguments are decoded strictly."""

import inspect
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Concatenate, ParamSpec, TypeAlias, get_args

from loket.app import Loket
from loket.contracts import BadInput

Emit: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes events while an operation runs: objects with a `type`."""

P = ParamSpec("P")
Function: TypeAlias = Callable[..., Awaitable[Any]]

_TABLE: dict[str, Function] = {}


def operation(
    name: str,
) -> Callable[
    [Callable[Concatenate[Loket, Emit, P], Awaitable[Any]]], Callable[Concatenate[Loket, Emit, P], Awaitable[Any]]
]:
    """Declare an operation; its keyword arguments and their types are what `perform` accepts."""

    def declare(
        function: Callable[Concatenate[Loket, Emit, P], Awaitable[Any]],
    ) -> Callable[Concatenate[Loket, Emit, P], Awaitable[Any]]:
        _TABLE[name] = function
        return function

    return declare


class Operations:
    """The owner's operations on one system."""

    def __init__(self, system: Loket) -> None:
        self._system = system

    async def perform(self, name: str, args: dict[str, Any], emit: Emit) -> Any:
        """Do one operation. Raises `BadInput` for an unknown one or wrong arguments, and what the operation raises."""
        function = _TABLE.get(name)
        if function is None:
            raise BadInput(
                "operation.unknown", f"there is no operation {name!r}", f"known: {', '.join(sorted(_TABLE))}"
            )
        return await function(self._system, emit, **_decoded(name, function, args))


def _decoded(name: str, function: Function, args: dict[str, Any]) -> dict[str, Any]:
    wanted = {p.name: p for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for key in args.keys() - wanted.keys():
        raise BadInput(
            "arguments.unknown", f"{name} takes no argument {key}", f"it takes {', '.join(wanted) or 'none'}"
        )
    for key, parameter in wanted.items():
        if key not in args:
            if parameter.default is parameter.empty:
                raise BadInput("arguments.missing", f"{name} needs the argument {key}", f"add {key}")
        elif not _fits(args[key], parameter.annotation):
            kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
            raise BadInput("arguments.type", f"{key} of {name} must be of the type {kind}", "send JSON of that type")
    return args


def _fits(value: Any, kind: Any) -> bool:
    return any(type(value) is base or (base is float and type(value) is int) for base in _bases(kind))


def _bases(kind: Any) -> Iterator[type]:
    if isinstance(kind, types.UnionType):
        for part in get_args(kind):
            yield from _bases(part)
    else:
        yield getattr(kind, "__origin__", kind)
