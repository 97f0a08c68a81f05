"""Matrix from end to end: the real module and host, and a fake of a homeserver that checks what it gets."""

import asyncio
from pathlib import Path

import pytest

from channel_kit import install, prepared, talking, until
from loket.app import Loket
from matrix_fake import TOKEN, Matrix, matrix

pytestmark = pytest.mark.xdist_group("channels-matrix")


async def add(system: Loket, sources: Path, service: Matrix) -> None:
    await install(system, sources, "matrix")
    given = {"homeserver": service.rest.url, "token": TOKEN}
    await system.channels.add("matrix", "main", given, [service.rest.place], "matrix", enabled=True)
    await until(lambda: service.syncs and service.syncs[-1] is not None)


def test_a_room_is_joined_read_and_answered(tmp_path: Path) -> None:
    """History is not read; a stranger gets a code where nobody else reads; quotes and one's own words are left out."""

    async def story() -> None:
        with matrix() as service:
            service.write("before it was switched on")
            async with talking(prepared(tmp_path / "home")) as system:
                await add(system, tmp_path / "sources", service)
                assert (await system.channels.test("matrix"))["ok"] is True
                service.invite("!a:example.org")
                await until(lambda: service.joined)
                service.write("hello", room="!group:example.org")
                service.write("hello")
                await until(lambda: len(service.sent) == 1)
                assert service.sent[0]["room"] == "!a:example.org"
                await system.channels.approve(service.sent[0]["body"].split()[-1], "sender")
                await until(lambda: len(service.sent) == 2)
                service.limited = 1
                service.write("what I said myself", sender="@loket:example.org")
                relation = {"m.in_reply_to": {"event_id": "$x"}}
                service.write("> <@loket> before\n\ngood morning", **{"m.relates_to": relation})
                await until(lambda: len(service.sent) == 3)
                assert service.sent[2]["body"] == "GOOD MORNING"
                assert service.sent[2]["m.relates_to"]["m.in_reply_to"]["event_id"].startswith("$e")
                assert len(system.database.runs("main", 10)) == 1
                assert service.joined == ["!a:example.org"]
                assert service.wrong == []

    asyncio.run(story())


def test_a_quiet_sync_costs_no_run(tmp_path: Path) -> None:
    """A sync that brings a position and nothing else is asked again as it is."""

    async def story() -> None:
        with matrix() as service:
            async with talking(prepared(tmp_path / "home")) as system:
                await add(system, tmp_path / "sources", service)
                with service.changed:
                    service.stopping = True  # it answers at once from now on
                    service.changed.notify_all()
                before, syncs = len(system.database.runs("matrix", 100)), len(service.syncs)
                await until(lambda: len(service.syncs) >= syncs + 3)
                assert len(system.database.runs("matrix", 100)) == before

    asyncio.run(story())
