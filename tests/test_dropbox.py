"""The drop box tells of what has arrived, once it is whole, and of nothing else."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from loket.contracts import BadInput
from loket.dropbox import Dropbox


def test_an_arrival_is_told_once_it_has_stopped_changing(tmp_path: Path) -> None:
    """Not while it grows, not twice, and again where another one of the name comes later."""

    async def check() -> None:
        box, told = Dropbox(tmp_path / "dropbox", 0.05), list[str]()
        arrived = asyncio.Event()
        loop = asyncio.get_running_loop()

        def take(name: str) -> None:
            told.append(name)
            loop.call_soon_threadsafe(arrived.set)

        box.all()
        pack = tmp_path / "dropbox" / "a.loket"
        pack.write_bytes(b"")
        keeping = asyncio.create_task(box.keep(take, told.append))
        for size in range(30):
            pack.write_bytes(bytes(size))
            await asyncio.sleep(0.01)
            assert told == []
        await arrived.wait()
        box.dismiss("a.loket")
        (tmp_path / "dropbox" / "b").mkdir()
        arrived.clear()
        await arrived.wait()
        assert told == ["a.loket", "b"]
        keeping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await keeping

    asyncio.run(asyncio.wait_for(check(), 60))


def test_links_and_other_files_do_not_count(tmp_path: Path) -> None:
    """Hidden ones neither; and a name leads nowhere else."""
    box = Dropbox(tmp_path / "dropbox")
    box.all()
    (tmp_path / "secret.loket").write_bytes(b"x")
    for name in ("notes.txt", ".hidden.loket"):
        (box.folder / name).write_text("x")
    (box.folder / "link.loket").symlink_to(tmp_path / "secret.loket")
    (box.folder / "folder").symlink_to(tmp_path, target_is_directory=True)
    assert box.all() == []
    for name in ("../secret.loket", "link.loket", "folder", "", ".", "notes.txt"):
        with pytest.raises(BadInput):
            box.dismiss(name)
    assert (tmp_path / "secret.loket").exists()
