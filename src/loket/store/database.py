"""Opens a SQLite database the one way that Loket does: durable, private, and at the newest version of its schema."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import apsw

from loket.contracts import Damaged, Failed, LoketError
from loket.durable import sync_folder
from loket.store.cipher import unlock

BUSY_MS = 5_000
"""How long a statement waits for another process that writes, in milliseconds."""


def open_database(
    path: Path, *, migrations: Sequence[str], vfs: str | None = None, key: bytes | None = None
) -> apsw.Connection:
    """Open the database at `path`, made where there is none (only its user may read it: mode 0600).

    `migrations` are SQL scripts; the database's `user_version` says how many it has had, and each missing one runs in
    a transaction of its own. `vfs` names a registered SQLite VFS to use instead of the system's. With `key` (32 bytes)
    the file is encrypted with it, its write-ahead log too; a plain file is not opened then (see `cipher.convert`).

    Write-ahead log, `synchronous=FULL`: what a committed transaction wrote survives a loss of power. `with connection:`
    begins a transaction that holds the write lock from its start. Deleted content is overwritten with zeros.

    Raises `Damaged` where the file is no sound database, was encrypted with another key or written by a newer Loket,
    `Failed` where it cannot be opened at all (rights, disk, a lock that another process holds).
    """
    try:
        _create(path)
        connection = _Connection(str(path), vfs=vfs)
    except (apsw.Error, OSError) as error:
        raise storage_error(error, path) from error
    try:
        if key is not None:
            unlock(connection, key)
        _configure(connection)
        _migrate(connection, path, migrations)
    except apsw.Error as error:
        connection.close(True)
        raise storage_error(error, path, encrypted=key is not None) from error
    except LoketError:
        connection.close(True)
        raise
    return connection


class _Connection(apsw.Connection):
    """Commits as a statement: apsw's own context holds the interpreter's lock while the disk is synced."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._nested: list[bool] = []

    def __enter__(self) -> Self:
        nested = self.in_transaction
        if nested:
            super().__enter__()
        else:
            self.execute("BEGIN IMMEDIATE")
        self._nested.append(nested)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._nested.pop():
            return bool(super().__exit__(kind, error, trace))
        try:
            if kind is None:
                self.execute("COMMIT")
        finally:
            if self.in_transaction:
                self.execute("ROLLBACK")
        return False


def run_script(connection: apsw.Connection, script: str) -> None:
    """Run every statement of an SQL script, the rows they give left out."""
    connection.execute(script).fetchall()


def storage_error(error: Exception, path: Path, *, encrypted: bool = False) -> LoketError:
    """What an error of SQLite or of the file system means to a caller: `Damaged` for a bad file, else `Failed`."""
    if encrypted and isinstance(error, apsw.NotADBError):
        return Damaged(
            "database.key",
            f"The database {path} is damaged, or encrypted with another key than this home's",
            f"Put the vault/master.key that belongs to it back, or a backup in the place of {path}",
        )
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return Damaged(
            "database.corrupt",
            f"The database {path} is damaged: {error}",
            f"Move {path} (and {path.name}-wal beside it) away and put a backup in its place",
        )
    if isinstance(error, apsw.FullError):
        return Failed("database.full", f"No room is left for {path}", "Free disk space, then try again")
    if isinstance(error, apsw.InterruptError):
        return Failed("database.timeout", f"A statement on {path.name} took too long and was ended", "Ask for less")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Failed("database.busy", f"Another process is writing to {path}", "Try again when it has ended")
    return Failed("database.unusable", f"The database {path} cannot be used: {error}", f"Check the rights on {path}")


def _create(path: Path) -> None:
    """Make an empty file with narrow rights, and have its name synced; SQLite gives its side files the same rights."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    sync_folder(path.parent)


def _configure(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(BUSY_MS)
    connection.transaction_mode = "IMMEDIATE"
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("foreign_keys", 1)
    connection.pragma("secure_delete", 1)
    connection.pragma("temp_store", "memory")


def _migrate(connection: apsw.Connection, path: Path, migrations: Sequence[str]) -> None:
    version = _version(connection)
    if version > len(migrations):
        raise Damaged(
            "database.newer",
            f"The database {path} has version {version}; this Loket knows versions up to {len(migrations)}",
            "Install the newer Loket that wrote it, or put back a backup of before",
            blame="owner",
        )
    while version < len(migrations):
        with connection:
            # Another process may have been quicker: what counts is the version under the write lock.
            version = _version(connection)
            if version < len(migrations):
                run_script(connection, migrations[version])
                version += 1
                connection.pragma("user_version", version)


def _version(connection: apsw.Connection) -> int:
    return int(connection.pragma("user_version"))
