"""A fake of a Matrix homeserver: the calls of the client-server interface that a bot needs, on loopback.

`sync` answers from a position in one list of events, a summary of members with the first of a room; `send` knows its
transactions, so the same id is the same event. Violations stand in `wrong`. It is no homeserver.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from rest_fake import Rest

TOKEN = "syt_abcdefghijklmnop"
ME = "@loket:example.org"


class Matrix:
    """The homeserver's side. `sent` are the events that arrived, `syncs` the positions that were asked for."""

    def __init__(self) -> None:
        self.rest = Rest(self.answer)
        self.sent: list[dict[str, Any]] = []
        self.syncs: list[str | None] = []
        self.joined: list[str] = []
        self.wrong: list[str] = []
        self.changed = threading.Condition()
        self.stopping = False
        self.limited = 0
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._invites: list[str] = []
        self._transactions: dict[str, str] = {}

    def write(self, text: str, *, room: str = "!a:example.org", sender: str = "@ana:example.org", **more: Any) -> None:
        """Somebody writes into a room."""
        with self.changed:
            content = {"msgtype": "m.text", "body": text, **more}
            identity = f"$e{len(self._events)}"
            event = {"type": "m.room.message", "event_id": identity, "sender": sender, "content": content}
            self._events.append((room, event))
            self.changed.notify_all()

    def invite(self, room: str) -> None:
        """Somebody invites the bot."""
        with self.changed:
            self._invites.append(room)
            self.changed.notify_all()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        if headers.get("authorization") != f"Bearer {TOKEN}":
            return 401, {"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}, {}
        parts = urlsplit(path)
        words = [unquote(word) for word in parts.path.split("/")[1:]]
        if words[:3] != ["_matrix", "client", "v3"]:
            return 404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}, {}
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if method == "GET" and words[3:] in (["account", "whoami"], ["sync"]):
            return 200, self._sync(query) if words[3] == "sync" else {"user_id": ME}, {}
        if method == "POST" and words[3] == "rooms" and words[5] == "join":
            self.joined.append(words[4])
            return 200, {"room_id": words[4]}, {}
        if method == "PUT" and words[3] == "rooms" and words[5:7] == ["send", "m.room.message"]:
            return self._put(words[4], words[7], body)
        return 404, {"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}, {}

    def _sync(self, query: dict[str, str]) -> dict[str, Any]:
        json.loads(query["filter"])
        since = int(query["since"].removeprefix("s")) if "since" in query else None
        with self.changed:
            self.syncs.append(query.get("since"))
            if since is not None:
                self.changed.wait_for(
                    lambda: len(self._events) > since or self._invites or self.stopping, int(query["timeout"]) / 1000
                )
            found: dict[str, Any] = {"next_batch": f"s{len(self._events)}"}
            rooms: dict[str, Any] = {}
            for room, event in self._events[since or 0 :]:
                summary = {"m.joined_member_count": 9 if room.startswith("!group") else 2}
                rooms.setdefault(room, {"summary": summary, "timeline": {"events": []}})["timeline"]["events"].append(
                    event
                )
            invites, self._invites = self._invites, []
            if rooms or invites:
                found["rooms"] = {"join": rooms, "invite": {room: {} for room in invites}}
            return found

    def _put(self, room: str, transaction: str, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        with self.changed:
            if self.limited:
                self.limited -= 1
                return 429, {"errcode": "M_LIMIT_EXCEEDED", "error": "Too many", "retry_after_ms": 200}, {}
            if not isinstance(body.get("body"), str) or body.get("msgtype") not in ("m.text", "m.notice"):
                self.wrong.append(json.dumps(body))
            if transaction not in self._transactions:
                self._transactions[transaction] = f"$sent{len(self.sent)}"
                self.sent.append({"room": room, **body})
            return 200, {"event_id": self._transactions[transaction]}, {}


@contextmanager
def matrix() -> Iterator[Matrix]:
    """The homeserver, until the context ends."""
    service = Matrix()
    with service.rest.serving():
        try:
            yield service
        finally:
            with service.changed:
                service.stopping = True
                service.changed.notify_all()
