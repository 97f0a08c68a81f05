"""Keeps a shopping list: "add milk", "bought milk"; anything else shows it."""

from typing import Any

from loket_guest import call, operation


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Answer a message; the reply is `text`."""
    verb, _, item = args["text"].strip().partition(" ")
    items = call("kv.get", key="list")["value"] or []
    if verb == "add" and item:
        items.append(item)
    elif verb == "bought" and item in items:
        items.remove(item)
    else:
        return {"text": ", ".join(items) or "Nothing to buy."}
    call("kv.set", key="list", value=items)
    return {"text": f"{len(items)} to buy: {', '.join(items) or 'nothing'}."}
