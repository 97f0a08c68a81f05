"""A channel of somebody's own: made by `loket new channel`, built by `loket build`, and a message through it."""

import asyncio
import threading
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from channel_kit import prepared, talking, until
from guests_fixture import built
from live import loket
from loket.packages.scaffold import new_channel
from rest_fake import Rest


class Chat:
    """The small chat service that the template speaks to."""

    def __init__(self) -> None:
        self.rest = Rest(self.answer)
        self.sent: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._said: list[dict[str, Any]] = []

    def write(self, text: str) -> None:
        with self._changed:
            self._said.append({"number": len(self._said) + 1, "from": "ana", "room": "kitchen", "text": text})
            self._changed.notify_all()

    def answer(self, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any, dict[str, str]]:
        if headers.get("authorization") != "Bearer correct-horse":
            return 401, {}, {}
        if method == "POST":
            self.sent.append(body)
            return 201, {}, {}
        query = parse_qs(urlsplit(path).query)
        after = int(query["after"][0])
        with self._changed:
            self._changed.wait_for(lambda: len(self._said) > after, min(int(query["wait"][0]), 1))
            return 200, {"messages": self._said[after:]}, {}


def test_a_channel_from_the_template_relays(tmp_path: Path) -> None:
    """As the template is, it is built, installed, added and spoken through."""
    made = new_channel("office-chat", tmp_path)
    wasm = made / "module.wasm"
    wasm.hardlink_to(built(_kept(made)))
    chat = Chat()

    async def story() -> None:
        async with talking(prepared(tmp_path / "home")) as system:
            await system.installed.install(made, "local", [], "owner")
            given = {"server": chat.rest.url, "token": "correct-horse"}
            await system.channels.add("office-chat", "main", given, [chat.rest.place], "office-chat", enabled=True)
            assert (await system.channels.test("office-chat"))["ok"] is True
            chat.write("hello")
            await until(lambda: len(chat.sent) == 1)
            await system.channels.approve(chat.sent[0]["text"].split()[-1], "sender")
            await until(lambda: len(chat.sent) == 2)
            chat.write("good morning")
            await until(lambda: len(chat.sent) == 3)
            assert (chat.sent[2]["text"], chat.sent[2]["room"]) == ("GOOD MORNING", "kitchen")

    with chat.rest.serving():
        asyncio.run(story())


def _kept(made: Path) -> Path:
    """The same sources in a folder of the checkout, where what is built is kept for the next time."""
    from guests_fixture import ROOT

    folder = ROOT / "build" / "template-channel"
    folder.mkdir(parents=True, exist_ok=True)
    for source in made.iterdir():
        if source.suffix in (".py", ".toml"):
            (folder / source.name).write_bytes(source.read_bytes())
    return folder


def test_the_command_makes_the_folder_and_says_what_comes_next(tmp_path: Path) -> None:
    """The name stands in its files; a name that none can be is refused with an example."""
    said = loket(tmp_path / "home", "new", "channel", "office-chat", "--directory", str(tmp_path))
    assert "loket channels add office-chat" in said
    assert 'id = "office-chat"' in (tmp_path / "office-chat" / "loket.toml").read_text()
    assert "for example: loket new channel weather" in loket(tmp_path / "home", "new", "channel", "Ä", code=2)
