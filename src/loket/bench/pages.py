"""A web server on loopback for benchmarks: what it answers is a function of the request."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

Page: TypeAlias = Callable[[str, Mapping[str, str]], bytes]
"""The text of a path, given the headers of the request; empty where there is none."""


@contextlib.contextmanager
def serving_pages(page: Page) -> Iterator[int]:
    """Serve until the context ends; the port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            body = page(self.path, dict(self.headers))
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
