"""Restores a backup into a new home.

Everything is compared with the manifest before, the manifest with its seal where there are keys, and the journal is
checked after. What the journal cannot read is said
in it: runs that were erased after the backup was taken stay erased (their keys are gone from the newer `keys.db`), and
so do all runs where the owner restores without keys.
"""

import hmac
import json
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.backup.manifest import (
    CONTENT,
    KEYS,
    NAME,
    Manifest,
    check_seal,
    copy_synced,
    finish,
    growing,
    make_folder,
    read_manifest,
    verify_files,
)
from loket.backup.take import SEAL, would_write
from loket.chain import check_chain
from loket.contracts import BadInput, Damaged, RowKind, RunStatus
from loket.home import Home
from loket.kernel.journal import ERASED, Journal
from loket.providers.vault_key import master_key, subkey
from loket.store.check import faults, opened, query_file
from loket.store.cipher import is_plain
from loket.store.kernel import KernelDatabase

_NOTE_RUNS = 500
"""Runs that one note of the journal lists at most."""

_MOST_FAULTS = 100


@dataclass(frozen=True, slots=True)
class Restored:
    """How a restore came out.

    `erased` runs were erased since the backup; `unreadable` ones have no keys, and `brains` names the agents whose
    encrypted brains were left out because of that. `vouched` says whether the seal was checked, which proves that the
    content is what was backed up: without keys nobody knows.
    """

    home: Path
    files: int
    created: str
    loket: str
    erased: int
    unreadable: int
    brains: tuple[str, ...]
    faults: tuple[str, ...]
    vouched: bool

    @property
    def ok(self) -> bool:
        """Whether the journal verified."""
        return not self.faults


def restore(
    folder: Path,
    target: Path,
    *,
    keys: Path | None,
    emit: Callable[[dict[str, Any]], None],
    now: Callable[[], float] = time.time,
) -> Restored:
    """Restore the backup in `folder` into a home at `target`, which must be empty or missing.

    `keys` is the folder with the keys, of this backup or of a later one; without it (None) what runs said, secrets and
    encrypted brains stay unreadable, and the journal gets a new seal. The home comes to be in one rename. Raises
    `BadInput` and `Damaged` before anything is there.
    """
    _check_empty(target)
    manifest = _read(folder, CONTENT)
    sources = [(folder, manifest)] + ([(keys, _read(keys, KEYS))] if keys is not None else [])
    told = _progress(sources, emit)
    for place, found in sources:
        verify_files(place, found, told)
    with growing(target) as partial:
        for place, found in sources:
            _copy(place, found, partial, told)
        if keys is not None:
            check_seal(folder, manifest, _key(partial, SEAL))
        brains = _leave_out_encrypted(partial) if keys is None else ()
        _check_databases(partial)
        erased, unreadable, wrong = _mend_journal(Home(partial), now, with_keys=keys is not None)
        finish(partial, target)
    files = sum(len(found.files) for _, found in sources)
    vouched = keys is not None
    return Restored(target, files, manifest.created, manifest.loket, erased, unreadable, brains, wrong, vouched)


def _read(folder: Path, kind: str) -> Manifest:
    """The manifest of a folder. Raises `Damaged` where it lists what no backup has, and what `read_manifest` raises."""
    manifest = read_manifest(folder, kind)
    for name in manifest.files:
        if not would_write(kind, name):
            raise Damaged(
                "backup.forged",
                f"{folder / NAME} lists {name[:200]!r}, which Loket puts into no backup: somebody added it",
                "use another backup",
            )
    return manifest


def _key(home: Path, purpose: str) -> bytes:
    """A key that follows from the restored master key. Raises `Damaged` where the folder with the keys had none."""
    if not (home / "vault" / "master.json").is_file():
        raise Damaged("backup.damaged", "the folder with the keys has no master key", "use the keys of another backup")
    return subkey(master_key(home / "vault", keyring=False), purpose)


def _check_empty(target: Path) -> None:
    if target.is_symlink() or (target.exists() and not (target.is_dir() and not any(target.iterdir()))):
        raise BadInput(
            "restore.home", f"the home {target} is not empty", "name a home that is not there yet: --home NEW"
        )


def _progress(
    sources: Collection[tuple[Path, Manifest]], emit: Callable[[dict[str, Any]], None]
) -> Callable[[int], None]:
    """Tells bytes: every file is read once to be verified, and once to be copied."""
    total, done = 2 * sum(found.size for _, found in sources), 0

    def told(size: int) -> None:
        nonlocal done
        done += size
        emit({"type": "progress", "step": "restore", "done": done, "total": total})

    return told


def _copy(folder: Path, manifest: Manifest, into: Path, told: Callable[[int], None]) -> None:
    """Copy the files of a manifest, and verify what arrived."""
    for name, file in manifest.files.items():
        target = into / name
        make_folder(target.parent)
        copy_synced(folder / name, target)
        told(file.size)
    verify_files(into, manifest, lambda _size: None)


def _leave_out_encrypted(home: Path) -> tuple[str, ...]:
    """Without its key an encrypted brain is noise, and its agent could not work: it starts with an empty one."""
    found = [path for path in sorted(home.glob("brains/*.db")) if is_plain(path) is False]
    for path in found:
        path.unlink()
    return tuple(path.stem for path in found)


def _check_databases(home: Path) -> None:
    """Raises `Damaged` where SQLite finds fault with a database, or the keys are not those of the encrypted brains."""
    for path in sorted((*home.glob("*.db"), *home.glob("brains/*.db"))):
        key = None
        if path.parent.name == "brains" and is_plain(path) is False:
            key = _key(home, f"brain:{path.stem}")
        _check_database(path, key)


def _check_database(path: Path, key: bytes | None) -> None:
    try:
        with opened(path, key) as connection:
            found = faults(connection)
    except Damaged as error:
        found = [error.message]
    if found:
        raise Damaged("backup.damaged", f"{path.name} is not sound: {found[0]}", "use another backup")


def _mend_journal(home: Home, now: Callable[[], float], *, with_keys: bool) -> tuple[int, int, tuple[str, ...]]:
    """Say in the journal what cannot be read any more, then check it: runs erased, runs unreadable, faults."""
    runs = query_file(home.database, "SELECT id, slot, ended FROM runs")
    home.prepare()
    if with_keys:
        _forget_later_keys(home, max((slot for _, slot, _ in runs if slot is not None), default=0))
    database = KernelDatabase(home.database, subkey(master_key(home.vault, keyring=False), "run-keys"))
    try:
        if not with_keys:
            database.keys.destroy([slot for _, slot, _ in runs if slot is not None])
            _seal_anew(database, home.journal_key())
        journal = Journal(database, home.journal_key(), now)
        lost = _lost(home, database, runs) if journal.broken is None else []
        _note(database, journal, lost, now(), with_keys=with_keys)
        found = tuple(fault.reason for fault in check_chain(journal)[:_MOST_FAULTS])
    finally:
        database.close()
    return (len(lost), 0, found) if with_keys else (0, len(lost), found)


def _forget_later_keys(home: Home, used: int) -> None:
    """Keys of a later time than the journal: no run of this home has them, and new runs make their own."""
    if (home.root / "keys.db").exists():
        query_file(home.root / "keys.db", "DELETE FROM run_keys WHERE slot > ?", (used,))


def _seal_anew(database: KernelDatabase, key: bytes) -> None:
    """Seal the journal's end with a new key, as `loket.kernel.journal` does: the owner restores it without the old."""
    head = database.head()
    if head is not None:
        seal = hmac.digest(key, head[0].to_bytes(8, "big") + head[1], "sha256")
        database.write([], [("UPDATE seal SET seal = ?", (seal,))], b"")


def _lost(home: Home, database: KernelDatabase, runs: Collection[tuple[str, int | None, float | None]]) -> list[Any]:
    """The runs whose keys are gone, and of whose erasure the journal knows nothing."""
    notes = query_file(home.database, "SELECT facts FROM journal WHERE run = '' AND kind = ?", (RowKind.NOTE.value,))
    said = {run for (facts,) in notes for run in json.loads(facts).get("runs", ()) if ERASED in facts}
    gone = database.keys.gone()
    return [(run, ended) for run, slot, ended in runs if slot in gone and run not in said]


def _note(database: KernelDatabase, journal: Journal, lost: Collection[Any], at: float, *, with_keys: bool) -> None:
    """Note these runs as erased; the next start erases what they wrote into stores, if they were erased on purpose."""
    runs = [run for run, _ in lost]
    why = "erased after the backup was taken" if with_keys else "restored without keys"
    for start in range(0, len(runs), _NOTE_RUNS):
        part = runs[start : start + _NOTE_RUNS]
        facts = {"what": ERASED, "principal": "owner", "why": why, "runs": part}
        journal.append("", 0, RowKind.NOTE, facts, "{}", tuple(database.erasing(part)) if with_keys else ())
    for run in (run for run, ended in lost if ended is None):  # nobody can go on with what nobody can read
        journal.also(("UPDATE runs SET status = ?, ended = ? WHERE id = ?", (RunStatus.FAILED.value, at, run)))
    if lost:
        journal.sync()
