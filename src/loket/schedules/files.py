"""Watches agents' folders: which files are new or have other contents, once they are quiet.

By looking at sizes and times of change every two seconds (`os.scandir`), for as long as any schedule watches. A
service of the system (inotify) would tell sooner, but only one kind of system has it, it loses events where there are
many, and what happened while Loket did not run has to be found by looking anyway. Contents are read only where size or
time changed, so that a file that was merely touched wakes nobody. Links are not followed, names that begin with a dot
are passed over.
"""

import contextlib
import fnmatch
import hashlib
import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import AgentStore, Json, Labels, join_labels
from loket.store.schedules import Known

EVERY_S = 2.0
"""Seconds between two looks."""
QUIET_S = 2.0
"""Seconds without a change after which a file counts as written."""
MOST_FILES = 10_000
"""Files of a folder that are looked at; whatever is beyond wakes nobody."""
MOST_TOLD = 100
"""Files that one firing names."""
_DEEPEST = 16
_DIGESTED = 64 << 20
"""Bytes up to which contents are compared; of a larger file a new time of change is enough."""

Look = tuple[int, int]
"""Size in bytes, and time of change in nanoseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Written:
    """What an agent wrote itself: how the file looked then, and where text and name came from."""

    look: Look | None
    labels: Labels


def scan(folder: Path) -> dict[str, Look]:
    """The regular files below a folder by their path in it, and how they look; none where it is not there."""
    found: dict[str, Look] = {}
    todo = [("", folder, 0)]
    while todo and len(found) < MOST_FILES:
        before, place, depth = todo.pop()
        with contextlib.suppress(OSError), os.scandir(place) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.name.startswith(".") or not entry.name.isprintable():
                    continue
                with contextlib.suppress(OSError):
                    looks = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(looks.st_mode) and len(found) < MOST_FILES:
                        found[before + entry.name] = (looks.st_size, looks.st_mtime_ns)
                    elif stat.S_ISDIR(looks.st_mode) and depth < _DEEPEST:
                        todo.append((f"{before}{entry.name}/", Path(place, entry.name), depth + 1))
    return found


def matching(files: Mapping[str, Look], pattern: str) -> dict[str, Look]:
    """The files whose paths match a pattern: `*` and `?` stay within a name, `**` for a name stands for any."""
    wanted = pattern.split("/")
    return {path: look for path, look in files.items() if _fits(path.split("/"), wanted)}


def _fits(parts: list[str], wanted: list[str]) -> bool:
    """Whether folders and name fit, in steps as many as both together have pairs: the pattern is an agent's."""
    fitting = {0}  # how many of the parts those of the pattern so far can stand for
    for one in wanted:
        if one == "**":
            fitting = set(range(min(fitting), len(parts) + 1))
        else:
            fitting = {at + 1 for at in fitting if at < len(parts) and fnmatch.fnmatchcase(parts[at], one)}
        if not fitting:
            return False
    return len(parts) in fitting


def baseline(folder: Path, pattern: str) -> dict[str, Known]:
    """What is there already when a schedule begins to watch."""
    return {path: Known(*look) for path, look in matching(scan(folder), pattern).items()}


def written_by(store: AgentStore, agent: str) -> dict[str, Written]:
    """The files that an agent wrote itself, by path, as `fs` keeps it."""
    with store.open(agent) as connection:
        rows = connection.execute("SELECT path, size, modified, labels, path_labels FROM fs_origin").fetchall()
    return {
        str(path): Written(
            (int(size), int(modified)) if size is not None and modified is not None else None,
            join_labels(tuple(json.loads(str(labels))), tuple(json.loads(str(more)))),
        )
        for path, size, modified, labels, more in rows
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look found: the files to tell of, where they came from, and what is known from now on."""

    files: list[Json]
    labels: Labels
    known: dict[str, Known | None]


class Quiet:
    """Files that changed and may be written to still; lost at a restart, where they are seen as changed again."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], tuple[Look, float]] = {}

    def settled(self, schedule: str, path: str, look: Look, now: float) -> bool:
        """Whether a file has looked like that for a while. `now` is of a clock that never goes back."""
        before = self._since.get((schedule, path))
        if before is None or before[0] != look:
            self._since[schedule, path] = (look, now)
            return False
        return now - before[1] >= QUIET_S

    def forget(self, schedule: str, path: str) -> None:
        self._since.pop((schedule, path), None)


def look(
    schedule: str,
    folder: Path,
    files: Mapping[str, Look],
    known: Mapping[str, Known],
    own: Callable[[], Mapping[str, Written]],
    quiet: Quiet,
    now: float,
) -> Seen:
    """Compare a folder's files with what is known. What an agent wrote itself does not wake it."""
    seen = Seen([], (), dict.fromkeys(known.keys() - files.keys()))
    changed = [path for path, look in files.items() if path not in known or _look_of(known[path]) != look]
    ready = [path for path in sorted(changed) if quiet.settled(schedule, path, files[path], now)]
    if not ready:
        return seen
    mine = own()
    labels: list[Labels] = []
    for path in ready:
        quiet.forget(schedule, path)
        fresh = _known(folder / path, files[path])
        before, written = known.get(path), mine.get(path)
        seen.known[path] = fresh
        by_itself = written is not None and written.look == files[path]
        same = before is not None and before.digest is not None and before.digest == fresh.digest
        if not by_itself and not same:
            seen.files.append({"path": path, "size": fresh.size})
            labels += [written.labels] if written is not None else []
    return Seen(seen.files, join_labels((), *labels), seen.known)


def _look_of(known: Known) -> Look:
    return known.size, known.modified


def _known(path: Path, found: Look) -> Known:
    """A file with the digest of its contents; without one where it is large, gone or not to be read."""
    if found[0] > _DIGESTED:
        return Known(*found)
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return Known(*found)
    with os.fdopen(handle, "rb") as file:
        return Known(*found, hashlib.file_digest(file, "sha256").hexdigest())
