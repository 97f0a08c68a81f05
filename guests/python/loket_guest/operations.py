"""The operations of a module, and `handle`, through which the host asks for one."""

import inspect
import json
from collections.abc import Callable
from typing import Any, TypeVar, overload

from componentize_py_types import Err
from wit_world.imports import counter

from loket_guest import streams
from loket_guest.counter import Refused, border, to_json
from loket_guest.imports import shown_path

Function = TypeVar("Function", bound=Callable[..., Any])

_FRAMES = 6
"""How many of the innermost places of an error are told."""

_operations: dict[str, Callable[[dict[str, Any]], Any]] = {}


@overload
def operation(function: Function, /) -> Function: ...
@overload
def operation(name: str, /) -> Callable[[Function], Function]: ...
def operation(what: Any, /) -> Any:
    """Make a function an operation of the module, under its own name or another: `@operation("send-mail")`.

    The function takes the operation's arguments by keyword, or all of them at once if its only parameter is called
    `args`: `def forecast(args: dict) -> dict`. It returns a JSON value, and raises `Refused` to say no.

    Raises `TypeError` for an `async` function and `ValueError` for a name that is taken.
    """
    if isinstance(what, str):
        return lambda function: _register(what, function)
    return _register(what.__name__, what)


def names() -> list[str]:
    """Names of the operations that are declared."""
    return sorted(_operations)


def _register(name: str, function: Function) -> Function:
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise TypeError(f'operation "{name}" has to be a plain function: neither async nor a generator')
    if name in _operations:
        raise ValueError(f'operation "{name}" is declared twice')
    _operations[name] = _bound(function)
    return function


def _bound(function: Callable[..., Any]) -> Callable[[dict[str, Any]], Any]:
    """Make it a function of the whole argument object."""
    signature = inspect.signature(function)
    if list(signature.parameters) == ["args"]:
        return function

    def bound(arguments: dict[str, Any]) -> Any:
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise Refused(
                "arguments.invalid",
                f"{function.__name__}: {error}",
                f"its arguments are {signature}",
            ) from None
        return function(**arguments)

    return bound


class WitWorld:
    """What the host sees of a module."""

    def handle(self, operation: str, args: str) -> str:
        """Do one operation. Every way out is an answer or a refusal: a panic would hide the reason."""
        border.open = True
        try:
            return to_json(_find(operation)(_arguments(args)))
        except BaseException as error:  # noqa: BLE001 - the module's border: what is not caught here traps
            refusal = _refusal(error)
        finally:
            streams.flush()
        raise Err(counter.Refusal(refusal.code, refusal.message, refusal.remedy))


def _find(name: str) -> Callable[[dict[str, Any]], Any]:
    if name not in _operations:
        raise Refused("operation.unknown", f'this module has no operation "{name}"', f"it has: {', '.join(names())}")
    return _operations[name]


def _arguments(text: str) -> dict[str, Any]:
    value = json.loads(text or "{}")
    if not isinstance(value, dict):
        raise Refused("arguments.invalid", "the arguments of an operation are a JSON object", None)
    return value


def _refusal(error: BaseException) -> Refused:
    if isinstance(error, Refused):
        return error
    if isinstance(error, MemoryError):
        return Refused("guest.memory", "the module used up its memory", "raise memory_mb under [limits] in loket.toml")
    places = _places(error)
    if isinstance(error, RecursionError):
        return Refused("guest.recursion", "\n".join([*places[-2:], f"RecursionError: {error}"]), "recurse less deeply")
    return Refused("guest.error", "\n".join([*places, _sentence(error)]), "mend the module and build it again")


def _places(error: BaseException) -> list[str]:
    """List the innermost places of an error, those in this library left out."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/loket_guest/" not in code.co_filename:
            places.append(f"{shown_path(code.co_filename)}:{trace.tb_lineno} in {code.co_name}")
        trace = trace.tb_next
    return places[-_FRAMES:]


def _sentence(error: BaseException) -> str:
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
