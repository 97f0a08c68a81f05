"""Takes a backup of a home while it is used.

The order is the point. `kernel.db` comes first, then what effects have changed: so the effects of a backup may be newer
than its journal, never older. A run that was unfinished in that journal goes on after a restore, comes to an effect
that happened already, and the store of the effect knows it by run and ordinal: nothing is done twice. The other way
round the journal would hold answers of effects that are not there, and memories would be lost. Keys come last: a key
that the journal needs was made before the row that needs it.

Keys are in a folder of their own. What is erased is erased by destroying keys, so an old backup with the keys of today
gives back nothing that was erased since; a backup that carried its own keys for good would.
"""

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from loket import __version__
from loket.backup.manifest import CONTENT, KEYS, copy_synced, finish, growing, make_folder, now, write_manifest
from loket.contracts import BadInput, Failed, command
from loket.home import Home
from loket.providers.vault_key import export_key, master_key, subkey
from loket.store.check import query_file
from loket.store.copy import copy_file

_LEFT_OUT = frozenset(
    {"cache", "logs", "lock", "token", "server.json", "chat_history", "vault", "keys.db", "kernel.db"}
)
"""Names at the top of a home that are not copied as files: what can be made again, what is of one process, and what has
a way of its own below."""

SEAL = "backup"
"""The purpose of the key that seals the manifest of the content (`subkey`)."""

_MASTER = frozenset({"master.key", "master.json"})
_BESIDE = ("-wal", "-shm", "-journal", ".rekey")
"""Ends the names of files that are part of a database beside them."""

_ATTEMPTS = 5
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Parts:
    """What a backup holds, and how the home's parts are reached."""

    copy_brain: Callable[[str, Path], None]
    """Copies an agent's brain, as it is at one moment, to a new file."""
    keyring: bool = False
    """Whether the master key is in the system's keyring."""
    models: bool = False
    keys: bool = True


def take(home: Home, target: Path, parts: Parts, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Back a home up into `target` and, but for `parts.keys`, its keys into `target-keys`.

    Both come to be in one rename each, the keys first, so that a `target` that is there is complete. `emit` takes
    events of progress in bytes. Answers `folder`, `keys` (or None), `files`, `bytes` and `created`. Raises `BadInput`
    where a folder is in the way or inside the home, `Failed` where the disk does not take it.
    """
    keys = target.with_name(f"{target.name}-keys")
    _check_place(home, target)
    told = _Told(emit, _weight(home, models=parts.models))
    created = now()
    try:
        with growing(target) as partial, growing(keys) if parts.keys else nullcontext() as partial_keys:
            _copy_content(home, partial, parts, told)
            key = subkey(master_key(home.vault, keyring=parts.keyring), SEAL)
            manifest = write_manifest(partial, CONTENT, __version__, created, key)
            if partial_keys is not None:
                _copy_keys(home, partial_keys, keyring=parts.keyring)
                write_manifest(partial_keys, KEYS, __version__, created)
                finish(partial_keys, keys)
            finish(partial, target)
    except OSError as error:
        raise Failed(
            "backup.failed", f"the backup could not be written: {error}", "free disk space, or name another folder"
        ) from error
    return {
        "folder": str(target),
        "keys": str(keys) if parts.keys else None,
        "files": len(manifest.files),
        "bytes": manifest.size,
        "created": created,
    }


def _check_place(home: Home, target: Path) -> None:
    inside, outside = target.resolve(), home.root.resolve()
    if inside == outside or outside in inside.parents:
        raise BadInput("backup.inside", f"{target} is inside the home", "name a folder outside of the home")


class _Told:
    """Counts bytes for whoever watches."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], total: int) -> None:
        self._emit = emit
        self._total = total
        self._done = 0

    def __call__(self, step: str, size: int) -> None:
        self._done = min(self._done + size, self._total)
        self._emit({"type": "progress", "step": step, "done": self._done, "total": self._total})


def _weight(home: Home, *, models: bool) -> int:
    return home.database.stat().st_size + sum(_size(path) for path in _files(home, models=models))


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


def _copy_content(home: Home, into: Path, parts: Parts, told: _Told) -> None:
    # Checkpoints before the journal: one of more rows than it has would say that it was cut. All others after it.
    signed = home.root / "audit"
    for path in sorted(path for path in _files(home, models=False) if path.is_relative_to(signed)):
        _copy_one(home, path, into / path.relative_to(home.root), parts)
        told(path.name, _size(path))
    copy_file(home.database, into / "kernel.db")
    told("kernel.db", _size(home.database))
    for path in sorted(_files(home, models=parts.models), key=lambda path: _turn(home, path)):
        if not path.is_relative_to(signed):
            _copy_one(home, path, into / path.relative_to(home.root), parts)
            told(path.name, _size(path))
    _check_modules(into)


def would_write(kind: str, name: str) -> bool:
    """Whether a file of this name (relative to the folder, with `/`) can be in a folder of a backup that we took.

    Whoever changes a backup could add others: code that is mapped and run (`cache/`), a token, a lock. Letters count as
    the same in both cases, as they do on many disks.
    """
    top, *below = (part.casefold() for part in PurePosixPath(name).parts)
    if kind == KEYS:
        return [top, *below] == ["keys.db"] or (top == "vault" and len(below) == 1 and not below[0].startswith("."))
    if top == "kernel.db":
        return not below
    if top in _LEFT_OUT:
        return False
    if top == "files" and below:
        return True
    beside_database = len(below) == (1 if top == "brains" else 0) and name.casefold().endswith(_BESIDE)
    return not beside_database and not any(part.startswith(".") for part in (top, *below))


def _turn(home: Home, path: Path) -> tuple[int, str]:
    """Who may be accounted for next: accounts of the gateway, brains, other databases, then files."""
    name = path.relative_to(home.root).as_posix()
    order = [name == "gateway.db", path.parent == home.brains, path.suffix == ".db"]
    return (order.index(True) if True in order else len(order), name)


def _files(home: Home, *, models: bool) -> Iterator[Path]:
    """What is copied beside `kernel.db` and the keys: plain files, no links, nothing half-written."""
    left_out = _LEFT_OUT if models else _LEFT_OUT | {"models"}
    for folder, folders, names in os.walk(home.root):
        top = Path(folder) == home.root
        own = home.root / "files" in (Path(folder), *Path(folder).parents)
        folders[:] = [
            name for name in folders if own or not (name.startswith(".") or (top and name.casefold() in left_out))
        ]
        for name in names:
            path = Path(folder, name)
            if not (top and name.casefold() in left_out) and (own or _wanted(home, path)) and _plain(path):
                yield path


def _plain(path: Path) -> bool:
    """Whether it is a file: no link, no socket of a running server, and no pipe, which would be read for ever."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _wanted(home: Home, path: Path) -> bool:
    """Whether a file is no part of another one: not a log of a database, nor half of a write."""
    database = path.parent in (home.root, home.brains)
    beside = path.name.endswith(_BESIDE)
    return not path.name.startswith(".") and not (database and beside)


def _copy_one(home: Home, path: Path, target: Path, parts: Parts) -> None:
    make_folder(target.parent)
    if path.suffix == ".db" and path.parent == home.brains:
        parts.copy_brain(path.stem, target)
    elif path.suffix == ".db" and path.parent == home.root:
        copy_file(path, target)
    else:
        _copy_still(path, target)


def _copy_still(path: Path, target: Path) -> None:
    """Copy a file of one moment: again, where somebody wrote to it meanwhile. One that was deleted is left out."""
    for _ in range(_ATTEMPTS):
        try:
            before = path.lstat()
            copy_synced(path, target)
            after = path.lstat()
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            return
        if (before.st_mtime_ns, before.st_size, before.st_ino) == (after.st_mtime_ns, after.st_size, after.st_ino):
            return
        time.sleep(_PAUSE_S)
    raise Failed(
        "backup.busy",
        f"{path} is written to all the time",
        "stop what writes to it, then back up again",
        blame="machine",
    )


def _copy_keys(home: Home, into: Path, *, keyring: bool) -> None:
    keys = home.root / "keys.db"
    if keys.exists():
        copy_file(keys, into / "keys.db")
    vault = into / "vault"
    vault.mkdir(mode=0o700)
    for path in sorted(home.vault.iterdir()):
        if path.is_file() and not path.is_symlink() and not path.name.startswith(".") and path.name not in _MASTER:
            _copy_still(path, vault / path.name)
    export_key(home.vault, vault, keyring=keyring)


def _check_modules(into: Path) -> None:
    """A module that was removed between the journal and the packages would be missed later: then all is done again."""
    for name, folder, digest in query_file(into / "kernel.db", "SELECT id, folder, digest FROM modules"):
        runs = not digest.startswith("files:")  # else there is no component, and nothing of it runs
        if not (into / folder).is_dir() or (runs and not (into / "modules" / f"{digest}.wasm").is_file()):
            raise Failed(
                "backup.changed",
                f"the module {name} was changed while the backup was taken, or is not complete in the home",
                f"back up again; if that says the same: {command('remove', name) or 'loket remove MODULE'}",
                blame="machine",
            )
