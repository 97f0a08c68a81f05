"""Control groups: what bounds memory and number of a command and all its children together.

Made where the kernel lets us: below our own group in version 1 (which needs root), beside it in version 2 (root, or a
part of the tree that was delegated to the user, as systemd does for a session's services). Formats:
`Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/` in the kernel, `proc_pid_mountinfo(5)`, `cgroups(7)`.
"""

import contextlib
import errno
import os
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_NAME = "loket-jail-"
_NEEDED = frozenset({"memory", "pids"})
_OWN = 3
"""Processes of the sandbox itself, which count too."""
_PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class Groups:
    """The folders of one command: in version 1 one for memory and one for processes, in version 2 one for both."""

    folders: tuple[Path, ...]

    @property
    def joins(self) -> tuple[Path, ...]:
        """The files that a process writes 0 to, to be in."""
        return tuple(folder / "cgroup.procs" for folder in self.folders)

    def end(self) -> None:
        """Kill whoever is in, and remove the folders. What does not die in 2 s (a disk hangs) waits for a sweep."""
        give_up = time.monotonic() + _PATIENCE_S
        for folder in self.folders:
            with contextlib.suppress(OSError):
                (folder / "cgroup.kill").write_text("1")
            while not _removed(folder) and time.monotonic() < give_up:
                _kill(folder)
                time.sleep(0.002)


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _kill(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for line in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line), signal.SIGKILL)


def make(places: tuple[Path, ...], memory_mb: int, processes: int) -> Groups | None:
    """New groups with these limits in the folders that `find` gave; None where the kernel does not let us."""
    name = f"{_NAME}{os.getpid()}-{secrets.token_hex(4)}"
    made = Groups(tuple(place / name for place in places))
    try:
        for folder in made.folders:
            folder.mkdir()
            _bound(folder, memory_mb << 20, processes + _OWN)
    except OSError:
        made.end()
        return None
    return made if made.folders else None


def _bound(folder: Path, memory: int, processes: int) -> None:
    """Set the limits whose files are there; swap counts as memory where it is counted at all."""
    values = {
        "pids.max": processes,
        "memory.max": memory,
        "memory.swap.max": 0,
        "memory.oom.group": 1,
        "memory.limit_in_bytes": memory,
        "memory.memsw.limit_in_bytes": memory,
    }
    there = [name for name in values if (folder / name).exists()]
    if not there:
        raise FileNotFoundError(errno.ENOENT, "there is nothing to bound", str(folder))
    for name in there:
        (folder / name).write_text(str(values[name]))


def find(proc: Path = Path("/proc/self")) -> tuple[Path, ...]:
    """The folders in which groups can be made: two in version 1, one in version 2, none where we may not."""
    try:
        mounts = list(_mounts((proc / "mountinfo").read_text()))
        own = dict(_own((proc / "cgroup").read_text()))
    except OSError:
        return ()
    first = [_first(mounts, own, controller) for controller in sorted(_NEEDED)]
    if all(first):
        return tuple(dict.fromkeys(place for place in first if place is not None))
    return _second(mounts, own)


def _first(mounts: list[tuple[Path, str, frozenset[str]]], own: dict[str, str], controller: str) -> Path | None:
    """Version 1: our own group of a controller, or the mount's root where a container shows us another tree."""
    for place, kind, options in mounts:
        if kind == "cgroup" and controller in options:
            inside = place / own.get(controller, "/").lstrip("/")
            return next((one for one in (inside, place) if os.access(one, os.W_OK)), None)
    return None


def _second(mounts: list[tuple[Path, str, frozenset[str]]], own: dict[str, str]) -> tuple[Path, ...]:
    """Version 2: the nearest group above our own that hands both controllers to the groups in it, and is ours."""
    root = next((place for place, kind, _ in mounts if kind == "cgroup2"), None)
    if root is None:
        return ()
    place = root / own.get("", "/").lstrip("/")
    for above in (place, *place.parents):
        handed = above / "cgroup.subtree_control"
        with contextlib.suppress(OSError):
            if set(handed.read_text().split()) >= _NEEDED and os.access(above / "cgroup.procs", os.W_OK):
                return (above,) if os.access(above, os.W_OK) else ()
        if above == root:
            break
    return ()


def _mounts(text: str) -> Iterator[tuple[Path, str, frozenset[str]]]:
    for line in text.splitlines():
        mount, _, rest = line.partition(" - ")
        kind, _source, options = rest.split(" ")[:3]
        yield Path(mount.split(" ")[4]), kind, frozenset(options.split(","))


def _own(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        yield from ((controller.removeprefix("name="), path) for controller in controllers.split(","))


def sweep(places: tuple[Path, ...]) -> None:
    """Remove the groups of systems that have ended without doing so."""
    for place in places:
        for folder in place.glob(f"{_NAME}*"):
            maker = folder.name.removeprefix(_NAME).partition("-")[0]
            if not Path("/proc", maker).exists():
                Groups((folder,)).end()
