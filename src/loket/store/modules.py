"""Which versions of modules are kept, whose keys the owner trusts, and modules that are leaving: tables of `kernel.db`.

Nothing here is secret; every change is written with the row of the journal that says why.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from loket.contracts import Statement

MODULES_MIGRATION: Final = """
    -- Every version of a module whose folder is kept; `modules` names the one that counts. `content` is the digest of
    -- all its files, `pack` that of the pack it came from, and `signer` the fingerprint of the key that signed it.
    CREATE TABLE versions (
        number INTEGER PRIMARY KEY, id TEXT NOT NULL, publisher TEXT NOT NULL, version TEXT NOT NULL,
        kind TEXT NOT NULL, digest TEXT NOT NULL, folder TEXT NOT NULL UNIQUE, content TEXT NOT NULL, pack TEXT,
        signer TEXT, source TEXT NOT NULL, installed REAL NOT NULL
    ) STRICT;
    CREATE INDEX versions_id ON versions (id, number);
    INSERT INTO versions (id, publisher, version, kind, digest, folder, content, source, installed)
        SELECT id, publisher, version, kind, digest, folder, '', '', installed FROM modules;
    -- Public keys of publishers: `state` is trusted or revoked. Several keys of one publisher follow each other.
    CREATE TABLE publisher_keys (
        fingerprint TEXT PRIMARY KEY, key BLOB NOT NULL, publisher TEXT NOT NULL, state TEXT NOT NULL, at REAL NOT NULL,
        own INTEGER NOT NULL
    ) STRICT;
    -- Removed modules whose grants stay until their runs in flight have ended.
    CREATE TABLE leaving (publisher TEXT NOT NULL, id TEXT NOT NULL, PRIMARY KEY (publisher, id)) STRICT;
    """

TRUSTED: Final = "trusted"
REVOKED: Final = "revoked"

_INSERT: Final = (
    "INSERT INTO versions (id, publisher, version, kind, digest, folder, content, pack, signer, source, installed)"
    " VALUES (?,?,?,?,?,?,?,?,?,?,?)"
)


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a module that is kept. `folder` is relative to the home; `installed` in seconds since 1970 UTC.

    `pack` is the digest of the pack that it came from (None for a folder), `signer` the fingerprint of the key that
    signed it (None for what nobody signed), `source` the folder, file or address that the owner named.
    """

    id: str
    publisher: str
    version: str
    kind: str
    digest: str
    folder: str
    content: str
    pack: str | None
    signer: str | None
    source: str
    installed: float
    number: int = 0
    """Later ones have higher numbers."""


@dataclass(frozen=True, slots=True)
class PublisherKey:
    """A publisher's public key (32 bytes). `own` says that the private key is in this home's vault."""

    fingerprint: str
    key: bytes
    publisher: str
    state: str
    at: float
    own: bool = False


class ModuleRows:
    """The queries and statements of these tables. `query` gives rows as objects."""

    def __init__(self, query: Callable[..., list[dict[str, Any]]]) -> None:
        self._query = query

    def versions(self, module: str | None = None) -> list[Version]:
        """All versions that are kept, of one module or of all, the newest first."""
        found = self._query("SELECT * FROM versions WHERE ?1 IS NULL OR id = ?1 ORDER BY number DESC", (module,))
        return [Version(**row) for row in found]

    def added(self, one: Version) -> Statement:
        values = (one.id, one.publisher, one.version, one.kind, one.digest, one.folder, one.content)
        return _INSERT, (*values, one.pack, one.signer, one.source, one.installed)

    def dropped(self, one: Version) -> Statement:
        return "DELETE FROM versions WHERE folder = ?", (one.folder,)

    def forgotten(self, module: str) -> Statement:
        """No version of a module is kept any more."""
        return "DELETE FROM versions WHERE id = ?", (module,)

    def current(self, one: Version, at: float) -> Statement:
        """Have this version count from now on."""
        values = (one.id, one.publisher, one.version, one.kind, one.digest, one.folder, at)
        return "INSERT OR REPLACE INTO modules VALUES (?,?,?,?,?,?,?)", values

    def keys(self) -> list[PublisherKey]:
        """All keys that the owner has said something about."""
        found = self._query("SELECT * FROM publisher_keys ORDER BY publisher, at")
        return [PublisherKey(**{**row, "own": bool(row["own"])}) for row in found]

    def key_put(self, key: PublisherKey) -> Statement:
        values = (key.fingerprint, key.key, key.publisher, key.state, key.at, int(key.own))
        return "INSERT OR REPLACE INTO publisher_keys VALUES (?,?,?,?,?,?)", values

    def leaving(self) -> list[tuple[str, str]]:
        """Publisher and id of removed modules whose grants stay for a while."""
        return [(row["publisher"], row["id"]) for row in self._query("SELECT publisher, id FROM leaving")]

    def in_flight(self, module: str) -> bool:
        """Whether a module has runs that have not ended."""
        return bool(self._query("SELECT 1 AS one FROM runs WHERE ended IS NULL AND module = ? LIMIT 1", (module,)))

    def leaves(self, publisher: str, module: str) -> Statement:
        return "INSERT OR IGNORE INTO leaving VALUES (?,?)", (publisher, module)

    def left(self, publisher: str, module: str) -> Statement:
        return "DELETE FROM leaving WHERE publisher = ? AND id = ?", (publisher, module)
