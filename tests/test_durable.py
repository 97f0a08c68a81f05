"""Files that last: whole or not there, for their user alone, and wiped."""

import stat
from pathlib import Path

import pytest

from loket.durable import appearing, sync_folder, wipe, write_new, write_private


def test_a_private_file_is_replaced_as_a_whole_and_only_its_user_reads_it(tmp_path: Path) -> None:
    """The new file has mode 0600 whatever the old one had, and nothing is left beside it."""
    path = tmp_path / "token"
    path.write_text("old, and longer than the new one")
    path.chmod(0o644)
    write_private(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_while_a_file_is_written_leaves_the_old_one(tmp_path: Path) -> None:
    """Nobody sees half a file: until the rename the name has what it had."""
    path = tmp_path / "export"
    path.write_bytes(b"old")
    with pytest.raises(UnicodeEncodeError), appearing(path) as file:
        file.writelines(text.encode("ascii") for text in ("half", "\u00e9"))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("there", ["file", "folder", "dangling link"])
def test_a_new_file_takes_nothings_place(tmp_path: Path, there: str) -> None:
    """What has the name already stays, a link that leads nowhere included."""
    path = tmp_path / "checkpoint"
    write_new(path, b"first")
    assert path.read_bytes() == b"first"
    if there != "file":
        path.unlink()
        path.mkdir() if there == "folder" else path.symlink_to(tmp_path / "nowhere")
    before = path.lstat()
    with pytest.raises(FileExistsError, match="checkpoint"):
        write_new(path, b"second")
    assert path.lstat() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size", [0, 5, (1 << 20) + 7])
def test_a_wiped_file_holds_zeros_in_its_whole_length(tmp_path: Path, size: int) -> None:
    """Also where the file has been read to its end already."""
    path = tmp_path / "secret"
    path.write_bytes(b"x" * size)
    with path.open("r+b") as file:
        file.read()
        wipe(file.fileno())
    assert path.read_bytes() == bytes(size)


def test_a_folder_that_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    """Whoever relies on a rename hears that it may not last."""
    sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync_folder(tmp_path / "missing")
