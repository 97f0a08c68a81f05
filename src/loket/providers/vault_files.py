"""The vault's files: only their owner may read them, a write is all or nothing, and what was replaced is wiped."""

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from shlex import quote

from loket.contracts import BadInput

_OTHERS = 0o077
_CHUNK = 1 << 20


def check_private(path: Path, mode: str) -> None:
    """Refuse what others can read. Without POSIX permissions (Windows) the user's profile protects it.

    Raises `BadInput` with the command that mends it, `FileNotFoundError` where there is nothing.
    """
    found = path.lstat()
    if os.name != "posix":
        return
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        raise BadInput(
            "vault.owner",
            f"{path} is a link or belongs to another user",
            f"replace it by your own: rm {quote(str(path))}, then enter the secrets again",
        )
    if found.st_mode & _OTHERS:
        raise BadInput(
            "vault.open",
            f"{path} can be read or changed by other users of this machine",
            f"chmod {mode} {quote(str(path))}",
        )


def read_private(path: Path) -> bytes | None:
    """What a file of the vault holds; None where there is none. Raises `BadInput` as `check_private` does."""
    try:
        check_private(path.parent, "700")
        check_private(path, "600")
        return path.read_bytes()
    except FileNotFoundError:
        return None


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its user can read, in one rename, on the disk when this returns; its folder is made."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        sync_folder(path.parent)
    finally:
        Path(name).unlink(missing_ok=True)


def replace_wiped(path: Path, data: bytes) -> None:
    """`write_private`, and what was there before is overwritten on the disk, as far as the file system does that."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(path.open("r+b")) if path.exists() else None
        write_private(path, data)
        if old is not None:
            _wipe(old.fileno())


def remove_wiped(path: Path) -> None:
    """Remove a file, its content overwritten before the file system gives its place away."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as old:
        path.unlink()
        sync_folder(path.parent)
        _wipe(old.fileno())


def _wipe(handle: int) -> None:
    left = os.fstat(handle).st_size
    os.lseek(handle, 0, os.SEEK_SET)
    while left > 0:
        left -= os.write(handle, bytes(min(left, _CHUNK)))
    os.fsync(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename last (a folder cannot be opened for this on Windows, and need not be)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
