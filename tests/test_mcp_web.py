"""Tests of servers with an address: real ones of the official library on loopback, logins, and answers that deceive."""

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from live import free_port
from loket.contracts import Failed, LoketError, Refusal
from loket.mcp import oauth, owner, web
from loket.mcp.settings import Server, read
from loket.providers.net_url import parse
from mcp_kit import HERE, TOOLS, on_loop, rig

WAIT_S = 60.0


@contextlib.contextmanager
def program(folder: Path, *words: str) -> Iterator[int]:
    """A server's process on a free port, once it answers."""
    port = free_port()
    given = [word.replace("PORT", str(port)) for word in words]
    process = subprocess.Popen(
        [sys.executable, *given], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until_open(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def _until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    import socket
    import time

    until = time.monotonic() + WAIT_S
    while time.monotonic() < until:
        assert process.poll() is None
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)
    raise AssertionError("the server did not start")


@contextlib.contextmanager
def answering(answer: Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]) -> Iterator[tuple[str, list[str]]]:
    """A web server that answers every request by a function; its address, and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            asked.append(self.path)
            answer(self, json.loads(body) if body.startswith(b"{") else {})

        def do_GET(self) -> None:
            asked.append(self.path)
            answer(self, {})

        do_DELETE = do_GET  # noqa: N815 - the name that the library asks for

        def log_message(self, *_args: Any) -> None:
            """Nothing on standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(body)


def result(handler: BaseHTTPRequestHandler, asked: dict[str, Any], value: dict[str, Any]) -> None:
    said = json.dumps({"jsonrpc": "2.0", "id": asked.get("id"), "result": value}).encode()
    send(handler, 200, said, content_type="application/json")


def older(handler: BaseHTTPRequestHandler, asked: dict[str, Any], call: Callable[[], dict[str, Any]]) -> None:
    """A server of the revision of 2025-11-25 with one tool."""
    method = asked.get("method")
    if method == "initialize":
        info = {"name": "older", "version": "1"}
        result(handler, asked, {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info})
    elif method == "tools/list":
        result(handler, asked, {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call":
        result(handler, asked, call())
    elif "id" in asked:
        said = {"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -32601, "message": "no such method"}}
        send(handler, 200, json.dumps(said).encode(), content_type="application/json")
    else:
        send(handler, 202)


# Servers of the library


@on_loop
async def test_a_server_with_an_address_answers_like_any_other(tmp_path: Path) -> None:
    """Streamable HTTP, the revision of 2026-07-28: tools, progress, changed definitions."""
    with program(tmp_path, TOOLS, "--http", "PORT") as port:
        async with rig(tmp_path) as made:
            await made.ready("tools", {"url": f"http://127.0.0.1:{port}/mcp"})
            assert made.servers.health("tools").protocol == "2026-07-28"
            assert await made.data("mcp.tools.add", a=1, b=2) == {"sum": 3}
            assert await made.data("mcp.tools.slow", seconds=1) == {"result": "done"}
            assert any("of 10" in piece for piece in made.pieces)
            await made.call("mcp.tools.become", words="Does something else.")
            async with asyncio.timeout(WAIT_S):
                while "mcp.tools.echo" in made.ids():  # noqa: ASYNC110 - the registry tells nobody
                    await asyncio.sleep(0.05)


@on_loop
async def test_a_server_of_the_older_revision_has_an_address_too(tmp_path: Path) -> None:
    """Streamable HTTP of 2025-11-25, with a header from the vault that goes to its own origin alone."""
    seen: list[str | None] = []

    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        seen.append(handler.headers.get("x-key"))
        older(handler, asked, lambda: {"content": [{"type": "text", "text": "found"}]})

    with answering(answer) as (address, _asked):
        async with rig(tmp_path) as made:
            given = {"url": f"{address}/mcp", "headers": {"X-Key": "sk-abcdefghijkl0123456789"}}
            await made.ready("older", given)
            assert made.servers.health("older").protocol == "2025-11-25"
            assert (await made.call("mcp.older.look")).value == {"text": "found"}
            assert set(seen) == {"sk-abcdefghijkl0123456789"}
            assert "sk-abc" not in json.dumps(owner.shown(made.servers, "older"))
            assert made.vault.get("mcp.older.X-Key") == "sk-abcdefghijkl0123456789"


@on_loop
async def test_the_owner_logs_in_once_and_tokens_are_renewed(tmp_path: Path) -> None:
    """OAuth from the first 401 to the renewed token: registered, PKCE, on a port of this machine, kept in the vault."""
    with program(tmp_path, str(HERE / "mcp_login_server.py"), "PORT", "2") as port:
        given = {"url": f"http://127.0.0.1:{port}/mcp"}
        async with rig(tmp_path) as made:
            await made.add("guarded", given)
            with pytest.raises(Refusal) as caught:
                await owner.tested(made.servers, "guarded")
            assert (caught.value.code, caught.value.remedy) == ("mcp.login", "loket mcp login guarded")
            await made.servers.login("guarded", opened)
            assert owner.shown(made.servers, "guarded")["logged_in"]
            await made.ready("guarded", given)
            assert await made.data("mcp.guarded.count") == {"logins": 1, "renewals": 0}
        await asyncio.sleep(2.1)
        async with rig(tmp_path) as again:
            assert await again.data("mcp.guarded.count") == {"logins": 1, "renewals": 1}
            kept = (tmp_path / "mcp.db").read_bytes()
            assert again.vault.get("mcp.guarded.tokens") is not None
            assert json.loads(str(again.vault.get("mcp.guarded.tokens")))["tokens"]["access_token"].encode() not in kept
            await owner.remove(again.servers, "guarded")
            assert list(again.vault.names()) == []


def opened(url: str) -> None:
    """What a browser does with the address of a login."""
    threading.Thread(target=lambda: urllib.request.urlopen(url, timeout=WAIT_S).read()).start()  # noqa: S310 - loopback


@on_loop
async def test_a_redirect_that_nobody_asked_for_is_no_login(tmp_path: Path) -> None:
    """The port of a login answers one path, and what comes with a wrong state is refused."""
    with program(tmp_path, str(HERE / "mcp_login_server.py"), "PORT", "60") as port:
        async with rig(tmp_path) as made:
            await made.add("guarded", {"url": f"http://127.0.0.1:{port}/mcp"})

            def forged(url: str) -> None:
                from urllib.parse import parse_qs, urlsplit

                back = parse_qs(urlsplit(url).query)["redirect_uri"][0]
                opened(f"{back}?code=abc&state=wrong")

            with pytest.raises(LoketError):
                await made.servers.login("guarded", forged)
            assert not oauth.Held(made.vault, read("guarded", {"url": "https://x.example"})).known


# Answers that deceive


@pytest.mark.parametrize(
    "inward", ["http://169.254.169.254/latest", "http://10.0.0.1/x", "https://169.254.169.254/", "https://192.168.1.1/"]
)
@on_loop
async def test_metadata_that_points_inward_is_not_fetched(tmp_path: Path, inward: str) -> None:
    """A server that wants a login cannot have an address of this network asked."""

    def answer(handler: BaseHTTPRequestHandler, _asked: dict[str, Any]) -> None:
        send(handler, 401, www_authenticate=f'Bearer resource_metadata="{inward}"')

    with answering(answer) as (address, _paths):
        async with rig(tmp_path) as made:
            await made.add("evil", {"url": f"{address}/mcp"})
            with pytest.raises(Refusal) as caught:
                await owner.tested(made.servers, "evil")
            assert caught.value.code == "mcp.login"
            with pytest.raises(Refusal) as caught:
                await made.servers.login("evil", opened)
            assert caught.value.code == "mcp.address"


@pytest.mark.parametrize("way", ["large", "encoded", "redirect", "html", "closed"])
@on_loop
async def test_an_answer_that_is_no_answer_fails_the_call_alone(tmp_path: Path, way: str) -> None:
    """Bodies without end, encodings nobody asked for, redirects elsewhere and pages are failures with a reason."""
    calls = [0]

    def answer(handler: BaseHTTPRequestHandler, asked: dict[str, Any]) -> None:
        if asked.get("method") != "tools/call":
            older(handler, asked, dict)
            return
        calls[0] += 1
        if way == "large":
            send(handler, 200, b" " * (web.LARGEST + 10), content_type="application/json")
        elif way == "encoded":
            send(handler, 200, b"x", content_type="application/json", content_encoding="gzip")
        elif way == "redirect":
            send(handler, 307, location="https://elsewhere.example/mcp")
        elif way == "html":
            send(handler, 200, b"<html>", content_type="text/html")
        else:
            handler.connection.close()

    with answering(answer) as (address, _paths):
        async with rig(tmp_path) as made:
            await made.ready("web", {"url": f"{address}/mcp"})
            with pytest.raises(Failed):
                await made.call("mcp.web.look")
            assert calls[0] == 1


@pytest.mark.parametrize(
    ("url", "found", "allowed"),
    [
        ("https://a.example/mcp", ["203.0.114.9"], True),
        ("https://a.example/mcp", ["127.0.0.1"], False),
        ("https://a.example/mcp", ["203.0.114.9", "10.0.0.1"], False),
        ("https://a.example/mcp", ["::ffff:10.0.0.1"], False),
        ("https://other.example/meta", ["10.0.0.1"], False),
        ("https://a.example/mcp", ["169.254.169.254"], False),
        ("https://a.example/mcp", ["100.100.100.200"], False),
        ("http://a.example/mcp", ["203.0.114.9"], False),
        ("http://127.0.0.1:9/x", ["127.0.0.1"], False),
    ],
)
def test_a_server_elsewhere_reaches_public_addresses_over_https(url: str, found: list[str], allowed: bool) -> None:
    """Every address of a name counts, and so does every name that the server gives."""
    assert _reached(read("a", {"url": "https://a.example/mcp"}), url, found) is allowed


@pytest.mark.parametrize(
    ("url", "found", "allowed"),
    [
        ("https://a.example/mcp", ["10.0.0.1"], True),
        ("https://a.example/mcp", ["169.254.169.254"], False),
        ("https://other.example/mcp", ["10.0.0.1"], False),
    ],
)
def test_a_private_address_is_the_servers_own_alone(url: str, found: list[str], allowed: bool) -> None:
    """What the owner allowed a server's host it does not pass on to other names."""
    assert _reached(read("a", {"url": "https://a.example/mcp", "private": True}), url, found) is allowed


def test_a_server_on_this_machine_may_name_places_on_it() -> None:
    """Its authorization server can be another port, and not another machine of the network."""
    here = read("a", {"url": "http://127.0.0.1:8000/mcp"})
    assert _reached(here, "http://127.0.0.1:9000/x", ["127.0.0.1"])
    assert _reached(here, "http://localhost:9000/x", ["127.0.0.1"])
    assert not _reached(here, "http://192.168.1.1/x", ["192.168.1.1"])
    assert not _reached(here, "https://name.example/x", ["192.168.1.1"])


def _reached(server: Server, url: str, found: list[str]) -> bool:
    async def resolved(_host: str, _port: int) -> Sequence[str]:
        return found

    try:
        return asyncio.run(web.addresses(server, parse(url), resolved)) == found
    except (Refusal, Failed):
        return False
