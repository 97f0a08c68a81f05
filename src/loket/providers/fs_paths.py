"""Paths in an agent's folder: how they may be spelled, and how one is followed without ever leaving the folder.

A path is followed one component at a time, each opened relative to the one before and never through a symbolic link
(`openat` with `O_NOFOLLOW`), so that swapping a directory for a link while we walk changes nothing. Considered:
`Path.resolve` and a comparison (there is time between the look and the use), and `openat2` with `RESOLVE_BENEATH`
(Linux alone, and Python has no name for it).
"""

import contextlib
import datetime as dt
import errno
import hashlib
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from loket.contracts import Failed, Refusal

TEMPORARY = ".loket-"
"""How the names of our own temporary files begin; no path of a module can have such a part."""

_LONGEST = 255
"""Bytes of one part, the limit of common file systems."""
_DEEPEST = 32
_WALK = 64
"""How deep `walk` goes: an owner may have put more there than a module can."""

_AGENT = re.compile(r"[a-z][a-z0-9-]{1,40}")

_SPELL = "write it as notes/today.md: names with / between them, relative to the agent's folder"


def parts_of(path: str, *, directory: bool = False) -> tuple[str, ...]:
    """The names that a path is made of; none for an agent's folder itself, which only a `directory` can mean.

    A directory may end in one slash. Raises `Refusal` (`fs.path`) for every spelling but the plain one, because the
    grant's prefixes were compared with the text as it stands.
    """
    if directory and path in ("", "/"):
        if path:
            _refuse(path, "is absolute")
        return ()
    names = (path.removesuffix("/") if directory else path).split("/")
    if len(names) > _DEEPEST:
        _refuse(path, f"has more than {_DEEPEST} parts")
    for name in names:
        wrong = _wrong(name)
        if wrong is not None:
            _refuse(path, wrong)
    return tuple(names)


_WRONG: tuple[tuple[Callable[[str], bool], str], ...] = (
    (lambda name: not name, "has an empty part"),
    (lambda name: name in (".", ".."), "has a part that is . or .."),
    (lambda name: "\\" in name, "has a backslash"),
    (lambda name: not name.isprintable(), "has a control character, an invisible one or half of a surrogate pair"),
    (
        lambda name: not unicodedata.is_normalized("NFC", name),
        "has letters that are not composed (Unicode's form NFC)",
    ),
    (lambda name: name.casefold().startswith(TEMPORARY), f"has a part that begins with {TEMPORARY}, as our own do"),
    (lambda name: len(name.encode()) > _LONGEST, f"has a part of more than {_LONGEST} bytes"),
)
"""What can be wrong with one part of a path, in the order in which it is looked for."""


def _wrong(name: str) -> str | None:
    """What is wrong with one part of a path; None where it is a plain name."""
    return next((wrong for holds, wrong in _WRONG if holds(name)), None)


def plain(name: str) -> bool:
    """Whether a name that stands in a directory is one that a module could have asked for."""
    return "/" not in name and _wrong(name) is None


def _refuse(path: str, wrong: str) -> NoReturn:
    raise Refusal("fs.path", f"path {path[:200]!a} {wrong}", _SPELL)


def check_system() -> None:
    """Raise `Failed` (`fs.unsupported`) where the system cannot follow a path one component at a time."""
    needed = (os.open, os.mkdir, os.stat, os.unlink, os.rename, os.rmdir)
    flags = ("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK")
    if not os.supports_dir_fd.issuperset(needed) or not all(hasattr(os, flag) for flag in flags):
        raise Failed(
            "fs.unsupported",
            "this system cannot open files relative to a directory without following links; fs.* is off here",
            "run Loket on Linux or macOS, or in WSL 2",
            blame="machine",
        )


@contextlib.contextmanager
def folder(root: Path, agent: str, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """The descriptor of a directory in an agent's folder, open until the context ends.

    `make` creates what is missing, mode 0700, each synced into the directory above it. Raises `OSError` where a part
    is missing (`FileNotFoundError`), a symbolic link or no directory.
    """
    if not _AGENT.fullmatch(agent):
        raise Refusal("fs.agent", f"{agent!a} is no name of an agent", "use 2 to 41 small letters, digits and hyphens")
    if make:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (agent, *names):
            below = _step(held, name, make=make)
            os.close(held)
            held = below
        yield held
    finally:
        os.close(held)


def _step(above: int, name: str, *, make: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, flags, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=above)
        os.fsync(above)
    return os.open(name, flags, dir_fd=above)


def open_file(directory: int, name: str, path: str) -> tuple[int, os.stat_result]:
    """Open a regular file to read; its descriptor and what it is.

    Raises `OSError`, and `Refusal` for what is no plain file. `O_NONBLOCK`, because opening a pipe would wait.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(name, flags, dir_fd=directory)
    try:
        found = os.fstat(handle)
        check_file(found, path)
    except BaseException:
        os.close(handle)
        raise
    return handle, found


def check_file(found: os.stat_result, path: str) -> None:
    """Refuse what is no regular file, or has another name elsewhere: that could be a file outside of the folder."""
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a symbolic link or a device"
        raise Refusal("fs.kind", f"{path} is {kind}, and a file is needed", "fs.list shows what is there")
    if found.st_nlink > 1:
        raise Refusal(
            "fs.link",
            f"{path} is a hard link: the same file has another name, perhaps outside of the agent's folder",
            "have the owner replace it by a copy",
        )


@contextlib.contextmanager
def translated(path: str) -> Iterator[None]:
    """Turn errors of the system into ours, which name the module's path and never the machine's."""
    try:
        yield
    except OSError as error:
        raise _translation(error, path or "the agent's folder") from None


def _translation(error: OSError, path: str) -> Refusal | Failed:
    if error.errno == errno.ENOENT:
        return Refusal("fs.missing", f"there is no {path} in the agent's folder", "fs.list shows what is there")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.ENXIO):
        return Refusal(
            "fs.link",
            f"{path}, or a directory on the way, is a symbolic link or not the kind of file that is needed",
            "fs.list shows what can be read; links are never followed",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed("fs.full", f"the disk is full: {path} was not written", "make room on the disk", blame="machine")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return Failed("fs.failed", f"the system refused {path}: {reason}", "loket doctor", blame="machine")


def temporary(run: str, ordinal: int) -> str:
    """The name under which one call's text waits to be renamed: the same again after a crash."""
    return f"{_mark(run)}{ordinal}"


def _mark(run: str) -> str:
    return f"{TEMPORARY}{hashlib.sha256(run.encode()).hexdigest()[:24]}-"


def marks(runs: Sequence[str]) -> tuple[str, ...]:
    """How the temporary files of these runs begin."""
    return tuple(_mark(run) for run in runs)


def walk(directory: int, depth: int = _WALK) -> Iterator[tuple[int, str, os.stat_result]]:
    """Everything below a directory, links not followed: the descriptor that it is in, its name, and what it is."""
    for name in os.listdir(directory):
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue  # gone since the directory was read
        yield directory, name, found
        if stat.S_ISDIR(found.st_mode) and depth:
            yield from _below(directory, name, depth)


def _below(directory: int, name: str, depth: int) -> Iterator[tuple[int, str, os.stat_result]]:
    try:
        below = _step(directory, name, make=False)
    except (FileNotFoundError, NotADirectoryError):
        return  # swapped since it was looked at
    try:
        yield from walk(below, depth - 1)
    finally:
        os.close(below)


def looks(directory: int, name: str) -> tuple[int, int]:
    """Size and time of change (nanoseconds) of a file: what tells that somebody else has written it since."""
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    return found.st_size, found.st_mtime_ns


def entry(directory: int, name: str) -> list[dict[str, Any]]:
    """Describe what a directory holds under a name; nothing for what a module cannot read."""
    if not plain(name):
        return []
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return []  # gone since the directory was read
    is_directory = stat.S_ISDIR(found.st_mode)
    if not is_directory and not (stat.S_ISREG(found.st_mode) and found.st_nlink == 1):
        return []
    modified = dt.datetime.fromtimestamp(found.st_mtime, dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    size = 0 if is_directory else found.st_size
    return [{"name": name, "kind": "directory" if is_directory else "file", "size": size, "modified": modified}]
