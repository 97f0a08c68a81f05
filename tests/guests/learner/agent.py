"""Reads the note that a message names, unless it has learned that it may not. Knows nothing but its lessons."""

from typing import Any

from loket_guest import Refused, call, lessons, operation


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Read a note. Answers `text`, and `tried`: whether it was asked for."""
    key = args["text"]
    folder = key.partition("/")[0] + "/"
    for lesson in lessons("kv.get"):
        if f"for {folder} " in lesson["text"]:
            return {"text": lesson["text"], "tried": False}
    try:
        found = call("kv.get", key=key)
    except Refused as refused:
        return {"text": refused.message, "tried": True}
    return {"text": str(found["value"]), "tried": True}


@operation
def crash(args: dict[str, Any]) -> dict[str, Any]:
    """End with the refusal itself."""
    return call("kv.get", key=args["text"])


@operation
def flood(args: dict[str, Any]) -> dict[str, Any]:
    """Ask for many things that are refused, and for a capability that does not exist."""
    for number in range(args["n"]):
        try:
            call("kv.get", key=f"closed-{number}/x")
        except Refused:
            continue
    return {}


@operation
def recall(args: dict[str, Any]) -> dict[str, Any]:
    """Recall lessons. Answers their texts as `texts`."""
    return {"texts": [lesson["text"] for lesson in lessons(args["about"], args["limit"])]}
