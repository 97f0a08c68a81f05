"""The vault's files: only their owner may read them, a write is all or nothing, and what was replaced is wiped."""

import contextlib
import os
import stat
from pathlib import Path
from shlex import quote

from loket import durable
from loket.contracts import BadInput

_OTHERS = 0o077


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
    durable.write_private(path, data)


def replace_wiped(path: Path, data: bytes) -> None:
    """`write_private`, and what was there before is overwritten on the disk, as far as the file system does that."""
    with contextlib.ExitStack() as stack:
        old = stack.enter_context(path.open("r+b")) if path.exists() else None
        write_private(path, data)
        if old is not None:
            durable.wipe(old.fileno())


def remove_wiped(path: Path) -> None:
    """Remove a file, its content overwritten before the file system gives its place away."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as old:
        path.unlink()
        durable.sync_folder(path.parent)
        durable.wipe(old.fileno())
