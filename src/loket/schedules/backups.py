"""Backups by schedule: a new one, verified, and only then the older ones beyond those that are kept go.

A backup's name follows from its schedule and its due time, so one that a crash interrupted is made again in the same
place, and one that is there is not made twice. Only folders with this schedule's name are ever removed.

Of the folders with keys the newest stays alone. It reads all backups (see `docs/backup.md`), and older ones would still
read what was erased since.
"""

import datetime as dt
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from loket.backup.manifest import CONTENT, KEYS, NAME, Manifest, check_seal, read_manifest, verify_files
from loket.contracts import BadInput, Damaged, Failed, Json
from loket.store.check import faults, opened

_GOING = ".removing"
"""Ends the name of a folder that is being removed."""

Take = Callable[[Path, Mapping[str, Json]], Mapping[str, Any]]
"""Takes a backup into a folder that is not there yet; the options are `models` and `keys`."""


def checked(what: Mapping[str, Json], home: Path) -> dict[str, Json]:
    """The options of a backup, complete: `folder`, `keep`, `models`, `keys`. Raises `BadInput`."""
    folder = Path(str(what.get("folder", "")))
    if not folder.is_absolute():
        raise BadInput("backup.folder", f"{folder} is not an absolute path", "name the folder from the root on")
    inside, outside = folder.resolve(), home.resolve()
    if inside == outside or outside in inside.parents:
        raise BadInput("backup.inside", f"{folder} is inside the home", "name a folder outside of the home")
    keep = what.get("keep", 7)
    if not isinstance(keep, int) or isinstance(keep, bool) or not 1 <= keep <= 1000:  # noqa: PLR2004 - a bound
        raise BadInput("schedule.keep", f"{keep!r} backups cannot be kept", "a number from 1 to 1000")
    return {
        "folder": str(folder),
        "keep": keep,
        "models": bool(what.get("models", False)),
        "keys": bool(what.get("keys", True)),
    }


def run(schedule: str, what: Mapping[str, Json], due: float, take: Take, seal: Callable[[], bytes]) -> dict[str, Json]:
    """Make the backup of a due time and verify it, then remove what is beyond those to keep. Works for minutes.

    `seal` gives the key of the manifest's seal. Answers `folder`, `files`, `bytes` and `removed`. Raises what a backup
    raises, and `Damaged` where what was written is not what is there; nothing is removed then.
    """
    place = Path(what["folder"])
    _make(place)
    target = place / name_of(schedule, due)
    if not (target / NAME).is_file():
        take(target, what)
    manifest = verify(target, seal(), keys=bool(what["keys"]))
    removed = _remove_older(place, schedule, int(what["keep"]))
    return {"folder": str(target), "files": len(manifest.files), "bytes": manifest.size, "removed": removed}


def name_of(schedule: str, due: float) -> str:
    """The name of a backup's folder; names of one schedule sort by their times."""
    return f"loket-{schedule}-{dt.datetime.fromtimestamp(due, dt.UTC):%Y%m%dT%H%M%SZ}"


def verify(folder: Path, seal: bytes, *, keys: bool) -> Manifest:
    """Read a backup again: every file against its digest, the manifest's seal, and whether the journal's file is sound.

    Raises `Damaged`, `BadInput`.
    """
    manifest = read_manifest(folder, CONTENT)
    check_seal(folder, manifest, seal)
    _check_journal(folder)
    verify_files(folder, manifest, _silent)  # last: whoever looks into a database must not have changed it
    if keys:
        beside = folder.with_name(f"{folder.name}-keys")
        verify_files(beside, read_manifest(beside, KEYS), _silent)
    return manifest


def _check_journal(folder: Path) -> None:
    """Raises `Damaged` where SQLite finds fault with the copied journal."""
    with opened(folder / "kernel.db") as connection:
        wrong = faults(connection)
    for beside in ("kernel.db-wal", "kernel.db-shm"):
        (folder / beside).unlink(missing_ok=True)
    if wrong:
        raise Damaged("backup.damaged", f"kernel.db of the backup {folder} is not sound: {wrong[0]}", "loket doctor")


def _silent(_bytes: int) -> None:
    """Nobody watches."""


def _make(place: Path) -> None:
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed(
            "backup.folder", f"{place} cannot be made: {error.strerror}", "is the disk there? or name another folder"
        ) from None


def _remove_older(place: Path, schedule: str, keep: int) -> int:
    """Remove the oldest backups of a schedule beyond `keep`, and all their keys but the newest; how many went."""
    mine = re.compile(rf"loket-{re.escape(schedule)}-[0-9]{{8}}T[0-9]{{6}}Z")
    names = sorted(path.name for path in place.iterdir() if path.is_dir() and not path.is_symlink())
    backups = [name for name in names if mine.fullmatch(name)]
    keys = [name for name in names if name.endswith("-keys") and mine.fullmatch(name.removesuffix("-keys"))]
    halves = [name for name in names if name.endswith(_GOING) and mine.match(name)]
    try:
        for name in [*backups[:-keep], *keys[:-1]]:
            (place / name).rename(place / f"{name}{_GOING}")
            halves.append(f"{name}{_GOING}")
        for name in halves:
            shutil.rmtree(place / name)
    except OSError as error:
        raise Failed(
            "backup.remove", f"an older backup in {place} cannot be removed: {error.strerror}", "look at its rights"
        ) from error
    return len(backups[:-keep])
