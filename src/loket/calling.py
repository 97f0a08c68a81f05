"""The guest of a client's run, behind the same seam as modules: engine and replay have no rule of their own for it."""

import json
from collections.abc import Sequence

from loket.contracts import Failed, Host, Json, Limits, LoketError, Refusal, Segment, Suspended

PUBLISHER = "client"
"""The publisher of what stands for clients; no module that can be installed has it."""

MANY = "calls:many"
"""The operation of a run with several calls: `calls`, an array of `[capability, args]`. No capability has a colon.

It answers `answers`, an array of `{"answer": ...}` or `{"error": ...}` in their order. Where the answers become large
it ends early: the calls after them were not made.
"""

MOST = 64
"""Calls of one run."""

_ENOUGH = 256 << 10
"""Characters of answers after which no further call is made."""


class CallGuest:
    """The guest of a client's run: it makes the calls that the client asked for, and their answers are its own."""

    def __init__(self, digest: str) -> None:
        self.digest = digest

    def run(self, host: Host, operation: str, args: str, _limits: Limits) -> Segment:
        """The operation is the capability, or `MANY`."""
        try:
            if operation == MANY:
                return Segment(answer=_many(host, json.loads(args)["calls"]))
            return Segment(answer=host(operation, args))
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)


def _many(host: Host, calls: Sequence[tuple[str, Json]]) -> str:
    answers: list[str] = []
    size = 0
    for capability, args in calls:
        try:
            answers.append(f'{{"answer":{host(capability, json.dumps(args, ensure_ascii=False))}}}')
        except (Refusal, Failed) as error:
            answers.append(json.dumps({"error": error.as_dict()}, ensure_ascii=False))
        size += len(answers[-1])
        if size > _ENOUGH:
            break
    return f'{{"answers":[{",".join(answers)}]}}'
