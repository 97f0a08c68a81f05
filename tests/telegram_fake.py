"""A fake of Telegram's Bot API: a real HTTP server on loopback that speaks what the documents say, and checks it.

It takes `getMe`, `getUpdates` (long polling; an offset forgets the updates before it) and `sendMessage`, refuses a
wrong token with 401 and a text that is empty or too long with 400, as the service does. It is no Telegram.
"""

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "123456:" + "a" * 30


class Telegram:
    """The bot's side of the service. `sent` are the messages that arrived, `polls` the offsets that were asked for."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.updates: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.polls: list[int] = []
        self.wrong: list[str] = []
        self.refusals: list[tuple[int, dict[str, Any], dict[str, str]]] = []
        """What the next calls of `sendMessage` are answered instead: status, body, headers."""
        self.stopping = False
        self.port = 0
        self._number = 1

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def write(self, text: str, *, sender: int = 42, name: str = "Ana", chat: int | None = None) -> int:
        """A person writes: directly, or in a group with the id `chat`. The update's number."""
        with self.changed:
            number = self._number
            self._number += 1
            where = {"id": chat, "type": "group"} if chat is not None else {"id": sender, "type": "private"}
            message = {
                "message_id": 1_000 + number,
                "date": 1_795_000_000,
                "chat": where,
                "from": {"id": sender, "is_bot": False, "first_name": name},
                "text": text,
            }
            self.updates.append({"update_id": number, "message": message})
            self.changed.notify_all()
        return number

    def texts(self, chat: int = 42) -> list[str]:
        """What arrived in a chat, in order."""
        with self.changed:
            return [one["text"] for one in self.sent if one["chat_id"] == chat]

    def until(self, count: int, chat: int = 42, *, within_s: float = 60.0) -> list[str]:
        """The texts of a chat, once there are so many."""
        with self.changed:
            there = self.changed.wait_for(
                lambda: sum(one["chat_id"] == chat for one in self.sent) >= count, timeout=within_s
            )
        assert there, (self.texts(chat), self.wrong)
        return self.texts(chat)

    def refuse(self, status: int, body: dict[str, Any], **headers: str) -> None:
        """Answer the next `sendMessage` so."""
        with self.changed:
            self.refusals.append((status, body, {k.replace("_", "-"): v for k, v in headers.items()}))

    # The service's side

    def answer(self, method: str, query: dict[str, str], body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        if method == "getMe":
            return 200, {"ok": True, "result": {"id": 1, "is_bot": True, "username": "loket_bot"}}, {}
        if method == "getUpdates":
            return 200, {"ok": True, "result": self._waiting(query)}, {}
        if method == "sendMessage":
            return self._taken(body)
        return 404, {"ok": False, "error_code": 404, "description": "Not Found"}, {}

    def _waiting(self, query: dict[str, str]) -> list[dict[str, Any]]:
        offset, timeout = int(query.get("offset", "0")), min(int(query.get("timeout", "0")), 50)
        with self.changed:
            self.polls.append(offset)
            self.updates = [one for one in self.updates if one["update_id"] >= offset]
            self.changed.wait_for(lambda: self.updates or self.stopping, timeout)
            return list(self.updates)

    def _taken(self, body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        with self.changed:
            if self.refusals:
                return self.refusals.pop(0)
            text = body.get("text", "")
            if not isinstance(body.get("chat_id"), int) or not 0 < len(text) <= 4_096:
                self.wrong.append(json.dumps(body))
                return 400, {"ok": False, "error_code": 400, "description": "Bad Request: message text is empty"}, {}
            self.sent.append(body)
            self.changed.notify_all()
            return 200, {"ok": True, "result": {"message_id": 5_000 + len(self.sent)}}, {}


@contextmanager
def telegram() -> Iterator[Telegram]:
    """The service on a port of its own, until the context ends."""
    service = Telegram()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._handle({})

        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            if self.headers.get("Content-Type") != "application/json":
                service.wrong.append(f"content type {self.headers.get('Content-Type')}")
            self._handle(json.loads(data))

        def _handle(self, body: dict[str, Any]) -> None:
            parts = urlsplit(self.path)
            _, bot, method = parts.path.split("/")
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            refused = {"ok": False, "error_code": 401, "description": "Unauthorized"}
            known = bot == f"bot{TOKEN}"
            status, value, headers = service.answer(method, query, body) if known else (401, refused, {})
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            with contextlib.suppress(OSError):  # whoever asked was switched off
                self.wfile.write(data)

        def log_message(self, *_args: Any) -> None:
            """Tests are quiet."""

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, *_args: Any) -> None:
            """Clients are killed on purpose."""

    server = Quiet(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield service
    finally:
        with service.changed:
            service.stopping = True
            service.changed.notify_all()
        server.shutdown()
        thread.join()
        server.server_close()
