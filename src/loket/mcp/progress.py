"""Progress of a tool, for whoever watches the run: a line that is taken back when the answer is there."""

import time

from loket.contracts import WITHDRAW, Call

_EVERY_S = 0.2
_MOST = 200
_SAID = 120


class Shown:
    """Hands progress on, at most five times a second and 200 times a call. Used with `contextlib.closing`."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._count = 0
        self._last = 0.0

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        now = time.monotonic()
        if self._count >= _MOST or now - self._last < _EVERY_S:
            return
        self._count, self._last = self._count + 1, now
        part = f"{progress:g}" + (f" of {total:g}" if total is not None else "")
        said = "".join(sign for sign in message or "" if sign.isprintable())[:_SAID]
        self._call.emit(f"{self._call.capability}: {part}{' ' if said else ''}{said}\n")

    def close(self) -> None:
        """Take it back."""
        if self._count:
            self._call.emit(WITHDRAW)
