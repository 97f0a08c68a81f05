"""Sealed agents that make exactly the calls that a message lists (the guest `puppet`), and pages for them to read."""

import json
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from guests_fixture import GUESTS, built_guest
from loket.app import Loket
from loket.contracts import Grant

_ASKED = ("plan.run", "brain.forget", "fs.list")
"""What they ask for beside what the puppet's own manifest does."""


async def install(
    system: Loket,
    sources: Path,
    name: str,
    constraints: Mapping[str, Mapping[str, Sequence[str]]],
    without: Sequence[str] = (),
) -> None:
    """The puppet under a name, with all that it asks for but `without`, some of it within constraints."""
    made = sources / name
    made.mkdir(parents=True)
    manifest = (GUESTS / "puppet" / "loket.toml").read_text().replace('id = "puppet"', f'id = "{name}"')
    extra = [one for one in _ASKED if f'"{one}"' not in manifest]
    more = "".join(f'[[capability]]\nname = "{one}"\nreason = "a test asks for it"\n\n' for one in extra)
    text = manifest.replace("[[operation]]", f"{more}[[operation]]", 1)
    (made / "loket.toml").write_text(text)
    shutil.copy(built_guest("puppet"), made / "module.wasm")
    asked = [line.split('"')[1] for line in text.splitlines() if line.startswith("name = ") and "." in line]
    plain = [one for one in asked if one not in (*without, *constraints)]
    await system.installed.install(made, "local", plain, "owner")
    for capability, kept in constraints.items():
        system.grants.allow(Grant("local", name, capability, dict(kept), "owner", system.now()))


def steps(*calls: tuple[str, Mapping[str, Any]]) -> str:
    """The message that makes a puppet do these calls."""
    return json.dumps([{"call": name, "args": args} for name, args in calls])


@contextmanager
def pages(texts: Mapping[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A site on loopback with a text at each path: its address, and the requests that it got, with their headers."""
    seen: list[str] = []

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path}\n{self.headers}")
            body = texts[self.path.partition("?")[0]].encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
