"""Relays between an agent and a small chat service: change the addresses and fields to those of yours.

The service of this example answers `GET /messages?after=NUMBER` with `{"messages": [{"number", "from", "room",
"text"}]}`, waiting until there are some, and takes `POST /messages` with `{"id", "room", "text"}`.
"""

import json
from typing import Any

from loket_guest import operation

_LATER = frozenset((429, 500, 502, 503, 504))


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate what happened on the wire into messages, and say what to ask next."""
    after = frame["state"].get("after", 0)
    if frame["kind"] in ("start", "timer"):
        return {"requests": [_poll(frame, after)]}
    if frame["kind"] == "test":
        return {"requests": [_request(frame, "GET", f"messages?after={after}&wait=0")]}
    if frame["kind"] == "sent":  # an answer of the agent did not arrive: later, or never
        later = frame["status"] in _LATER
        return {"retry_s": 5} if later else {"failed": f"the service says {frame['status']}"}
    if frame["kind"] != "response":
        return {}
    if frame["status"] != 200:  # noqa: PLR2004 - RFC 9110, 15.3.1
        return {"retry_s": 10} if frame["status"] in _LATER else {"failed": f"the service says {frame['status']}"}
    said = json.loads(frame["body"])["messages"]
    after = max([after, *(one["number"] for one in said)])
    # The state is written together with the messages, before the next request says that they were received.
    return {
        "messages": [_message(one) for one in said],
        "state": {"after": after},
        "requests": [_poll(frame, after)],
    }


def _message(said: dict[str, Any]) -> dict[str, Any]:
    """One message: `id` is its own for good, `context` comes back when it is answered."""
    return {
        "id": str(said["number"]),
        "sender": said["from"],
        "conversation": said["room"],
        "text": said["text"],
        "context": {"room": said["room"]},
    }


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate what the agent says into one request."""
    body = {"id": message["id"], "room": message["context"]["room"], "text": message["text"]}
    return {"requests": [_request(message, "POST", "messages", json=body)]}


def _poll(known: dict[str, Any], after: int) -> dict[str, Any]:
    """The request that waits for news; an answer that equals `quiet` is asked again without running this module."""
    return _request(known, "GET", f"messages?after={after}&wait=30", timeout_s=40, quiet={"messages": []})


def _request(known: dict[str, Any], method: str, path: str, **more: Any) -> dict[str, Any]:
    headers = {"authorization": "Bearer {{secret:token}}"}
    return {"method": method, "url": f"{known['fields']['server']}/{path}", "headers": headers, **more}
