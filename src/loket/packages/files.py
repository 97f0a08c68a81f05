"""Reads the files of a package that nobody trusts yet: plain files, of a bounded size, and no links."""

import os
import stat
from pathlib import Path

from loket.contracts import BadInput


def check_regular(path: Path) -> None:
    """Raises `BadInput` for a link, a device, a pipe or a folder; `OSError` where there is nothing."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise BadInput(
            "package.file",
            f"{path.name} is no plain file",
            "put the file itself there: links and devices are not taken",
        )


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a plain file, at most so many. Raises `BadInput`, and `OSError` where there is nothing."""
    check_regular(path)
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise BadInput("package.size", f"{path.name} is larger than {most >> 10} KiB", "shorten it")
    return data


def check_tree(folder: Path) -> None:
    """Raises `BadInput` where anything below a folder, or the folder itself, is neither a plain file nor a folder."""
    if folder.is_symlink():
        raise BadInput("package.file", f"{folder.name} is a link", "put the folder itself there")
    for place, folders, files in os.walk(folder):
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise BadInput("package.file", f"{folder.name}/{name} is a link", "put the folder itself there")
        for name in files:
            check_regular(Path(place) / name)
