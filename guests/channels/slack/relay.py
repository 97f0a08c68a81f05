"""Slack in Socket Mode (https://docs.slack.dev/apis/events-api/using-socket-mode) and `chat.postMessage`.

Each envelope is acknowledged; the host sends the acknowledgement after it has written what was in it.
"""

import json
import re
from typing import Any

from loket_guest import operation

_MENTION = re.compile(r"<@[A-Z0-9]+>\s*")
_TOO_MANY, _SERVERS = 429, 500
_LATER = ("ratelimited", "rate_limited", "service_unavailable", "internal_error", "fatal_error", "request_timeout")


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    kind = frame["kind"]
    if kind == "test":
        bot = _request(frame, "auth.test", "bot_token", done={"ok": True})
        return {"requests": [bot, _request(frame, "apps.connections.open", "app_token", done={"ok": True})]}
    if kind == "start":
        return {"requests": [_request(frame, "apps.connections.open", "app_token")]}
    if kind == "response":
        return _opened(frame["status"], _object(frame["body"]))
    if kind == "text":
        return _envelope(_object(frame["text"]))
    if kind == "sent":
        return _refused(frame["status"], _object(frame["body"]))
    return {}


def _opened(status: int, body: dict[str, Any]) -> dict[str, Any]:
    if body.get("ok") is True and isinstance(body.get("url"), str):
        return {"connect": body["url"]}
    return _refused(status, body)


def _envelope(envelope: dict[str, Any]) -> dict[str, Any]:
    if envelope.get("type") == "disconnect":
        return {"reconnect": True}
    if "envelope_id" not in envelope:
        return {}
    event = (envelope.get("payload") or {}).get("event") or {}
    message = _message(event) if envelope.get("type") == "events_api" else None
    acknowledged = json.dumps({"envelope_id": envelope["envelope_id"]})
    return {"frames": [acknowledged], "messages": [message] if message else []}


def _message(event: dict[str, Any]) -> dict[str, Any] | None:
    """What a person wrote to the app: directly, or by mentioning it."""
    direct = event.get("type") == "message" and event.get("channel_type") == "im"
    if not direct and event.get("type") != "app_mention":
        return None
    if event.get("bot_id") or event.get("subtype") or not event.get("user") or not event.get("text"):
        return None
    channel, thread = event["channel"], event.get("thread_ts")
    text = _MENTION.sub("", event["text"]).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return {
        "id": f"{channel}/{event['ts']}",
        "sender": event["user"],
        "conversation": channel if direct and not thread else f"{channel}/{thread or event['ts']}",
        "text": text,
        "direct": direct,
        "context": {"channel": channel, "thread": thread if direct else thread or event["ts"]},
    }


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host."""
    context = message["context"]
    text = message["text"].replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    body = {"channel": context.get("channel", message["conversation"]), "text": text}
    if context.get("thread"):
        body["thread_ts"] = context["thread"]
    return {"requests": [_request(message, "chat.postMessage", "bot_token", json=body, done={"ok": True})]}


def _refused(status: int, body: dict[str, Any]) -> dict[str, Any]:
    error = str(body.get("error") or status)
    if status == _TOO_MANY or status >= _SERVERS or error in _LATER:
        return {"retry_s": 5}
    return {"failed": f"Slack says: {error[:300]}"}


def _request(known: dict[str, Any], method: str, token: str, **more: Any) -> dict[str, Any]:
    headers = {"authorization": f"Bearer {{{{secret:{token}}}}}"}
    return {"method": "POST", "url": f"{known['fields']['api']}/api/{method}", "headers": headers, **more}


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
