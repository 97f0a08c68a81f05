"""`mcp.db`: servers of the Model Context Protocol, what their tools say they are, and what the owner approved."""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import Json
from loket.store.database import open_database

MIGRATIONS = (
    """
    -- Times are seconds since 1970 (UTC). `config` and `definition` are JSON; digests are SHA-256, hex.
    CREATE TABLE server (
        name TEXT PRIMARY KEY, config TEXT NOT NULL, digest TEXT NOT NULL,
        approved TEXT,                          -- the digest that the owner approved
        enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
        origin TEXT NOT NULL,                   -- `command`, or the file that it was imported from
        made REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE tool (
        server TEXT NOT NULL REFERENCES server (name) ON DELETE CASCADE, name TEXT NOT NULL,
        definition TEXT NOT NULL, digest TEXT NOT NULL,     -- as the server said it last
        seen REAL NOT NULL,
        gone INTEGER NOT NULL CHECK (gone IN (0, 1)),       -- whether the last list was without it
        approved TEXT, approved_digest TEXT,                -- the definition that the owner approved
        approved_config TEXT,                               -- the digest of the server's configuration at that moment
        effect TEXT, critical TEXT, repeatable INTEGER,     -- what the owner says of it; critical is a JSON list
        refused TEXT,                                       -- the digest of a definition that the owner refused
        decided REAL,
        PRIMARY KEY (server, name)
    ) STRICT, WITHOUT ROWID;
    """,
)

_SERVER = "name, config, digest, approved, enabled, origin, made"
_TOOL = (
    "server, name, definition, digest, seen, gone, approved, approved_digest, approved_config, effect, critical,"
    " repeatable, refused, decided"
)


@dataclass(frozen=True, slots=True)
class KeptServer:
    """A server as it is kept. `config` is its entry, `digest` that of it, `approved` the one that was approved."""

    name: str
    config: Mapping[str, Json]
    digest: str
    approved: str | None
    enabled: bool
    origin: str
    made: float


@dataclass(frozen=True, slots=True)
class KeptTool:
    """A tool as it is kept: `definition` is what its server said last, `approved` what the owner approved."""

    server: str
    name: str
    definition: Mapping[str, Json]
    digest: str
    seen: float
    gone: bool
    approved: Mapping[str, Json] | None
    approved_digest: str | None
    approved_config: str | None
    effect: str | None
    critical: tuple[str, ...]
    repeatable: bool
    refused: str | None
    decided: float | None


class McpTable:
    """Servers and tools. Thread-safe."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def servers(self) -> list[KeptServer]:
        """All servers, by name."""
        return [_server(row) for row in self._query(f"SELECT {_SERVER} FROM server ORDER BY name")]  # noqa: S608 - ours

    def server(self, name: str) -> KeptServer | None:
        """One server, or None."""
        rows = self._query(f"SELECT {_SERVER} FROM server WHERE name = ?", (name,))  # noqa: S608 - columns of ours
        return _server(rows[0]) if rows else None

    def put_server(self, name: str, config: Mapping[str, Json], digest: str, origin: str, at: float) -> None:
        """Keep a server, in the place of one of the same name, whose approval goes on where the digest is the same."""
        sql = (
            "INSERT INTO server VALUES (?1, ?2, ?3, NULL, 1, ?4, ?5) ON CONFLICT (name) DO UPDATE SET config = ?2,"
            " digest = ?3, origin = ?4, approved = CASE WHEN approved = ?3 THEN approved END"
        )
        self._change(sql, (name, json.dumps(config), digest, origin, at))

    def approve_server(self, name: str, digest: str) -> bool:
        """Write down that the owner approved this configuration; False where it is another one by now."""
        return self._change("UPDATE server SET approved = ?2 WHERE name = ?1 AND digest = ?2", (name, digest))

    def enable(self, name: str, *, enabled: bool) -> bool:
        """Switch a server on or off; whether there is one."""
        return self._change("UPDATE server SET enabled = ? WHERE name = ?", (int(enabled), name))

    def remove(self, name: str) -> bool:
        """Forget a server with its tools; whether there was one."""
        return self._change("DELETE FROM server WHERE name = ?", (name,))

    def tools(self, server: str) -> list[KeptTool]:
        """All tools of a server that were ever seen, by name."""
        rows = self._query(f"SELECT {_TOOL} FROM tool WHERE server = ? ORDER BY name", (server,))  # noqa: S608 - ours
        return [_tool(row) for row in rows]

    def see(self, server: str, found: Mapping[str, tuple[Mapping[str, Json], str]], at: float) -> None:
        """Keep what a server listed: definitions and digests by name. Tools that are missing are gone."""
        listed = [(server, name, json.dumps(said), digest, at) for name, (said, digest) in found.items()]
        with self._lock, self._connection:
            self._connection.execute("UPDATE tool SET gone = 1 WHERE server = ? AND gone = 0", (server,))
            self._connection.executemany(
                "INSERT INTO tool (server, name, definition, digest, seen, gone) VALUES (?1, ?2, ?3, ?4, ?5, 0)"
                " ON CONFLICT (server, name) DO UPDATE SET definition = ?3, digest = ?4, seen = ?5, gone = 0",
                listed,
            )
            self._connection.execute(
                "DELETE FROM tool WHERE server = ? AND gone = 1 AND approved IS NULL AND refused IS NULL", (server,)
            )

    def approve_tool(
        self,
        server: str,
        name: str,
        digest: str,
        *,
        config: str,
        effect: str,
        critical: Sequence[str],
        repeatable: bool,
        at: float,
    ) -> bool:
        """Write the owner's approval of a definition down; False where the server says another one by now."""
        return self._change(
            "UPDATE tool SET approved = definition, approved_digest = digest, approved_config = ?4, effect = ?5,"
            " critical = ?6, repeatable = ?7, refused = NULL, decided = ?8"
            " WHERE server = ?1 AND name = ?2 AND digest = ?3 AND gone = 0",
            (server, name, digest, config, effect, json.dumps(list(critical)), int(repeatable), at),
        )

    def refuse_tool(self, server: str, name: str, at: float) -> bool:
        """Write down that the owner refused what a tool says now; whether there is such a tool."""
        return self._change(
            "UPDATE tool SET approved = NULL, approved_digest = NULL, refused = digest, decided = ?3"
            " WHERE server = ?1 AND name = ?2",
            (server, name, at),
        )

    def _change(self, sql: str, values: tuple[object, ...]) -> bool:
        with self._lock:
            with self._connection:
                self._connection.execute(sql, values)
                changed: int = self._connection.changes()
            return changed > 0

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()


def _server(row: Any) -> KeptServer:
    name, config, digest, approved, enabled, origin, made = row
    return KeptServer(name, json.loads(config), digest, approved, bool(enabled), origin, made)


def _tool(row: Any) -> KeptTool:
    server, name, definition, digest, seen, gone, approved, *rest = row
    approved_digest, approved_config, effect, critical, repeatable, refused, decided = rest
    return KeptTool(
        server,
        name,
        json.loads(definition),
        digest,
        seen,
        bool(gone),
        json.loads(approved) if approved is not None else None,
        approved_digest,
        approved_config,
        effect,
        tuple(json.loads(critical)) if critical is not None else (),
        bool(repeatable),
        refused,
        decided,
    )
