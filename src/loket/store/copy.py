"""Copies a database while it is in use, as it is at one moment: SQLite's backup API inside a read transaction."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import apsw

from loket.durable import sync_folder
from loket.store.cipher import unlock
from loket.store.database import BUSY_MS, storage_error

_PAGES = 2_000
"""Pages copied between two reports of progress: 8 MB."""


def copy_database(
    source: apsw.Connection,
    target: Path,
    *,
    key: bytes | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Copy an open database to a new file (0600, on the disk when this returns), encrypted with `key` as the source is.

    The read transaction holds the moment: writers go on, and without it each write would start the copy anew.
    `progress` takes pages done and pages in all. Raises `Damaged` and `Failed` as `open_database` does.
    """
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with contextlib.closing(apsw.Connection(str(target))) as copied:
            if key is not None:
                unlock(copied, key)
            _within(source, copied, progress)
            copied.pragma("journal_mode", "delete")
    except (apsw.Error, OSError) as error:
        raise storage_error(error, target) from error
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    sync_folder(target.parent)


def _within(source: apsw.Connection, copied: apsw.Connection, progress: Callable[[int, int], None] | None) -> None:
    begun = not source.in_transaction
    if begun:
        source.execute("BEGIN DEFERRED")
    try:
        source.execute("SELECT count(*) FROM sqlite_schema").fetchall()
        with copied.backup("main", source, "main") as work:
            while not work.done:
                work.step(_PAGES)
                if progress is not None:
                    progress(work.page_count - work.remaining, work.page_count)
    finally:
        if begun:
            source.execute("ROLLBACK")


def copy_file(path: Path, target: Path, progress: Callable[[int, int], None] | None = None) -> None:
    """`copy_database` of a file that is not encrypted and that others may have open and write to."""
    try:
        with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)) as source:
            source.set_busy_timeout(BUSY_MS)
            copy_database(source, target, progress=progress)
    except apsw.Error as error:
        raise storage_error(error, path) from error
