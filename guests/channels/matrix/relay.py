"""Matrix's client-server interface (https://spec.matrix.org/v1.13/client-server-api/): `/sync`, and `send` with an id.

`since` tells the homeserver what was received. Encrypted rooms cannot be read: use rooms without encryption.
"""

import json
from typing import Any
from urllib.parse import quote

from loket_guest import operation

SYNC_MS = 30_000
_MOST_ROOMS = 500
_DIRECT = 2
"""Members of a room that nobody else reads."""
_OK, _TOO_MANY, _SERVERS = 200, 429, 500
_FILTER = {
    "presence": {"types": []},
    "account_data": {"types": []},
    "room": {
        "timeline": {"types": ["m.room.message"], "limit": 50},
        "state": {"types": ["m.room.member"], "lazy_load_members": True},
        "ephemeral": {"types": []},
        "account_data": {"types": []},
    },
}
_QUIET = {
    "next_batch": None,
    "device_one_time_keys_count": None,
    "device_unused_fallback_key_types": None,
    "org.matrix.msc2732.device_unused_fallback_key_types": None,
}


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    kind = frame["kind"]
    if kind == "test":
        return {"requests": [_request(frame, "GET", "account/whoami", done={"user_id": None})]}
    if kind == "start":
        me = _request(frame, "GET", "account/whoami", tag="whoami")
        return {"requests": [_sync(frame, frame["state"]) if "me" in frame["state"] else me]}
    if kind == "sent":
        return _refused(frame["status"], _object(frame["body"]))
    return _answered(frame, _object(frame["body"])) if kind == "response" else {}


def _answered(frame: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    state, good = dict(frame["state"]), frame["status"] == _OK
    if frame["tag"] == "join":
        return {}
    if not good:
        return _refused(frame["status"], body)
    if frame["tag"] == "whoami":
        state["me"] = body["user_id"]
        return {"state": state, "requests": [_sync(frame, state)]}
    first = "since" not in state
    state["since"] = body["next_batch"]
    rooms = body.get("rooms") or {}
    counts = {**state.get("rooms", {}), **_counts(rooms.get("join") or {})}
    state["rooms"] = dict(list(counts.items())[-_MOST_ROOMS:])
    messages = [] if first else list(_messages(state, rooms.get("join") or {}))
    joins = [_join(frame, room) for room in rooms.get("invite") or {}] if frame["fields"].get("join") == "yes" else []
    return {"messages": messages[:200], "state": state, "requests": [*joins[:7], _sync(frame, state)]}


def _counts(joined: dict[str, Any]) -> dict[str, int]:
    """How many members rooms have, where the homeserver says so."""
    found = {room: (data.get("summary") or {}).get("m.joined_member_count") for room, data in joined.items()}
    return {room: count for room, count in found.items() if isinstance(count, int)}


def _messages(state: dict[str, Any], joined: dict[str, Any]) -> Any:
    for room, data in joined.items():
        for event in (data.get("timeline") or {}).get("events", []):
            content = event.get("content") or {}
            relation = content.get("m.relates_to") or {}
            wanted = event.get("type") == "m.room.message" and content.get("msgtype") == "m.text"
            if not wanted or event.get("sender") == state["me"] or relation.get("rel_type") == "m.replace":
                continue
            yield {
                "id": event["event_id"],
                "sender": event["sender"],
                "conversation": room,
                "text": _without_quote(content.get("body", ""), quoted="m.in_reply_to" in relation),
                "direct": state["rooms"].get(room, _DIRECT + 1) <= _DIRECT,
                "context": {"event": event["event_id"]},
            }


def _without_quote(text: str, *, quoted: bool) -> str:
    """A reply's text repeats what it answers, each line after `> `."""
    lines = text.split("\n")
    while quoted and lines and lines[0].startswith(">"):
        lines.pop(0)
    return "\n".join(lines).strip()


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host. The transaction's id makes a repetition the same event."""
    body: dict[str, Any] = {"msgtype": "m.notice", "body": message["text"]}
    if message["reply_to"]:
        body["m.relates_to"] = {"m.in_reply_to": {"event_id": message["context"]["event"]}}
    path = f"rooms/{quote(message['conversation'], safe='')}/send/m.room.message/{quote(message['id'], safe='')}"
    return {"requests": [_request(message, "PUT", path, json=body, done={"event_id": None})]}


def _refused(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status == _TOO_MANY:
        after = body.get("retry_after_ms")
        return {"retry_s": min(after / 1000, 86_400.0) if isinstance(after, int) else 5}
    if status >= _SERVERS:
        return {"retry_s": 5}
    return {"failed": f"the homeserver says: {str(body.get('error') or status)[:300]}"}


def _sync(known: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    wanted = quote(json.dumps(_FILTER, separators=(",", ":")), safe="")
    since = f"&since={quote(state['since'], safe='')}" if "since" in state else ""
    timeout = SYNC_MS if since else 0
    path = f"sync?timeout={timeout}&filter={wanted}{since}"
    return _request(known, "GET", path, tag="sync", timeout_s=60, **({"quiet": _QUIET} if since else {}))


def _join(known: dict[str, Any], room: str) -> dict[str, Any]:
    return _request(known, "POST", f"rooms/{quote(room, safe='')}/join", json={}, tag="join")


def _request(known: dict[str, Any], method: str, path: str, **more: Any) -> dict[str, Any]:
    url = f"{known['fields']['homeserver'].rstrip('/')}/_matrix/client/v3/{path}"
    return {"method": method, "url": url, "headers": {"authorization": "Bearer {{secret:token}}"}, **more}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
