"""Answers from the journal: what a module gets while it is run again on what was recorded.

In the kernel because resume and proof rest on it: the same calls must be made, in the same order, with the same
arguments, and none of the nine steps is taken again.
"""

from collections.abc import Callable
from typing import Any

from loket.contracts import Recorded, RunEnded, from_dict
from loket.kernel import sides
from loket.kernel.refs import delivered
from loket.kernel.rows import named, safe, whole
from loket.kernel.state import RunState
from loket.kernel.text import decode_object


def answer(
    run: RunState, capability: str, args: str, check_side: Callable[[Any], str | None] | None, now: Callable[[], float]
) -> str:
    """Answer from the journal, if the module asks the same as it did then.

    `check_side` checks the arguments of a side capability; None for all others.

    Raises `RunEnded` (`replay.diverged`) that names the row where it does not.
    """
    following = run.history[run.position] if run.position < len(run.history) else None
    if check_side is not None and not (following is not None and _refused_side(following, capability, run)):
        decoded, text = decode_object(args, f"the argument of {capability}")
        if check_side(decoded) is not None:
            raise _diverged(f"{capability} is asked for wrongly, and the journal has no such call")
        return sides.answer(run, capability, decoded, text, now)
    if following is None:
        raise _diverged(f"the module asks for {capability} after its last journaled call")
    if following.capability != named(capability) or following.args not in (whole(args), safe(args)):
        if following.capability != capability:
            raise _diverged(f"call {following.ordinal} is {capability} now, and {following.capability} in the journal")
        raise _diverged(f"the arguments of call {following.ordinal} ({capability}) are not those in the journal")
    if not run.sides.matches(following.sides):
        raise _diverged(f"the clock, random or log calls before call {following.ordinal} are not those in the journal")
    run.see(following)
    run.pass_by()
    answered = delivered(following)
    if answered is not None:
        return answered
    raise from_dict(following.error or {})


def _diverged(how: str) -> RunEnded:
    remedy = "the module or the journal is not what it was; `loket runs verify` says which"
    return RunEnded("replay.diverged", how, remedy)


def _refused_side(following: Recorded, capability: str, run: RunState) -> bool:
    """Whether the side call that the module makes now is the one that was refused then."""
    return following.capability == capability and following.error is not None and run.sides.matches(following.sides)
