"""An agent that makes exactly the calls that a message lists as JSON: a model that is completely lost.

Each step is `{"call": NAME, "args": {...}}`. Among the arguments `{"copy": STEP, "field": NAME}` is a field of an
earlier answer, to the letter, and `{"made": TEXT}` is the text backwards: something that nobody has said.
"""

import json
from typing import Any

from loket_guest import Refused, call, operation


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Make the calls; the reply's `text` has the answers as JSON."""
    answers: list[Any] = []
    for step in json.loads(args["text"]):
        given = {name: _made(value, answers) for name, value in step["args"].items()}
        try:
            answers.append(call(step["call"], **given))
        except Refused as refused:
            answers.append({"refused": refused.code, "said": refused.message})
    return {"text": json.dumps(answers)}


def _made(value: Any, answers: list[Any]) -> Any:
    if isinstance(value, dict):
        if "copy" in value:
            return answers[value["copy"]][value["field"]]
        if "made" in value:
            return value["made"][::-1]
        return {name: _made(part, answers) for name, part in value.items()}
    return [_made(part, answers) for part in value] if isinstance(value, list) else value
