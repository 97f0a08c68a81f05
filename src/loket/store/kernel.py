"""`kernel.db`: journal, runs, modules and grants in SQLite (WAL, synchronous FULL). One kernel process per home.

What a run said is encrypted with its own key (see `loket.store.keys`): the values of its rows with their salts, and in
the list of runs who asked in which conversation, and how it ended.
"""

import contextlib
import hashlib
import json
import threading
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from loket.contracts import (
    Damaged,
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
from loket.store.approvals import APPROVALS_MIGRATION, ApprovalRows
from loket.store.database import open_database
from loket.store.keys import RunKeys
from loket.store.modules import MODULES_MIGRATION, ModuleRows
from loket.store.plain import OUTCOME, SALT, WHO, encrypt_plain, json_bytes, row_label
from loket.store.usage import RunUse, used_on

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
    """
    -- `slot` names the run's key in keys.db; `who` and `outcome` are encrypted with it. What was written before has no
    -- slot, and gets one when this version first opens the file.
    ALTER TABLE runs ADD COLUMN slot INTEGER;
    ALTER TABLE runs ADD COLUMN who BLOB;
    ALTER TABLE runs ADD COLUMN outcome BLOB;
    CREATE INDEX runs_root ON runs (root) WHERE parent IS NOT NULL;
    CREATE INDEX runs_parent ON runs (parent) WHERE parent IS NOT NULL;
    -- Runs whose erasure the journal has noted and that is not done everywhere yet.
    CREATE TABLE erasing (run TEXT PRIMARY KEY) STRICT;
    """,
    APPROVALS_MIGRATION,
    MODULES_MIGRATION,
)

_INSERT_ROW = "INSERT INTO journal VALUES (?,?,?,?,?,?,?,?,?,?)"
_INSERT_RUN = (
    "INSERT INTO runs (id, agent, conversation, principal, root, parent, operation, module, version, digest, message,"
    " status, accepted, slot, who) VALUES (?,?,'',?,?,?,?,?,?,?,?,?,?,?,?)"
)
_SELECT_ROW = "SELECT seq, run, ordinal, kind, at, facts, value, salt, commitment, hash FROM journal"
_SELECT_UNFINISHED = (
    "SELECT seq, run, ordinal, kind, at, facts, value, salt, commitment, hash FROM journal"
    " WHERE kind = 'start' AND run IN (SELECT id FROM runs WHERE ended IS NULL"
    " AND id NOT IN (SELECT value FROM json_each(?))) ORDER BY seq"
)
_SELECT_RUN = (
    "SELECT id, agent, principal, root, parent, operation, module, version, digest, status, accepted, ended, calls,"
    " tokens, money, slot, who, outcome FROM runs"
)
_VALUE = 6
"""Where `_SELECT_ROW` has the value."""

_CHUNK = 500
_CHUNK_BYTES = 4 << 20
"""Rows that are read at a time, and bytes of their values after which it is enough."""


class KernelDatabase:
    """The kernel's SQLite file: a `RowStore` and `Records`, and the lists that are kept in step with the journal."""

    def __init__(self, path: Path, secret: bytes, vfs: str | None = None) -> None:
        self._writer = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._reader = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._reading = threading.Lock()
        self._writing = threading.Lock()
        self._slots: dict[str, int] = {}
        """Slots of the keys of unfinished runs."""
        used = self._query("SELECT coalesce(max(slot), 0) FROM runs")[0][0]
        self.keys = RunKeys(path.with_name("keys.db"), secret, used, vfs)
        encrypt_plain(self._writer, self.keys)
        self.approvals = ApprovalRows(self._dicts, self._slot, self.keys)
        self.packages = ModuleRows(self._dicts)

    def close(self) -> None:
        with self._reading, self._writing:
            self._reader.close()
            self._writer.close()
            self.keys.close()

    # RowStore

    def write(self, rows: Sequence[Row], statements: Sequence[Statement], seal: bytes) -> None:
        """One transaction, on the disk when it returns."""
        with self._writing, self._writer:
            self._writer.executemany(_INSERT_ROW, [self._encode(row) for row in rows])
            for sql, values in statements:
                self._writer.execute(sql, values)
            if rows:
                last = (rows[-1].seq, rows[-1].hash, seal)
                self._writer.execute("INSERT OR REPLACE INTO seal VALUES (1, ?, ?, ?)", last)

    def head(self) -> tuple[int, bytes, bytes] | None:
        found = self._query("SELECT seq, hash, seal FROM seal")
        return found[0] if found else None

    def rows(self, run: str | None = None, *, after: int = 0) -> Iterator[Row]:
        """Rows of a run, or all after a number, in order; read in chunks, so that writing goes on meanwhile."""
        one = "run = ?2 AND " if run is not None else ""
        values = () if run is None else (run,)
        while chunk := self._chunk(f"{_SELECT_ROW} WHERE {one}seq > ?1 ORDER BY seq", (after, *values)):
            yield from map(self._decode, chunk)
            after = chunk[-1][0]

    def _chunk(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        """The first rows of a query: at least one, and no more once their values have `_CHUNK_BYTES`."""
        found: list[Any] = []
        size = 0
        with self._reading, contextlib.closing(self._reader.cursor()) as cursor:
            for row in cursor.execute(sql, values):
                found.append(row)
                size += len(row[_VALUE])
                if len(found) == _CHUNK or size >= _CHUNK_BYTES:
                    break
        return found

    def _slot(self, run: str) -> int:
        """The slot of a run's key. Raises `Damaged` where the list of runs does not have it."""
        slot = self._slots.get(run)
        if slot is None:
            found = self._query("SELECT slot FROM runs WHERE id = ?", (run,))
            if not found or found[0][0] is None:
                raise Damaged("runs.missing", f"the list of runs has no key for run {run}", "restore a backup")
            slot = found[0][0]
        return slot

    def _encode(self, row: Row) -> tuple[Any, ...]:
        """A row as the table has it: salt and value in one ciphertext. Rows of no run are the owner's, and plain."""
        salt, value = row.salt, row.value
        if row.run:
            label = row_label(row.run, row.ordinal, row.kind)
            salt, value = b"", self.keys.seal(self._slot(row.run), salt + value, label)
        return (row.seq, row.run, row.ordinal, row.kind.value, row.at, row.facts, value, salt, row.commitment, row.hash)

    def _decode(self, raw: tuple[Any, ...]) -> Row:
        seq, run, ordinal, kind, at, facts, value, salt, commitment, link = raw
        if not run:
            return Row(seq, run, ordinal, RowKind(kind), at, facts, value, salt, commitment, link)
        try:
            text = self.keys.open(self._slot(run), value, row_label(run, ordinal, RowKind(kind))) if not salt else b""
        except Damaged:
            text = b""  # its commitment does not fit then, and says so
        gone = text is None
        whole = text or b""
        parts = whole[SALT:], whole[:SALT]
        return Row(seq, run, ordinal, RowKind(kind), at, facts, *parts, commitment, link, gone)

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
        slot = self._slots[request.id] = self.keys.take()
        who = {"conversation": request.conversation, "principal": str(request.principal)}
        return (
            _INSERT_RUN,
            (
                request.id,
                request.agent,
                request.principal.kind,
                request.root,
                request.parent,
                request.operation,
                module.id if module else None,
                module.version if module else None,
                module.digest if module else None,
                message_digest(message) if message is not None else None,
                RunStatus.ACCEPTED.value,
                request.accepted,
                slot,
                self.keys.seal(slot, json_bytes(who), WHO + request.id.encode()),
            ),
        )

    def run_status(self, run: str, status: RunStatus) -> Statement:
        return ("UPDATE runs SET status = ? WHERE id = ?", (status.value, run))

    def run_ended(self, run: str, ending: Ending) -> Statement:
        slot = self._slot(run)
        self._slots.pop(run, None)
        outcome: dict[str, Any] = {"answer": ending.answer, "error": ending.error, "labels": ending.labels}
        if ending.others_tokens or ending.others_money:  # the columns have its own, which a day adds up
            outcome |= {"tokens": ending.tokens, "money": ending.money}
        return (
            "UPDATE runs SET status=?, ended=?, outcome=?, calls=?, tokens=?, money=? WHERE id=?",
            (
                ending.status.value,
                ending.at,
                self.keys.seal(slot, json_bytes(outcome), OUTCOME + run.encode()),
                ending.calls,
                ending.tokens - ending.others_tokens,
                ending.money - ending.others_money,
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

    def erasing(self, runs: Collection[str]) -> list[Statement]:
        """These runs are to be erased."""
        return [("INSERT OR IGNORE INTO erasing VALUES (?)", (run,)) for run in runs]

    def erased(self, runs: Collection[str]) -> list[Statement]:
        """These runs are erased everywhere; one that could not be read, and so never go on, has ended with that."""
        gone = "UPDATE runs SET status = 'failed', ended = unixepoch('subsec') WHERE id = ? AND ended IS NULL"
        return [(sql, (run,)) for run in runs for sql in ("DELETE FROM erasing WHERE run = ?", gone)]

    # Reading

    def interrupted_erasures(self) -> list[str]:
        """Runs whose erasure was interrupted."""
        return [run for (run,) in self._query("SELECT run FROM erasing")]

    def family_links(self) -> list[tuple[str, str]]:
        """Run and parent of every run that another one started."""
        return self._query("SELECT id, parent FROM runs WHERE parent IS NOT NULL")

    def agents_of_runs(self) -> dict[str, str]:
        """Run to agent, of all runs."""
        return dict(self._query("SELECT id, agent FROM runs"))

    def runs_of_sender(self, sender: str) -> list[str]:
        """Finished runs that a principal (`sender:mail:ana`) asked for; erased ones left out."""
        found = self._dicts(f"{_SELECT_RUN} WHERE ended IS NOT NULL AND principal = ?", (sender.partition(":")[0],))
        return [run["id"] for run in map(self._readable, found) if run["principal"] == sender]

    def agents(self) -> list[str]:
        """The agents that have runs on the list."""
        return [agent for (agent,) in self._query("SELECT DISTINCT agent FROM runs")]

    def accepted_before(self, at: float, agent: str | None, gone: Collection[int] | None = None) -> list[str]:
        """Finished runs, not erased, that were accepted before a time (seconds since 1970 UTC), of one agent or all.

        `gone` are the slots of destroyed keys, where whoever asks often has them already.
        """
        sql = "SELECT id, slot FROM runs WHERE accepted < ?1 AND ended IS NOT NULL AND (?2 IS NULL OR agent = ?2)"
        destroyed = self.keys.gone() if gone is None else gone
        return [run for run, slot in self._query(sql, (at, agent)) if slot not in destroyed]

    def destroy_keys(self, runs: Collection[str]) -> None:
        """Destroy the keys of finished runs: nobody can read any more what they said."""
        found = [self._query("SELECT slot FROM runs WHERE id = ?", (run,)) for run in runs]
        self.keys.destroy([slot for rows in found for (slot,) in rows])

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
        found = self._dicts(f"{_SELECT_RUN} WHERE id = ?", (run,))
        return self._readable(found[0]) if found else None

    def run_of_message(self, agent: str, message: str) -> str | None:
        found = self._query("SELECT id FROM runs WHERE agent = ? AND message = ?", (agent, message_digest(message)))
        return found[0][0] if found else None

    def matching(self, prefix: str) -> list[str]:
        """Ids of at most two runs that start with a prefix."""
        found = self._query("SELECT id FROM runs WHERE substr(id, 1, ?) = ? LIMIT 2", (len(prefix), prefix))
        return [run for (run,) in found]

    def runs(self, agent: str | None, limit: int, status: str | None = None) -> list[dict[str, Any]]:
        """The newest runs first."""
        found = self._dicts(
            f"{_SELECT_RUN} WHERE (?1 IS NULL OR agent = ?1) AND (?2 IS NULL OR status = ?2)"
            " ORDER BY accepted DESC, rowid DESC LIMIT ?3",
            (agent, status, limit),
        )
        return [self._readable(run) for run in found]

    def _readable(self, run: dict[str, Any]) -> dict[str, Any]:
        """A run of the list with its encrypted parts: `conversation`, `principal`, `answer`, `error`; or `erased`.

        `unreadable` says why the parts of one that was not erased are missing; `loket runs verify` says it too.
        """
        name, slot, who, outcome = run["id"], run.pop("slot"), run.pop("who"), run.pop("outcome")
        run |= {"conversation": None, "answer": None, "error": None, "labels": [], "erased": False}
        try:
            said = self.keys.open(slot, who, WHO + name.encode())
            ended = self.keys.open(slot, outcome, OUTCOME + name.encode()) if outcome else None
        except Damaged as error:
            return {**run, "unreadable": error.message}
        for text in (said, ended):
            run |= json.loads(text) if text is not None else {}
        return {**run, "erased": said is None}

    def ended_runs(self) -> list[str]:
        """Ids of all finished runs, oldest first."""
        return [run for (run,) in self._query("SELECT id FROM runs WHERE ended IS NOT NULL ORDER BY rowid")]

    def unlearned(self, since: float) -> list[str]:
        """Ids of the runs of modules that ended since a time, in which something went wrong, and that taught nothing.

        What a run teaches is a child of it that Loket itself asked for (`host`).
        """
        found = self._query(
            "SELECT id FROM runs AS r WHERE ended >= ? AND module IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM runs AS c WHERE c.parent = r.id AND c.principal = 'host')"
            " AND (status <> 'done' OR EXISTS (SELECT 1 FROM journal AS j WHERE j.run = r.id"
            " AND instr(j.facts, '\"error\":') > 0)) ORDER BY ended",
            (since,),
        )
        return [run for (run,) in found]

    def unfinished_runs(self, but: Collection[str] = ()) -> tuple[list[tuple[RunRequest, bytes]], list[str]]:
        """Requests and seeds of unfinished runs, in the order in which they were accepted; and unreadable ones' ids.

        The start of an unreadable one cannot be read: its key is destroyed or missing, or the value was changed. It is
        apart, so that the others go on. Runs in `but` are left out, and not decrypted.
        """
        rows = [self._decode(row) for row in self._query(_SELECT_UNFINISHED, (json.dumps([*but]),))]
        readable = [request_of(row) for row in rows if _readable_start(row)]
        return readable, [row.run for row in rows if not _readable_start(row)]

    def unfinished(self) -> list[tuple[RunRequest, bytes]]:
        """Those of `unfinished_runs` that can be read."""
        return self.unfinished_runs()[0]

    def is_erased(self, run: str) -> bool:
        """Whether a run is unknown, or its key was destroyed."""
        found = self._query("SELECT slot FROM runs WHERE id = ?", (run,))
        return not found or self.keys.is_gone(found[0][0])

    def used_by_root(self, root: str) -> tuple[Limits, int, float]:
        """Limits of a root's first run, and tokens and money that it and the ended runs that came of it used."""
        used = "SELECT coalesce(sum(tokens), 0), coalesce(sum(money), 0.0) FROM runs WHERE id = ?1 OR root = ?1"
        tokens, money = self._query(used + " AND parent IS NOT NULL", (root,))[0]
        start = self._query("SELECT facts FROM journal WHERE run = ? ORDER BY seq LIMIT 1", (root,))
        limits = json.loads(start[0][0]).get("limits") if start else None
        return Limits(**limits) if limits else Limits(), tokens, money

    def needed_digests(self) -> set[str]:
        """Digests of modules that some run of the journal needs."""
        return {d for (d,) in self._query("SELECT DISTINCT digest FROM runs WHERE digest IS NOT NULL")}

    def used_by_runs(self, day: int) -> list[RunUse]:
        """What each run used on a day (in days since 1970), by the journal's rows of that day."""
        return used_on(self._query, day)


def _readable_start(row: Row) -> bool:
    return bool(row.value) and not row.erased


def request_of(row: Row) -> tuple[RunRequest, bytes]:
    """The request and the seed that a start row records."""
    meta, value = row.meta, json.loads(row.value)
    said = {**meta, **value}  # an earlier version had who asked, where, among the public facts
    kind, _, who = said["principal"].partition(":")
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
        conversation=said["conversation"],
        operation=meta["operation"],
        args=value["args"],
        labels=tuple(said["labels"]),
        accepted=row.at,
        parent=meta["parent"],
        depth=meta["depth"],
        words=value.get("words", ""),
        rights=value.get("rights"),
    )
    return request, bytes.fromhex(value["seed"])


def message_digest(message: str) -> str:
    """What the list of runs keeps of a message's id, which may say who sent it: SHA-256 (hex, 32 digits)."""
    return hashlib.sha256(message.encode("utf-8", "surrogatepass")).hexdigest()[:32]
