"""`kernel.db`: journal, runs, modules and grants in SQLite (WAL, synchronous FULL). One kernel process per home."""

import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from loket.contracts import (
    Ending,
    Grant,
    Limits,
    ModuleRef,
    Principal,
    Row,
    RowKind,
    RunRequest,
    RunStatus,
    Statement,
)
from loket.store.database import open_database

MIGRATIONS = (
    """
    CREATE TABLE journal (
        seq INTEGER PRIMARY KEY, run TEXT NOT NULL, ordinal INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL,
        facts TEXT NOT NULL, value BLOB NOT NULL, salt BLOB NOT NULL, commitment BLOB NOT NULL, hash BLOB NOT NULL
    ) STRICT;
    CREATE INDEX journal_run ON journal (run, seq);
    CREATE UNIQUE INDEX journal_end ON journal (run) WHERE kind = 'end';
    CREATE TRIGGER journal_append_only_update BEFORE UPDATE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TRIGGER journal_append_only_delete BEFORE DELETE ON journal
        BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
    CREATE TABLE seal (
        id INTEGER PRIMARY KEY CHECK (id = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL, seal BLOB NOT NULL
    ) STRICT;
    CREATE TABLE runs (
        id TEXT PRIMARY KEY, agent TEXT NOT NULL, conversation TEXT NOT NULL, principal TEXT NOT NULL,
        root TEXT NOT NULL, parent TEXT, operation TEXT NOT NULL, module TEXT, version TEXT, digest TEXT,
        message TEXT, status TEXT NOT NULL, accepted REAL NOT NULL, ended REAL, answer TEXT, error TEXT,
        calls INTEGER NOT NULL DEFAULT 0, tokens INTEGER NOT NULL DEFAULT 0, money REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX runs_agent ON runs (agent, accepted);
    CREATE INDEX runs_open ON runs (status) WHERE ended IS NULL;
    CREATE INDEX runs_ended ON runs (ended);
    CREATE UNIQUE INDEX runs_message ON runs (agent, message) WHERE message IS NOT NULL;
    CREATE TABLE modules (
        id TEXT PRIMARY KEY, publisher TEXT NOT NULL, version TEXT NOT NULL, kind TEXT NOT NULL, digest TEXT NOT NULL,
        folder TEXT NOT NULL, installed REAL NOT NULL
    ) STRICT;
    CREATE TABLE grants (
        publisher TEXT NOT NULL, module TEXT NOT NULL, capability TEXT NOT NULL, constraints TEXT NOT NULL,
        granted_by TEXT NOT NULL, granted REAL NOT NULL, reason TEXT NOT NULL,
        PRIMARY KEY (publisher, module, capability)
    ) STRICT;
    CREATE TABLE accepted (
        publisher TEXT NOT NULL, module TEXT NOT NULL, digest TEXT NOT NULL, at REAL NOT NULL,
        PRIMARY KEY (publisher, module, digest)
    ) STRICT;
    CREATE TABLE revoked (digest TEXT PRIMARY KEY, at REAL NOT NULL) STRICT;
    """,
)

_INSERT_ROW = "INSERT INTO journal VALUES (?,?,?,?,?,?,?,?,?,?)"
_INSERT_RUN = (
    "INSERT INTO runs (id, agent, conversation, principal, root, parent, operation, module, version, digest, message,"
    " status, accepted) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
)
_SELECT_ROW = "SELECT seq, run, ordinal, kind, at, facts, value, salt, commitment, hash FROM journal"
_SELECT_UNFINISHED = (
    "SELECT seq, run, ordinal, kind, at, facts, value, salt, commitment, hash FROM journal"
    " WHERE kind = 'start' AND run IN (SELECT id FROM runs WHERE ended IS NULL) ORDER BY seq"
)
_CHUNK = 500


class KernelDatabase:
    """The kernel's SQLite file: a `RowStore` and `Records`, and the lists that are kept in step with the journal."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._writer = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._reader = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._reading = threading.Lock()
        self._writing = threading.Lock()

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()

    # RowStore

    def write(self, rows: Sequence[Row], statements: Sequence[Statement], seal: bytes) -> None:
        """One transaction, on the disk when it returns."""
        with self._writing, self._writer:
            self._writer.executemany(_INSERT_ROW, (_encode(row) for row in rows))
            for sql, values in statements:
                self._writer.execute(sql, values)
            if rows:
                last = (rows[-1].seq, rows[-1].hash, seal)
                self._writer.execute("INSERT OR REPLACE INTO seal VALUES (1, ?, ?, ?)", last)

    def head(self) -> tuple[int, bytes, bytes] | None:
        found = self._query("SELECT seq, hash, seal FROM seal")
        return found[0] if found else None

    def rows(self, run: str | None = None) -> Iterator[Row]:
        """Rows in order; read in chunks, so that writing goes on meanwhile."""
        if run is not None:
            yield from map(_decode, self._query(f"{_SELECT_ROW} WHERE run = ? ORDER BY seq", (run,)))
            return
        after = 0
        while chunk := self._query(f"{_SELECT_ROW} WHERE seq > ? ORDER BY seq LIMIT {_CHUNK}", (after,)):
            yield from map(_decode, chunk)
            after = chunk[-1][0]

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._reading:
            return list(self._reader.execute(sql, values))

    def _dicts(self, sql: str, values: tuple[object, ...] = ()) -> list[dict[str, Any]]:
        with self._reading:
            cursor = self._reader.execute(sql, values)
            return [dict(zip((column[0] for column in cursor.get_description()), row, strict=True)) for row in cursor]

    # Records

    def run_started(self, request: RunRequest, message: str | None) -> Statement:
        module = request.module
        return (
            _INSERT_RUN,
            (
                request.id,
                request.agent,
                request.conversation,
                str(request.principal),
                request.root,
                request.parent,
                request.operation,
                module.id if module else None,
                module.version if module else None,
                module.digest if module else None,
                message,
                RunStatus.ACCEPTED.value,
                request.accepted,
            ),
        )

    def run_status(self, run: str, status: RunStatus) -> Statement:
        return ("UPDATE runs SET status = ? WHERE id = ?", (status.value, run))

    def run_ended(self, run: str, ending: Ending) -> Statement:
        return (
            "UPDATE runs SET status=?, ended=?, answer=?, error=?, calls=?, tokens=?, money=? WHERE id=?",
            (
                ending.status.value,
                ending.at,
                json.dumps(ending.answer) if ending.answer is not None else None,
                json.dumps(ending.error) if ending.error is not None else None,
                ending.calls,
                ending.tokens,
                ending.money,
                run,
            ),
        )

    def grant_allowed(self, grant: Grant) -> Statement:
        values = (grant.publisher, grant.module, grant.capability, json.dumps(dict(grant.constraints)))
        return (
            "INSERT OR REPLACE INTO grants VALUES (?,?,?,?,?,?,?)",
            (*values, grant.granted_by, grant.granted, grant.reason),
        )

    def grant_revoked(self, publisher: str, module: str, capability: str) -> Statement:
        return (
            "DELETE FROM grants WHERE publisher = ? AND module = ? AND capability = ?",
            (publisher, module, capability),
        )

    def digest_accepted(self, publisher: str, module: str, digest: str, at: float) -> Statement:
        return ("INSERT OR REPLACE INTO accepted VALUES (?,?,?,?)", (publisher, module, digest, at))

    def digest_revoked(self, digest: str, at: float) -> Statement:
        return ("INSERT OR REPLACE INTO revoked VALUES (?,?)", (digest, at))

    def module_installed(self, ref: ModuleRef, kind: str, folder: str, at: float) -> Statement:
        values = (ref.id, ref.publisher, ref.version, kind, ref.digest, folder, at)
        return ("INSERT OR REPLACE INTO modules VALUES (?,?,?,?,?,?,?)", values)

    def module_removed(self, module: str) -> Statement:
        return ("DELETE FROM modules WHERE id = ?", (module,))

    # Reading

    def grants(self) -> list[Grant]:
        found = self._query(
            "SELECT publisher, module, capability, constraints, granted_by, granted, reason FROM grants"
        )
        return [Grant(p, m, c, json.loads(k), by, at, why) for p, m, c, k, by, at, why in found]

    def accepted(self) -> list[tuple[str, str, str]]:
        return self._query("SELECT publisher, module, digest FROM accepted")

    def revoked(self) -> list[str]:
        return [digest for (digest,) in self._query("SELECT digest FROM revoked")]

    def modules(self) -> list[dict[str, Any]]:
        return self._dicts("SELECT * FROM modules ORDER BY id")

    def run(self, run: str) -> dict[str, Any] | None:
        found = self._dicts("SELECT * FROM runs WHERE id = ?", (run,))
        return _with_json(found[0]) if found else None

    def run_of_message(self, agent: str, message: str) -> str | None:
        found = self._query("SELECT id FROM runs WHERE agent = ? AND message = ?", (agent, message))
        return found[0][0] if found else None

    def matching(self, prefix: str) -> list[str]:
        """Ids of at most two runs that start with a prefix."""
        found = self._query("SELECT id FROM runs WHERE substr(id, 1, ?) = ? LIMIT 2", (len(prefix), prefix))
        return [run for (run,) in found]

    def runs(self, agent: str | None, limit: int, status: str | None = None) -> list[dict[str, Any]]:
        """The newest runs first."""
        found = self._dicts(
            "SELECT * FROM runs WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR status = ?2)"
            " ORDER BY accepted DESC, rowid DESC LIMIT ?3",
            (agent, status, limit),
        )
        return [_with_json(run) for run in found]

    def ended_runs(self) -> list[str]:
        """Ids of all finished runs, oldest first."""
        return [run for (run,) in self._query("SELECT id FROM runs WHERE ended IS NOT NULL ORDER BY rowid")]

    def unfinished(self) -> list[tuple[RunRequest, bytes]]:
        """Requests and seeds of unfinished runs, in the order in which they were accepted."""
        found = self._query(_SELECT_UNFINISHED)
        return [request_of(_decode(row)) for row in found]

    def needed_digests(self) -> set[str]:
        """Digests of modules that some run of the journal needs."""
        return {d for (d,) in self._query("SELECT DISTINCT digest FROM runs WHERE digest IS NOT NULL")}

    def used(self, day: str, agent: str | None) -> tuple[int, float]:
        """Tokens and money of the runs that ended on a day (UTC, `2026-11-21`), of one agent or of all."""
        found = self._query(
            "SELECT coalesce(sum(tokens), 0), coalesce(sum(money), 0.0) FROM runs"
            " WHERE ended >= unixepoch(?1) AND ended < unixepoch(?1, '+1 day') AND (?2 IS NULL OR agent = ?2)",
            (day, agent),
        )
        return found[0][0], found[0][1]


def request_of(row: Row) -> tuple[RunRequest, bytes]:
    """The request and the seed that a start row records."""
    meta, value = row.meta, json.loads(row.value)
    kind, _, who = meta["principal"].partition(":")
    module = None
    if meta["digest"] is not None:
        limits = Limits(**meta.get("limits", {}))
        module = ModuleRef(meta["publisher"], meta["module"], meta["version"], meta["digest"], limits)
    request = RunRequest(
        id=row.run,
        root=meta["root"],
        agent=meta["agent"],
        principal=Principal(kind, who),
        module=module,
        conversation=meta["conversation"],
        operation=meta["operation"],
        args=value["args"],
        labels=tuple(meta["labels"]),
        accepted=row.at,
        parent=meta["parent"],
        depth=meta["depth"],
    )
    return request, bytes.fromhex(value["seed"])


def _encode(row: Row) -> tuple[Any, ...]:
    return (
        row.seq,
        row.run,
        row.ordinal,
        row.kind.value,
        row.at,
        row.facts,
        row.value,
        row.salt,
        row.commitment,
        row.hash,
    )


def _decode(raw: tuple[Any, ...]) -> Row:
    seq, run, ordinal, kind, *rest = raw
    return Row(seq, run, ordinal, RowKind(kind), *rest)


def _with_json(run: dict[str, Any]) -> dict[str, Any]:
    for name in ("answer", "error"):
        run[name] = json.loads(run[name]) if run[name] else None
    return run
