"""Slack in Socket Mode from end to end: the real module and host, and a fake of the service that checks its part."""

import asyncio
from pathlib import Path

import pytest

from channel_kit import install, prepared, talking, there
from loket.app import Loket
from slack_fake import APP, BOT, Slack, slack

pytestmark = pytest.mark.xdist_group("channels-slack")


async def add(system: Loket, sources: Path, service: Slack) -> None:
    await install(system, sources, "slack")
    manifest = sources / "slack" / "loket.toml"
    manifest.write_text(manifest.read_text().replace('"*.slack.com"', f'"127.0.0.1:{service.port}"'))
    await system.installed.install(sources / "slack", "local", [], "owner")
    given = {"app_token": APP, "bot_token": BOT, "api": service.rest.url}
    places = [service.rest.place, f"127.0.0.1:{service.port}"]
    await system.channels.add("slack", "main", given, places, "slack", enabled=True)
    await there(lambda: service.opened)


async def let_in(system: Loket, service: Slack) -> None:
    await service.write("hello", 0)
    await there(lambda: len(service.sent) == 1)
    await system.channels.approve(service.sent[0]["text"].split()[-1], "sender")
    await there(lambda: len(service.sent) == 2)


def test_an_app_acknowledges_and_answers(tmp_path: Path) -> None:
    """Each envelope is acknowledged; direct messages and mentions are answered, the latter in a thread."""

    async def story() -> None:
        async with slack() as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service)
            assert (await system.channels.test("slack"))["ok"] is True
            await let_in(system, service)
            await service.write("an edit", 1, subtype="message_changed")
            await service.write("a bot", 2, bot_id="B1")
            service.limited = 1
            await service.write("is 1 &lt; 2?", 3)
            await there(lambda: len(service.sent) == 3)
            assert service.sent[2] == {"channel": "D1", "text": "IS 1 &lt; 2?"}
            mention = {"type": "app_mention", "channel": "C1", "channel_type": "channel"}
            await service.write("<@U1> good morning", 4, **mention)
            await there(lambda: len(service.sent) == 4)
            thread = "1795000000.000004"
            assert service.sent[3] == {"channel": "C1", "text": "GOOD MORNING", "thread_ts": thread}
            await there(lambda: not service.open)
            assert service.wrong == []

    asyncio.run(story())


def test_an_event_that_comes_again_is_one_message(tmp_path: Path) -> None:
    """A connection that breaks before the acknowledgement brings the event again, and the agent sees it once."""

    async def story() -> None:
        async with slack() as service, talking(prepared(tmp_path / "home")) as system:
            await add(system, tmp_path / "sources", service)
            await let_in(system, service)
            service.deaf = True
            await service.write("good morning", 1)
            await there(lambda: service.opened == 2 and not service.open and len(service.sent) == 3)
            await service.push({"type": "disconnect", "reason": "refresh_requested"})
            service.open.clear()
            await there(lambda: service.opened == 3)
            assert [one["text"] for one in service.sent[2:]] == ["GOOD MORNING"]
            assert len(system.database.runs("main", 10)) == 1
            assert service.wrong == []

    asyncio.run(story())
