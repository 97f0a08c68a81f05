"""Encryption of a whole SQLite file, with SQLite3MultipleCiphers: ChaCha20-Poly1305 for each page, and a raw key.

A raw key, because it comes from a key derivation already: a passphrase would cost some hundredths of a second at each
opening. Every page is authenticated, so that a page that was changed from outside is an error and not data.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import apsw

from loket.contracts import Damaged, Failed
from loket.durable import sync_folder, wipe

LEFT = ".rekey"
"""Ends the name of the copy that a conversion works on; one that is found was left behind by a crash."""

_PLAIN = b"SQLite format 3\0"
_CHUNK = 1 << 20


def is_plain(path: Path) -> bool | None:
    """Whether a database is not encrypted, by its first bytes; None where there is none yet."""
    try:
        with path.open("rb") as file:
            found = file.read(len(_PLAIN))
    except (FileNotFoundError, IsADirectoryError):
        return None
    return found == _PLAIN if found else None


def unlock(connection: apsw.Connection, key: bytes) -> None:
    """Have a connection that was just opened read and write with a key (32 bytes).

    Raises `apsw.NotADBError` where the file was written with another one.
    """
    connection.pragma("cipher", "chacha20")
    connection.pragma("key", f"raw:{key.hex()}")
    connection.execute("SELECT count(*) FROM sqlite_schema").fetchall()


def convert(path: Path, *, old: bytes | None, new: bytes | None) -> None:
    """Encrypt a database, decrypt it, or give it another key; None is no encryption. Nobody else may use it meanwhile.

    The work is done on a copy, which takes the file's place in one rename when it is complete and on the disk: a crash
    leaves either the one or the other. What is replaced is overwritten with zeros, as far as the file system does that.

    Raises `Damaged` where the file cannot be read with `old`, `Failed` where the disk does not take the copy.
    """
    copy = path.with_name(path.name + LEFT)
    discard_left(path)
    try:
        _fold(path, old)
        _copied(path, copy)
        _rekey(copy, old, new)
        _check(copy, new)
        _swap(copy, path)
    except (apsw.CorruptError, apsw.NotADBError) as error:
        raise Damaged(
            "database.key",
            f"The database {path} is damaged, or encrypted with another key than this home's",
            f"Put the vault/master.key that belongs to it back, or a backup in the place of {path}",
        ) from error
    except (apsw.Error, OSError) as error:
        raise Failed(
            "database.convert",
            f"The database {path} could not be {'decrypted' if new is None else 'encrypted'}: {error}",
            "Free disk space as large as the file, stop other programs that use it, and try again",
            blame="machine",
        ) from error
    finally:
        discard_left(path)


def discard_left(path: Path) -> None:
    """Delete what a conversion of this file left behind when it was ended; what cannot be deleted is met later."""
    with contextlib.suppress(OSError):
        path.with_name(path.name + LEFT).unlink()


@contextlib.contextmanager
def _opened(path: Path, key: bytes | None) -> Iterator[apsw.Connection]:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        if key is not None:
            unlock(connection, key)
        yield connection
    finally:
        connection.close(True)


def _fold(path: Path, key: bytes | None) -> None:
    """Bring all that is in the write-ahead log into the file: what a log holds is encrypted with the file's key."""
    with _opened(path, key) as connection:
        connection.pragma("journal_mode", "delete")


def _copied(path: Path, copy: Path) -> None:
    with path.open("rb") as source, os.fdopen(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        shutil.copyfileobj(source, file, _CHUNK)


def _rekey(copy: Path, old: bytes | None, new: bytes | None) -> None:
    with _opened(copy, old) as connection:
        connection.pragma("journal_mode", "memory")  # a copy that does not come out right is thrown away
        connection.pragma("cipher", "chacha20")
        connection.pragma("rekey", f"raw:{new.hex()}" if new is not None else "")


def _check(copy: Path, key: bytes | None) -> None:
    with _opened(copy, key) as connection:
        if connection.pragma("quick_check") != "ok":
            raise apsw.CorruptError("the copy is not sound")


def _swap(copy: Path, path: Path) -> None:
    with path.open("r+b") as old:
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        copy.replace(path)
        sync_folder(path.parent)
        wipe(old.fileno())
