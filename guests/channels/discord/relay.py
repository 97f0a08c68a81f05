"""Discord's gateway, version 10 (https://discord.com/developers/docs/events/gateway), and its REST interface.

The session and the number of the last event are kept, so that a connection that broke is resumed and nothing is lost.
"""

import json
from typing import Any

from loket_guest import operation

DIRECT_MESSAGES, GUILD_MESSAGES = 1 << 12, 1 << 9
_DISPATCH, _BEAT, _IDENTIFY, _RESUME, _RECONNECT, _INVALID, _HELLO = 0, 1, 2, 6, 7, 9, 10
_UNAUTHORIZED, _TOO_MANY, _SERVERS = 401, 429, 500
_FATAL = {
    4004: "Discord does not accept the token",
    4010: "Discord does not accept the shard",
    4011: "the bot is in too many servers for one connection",
    4012: "this version of the gateway is gone",
    4013: "Discord does not accept the intents",
    4014: "the bot lacks an intent: allow it under Bot in the developer portal",
}
_FORGET = (4007, 4009, 1000, 1001)
"""Codes of a close after which a session cannot be resumed."""


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    state = dict(frame["state"])
    match frame["kind"]:
        case "test":
            return {"requests": [_request(frame, "GET", "users/@me", done={"id": None})]}
        case "start":
            found = {"requests": [_request(frame, "GET", "gateway/bot")]}
            return _connect(state["resume"]) if "session" in state else found
        case "text":
            return _event(frame, state, _object(frame["text"]))
        case "close":
            return _closed(frame["code"])
        case "response":
            return _found(frame)
    return _refused(frame["status"], _object(frame["body"])) if frame["kind"] == "sent" else {}


def _closed(code: int) -> dict[str, Any]:
    if code in _FATAL:
        return {"failed": _FATAL[code], "state": {}}
    return {"state": {}} if code in _FORGET else {}


def _found(frame: dict[str, Any]) -> dict[str, Any]:
    body = _object(frame["body"])
    if frame["status"] == _UNAUTHORIZED:
        return {"failed": "Discord does not accept the token"}
    if not isinstance(body.get("url"), str):
        return {"retry_s": 30}
    return _connect(body["url"])


def _connect(url: str) -> dict[str, Any]:
    return {"connect": f"{url.rstrip('/')}/?v=10&encoding=json"}


def _event(frame: dict[str, Any], state: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    code, data = event.get("op"), event.get("d")
    if code == _HELLO:
        state["beat_s"] = max(5.0, data["heartbeat_interval"] / 1000)
        opening = _resume(state) if "session" in state else _identify(frame)
        return {"frames": [json.dumps(opening)], "beat": _beat(state), "state": state}
    if code == _BEAT:
        return {"frames": [_beat(state)["frame"]]}
    if code == _RECONNECT:
        return {"reconnect": True}
    if code == _INVALID:
        return {"reconnect": True, **({} if data is True else {"state": {}})}
    if code != _DISPATCH:
        return {}
    state["seq"] = event["s"]
    if event["t"] == "READY":
        state |= {"session": data["session_id"], "resume": data["resume_gateway_url"], "me": data["user"]["id"]}
    message = _message(frame, state, data) if event["t"] == "MESSAGE_CREATE" else None
    return {"messages": [message] if message else [], "state": state, "beat": _beat(state)}


def _identify(frame: dict[str, Any]) -> dict[str, Any]:
    intents = DIRECT_MESSAGES | (GUILD_MESSAGES if frame["fields"].get("guilds") == "mentions" else 0)
    properties = {"os": "linux", "browser": "loket", "device": "loket"}
    return {"op": _IDENTIFY, "d": {"token": "{{secret:token}}", "intents": intents, "properties": properties}}


def _resume(state: dict[str, Any]) -> dict[str, Any]:
    data = {"token": "{{secret:token}}", "session_id": state["session"], "seq": state.get("seq")}
    return {"op": _RESUME, "d": data}


def _beat(state: dict[str, Any]) -> dict[str, Any]:
    frame = json.dumps({"op": _BEAT, "d": state.get("seq")})
    return {"every_s": state["beat_s"], "frame": frame, "ack": {"op": 11}}


def _message(frame: dict[str, Any], state: dict[str, Any], said: dict[str, Any]) -> dict[str, Any] | None:
    """What a person wrote to the bot; in a server only where it is mentioned."""
    author, me = said["author"], state.get("me", "")
    text = said.get("content", "")
    if author.get("bot") or said.get("webhook_id") or not text:
        return None
    direct = "guild_id" not in said
    mentioned = any(one.get("id") == me for one in said.get("mentions", []))
    if not direct and not (mentioned and frame["fields"].get("guilds") == "mentions"):
        return None
    for mark in (f"<@{me}>", f"<@!{me}>"):
        text = text.replace(mark, "").strip()
    return {
        "id": said["id"],
        "sender": author["id"],
        "name": (author.get("global_name") or author.get("username") or "")[:200],
        "conversation": said["channel_id"],
        "text": text,
        "direct": direct,
        "context": {"message": said["id"]},
    }


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host. The nonce makes a repetition of the same message the same one for a while."""
    body: dict[str, Any] = {
        "content": message["text"],
        "nonce": message["id"][-25:],
        "enforce_nonce": True,
        "allowed_mentions": {"parse": []},
    }
    if message["reply_to"]:
        body["message_reference"] = {"message_id": message["context"]["message"], "fail_if_not_exists": False}
    path = f"channels/{message['conversation']}/messages"
    return {"requests": [_request(message, "POST", path, json=body, done={"id": None})]}


def _refused(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if status == _TOO_MANY:
        after = body.get("retry_after")
        return {"retry_s": min(float(after), 86_400.0) if isinstance(after, int | float) else 5}
    return (
        {"retry_s": 5}
        if status >= _SERVERS
        else {"failed": f"Discord says: {str(body.get('message') or status)[:300]}"}
    )


def _request(known: dict[str, Any], method: str, path: str, **more: Any) -> dict[str, Any]:
    agent = "DiscordBot (https://discord.com/developers, 1.0)"
    headers = {"authorization": "Bot {{secret:token}}", "user-agent": agent}
    return {"method": method, "url": f"{known['fields']['api']}/api/v10/{path}", "headers": headers, **more}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
