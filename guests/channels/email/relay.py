"""Mails: a thread is a conversation (RFC 5322, 3.6.4), and an answer is a reply in it.

The host reads the mailbox and sends; here a mail becomes a message, without what it quotes.
"""

import hashlib
import re
from typing import Any

from loket_guest import operation

_QUOTED = re.compile(r"^(>.*|On .{5,200} wrote:|Am .{5,200} schrieb .*:|-----Original Message-----)$")

_LONGEST_ID = 200


@operation
def inbound(frame: dict[str, Any]) -> dict[str, Any]:
    """Translate a frame of the host."""
    if frame["kind"] != "mail":
        return {}
    mail = frame["mail"]
    first = next((one for one in (*mail["references"], mail["in_reply_to"], mail["id"]) if one), mail["subject"])
    text = _own_words(mail["text"])
    subject = mail["subject"]
    fresh = bool(subject) and not re.match(r"(?i)(re|aw|sv|antw)\s*:", subject)
    return {
        "messages": [
            {
                "id": _short(mail["id"] or f"{mail['from']} {mail['date']} {mail['text']}"),
                "sender": mail["from"],
                "name": mail["name"],
                "conversation": f"{mail['from'][:120]}/{_short(first)}",
                "text": f"{subject}\n\n{text}".strip() if fresh else text,
                "context": {
                    "to": mail["from"],
                    "subject": subject[:300],
                    "id": mail["id"],
                    "references": [one for one in mail["references"] if len(one) < _LONGEST_ID][-10:],
                },
            }
        ]
    }


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _own_words(text: str) -> str:
    """The text up to what it quotes at its end."""
    lines = text.replace("\r\n", "\n").split("\n")
    kept: list[str] = []
    for line in lines:
        if _QUOTED.match(line.strip()) and not line.startswith(">"):
            break
        if not line.startswith(">"):
            kept.append(line)
    return "\n".join(kept).strip()


@operation
def outbound(message: dict[str, Any]) -> dict[str, Any]:
    """Translate a message of the host."""
    context = message["context"]
    subject = context.get("subject") or "Message"
    reply = subject if re.match(r"(?i)re\s*:", subject) else f"Re: {subject}"
    mail = {"to": context["to"], "subject": reply, "text": message["text"], "id": message["id"]}
    if message["reply_to"] and context.get("id"):
        mail |= {"in_reply_to": context["id"], "references": context.get("references", [])}
    return {"mail": mail}
