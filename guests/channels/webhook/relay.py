"""Signed requests of a program: `{"id", "sender", "text", "conversation"}` in, an object of the same kind out.

Without an address for answers the request waits for it; what comes later than that is lost, and says so.
"""

import json
from typing import Any

from loket_guest import operation

HOLD_S = 50
_TOO_MANY, _SERVERS = 429, 500
_NAMES = ("id", "sender", "text")


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    if frame["kind"] == "sent":
        status = frame["status"]
        return (
            {"retry_s": 5} if status == _TOO_MANY or status >= _SERVERS else {"failed": f"the address answers {status}"}
        )
    if frame["kind"] != "webhook":
        return {}
    try:
        said = json.loads(frame["body"])
        texts = {name: str(said[name]) for name in _NAMES}
    except (ValueError, KeyError, TypeError):
        return _said(400, {"error": 'send {"id": "1", "sender": "me", "text": "Hello", "conversation": "main"}'})
    message = {**texts, "name": str(said.get("name", ""))[:200], "conversation": str(said.get("conversation", "main"))}
    answered = {"id": texts["id"], "accepted": True}
    hold = {} if frame["fields"].get("callback") else {"hold_s": HOLD_S}
    return {"messages": [message], "response": {"status": 202, "body": json.dumps(answered), **hold}}


def _said(status: int, value: dict[str, Any]) -> dict[str, Any]:
    return {"response": {"status": status, "body": json.dumps(value)}}


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host."""
    value = {
        "id": message["id"],
        "reply_to": message["reply_to"],
        "conversation": message["conversation"],
        "text": message["text"],
    }
    if message["held"]:
        return _said(200, value)
    callback = message["fields"].get("callback")
    if not callback:
        return {"failed": "nobody waits for the answer, and the channel has no callback"}
    headers = {"authorization": "Bearer {{secret:token}}"} if "token" in message["secrets"] else {}
    return {"requests": [{"method": "POST", "url": callback, "json": value, "headers": headers}]}
