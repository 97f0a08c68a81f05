"""`gateway.db`: the owner's account, sessions, API tokens, and how often somebody tried to get in.

Secrets are here as SHA-256 only, and the password as its argon2id hash. The server and a command may have the file open
at the same time: nothing of it is kept in memory, and whatever must happen once is decided in a transaction.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loket.store.database import open_database

MIGRATIONS = (
    """
    -- One account a home. `decoy` is a hash that fits no password: an unknown name is checked against it.
    CREATE TABLE account (
        id INTEGER PRIMARY KEY CHECK (id = 1), name TEXT NOT NULL, hash TEXT NOT NULL, decoy TEXT NOT NULL,
        made REAL NOT NULL, changed REAL NOT NULL
    ) STRICT;
    CREATE TABLE setup (id INTEGER PRIMARY KEY CHECK (id = 1), digest BLOB NOT NULL) STRICT;
    CREATE TABLE session (digest BLOB PRIMARY KEY, made REAL NOT NULL, used REAL NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE token (
        id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest BLOB NOT NULL UNIQUE, made REAL NOT NULL, expires REAL,
        used REAL
    ) STRICT;
    -- Attempts in a row since the last good one, and when the last of them was.
    CREATE TABLE attempt (bucket INTEGER PRIMARY KEY, failures INTEGER NOT NULL, last REAL NOT NULL) STRICT;
    """,
    """
    -- The doors that a token opens, with blanks between them; empty: all.
    ALTER TABLE token ADD COLUMN doors TEXT NOT NULL DEFAULT '';
    """,
)

_TOKEN = "SELECT id, name, made, expires, used, doors FROM token"  # noqa: S105 - a table
_TOKEN_COLUMNS = ("id", "name", "made", "expires", "used", "doors")


class Accounts:
    """The tables of `gateway.db`. Times are seconds since 1970 (UTC), digests SHA-256. Thread-safe."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # The account

    def account(self) -> dict[str, Any] | None:
        """`name`, `hash`, `decoy`, `made`, `changed`; None where there is no account yet."""
        names = ("name", "hash", "decoy", "made", "changed")
        rows = self._query("SELECT name, hash, decoy, made, changed FROM account")
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def create(self, name: str, hashed: str, decoy: str, at: float, code: bytes | None) -> bool:
        """Make the account, where there is none and `code` (if one is given) is the one set up; whether it was made."""
        with self._lock, self._connection:
            if self.account() is not None or (code is not None and self.setup() != code):
                return False
            sql = "INSERT INTO account (id, name, hash, decoy, made, changed) VALUES (1, ?, ?, ?, ?, ?)"
            self._connection.execute(sql, (name, hashed, decoy, at, at))
            self._connection.execute("DELETE FROM setup")
        return True

    def change(self, hashed: str, at: float, before: str | None) -> bool:
        """Put another hash in the place of `before` (of any, for None) and end all sessions; whether that was done."""
        with self._lock, self._connection:
            sql = "UPDATE account SET hash = ?1, changed = ?2 WHERE ?3 IS NULL OR hash = ?3"
            self._connection.execute(sql, (hashed, at, before))
            if not self._connection.changes():
                return False
            self._connection.execute("DELETE FROM session")
        return True

    def set_up(self, code: bytes) -> bool:
        """Keep this setup code in the place of the last one; False where there is an account."""
        with self._lock, self._connection:
            if self.account() is not None:
                return False
            self._connection.execute("INSERT OR REPLACE INTO setup VALUES (1, ?)", (code,))
        return True

    def setup(self) -> bytes | None:
        rows = self._query("SELECT digest FROM setup")
        return rows[0][0] if rows else None

    # Attempts

    def attempt(self, bucket: int, at: float, delay: Callable[[int], float], forget_s: float) -> float:
        """Count an attempt before it is looked at, so that many at once count too; 0, or the seconds still to wait.

        `delay` gives the seconds to wait after so many attempts in a row; after `forget_s` without one they are
        forgotten.
        """
        with self._lock, self._connection:
            rows = self._query("SELECT failures, last FROM attempt WHERE bucket = ?", (bucket,))
            failures, last = rows[0] if rows else (0, at)
            wait = last + delay(failures) - at
            if at >= last and wait > 0:  # a clock that was put back locks nobody out
                return float(wait)
            failures = failures + 1 if at - last < forget_s else 1
            self._connection.execute("INSERT OR REPLACE INTO attempt VALUES (?, ?, ?)", (bucket, failures, at))
        return 0.0

    def forgive(self, bucket: int) -> None:
        """The attempt was a good one."""
        self._write("DELETE FROM attempt WHERE bucket = ?", (bucket,))

    # Sessions

    def add_session(self, digest: bytes, at: float, hashed: str, most: int, oldest: float) -> bool:
        """Begin a session, if the account's hash still is the one that was checked; whether it was begun.

        Of more than `most` the ones that were used least recently end, and those that began before `oldest`.
        """
        with self._lock, self._connection:
            account = self.account()
            if account is None or account["hash"] != hashed:
                return False
            self._connection.execute("INSERT INTO session VALUES (?, ?, ?)", (digest, at, at))
            self._connection.execute(
                "DELETE FROM session WHERE made < ?1 OR digest NOT IN"
                " (SELECT digest FROM session ORDER BY used DESC, made DESC LIMIT ?2)",
                (oldest, most),
            )
        return True

    def session(self, digest: bytes) -> tuple[float, float] | None:
        """When it began and when it was last used."""
        rows = self._query("SELECT made, used FROM session WHERE digest = ?", (digest,))
        return rows[0] if rows else None

    def touch_session(self, digest: bytes, at: float) -> None:
        self._write("UPDATE session SET used = ? WHERE digest = ?", (at, digest))

    def end_session(self, digest: bytes) -> None:
        self._write("DELETE FROM session WHERE digest = ?", (digest,))

    # API tokens

    def add_token(
        self, identity: str, name: str, digest: bytes, at: float, expires: float | None, doors: tuple[str, ...] = ()
    ) -> bool:
        """Keep a token; False where one has this name already. `doors`: those that it opens; empty: all."""
        with self._lock, self._connection:
            if self._query("SELECT 1 FROM token WHERE name = ?", (name,)):
                return False
            sql = "INSERT INTO token (id, name, digest, made, expires, doors) VALUES (?, ?, ?, ?, ?, ?)"
            self._connection.execute(sql, (identity, name, digest, at, expires, " ".join(doors)))
        return True

    def tokens(self) -> list[dict[str, Any]]:
        """All tokens, oldest first: `id`, `name`, `made`, `expires`, `used`, `doors`."""
        return [_token(row) for row in self._query(f"{_TOKEN} ORDER BY made, id")]

    def token(self, digest: bytes) -> dict[str, Any] | None:
        rows = self._query(f"{_TOKEN} WHERE digest = ?", (digest,))
        return _token(rows[0]) if rows else None

    def touch_token(self, identity: str, at: float) -> None:
        self._write("UPDATE token SET used = ? WHERE id = ?", (at, identity))

    def drop_token(self, identity: str) -> bool:
        """Revoke a token; whether there was one."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM token WHERE id = ?", (identity,))
            dropped: int = self._connection.changes()
        return dropped > 0

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _write(self, sql: str, values: tuple[object, ...]) -> None:
        with self._lock, self._connection:
            self._connection.execute(sql, values)


def _token(row: tuple[Any, ...]) -> dict[str, Any]:
    found = dict(zip(_TOKEN_COLUMNS, row, strict=True))
    return {**found, "doors": found["doors"].split()}
