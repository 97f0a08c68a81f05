"""A module that misbehaves on demand, one operation a kind, and some operations that count calls."""

import contextlib
import os
import random
import time
from typing import Any

from loket_guest import Refused, call, operation


@operation
def echo(args: dict[str, Any]) -> Any:
    """Answer with the arguments."""
    return args


@operation
def spin() -> None:
    """Compute without end and without a call."""
    while True:
        pass


@operation
def memory(mb: int = 0) -> int:
    """Take memory: so many MiB, or all there is."""
    taken: list[bytearray] = []
    while not mb or len(taken) < mb:
        taken.append(bytearray(1 << 20))
    return len(taken)


@operation
def hoard() -> int:
    """Take all memory and go on after each refusal of more."""
    taken: list[bytearray] = []
    while True:
        with contextlib.suppress(MemoryError):
            taken.append(bytearray(1 << 16))


@operation
def recursion() -> int:
    """Recurse without end, in Python."""

    def deeper(depth: int) -> int:
        return deeper(depth + 1) + 1

    return deeper(0)


@operation
def native_recursion() -> str:
    """Recurse through the interpreter's own stack."""
    nested: list[Any] = []
    for _ in range(200_000):
        nested = [nested]
    return repr(nested)


@operation
def flood() -> None:
    """Call without end."""
    while True:
        call("kv.get", key="flood")


@operation
def swallow() -> None:
    """Call without end and ignore every refusal."""
    while True:
        with contextlib.suppress(BaseException):
            call("no.such", key="swallow")


@operation
def big(mb: int = 100) -> str:
    """Answer with so many MiB."""
    return "x" * (mb << 20)


@operation
def big_arguments(mb: int = 8) -> dict[str, Any]:
    """Call with so many MiB."""
    return call("kv.set", key="big", value="x" * (mb << 20))


@operation
def deep(depth: int = 100_000) -> dict[str, Any]:
    """Call with deeply nested arguments."""
    nested: Any = []
    for _ in range(depth):
        nested = [nested]
    return call("kv.set", key="deep", value=nested)


@operation
def effects(n: int = 1, key: str = "count") -> int:
    """Make `n` effects."""
    for number in range(n):
        call("kv.set", key=key, value=number)
    return n


@operation
def reads(n: int = 1) -> int:
    """Make `n` reads."""
    for _ in range(n):
        call("kv.get", key="count")
    return n


@operation
def waits(n: int = 1) -> list[str]:
    """Ask the model `n` times."""
    return [call("llm.complete", messages=[{"role": "user", "content": str(i)}])["text"] for i in range(n)]


@operation
def ask_twice(capability: str, arguments: dict[str, Any]) -> list[Any]:
    """Make the same call twice."""
    return [call(capability, **arguments), call(capability, **arguments)]


@operation
def ask(capability: str, arguments: dict[str, Any]) -> Any:
    """Make one call; a refusal becomes an answer."""
    try:
        return {"answer": call(capability, **arguments)}
    except Refused as refused:
        return {"refused": refused.code, "message": refused.message, "remedy": refused.remedy}


@operation
def steps(todo: list[dict[str, Any]]) -> list[Any]:
    """Make several calls one after the other: `[{"capability": ..., "arguments": {...}}]`."""
    return [ask(step["capability"], step["arguments"]) for step in todo]


@operation
def many_logs(n: int, size: int = 100) -> int:
    """Log `n` lines of this size."""
    for _ in range(n):
        print("x" * size)  # noqa: T201 - the point
    return n


@operation
def many_clocks(n: int) -> list[float]:
    """Read the clock `n` times without another call."""
    return sorted({time.time() for _ in range(n)})


@operation
def many_randoms(n: int) -> float:
    """Draw `n` numbers."""
    return sum(random.random() for _ in range(n))  # noqa: S311 - not for secrets


@operation
def compute(rounds: int) -> int:
    """Compute for a while, without a call."""
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) % 1_000_003
    return total


@operation
def refuse() -> None:
    """Refuse, as a module does."""
    raise Refused("test.refused", "not today", "ask tomorrow")


@operation
def crash() -> None:
    """End with an exception."""
    raise ValueError("the module's own mistake")


@operation
def trap() -> str:
    """Ask the operating system, which a module does not have."""
    os.mkdir("/anything")  # noqa: PTH102 - the plain call
    return "done"


@operation
def half_text() -> str:
    """Answer with half a surrogate pair."""
    return "\ud800"
