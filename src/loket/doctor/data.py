"""What is stored: databases, brains, the journal, the vault."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import apsw

from loket.chain import check_chain
from loket.contracts import Damaged, LoketError
from loket.doctor.check import FAILED, Check, Patient, failed, mendable, mended, sound, warning
from loket.kernel.journal import Journal
from loket.providers.vault import FileVault
from loket.store.check import bad_indexes, faults, opened, query_file, rebuild_index
from loket.store.cipher import is_plain
from loket.store.database import storage_error
from loket.store.kernel import KernelDatabase

_BACKUP = "put a backup in its place: loket restore DIR --keys DIR-keys --home NEW"
_EARLY = 1_790_000_000.0
"""No clock of a machine that runs this version can be before it (September 2026)."""


def databases(patient: Patient) -> Iterator[Check]:
    """SQLite finds no fault with the home's own databases."""
    for path in sorted(patient.home.root.glob("*.db")):
        try:
            with opened(path) as connection:
                found = faults(connection)
        except LoketError as error:
            found = [error.message]
        if found:
            yield failed("databases", f"{path.name}: {found[0]}", _BACKUP)
        else:
            yield sound("databases", f"{path.name} is sound")


def brains(patient: Patient) -> Iterator[Check]:
    """SQLite finds no fault with the brains, and their indexes say what their content says."""
    paths = sorted(patient.home.brains.glob("*.db"))
    bad = 0
    for path in paths:
        for check in _brain(patient, path):
            bad += 1
            yield check
    if not bad:
        yield sound("brains", f"{len(paths)} brains are sound, with their indexes")
    wanted = patient.config.brains_encrypted
    other = [path for path in paths if patient.brains is None and is_plain(path) is wanted]
    if other:
        word = "encrypted" if wanted else "plain"
        yield warning(
            "brains", f"{len(other)} brains are not {word} yet", "each is made so when its agent uses it next"
        )


def _brain(patient: Patient, path: Path) -> Iterator[Check]:
    try:
        with _open_brain(patient, path) as connection:
            found = faults(connection)
            if found and not bad_indexes(connection):
                yield failed("brains", f"{path.name}: {found[0]}", _BACKUP)
            else:
                yield from _indexes(patient, path, connection)
    except LoketError as error:
        if error.code == "database.timeout":
            yield warning("brains", f"{path.name} is too large to be looked over now", "stop Loket, then loket doctor")
        else:
            yield failed("brains", f"{path.name}: {error.message}", error.remedy)


@contextlib.contextmanager
def _open_brain(patient: Patient, path: Path) -> Iterator[apsw.Connection]:
    """A running system's own connection, or one of ours: a file has one owner."""
    if patient.brains is not None:
        with patient.brains.open(path.stem) as connection:
            yield connection
    else:
        key = patient.brain_key(path.stem) if is_plain(path) is False else None
        with opened(path, key) as connection:
            yield connection


def _indexes(patient: Patient, path: Path, connection: apsw.Connection) -> Iterator[Check]:
    for name in bad_indexes(connection):
        detail = f"{path.name}: the index {name} is not what its content says"
        if not patient.fix:
            yield mendable("brains", FAILED, detail)
            continue
        rebuild_index(connection, name)
        if name in bad_indexes(connection) or faults(connection):
            yield failed("brains", f"{detail}, and is not after it was made anew either", _BACKUP)
        else:
            yield mended("brains", detail, "made anew from its content")


def journal(patient: Patient) -> Iterator[Check]:
    """Every row follows from the one before it, and the seal closes them."""
    with _journal(patient) as held:
        if held is None:
            yield sound("journal", "there is no journal yet")
            return
        found = check_chain(held)
        for fault in found[:20]:
            yield failed("journal", fault.reason, _BACKUP)
        if not found:
            yield sound("journal", "the chain and its seal are sound")


def erasures(patient: Patient) -> Iterator[Check]:
    """Every erasure that was begun is done everywhere."""
    path = patient.home.database
    tables = query_file(path, "SELECT 1 FROM sqlite_master WHERE name = 'erasing'") if path.exists() else []
    [(waiting,)] = query_file(path, "SELECT count(*) FROM erasing") if tables else [(0,)]
    if waiting:
        said = f"{waiting} run(s) are being erased, and a store has something of them still"
        yield warning("erasures", said, "start Loket, which goes on with it and says what is in the way: loket up")
    else:
        yield sound("erasures", "nothing is left of what was erased")


@contextlib.contextmanager
def _journal(patient: Patient) -> Iterator[Journal | None]:
    """The running system's journal, or the home's. Raises `Damaged` where its keys are missing: none are made here."""
    home = patient.home
    if patient.running is not None or not home.database.exists():
        yield patient.running
        return
    for path in (home.vault / "journal.key", home.root / "keys.db"):
        if not path.exists():
            raise Damaged("keys.missing", f"{path} is missing, and the journal cannot be read without it", _BACKUP)
    try:
        with contextlib.closing(KernelDatabase(home.database, patient.master().subkey("run-keys"))) as database:
            yield Journal(database, home.journal_key(), time.time)
    except apsw.Error as error:
        raise storage_error(error, home.database) from error


def clock(patient: Patient) -> Iterator[Check]:
    """The clock is not before what was written already."""
    now = time.time()
    last = 0.0
    if patient.home.database.exists():
        [(last,)] = query_file(patient.home.database, "SELECT coalesce(max(at), 0.0) FROM journal")
    if now < max(last, _EARLY):
        yield warning("clock", "the clock is behind what the journal says", "set the machine's clock")
    else:
        yield sound("clock", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


def vault(patient: Patient) -> Iterator[Check]:
    """The master key is the right one, and every secret can be read with it."""
    folder = patient.home.vault
    held = FileVault(folder, keyring=patient.config.vault_keyring)
    names = held.names()
    if (folder / "master.json").exists():
        held.master.subkey("check")
    for name in names:
        held.get(name)
    where = "the system's keyring" if patient.config.vault_keyring else "a file"
    yield sound("vault", f"{len(names)} secrets can be read; the master key is in {where}")
