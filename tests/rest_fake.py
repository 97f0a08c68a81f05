"""A small HTTP server on loopback for the fakes of services: one function answers every request."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

Answer: TypeAlias = Callable[[str, str, dict[str, str], Any], tuple[int, Any, dict[str, str]]]
"""Method, path, headers (names in small letters) and body as JSON (or None) in; status, value and headers out."""


class Rest:
    """The server; `port` is there while it serves. A body that is no JSON, or is not called that, ends the test."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        answer = self._answer

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_all(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or "0"))
                headers = {name.lower(): value for name, value in self.headers.items()}
                assert not data or headers["content-type"] == "application/json", headers
                status, value, more = answer(self.command, self.path, headers, json.loads(data) if data else None)
                body = json.dumps(value).encode()
                with contextlib.suppress(OSError):  # whoever asked was switched off
                    self.send_response(status)
                    for name, text in {**more, "Content-Type": "application/json"}.items():
                        self.send_header(name, text)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            do_GET = do_POST = do_PUT = handle_all  # noqa: N815 - as the server calls them

            def log_message(self, *_args: Any) -> None:
                """Tests are quiet."""

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

        server = Quiet(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
