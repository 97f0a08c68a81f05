"""`kill -9` at each step of a message: real processes on one home, and a fake Telegram that outlives them all."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from channel_kit import install, prepared, talking, until
from loket.home import Home
from telegram_fake import TOKEN, Telegram, telegram

POINTS = ("translated", "received", "accepted", "followed", "answered", "sent")
WAIT_S = 90.0

pytestmark = pytest.mark.xdist_group("channels-telegram")


def test_a_message_is_answered_once_wherever_the_process_is_killed(tmp_path: Path) -> None:
    """Each message becomes exactly one run, each answer arrives; only one whose arrival nobody wrote comes twice."""
    with telegram() as service:
        home = prepared(tmp_path / "home")
        asyncio.run(_paired(home, tmp_path / "sources", service))
        for point in POINTS:
            _killed(home, point, service)
        asyncio.run(_finished(home))
        texts = Counter(service.texts()[2:])
    assert texts.keys() == {point.upper() for point in POINTS}
    assert sorted(texts.values()) == [1] * (len(POINTS) - 1) + [2], "the one that was sent when it was killed"
    assert service.wrong == []


async def _paired(home: Home, sources: Path, service: Telegram) -> None:
    async with talking(home) as system:
        await install(system, sources, "telegram")
        fields = {"token": TOKEN, "api": service.url}
        await system.channels.add("telegram", "main", fields, [service.place], "telegram", enabled=True)
        service.write("hello")
        code = (await asyncio.to_thread(service.until, 1))[0].split()[-1]
        await system.channels.approve(code, "sender")
        await until(lambda: system.channels.store.counts("telegram")["queued"] == 0)


async def _finished(home: Home) -> None:
    """What is left is done without a word of anybody; there is one run for each message."""
    async with talking(home) as system:
        nothing = {"queued": 0, "failed": 0, "unanswered": 0, "reason": None}
        await until(lambda: system.channels.store.counts("telegram") == nothing)
        runs = system.database.runs("main", 100)
        assert len(runs) == len(POINTS)
        assert {run["status"] for run in runs} == {"done"}


def _started(home: Home, point: str) -> "subprocess.Popen[str]":
    driver = Path(__file__).with_name("channel_driver.py")
    words = [sys.executable, str(driver), str(home.root), point]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _killed(home: Home, point: str, service: Telegram) -> None:
    """A process that takes up a message and dies at a point of its way."""
    service.write(point)
    process = _started(home, point)
    said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == -9, said
