"""The conformance module in Python: `loket.testing.guest_conformance.OPERATIONS` says what each operation does."""

import random
import time
from typing import Any

from loket_guest import Refused, call, operation

BUILT_AT = time.time()
BUILT_NUMBER = random.random()  # noqa: S311 - not for secrets


@operation
def echo(args: dict[str, Any]) -> dict[str, Any]:
    return args


@operation
def ask(capability: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"answer": call(capability, **arguments)}
    except Refused as refused:
        return {"refused": {"code": refused.code, "message": refused.message, "remedy": refused.remedy}}


@operation("pass")
def let_out(capability: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return call(capability, **arguments)


@operation
def swallow(n: int) -> dict[str, Any]:
    swallowed = 0
    for _ in range(n):
        try:
            call("test.refused")
        except Refused:
            swallowed += 1
    return {"swallowed": swallowed}


@operation
def refuse() -> None:
    raise Refused("test.refused", "not today", "ask tomorrow")


def mistake() -> None:
    raise ValueError("the module's own mistake")


@operation
def crash() -> None:
    mistake()


@operation
def clock() -> dict[str, float]:
    return {"built": BUILT_AT, "now": time.time()}


@operation("random")
def numbers(n: int) -> dict[str, Any]:
    return {"built": BUILT_NUMBER, "numbers": [random.random() for _ in range(n)]}  # noqa: S311 - not for secrets


@operation
def log(text: str) -> dict[str, Any]:
    print(text)  # noqa: T201 - goes into the run's log
    return {}


@operation
def spin() -> None:
    while True:
        pass


@operation
def memory() -> None:
    taken: list[bytearray] = []
    while True:
        taken.append(bytearray(1 << 20))


@operation
def recursion() -> int:
    def deeper(depth: int) -> int:
        return deeper(depth + 1) + 1

    return deeper(0)


@operation("long")
def long_answer(kib: int) -> dict[str, str]:
    return {"text": "x" * (kib << 10)}
