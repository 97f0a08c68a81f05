"""Power losses: a system on a disk that remembers what was synced, and the homes that could be left on it."""

import asyncio
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from loket.app import running
from loket.bench.durability_check import Found, examine
from loket.bench.durability_work import Ledger, SystemDoor, furnish, scripted, talk
from loket.bench.place import Place
from loket.home import Home
from loket.testing.disk import PowerLoss
from loket.testing.model_server import ModelServer

_MOST_S = 0.6
"""Seconds of work, at the most, before the power goes."""
_A_HOME = 20
"""Power losses in a row on one home; then it is examined, and another one begins."""
_CLOSED = 0.3
"""Orderly ends for each power loss, beside them: a system that is closed in mid-work."""


class Disk(PowerLoss):
    """A disk of a whole home: all its databases lose the power at the same moment."""

    def __init__(self, name: str, home: Home) -> None:
        super().__init__(name)
        self._gate = threading.RLock()
        for path in (*home.root.glob("*.db*"), *home.brains.glob("*.db*")):
            if not path.name.endswith("-shm"):
                self.wrote(str(path), 0, path.read_bytes())
                self.synced(str(path))

    def wrote(self, path: str, offset: int, data: bytes | None) -> None:
        with self._gate:
            super().wrote(path, offset, data)

    def synced(self, path: str) -> None:
        with self._gate:
            super().synced(path)

    def cut(self, source: Home, target: Home, seed: int, ledger: Ledger) -> None:
        """Take the power: what the ledger has heard stands, and `target` becomes what the disk could hold.

        Files that are no databases are taken as they are: a file system may have kept what nobody asked it to sync.
        """
        with self._gate:
            ledger.frozen = True
            self.crash(source.root, target.root, seed)
            self.crash(source.brains, target.brains, seed + 1)
            _copy(source.root, target.root)


def _copy(source: Path, target: Path) -> None:
    """Copy the files of a home that are not there yet, again until nothing was renamed meanwhile."""
    while True:
        before = _tree(source / "files")
        shutil.rmtree(target / "files", ignore_errors=True)
        for folder, _folders, names in os.walk(source):
            for name in names:
                _copy_one(Path(folder) / name, target / Path(folder).relative_to(source) / name)
        if _tree(source / "files") == before:
            return


def _copy_one(source: Path, target: Path) -> None:
    if target.exists() or source.name.endswith("-shm") or (source.suffix in (".db", ".db-wal")):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copy2(source, target)
    except FileNotFoundError:
        return  # it was renamed; the copy is made again


def _tree(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


async def losses(place: Place, count: int, seed: int, progress: Callable[[int], None]) -> list[Found]:
    """Take the power so many times in mid-work, over several homes, and examine each after the last time."""
    chance = random.Random(f"{seed}/losses")  # noqa: S311 - a schedule that its seed repeats
    found = []
    with ModelServer(scripted, models=("scripted",)) as model:
        for first in range(0, count, _A_HOME):
            home, ledger = place.home(f"power-{first}"), Ledger(f"{seed}/losses/{first}")
            await furnish(home, model.url)
            for number in range(first, min(first + _A_HOME, count)):
                while chance.random() < _CLOSED:
                    await _closed(home, ledger, chance.uniform(0.0, _MOST_S))
                home = await _loss(place, home, ledger, number, chance)
                progress(number + 1)
            await _finish(home, ledger)
            found.append(await examine(home, ledger))
    return found


async def _closed(home: Home, ledger: Ledger, after_s: float) -> None:
    """Work until the system is closed, and go on sending while it closes."""
    async with running(home) as system:
        door = SystemDoor(system)
        talking = asyncio.create_task(talk(ledger, door, more=True))
        await asyncio.sleep(after_s)
        door.closing = True
    await talking


async def _loss(place: Place, home: Home, ledger: Ledger, number: int, chance: random.Random) -> Home:
    """Work until the power goes; the home that is left. The one before it is removed."""
    after = place.home(f"after-{number}")
    after.prepare()
    disk = Disk(f"power-{number}-{chance.getrandbits(32)}", home)
    after_s, seed = chance.uniform(0.0, _MOST_S), chance.getrandbits(32)
    async with running(home, vfs=disk.name) as system:
        door = SystemDoor(system)
        talking = asyncio.create_task(talk(ledger, door, more=True))
        await asyncio.sleep(after_s)
        await asyncio.to_thread(disk.cut, home, after, seed, ledger)
        door.closing = True
    await talking
    disk.unregister()
    ledger.frozen = False
    await asyncio.to_thread(shutil.rmtree, home.root)
    return after


async def _finish(home: Home, ledger: Ledger) -> None:
    async with running(home) as system:
        await talk(ledger, SystemDoor(system), more=False)
    left = [message.mark for message in ledger.messages if message.answer is None]
    ledger.broken += [f"message {mark} was never answered" for mark in left]
