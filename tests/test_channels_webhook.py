"""The wire `webhook`: signed requests, answered in the response or by a callback; the real module."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from channel_kit import install, prepared, talking, until
from loket.app import Loket
from loket.channels.frames import Response
from loket.channels.hooks import sign
from loket.contracts import Refusal

SECRET = "0123456789abcdef0123456789abcdef"

pytestmark = pytest.mark.xdist_group("channels-webhook")


async def ask(system: Loket, *, secret: str = SECRET, late_s: int = 0, **said: str) -> Response:
    """A program's request, signed."""
    body = json.dumps({"sender": "robot", "conversation": "shop", **said}).encode()
    headers = {"loket-signature": sign(secret, body, at=int(time.time()) - late_s)}
    answer: Response = await system.channels.hook("webhook", headers, {}, body)
    return answer


async def add(system: Loket, sources: Path, *private: str, **fields: str) -> None:
    await install(system, sources, "webhook")
    given = {"secret": SECRET, **fields}
    await system.channels.add("webhook", "main", given, private, "webhook", enabled=True)


async def let_in(system: Loket) -> None:
    (code,) = await until(system.channels.codes)
    await system.channels.approve(code.code, "sender")


@contextmanager
def callbacks() -> Iterator[tuple[str, list[tuple[str | None, dict[str, Any]]]]]:
    """A program that is called back: where, and what it was told with which authorization."""
    told: list[tuple[str | None, dict[str, Any]]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told.append((self.headers.get("Authorization"), body))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_args: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", told
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_program_gets_its_answer_in_the_response(tmp_path: Path) -> None:
    """Who is let in waits for the answer there; the same request again is the same message, and no second run."""

    async def story() -> None:
        async with talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources")
            first = asyncio.create_task(ask(system, id="1", text="who are you?"))
            await let_in(system)
            assert "loket channels approve" in json.loads((await first).body)["text"]
            answer = await ask(system, id="2", text="good morning")
            assert (answer.status, json.loads(answer.body)["text"]) == (200, "GOOD MORNING")
            again = await ask(system, id="2", text="good morning")
            assert (again.status, json.loads(again.body)) == (202, {"id": "2", "accepted": True})
            assert len(system.database.runs("main", 10)) == 1
            assert (await ask(system, id="3")).status == 400

    asyncio.run(story())


def test_only_a_fresh_signature_of_the_whole_body_counts(tmp_path: Path) -> None:
    """A wrong secret, an old signature and a changed body are refused, and no translation is run for them."""

    async def story() -> None:
        async with talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources")
            with pytest.raises(Refusal, match="no signature"):
                await ask(system, secret="another-secret-another", id="1", text="x")
            with pytest.raises(Refusal, match="an old one"):
                await ask(system, late_s=301, id="1", text="x")
            signed = sign(SECRET, b"{}", at=int(time.time()))
            for headers in ({}, {"loket-signature": signed}, {"loket-signature": sign(SECRET, b"{} ")}):
                with pytest.raises(Refusal):
                    await system.channels.hook("webhook", headers, {}, b"{} ")
            assert system.database.runs("webhook", 10) == []

    asyncio.run(story())


def test_with_a_callback_nobody_waits(tmp_path: Path) -> None:
    """The request is accepted at once; the answer goes to the owner's address, with the token that is set for it."""

    async def story() -> None:
        async with talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", place, callback=f"http://{place}/answers", token="t0ken")
            assert (await ask(system, id="1", text="hello")).status == 202
            await let_in(system)
            assert (await ask(system, id="2", text="good morning")).status == 202
            await until(lambda: len(told) == 3)
            assert told[2][0] == "Bearer t0ken"
            assert (told[2][1]["text"], told[2][1]["reply_to"]) == ("GOOD MORNING", "2")

    with callbacks() as (place, told):
        asyncio.run(story())
