"""Discord from end to end: the real module and host, and a fake of gateway and REST that checks what it gets."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from channel_kit import install, prepared, talking, there, until
from discord_fake import TOKEN, Discord, discord
from loket.app import Loket

pytestmark = pytest.mark.xdist_group("channels-discord")


async def add(system: Loket, sources: Path, service: Discord, *, token: str = TOKEN, **fields: str) -> None:
    await install(system, sources, "discord")
    given = {"token": token, "api": service.rest.url, **fields}
    places = [service.rest.place, f"127.0.0.1:{service.port}"]
    manifest = sources / "discord" / "loket.toml"
    # The gateway of the fake has a port of its own, as Discord's has a host of its own.
    text = manifest.read_text().replace('"*.discord.gg"', f'"127.0.0.1:{service.port}"')
    manifest.write_text(text)
    await system.installed.install(sources / "discord", "local", [], "owner")
    await system.channels.add("discord", "main", given, places, "discord", enabled=True)


async def let_in(system: Loket, service: Discord) -> None:
    await service.write("hello", 0)
    await there(lambda: len(service.sent) == 1)
    await system.channels.approve(service.sent[0]["content"].split()[-1], "sender")
    await there(lambda: len(service.sent) == 2)


def test_a_bot_identifies_listens_and_answers(tmp_path: Path) -> None:
    """The token is in the frame that the service gets and nowhere that the module sees; the answer is a reply."""

    async def story() -> None:
        async with discord() as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service)
            await there(lambda: service.identified)
            assert service.identified[0]["intents"] == 1 << 12
            assert (await system.channels.test("discord"))["ok"] is True
            await let_in(system, service)
            await service.write("I am a bot", 1, bot=True)
            await service.write("in a server", 2, guild_id="5")
            await service.write("good morning", 3)
            await there(lambda: len(service.sent) == 3)
            assert service.sent[2]["content"] == "GOOD MORNING"
            assert service.sent[2]["message_reference"]["message_id"] == "10003"
            assert service.sent[2]["allowed_mentions"] == {"parse": []}
            assert len(system.database.runs("main", 10)) == 1
            runs = system.database.runs("discord", 100)
            said = [row.value.decode() for run in runs for row in system.journal.rows(run["id"])]
            assert not any(TOKEN in one for one in said)
            assert service.wrong == []

    asyncio.run(story())


def test_a_broken_connection_is_resumed_and_nothing_is_lost(tmp_path: Path) -> None:
    """What was written while nobody listened comes with the resumption, and is answered once."""

    async def story() -> None:
        async with discord() as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service)
            await there(lambda: service.identified)
            await let_in(system, service)
            broken, service.connection = service.connection, None
            assert broken is not None
            broken.transport.abort()
            await service.write("good morning", 1)
            await there(lambda: len(service.sent) == 3)
            assert (len(service.identified), len(service.resumed)) == (1, 1)
            assert service.resumed[0]["session_id"] == "s1"
            assert service.sent[2]["content"] == "GOOD MORNING"
            assert service.wrong == []

    asyncio.run(story())


def test_heartbeats_cost_no_run_and_a_silent_gateway_is_left(tmp_path: Path) -> None:
    """The host beats by itself with the number of the last event; without an answer it connects anew, and resumes."""

    async def story() -> None:
        async with discord(beat_ms=5_000) as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service)
            await there(lambda: service.identified)
            await until(lambda: len(system.database.runs("discord", 100)) >= 5)
            before = len(system.database.runs("discord", 100))
            await there(lambda: service.beats)
            assert service.beats[0] == 1
            assert len(system.database.runs("discord", 100)) == before
            service.silent = True
            await there(lambda: service.resumed)

    asyncio.run(story())


def test_a_wrong_token_is_said_as_what_it_is(tmp_path: Path) -> None:
    """The health and the test say that the service does not accept it."""

    async def story() -> None:
        async with discord() as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service, token="x" * 30)

            def error() -> Any:
                return system.channels.card(system.channels.channel("discord"))["health"]["error"]

            assert (await until(error))["message"] == "Discord does not accept the token"
            assert (await system.channels.test("discord"))["ok"] is False

    asyncio.run(story())
