"""Telegram's Bot API (https://core.telegram.org/bots/api): long polling in, `sendMessage` out.

The offset of the next poll tells Telegram that everything before it was received; the host asks with it only after it
has written what came before.
"""

import json
from typing import Any

from loket_guest import operation

POLL_S = 50
_CONFLICT, _TOO_MANY, _SERVERS = 409, 429, 500
_TEXT = ("text", "caption")


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    kind = frame["kind"]
    if kind == "test":
        return {"requests": [{"method": "GET", "url": _url(frame, "getMe"), "done": {"ok": True}}]}
    if kind == "start":
        return {"requests": [_poll(frame, frame["state"].get("offset", 0))]}
    body = _object(frame.get("body", ""))
    if kind == "sent":
        return _refused(frame["status"], body)
    if kind == "response":
        return _polled(frame, body)
    return {}


def _polled(frame: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
    if body.get("ok") is not True:
        said = _refused(frame["status"], body)
        if frame["status"] == _CONFLICT:
            return {"failed": "another program reads this bot's messages: stop it, or take its webhook away"}
        return said if "failed" in said else {"retry_s": said.get("retry_s", 5)}
    updates = [one for one in body.get("result", []) if isinstance(one, dict) and isinstance(one.get("update_id"), int)]
    offset = max([frame["state"].get("offset", 0), *(one["update_id"] + 1 for one in updates)])
    messages = [found for one in updates if (found := _message(one)) is not None]
    return {"messages": messages, "state": {"offset": offset}, "requests": [_poll(frame, offset)]}


def _message(update: dict[str, Any]) -> dict[str, Any] | None:
    """A text that a person wrote; bots and everything else is passed over."""
    said = update.get("message") or {}
    sender, chat = said.get("from") or {}, said.get("chat") or {}
    text = next((said[name] for name in _TEXT if isinstance(said.get(name), str)), "")
    if not text or sender.get("is_bot", True) or "id" not in chat:
        return None
    names = (sender.get("first_name"), sender.get("last_name"))
    thread = said.get("message_thread_id") if said.get("is_topic_message") else None
    return {
        "id": f"{chat['id']}/{said['message_id']}",
        "sender": str(sender["id"]),
        "name": " ".join(name for name in names if isinstance(name, str))[:200],
        "conversation": str(chat["id"]) if thread is None else f"{chat['id']}/{thread}",
        "text": text,
        "direct": chat.get("type") == "private",
        "context": {"chat": chat["id"], "message": said["message_id"], "thread": thread},
    }


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host."""
    context = message["context"]
    body: dict[str, Any] = {"chat_id": context.get("chat", message["conversation"]), "text": message["text"]}
    if context.get("thread") is not None:
        body["message_thread_id"] = context["thread"]
    if message["reply_to"] and context.get("message") is not None:
        body["reply_parameters"] = {"message_id": context["message"], "allow_sending_without_reply": True}
    return {"requests": [{"method": "POST", "url": _url(message, "sendMessage"), "json": body, "done": {"ok": True}}]}


def _refused(status: int, body: dict[str, Any]) -> dict[str, Any]:
    """What an answer that is not `ok` means: `parameters.retry_after` says to wait, 4xx that it never works."""
    after = (body.get("parameters") or {}).get("retry_after")
    if isinstance(after, int):
        return {"retry_s": min(max(after, 0), 86_400)}
    if status == _TOO_MANY or status >= _SERVERS:
        return {"retry_s": 5}
    return {"failed": f"Telegram says: {str(body.get('description') or status)[:300]}"}


def _poll(known: dict[str, Any], offset: int) -> dict[str, Any]:
    query = f"offset={offset}&timeout={POLL_S}&allowed_updates=%5B%22message%22%5D"
    return {
        "method": "GET",
        "url": f"{_url(known, 'getUpdates')}?{query}",
        "timeout_s": POLL_S + 15,
        "tag": "poll",
        "quiet": {"ok": True, "result": []},
    }


def _url(known: dict[str, Any], method: str) -> str:
    return f"{known['fields']['api']}/bot{{{{secret:token}}}}/{method}"


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
