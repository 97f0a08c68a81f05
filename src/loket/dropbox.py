"""The drop box: folders and packs that somebody put into `dropbox/` of the home wait there for the owner's word.

Nothing of them is installed, and nothing of them runs, before that.
"""

import asyncio
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loket.contracts import BadInput, LoketError
from loket.packages.pack import SUFFIX

_PAUSE_S: Final = 2.0
"""Seconds between two looks; what is being copied has changed in between."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What lies in the drop box: its name there, and where."""

    name: str
    path: Path


class Dropbox:
    """The folder, made at first use for its user alone."""

    def __init__(self, folder: Path, pause_s: float = _PAUSE_S) -> None:
        self.folder = folder
        self._pause_s = pause_s

    def all(self) -> list[Dropped]:
        """Folders and packs that wait, by name; hidden ones, links and other files are passed over."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        found = sorted(self.folder.iterdir(), key=lambda path: path.name)
        return [Dropped(path.name, path) for path in found if _counts(path)]

    def one(self, name: str) -> Dropped:
        """What waits under a name. Raises `BadInput`."""
        found = {dropped.name: dropped for dropped in self.all()}
        if name not in found:
            have = ", ".join(found) or "nothing"
            raise BadInput("pending.unknown", f"nothing named {name!r} waits in {self.folder}; there is: {have}")
        return found[name]

    def dismiss(self, name: str) -> None:
        """Remove what waits under a name. Raises `BadInput`."""
        path = self.one(name).path
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

    async def keep(self, arrived: Callable[[str], object], failed: Callable[[str], None]) -> None:
        """Tell of each new arrival once it has stopped changing, until cancelled. `arrived` works on a thread."""
        told: set[str] = set()
        before: dict[str, object] = {}
        while True:
            try:
                now = await asyncio.to_thread(self._states)
                for name in now.keys() - told:
                    if before.get(name) == now[name]:
                        told.add(name)
                        await asyncio.to_thread(arrived, name)
                told &= now.keys()
                before = now
            except (LoketError, OSError) as error:
                failed(f"the drop box cannot be read: {error}")
            await asyncio.sleep(self._pause_s)

    def _states(self) -> dict[str, object]:
        """What changes while something is copied: how many files there are, how large, and when they changed last."""
        return {dropped.name: _state(dropped.path) for dropped in self.all()}


def _counts(path: Path) -> bool:
    if path.name.startswith(".") or path.is_symlink() or not path.name.isprintable():
        return False
    return path.is_dir() or (path.is_file() and path.suffix == SUFFIX)


def _state(path: Path) -> tuple[int, int, int]:
    files = [path] if path.is_file() else [Path(place) / name for place, _, names in os.walk(path) for name in names]
    found = [file.lstat() for file in files]
    return len(found), sum(one.st_size for one in found), max((one.st_mtime_ns for one in found), default=0)
