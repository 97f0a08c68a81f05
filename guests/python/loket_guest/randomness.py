"""Randomness from the counter.

The state of a generator that was seeded while the module was built is part of the component: every run would draw
the same numbers. So a generator without a seed of its own draws one when it is first used in a run.
"""

import os
import random
import uuid
from typing import Any, Self

from loket_guest.counter import border, call

_MOST = 65_536
"""Bytes that one `random.bytes` gives."""

_SEED_BYTES = 32


def install() -> None:
    """Route the randomness of the standard library. Before the first operation the originals answer."""
    original = os.urandom

    def urandom(size: int, /) -> bytes:
        return _bytes(size) if border.open else original(size)

    os.urandom = urandom
    random._urandom = urandom  # type: ignore[attr-defined]  # noqa: SLF001 - what SystemRandom reads
    _replace_generators()
    _name_based_on_nothing()


def _bytes(size: int) -> bytes:
    if size < 0:
        raise ValueError("negative argument not allowed")
    parts = []
    while size > 0:
        parts.append(bytes.fromhex(call("random.bytes", n=min(size, _MOST))["hex"]))
        size -= _MOST
    return b"".join(parts)


class Random(random.Random):
    """`random.Random`, seeded from the counter at its first use in a run unless it was given a seed."""

    _needs_seed = True

    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self:
        return super().__new__(cls, 0)  # type: ignore[call-arg]  # the C class takes the seed here

    def seed(self, a: Any = None, version: int = 2) -> None:
        """Seed with a value, or, without one, from the counter."""
        self._needs_seed = a is None
        super().seed(0 if a is None else a, version)

    def setstate(self, state: Any) -> None:
        self._needs_seed = False
        super().setstate(state)

    def getstate(self) -> Any:
        self._wake()
        return super().getstate()

    def random(self) -> float:
        self._wake()
        return super().random()

    def getrandbits(self, k: int, /) -> int:
        self._wake()
        return super().getrandbits(k)

    def _wake(self) -> None:
        if self._needs_seed and border.open:
            self.seed(int.from_bytes(os.urandom(_SEED_BYTES)))


def _replace_generators() -> None:
    """Put the class and a generator of it in the place of the module's own, whose methods are its functions."""
    old: Any = random._inst  # noqa: SLF001 - the module's own generator
    new = Random()
    for name, value in list(vars(random).items()):
        if getattr(value, "__self__", None) is old:
            setattr(random, name, getattr(new, name))
    random._inst = new  # noqa: SLF001
    random.Random = Random  # type: ignore[misc]


def _name_based_on_nothing() -> None:
    """`uuid.uuid1` without asking the machine for its network address: a random node, as RFC 9562, 6.10 has it."""
    uuid._generate_time_safe = None  # type: ignore[attr-defined]  # noqa: SLF001 - asks the C library
    uuid.getnode = lambda: int.from_bytes(os.urandom(6)) | (1 << 40)
