"""A module with the reserved operations beside its own: plans run as runs of the module that asks for them.

So they have its digest, its grants and its limits, and nothing else has to know of them: engine and replay ask this
guest as they ask any other.
"""

import json
from collections.abc import Callable, Mapping

from loket.contracts import Failed, Guest, Host, Json, Limits, LoketError, Refusal, RunEnded, Segment, Suspended
from loket.orchestrator.interpreter import RUN, run_plan
from loket.orchestrator.maker import MAKE, make_plan

NATIVE: Mapping[str, Callable[[Host, Mapping[str, Json]], dict[str, Json]]] = {RUN: run_plan, MAKE: make_plan}
"""Reserved operations: an operation of a module has no colon in its name (see `loket.toml`)."""


class PlanGuest:
    """A loaded module that runs plans too."""

    def __init__(self, guest: Guest) -> None:
        self.digest = guest.digest
        self._guest = guest

    def run(self, host: Host, operation: str, args: str, limits: Limits) -> Segment:
        """Run a reserved operation here, and any other in the module."""
        native = NATIVE.get(operation)
        if native is None:
            return self._guest.run(host, operation, args, limits)
        try:
            answer = json.dumps(native(host, json.loads(args)), ensure_ascii=False)
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)
        return _within(answer, limits)


def _within(answer: str, limits: Limits) -> Segment:
    """An answer that keeps to the module's limit."""
    size = len(answer.encode("utf-8", "replace"))
    if size <= limits.answer_kb << 10:
        return Segment(answer=answer)
    said = f"the plan's answer takes {size:,} bytes; {limits.answer_kb} KiB are allowed"
    return Segment(ended=RunEnded("limit.answer", said, "let the answer refer to less"))
