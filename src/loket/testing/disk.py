"""A disk that loses power: an SQLite VFS that remembers which writes were synced.

`PowerLoss.crash` gives what the disk could hold after a power cut: every synced write, and of the writes since the last
sync of each file a random selection, any of them possibly torn at a 512-byte sector.
"""

import random
import threading
from pathlib import Path
from typing import Any

import apsw

_SECTOR = 512


class _File(apsw.VFSFile):
    def __init__(self, disk: "PowerLoss", name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)
        self._disk = disk
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.wrote(self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._disk.wrote(self._path, newsize, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        super().xSync(flags)
        self._disk.synced(self._path)


class PowerLoss(apsw.VFS):
    """A VFS under the given name; open databases on it with `vfs=NAME`, encrypted ones with `multipleciphers-NAME`."""

    def __init__(self, name: str) -> None:
        self._lock = threading.Lock()
        self._durable: dict[str, bytes] = {}
        self._pending: dict[str, list[tuple[int, bytes | None]]] = {}
        self.name = name
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802 - SQLite's name
        return _File(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        super().xDelete(filename, syncdir)
        with self._lock:
            self._durable.pop(filename, None)
            self._pending.pop(filename, None)

    def wrote(self, path: str, offset: int, data: bytes | None) -> None:
        """A write (or, without data, a truncation to `offset`) that is not synced yet."""
        with self._lock:
            self._pending.setdefault(path, []).append((offset, data))

    def synced(self, path: str) -> None:
        """All writes to a file so far are on the disk."""
        with self._lock:
            content = bytearray(self._durable.get(path, b""))
            for offset, data in self._pending.pop(path, []):
                _apply(content, offset, data)
            self._durable[path] = bytes(content)

    def crash(self, source: Path, target: Path, seed: int) -> None:
        """Write into `target` what the files of the directory `source` could be after a power cut now."""
        chance = random.Random(seed)  # noqa: S311 - a test's choice, repeatable by its seed
        target.mkdir(parents=True, exist_ok=True)
        with self._lock:
            for path in sorted(self._durable.keys() | self._pending.keys()):
                if Path(path).parent == source and not path.endswith("-shm"):
                    (target / Path(path).name).write_bytes(self._after(path, chance))

    def _after(self, path: str, chance: random.Random) -> bytes:
        content = bytearray(self._durable.get(path, b""))
        for offset, data in self._pending.get(path, []):
            if chance.random() < 0.5:  # noqa: PLR2004 - half of them, on average
                _apply(content, offset, data if chance.random() < 0.7 else _torn(data, chance))  # noqa: PLR2004 - most whole
        return bytes(content)


def _torn(data: bytes | None, chance: random.Random) -> bytes | None:
    """The first sectors of a write; a truncation cannot tear."""
    return None if data is None else data[: chance.randrange(len(data) + 1) // _SECTOR * _SECTOR]


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
