"""References: `{"$ref": "r3.items[0].email"}` stands for a part of the answer to the run's third call.

In the kernel because step 2 resolves them, and replay has to hand out the same ones. A module that asks with
`"$as": "reference"` among its arguments gets `{"$ref": "r3"}` in the place of the answer: it can pass the value on
without having seen it, so the run does not take the answer's labels on. A reference lives as long as its run.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from loket.contracts import Recorded, Refusal
from loket.kernel.text import canonical

REF = "$ref"
AS = "$as"

_START = re.compile(r"r([1-9][0-9]{0,6})")
_STEP = re.compile(r'\.([A-Za-z_$][\w$-]*)|\[(0|[1-9][0-9]{0,8})\]|\[("(?:[^"\\]|\\.)*")\]')


def wants_reference(args: dict[str, Any]) -> bool:
    """Whether a call asks for a reference. Raises `Refusal` for another way of delivery, which does not exist."""
    if AS not in args:
        return False
    if args[AS] == "reference":
        return True
    raise Refusal("arguments.invalid", f'{AS} is {args[AS]!r}, and can only be "reference"', f"leave {AS} out")


def resolve(value: Any, history: Sequence[Recorded]) -> Any:
    """A value with each reference in it replaced by what it stands for. Raises `Refusal` that names a wrong one."""
    if isinstance(value, dict):
        if REF in value:
            return _found(value, history)
        return {name: resolve(part, history) for name, part in value.items()}
    if isinstance(value, list):
        return [resolve(part, history) for part in value]
    return value


def delivered(recorded: Recorded) -> str | None:
    """What the module gets of an answer, as JSON text."""
    if recorded.answer is None or not recorded.by_reference:
        return recorded.answer
    return canonical({REF: f"r{recorded.ordinal}"})


def pointer(text: str) -> tuple[int, list[str | int]]:
    """A reference's text as the number of the call and the steps into its answer. Raises `Refusal`."""
    start = _START.match(text)
    steps: list[str | int] = []
    at = start.end() if start else 0
    while start and at < len(text):
        step = _STEP.match(text, at)
        if step is None:
            break
        name, index, quoted = step.groups()
        if quoted is not None:
            name = _unquoted(quoted)
            if name is None:
                break
        steps.append(name if name is not None else int(index))
        at = step.end()
    if start is None or at < len(text):
        raise _wrong(text, "it cannot be read", 'write r3, r3.items[0].email or r3.items[0]["first name"]')
    return int(start[1]), steps


def _unquoted(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None


def _found(value: Mapping[str, Any], history: Sequence[Recorded]) -> Any:
    text = value[REF]
    if len(value) > 1 or not isinstance(text, str):
        raise _wrong(text, f"an object with {REF} has nothing else, and it is a text", 'write {"$ref": "r3"}')
    number, steps = pointer(text)
    recorded = history[number - 1] if number <= len(history) else None
    if recorded is None or recorded.answer is None:
        state = "was not made yet" if recorded is None else "has no answer"
        raise _wrong(text, f"call {number} of this run {state}", "refer to a call that was answered")
    found: Any = json.loads(recorded.answer)
    for step in steps:
        try:
            found = found[step]
        except (KeyError, IndexError, TypeError):
            has = f"it has {', '.join(list(found)[:12])}" if isinstance(found, dict) else _kind(found)
            raise _wrong(text, f"there is no {step!r} in it: {has}", "point to a part that exists") from None
    return found


def _kind(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else f"it is a JSON {type(value).__name__}"


def _wrong(text: Any, reason: str, remedy: str) -> Refusal:
    return Refusal("reference.invalid", f"the reference {str(text)[:200]!r}: {reason}", remedy)
