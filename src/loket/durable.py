"""Files that are on the disk when a function returns: for their user alone, whole or not there, and wiped at the end.

In one place, because each step is easily left out: a rename lasts only when the folder is synced too, and a file that
is written in its place is half a file after a crash.
"""

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_CHUNK = 1 << 20


@contextlib.contextmanager
def appearing(path: Path) -> Iterator[BinaryIO]:
    """A file (0600) to write to, which takes the place of `path` in one rename when the context ends without an error.

    It and its name are on the disk then. After an error inside, what was at `path` is as it was. Raises `OSError`.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_private(path: Path, data: bytes) -> None:
    """Write a file that only its user can read, in one rename, in the place of what was there. Raises `OSError`."""
    with appearing(path) as file:
        file.write(data)


def write_new(path: Path, data: bytes) -> None:
    """`write_private`, of a file that is not there yet. Raises `FileExistsError` where something is, and `OSError`.

    Of two that write the same name at the same moment the later one wins: links, which would tell, are missing on the
    file systems of many removable disks.
    """
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    write_private(path, data)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk (Windows opens none, and needs no such thing). Raises `OSError`."""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def wipe(handle: int) -> None:
    """Overwrite an open file with zeros, as far as the file system does that in its place. Raises `OSError`."""
    left = os.fstat(handle).st_size
    os.lseek(handle, 0, os.SEEK_SET)
    while left > 0:
        left -= os.write(handle, bytes(min(left, _CHUNK)))
    os.fsync(handle)
