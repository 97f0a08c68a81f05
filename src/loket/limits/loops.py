"""A module that makes the same failing call again and again goes nowhere: its run is ended, with the reason."""

from collections.abc import Sequence

from loket.contracts import Recorded, RunEnded
from loket.kernel.rows import named, safe, whole

LONGEST_CYCLE = 3
"""Calls that take turns, each of which fails, and are still seen as a loop."""


def refuse_loop(history: Sequence[Recorded], capability: str, args: str, repeats: int) -> None:
    """Look at a call before it is made; `args` is JSON as the module sent it.

    Raises `RunEnded` (`limit.loop`) where the last `repeats` times of this very call (or of a cycle of up to three
    calls that it would begin again) all failed or were refused, with nothing else in between.

    A provider's own attempts are one call. Arguments that change make another call.
    """
    if not history or history[-1].error is None:
        return
    for period in range(1, LONGEST_CYCLE + 1):
        if _repeated(history, period, repeats) and _same(history[-period], capability, args):
            error = history[-1].error
            cycle = " and ".join(recorded.capability for recorded in history[-period:])
            raise RunEnded(
                "limit.loop",
                f"the run asked for {cycle} with the same arguments {repeats} times in a row, and each time it failed; "
                f"the last time: {error['message']} ({error['code']})",
                error.get("remedy")
                or "do something else after an error, or raise repeats under [limits] in config.toml",
            )


def _repeated(history: Sequence[Recorded], period: int, repeats: int) -> bool:
    """Whether the last calls are a cycle of so many failing ones, so many times."""
    length = period * repeats
    if len(history) < length:
        return False
    tail = history[-length:]
    return all(one.error is not None for one in tail) and all(
        (one.capability, one.args) == (before.capability, before.args)
        for one, before in zip(tail[period:], tail, strict=False)
    )


def _same(recorded: Recorded, capability: str, args: str) -> bool:
    """Whether a call is the one that was recorded; long arguments of refused calls are kept by their digest."""
    return recorded.capability == named(capability) and recorded.args in (whole(args), safe(args))
