"""Files in agents' folders, for whoever sets them aside: links are never followed, each step is on the disk."""

import contextlib
import os
import stat
from pathlib import Path
from typing import Any

from loket.contracts import Refusal
from loket.providers.fs_paths import TEMPORARY, check_system, folder, looks, parts_of, translated


def changed(root: Path, agent: str, path: str, written: tuple[Any, Any]) -> str:
    """Why a file has to stay; empty where it is as it was `written` (size, time of change in nanoseconds)."""
    try:
        with folder(root, agent, parts_of(path)[:-1]) as directory:
            now = looks(directory, path.rpartition("/")[2])
    except (OSError, Refusal):
        return "it is gone, or something else has its name"
    return "you have changed it since" if written[0] is not None and now != written else ""


def content(root: Path, agent: str, path: str) -> bytes | None:
    """The bytes of a regular file; None where there is none. Raises `Failed`, `Refusal` where it cannot be read."""
    names = parts_of(path)
    check_system()
    with translated(path), contextlib.suppress(FileNotFoundError), folder(root, agent, names[:-1]) as directory:
        handle = os.open(names[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
        with os.fdopen(handle, "rb") as file:
            return file.read() if stat.S_ISREG(os.fstat(handle).st_mode) else None
    return None


def unlink(root: Path, agent: str, path: str, written: tuple[Any, Any]) -> None:
    """Delete a file that is kept already, unless somebody changed it in the meantime."""
    names = parts_of(path)
    with translated(path), contextlib.suppress(FileNotFoundError), folder(root, agent, names[:-1]) as directory:
        if written[0] is None or looks(directory, names[-1]) == written:
            os.unlink(names[-1], dir_fd=directory)
            os.fsync(directory)


def put_back(root: Path, agent: str, path: str, data: bytes) -> tuple[int, int] | None:
    """Give a file its name again: its size and time of change (nanoseconds). None where another one has the name.

    One with the same bytes is the file itself, from an attempt that was interrupted.
    """
    names = parts_of(path)
    with translated(path), folder(root, agent, names[:-1], make=True) as directory:
        if _is_there(directory, names[-1]):
            if content(root, agent, path) != data:
                return None
        else:
            _write(directory, names[-1], data)
        return looks(directory, names[-1])


def _is_there(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _write(directory: int, name: str, data: bytes) -> None:
    """Write and sync a file under a name of our own, then give it its name."""
    staged = f"{TEMPORARY}back"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(staged, dir_fd=directory)
    handle = os.open(
        staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory
    )
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(handle)
    os.rename(staged, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)
