"""Greets people and counts their visits."""

import datetime as dt
from typing import Any

from loket_guest import call, operation


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Answer a message. Answers the reply as `text`; more may stand beside it."""
    name = args["text"].strip() or "stranger"
    key = f"visits/{name[:100]}"
    visits = (call("kv.get", key=key)["value"] or 0) + 1
    call("kv.set", key=key, value=visits)
    print(f"{name} was here {visits} times")  # noqa: T201 - goes into the run's log
    noon = 12
    greeting = "Good morning" if dt.datetime.now(dt.UTC).hour < noon else "Good day"
    return {"text": f"{greeting}, {name}. This is visit number {visits}."}
