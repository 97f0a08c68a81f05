"""`schedules.db`: what is to happen when, every firing of it, and until when runs sleep.

A firing is written in the same transaction that moves its schedule on, before anything is sent: whatever stops Loket
then, the firing is there, has a key that follows from its due time, and is sent with that key as its message's id. So
each due time is performed once. Rows of the agents' own calls are kept by (run, ordinal), as in `bus.db`.
"""

import json
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apsw

from loket.contracts import BadInput, Json, Labels
from loket.store.database import open_database

MIGRATIONS = (
    """
    -- `agent` is empty for what belongs to none (a backup). `what`, `trigger` and `labels` are JSON. Times are seconds
    -- since 1970 UTC: `anchor` is where intervals count from, `reckoned` when `next` was worked out. `mark` is the end
    -- of the last idle time that was answered.
    CREATE TABLE schedule (
        id TEXT PRIMARY KEY, agent TEXT NOT NULL, by TEXT NOT NULL, run TEXT NOT NULL, what TEXT NOT NULL,
        trigger TEXT NOT NULL, conversation TEXT NOT NULL, missed TEXT NOT NULL, most INTEGER NOT NULL,
        labels TEXT NOT NULL, approved INTEGER NOT NULL, paused INTEGER NOT NULL, made REAL NOT NULL,
        anchor REAL NOT NULL, next REAL, reckoned REAL NOT NULL, mark REAL
    ) STRICT;
    CREATE INDEX schedule_next ON schedule (next) WHERE next IS NOT NULL AND paused = 0;
    CREATE INDEX schedule_agent ON schedule (agent);
    CREATE INDEX schedule_run ON schedule (run);
    -- `payload` and `result` are JSON.
    CREATE TABLE firing (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        schedule TEXT NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
        key TEXT NOT NULL, due REAL NOT NULL, at REAL NOT NULL, state TEXT NOT NULL, payload TEXT,
        labels TEXT NOT NULL, run TEXT, result TEXT, ended REAL
    ) STRICT;
    CREATE UNIQUE INDEX firing_key ON firing (schedule, key);
    CREATE INDEX firing_open ON firing (state) WHERE state IN ('waiting', 'sending', 'sent');
    CREATE INDEX firing_run ON firing (run) WHERE run IS NOT NULL;
    -- What is known of a watched folder. `digest` is SHA-256 (hex), NULL where the content was not read yet.
    CREATE TABLE file (
        schedule TEXT NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
        path TEXT NOT NULL, size INTEGER NOT NULL, modified INTEGER NOT NULL, digest TEXT,
        PRIMARY KEY (schedule, path)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE applied (
        run TEXT NOT NULL, ordinal INTEGER NOT NULL, answer TEXT NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) STRICT, WITHOUT ROWID;
    -- A call of a run that sleeps until a time.
    CREATE TABLE sleep (
        run TEXT NOT NULL, ordinal INTEGER NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) STRICT, WITHOUT ROWID;
    """,
)

WAITING, SENDING, SENT, DONE, DROPPED = "waiting", "sending", "sent", "done", "dropped"
"""Where a firing is: written; about to be sent, or sent; accepted as a run; ended; never sent, by the rule."""

KEPT = 50
"""Firings of a schedule that are kept after they have ended."""

_COLUMNS = (
    "id, agent, by, run, what, trigger, conversation, missed, most, labels, approved, paused, made, anchor, next,"
    " reckoned, mark"
)
_FIRING = "id, schedule, key, due, at, state, payload, labels, run, result, ended"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One schedule. `what` is a text, a call or a backup, `trigger` says when; `by` is `owner` or `agent:NAME`.

    `labels` say where text and times came from. `approved` is the owner's word that an agent's schedule speaks for the
    owner. At most `most` runs of it are unfinished at a time. Times in seconds since 1970 UTC.
    """

    id: str
    agent: str
    by: str
    run: str
    """The agent's run that made it; empty where the owner did."""
    what: Mapping[str, Json]
    trigger: Mapping[str, Json]
    conversation: str
    missed: str
    most: int
    labels: Labels
    approved: bool
    paused: bool
    made: float
    anchor: float
    next: float | None
    reckoned: float
    mark: float | None = None

    @property
    def owners(self) -> bool:
        """Whether its text is the owner's own words."""
        return self.by == "owner" or self.approved


@dataclass(frozen=True, slots=True)
class Firing:
    """One time that a schedule came due. `key` names it for good within its schedule.

    `payload` is what came with it (a webhook's body, the files that changed) and `labels` where that came from.
    `result` says how it ended: `status`, and `code` and `message` where something went wrong.
    """

    id: int
    schedule: str
    key: str
    due: float
    at: float
    state: str
    payload: Json
    labels: Labels
    run: str | None
    result: Mapping[str, Json] | None
    ended: float | None


@dataclass(frozen=True, slots=True)
class Fresh:
    """A firing that is to be written."""

    key: str
    due: float
    payload: Json = None
    labels: Labels = ()
    state: str = WAITING
    run: str | None = None


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a watched file: bytes, time of change in nanoseconds since 1970, SHA-256 (hex) where read."""

    size: int
    modified: int
    digest: str | None = None


class ScheduleStore:
    """Schedules and firings on one file; safe to use from several threads."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # Schedules

    def add(self, schedule: Schedule, files: Mapping[str, Known] | None = None) -> None:
        """Write a new schedule; `files` are those that are in the folder it watches."""
        with self.transaction():
            marks = ",".join("?" * (_COLUMNS.count(",") + 1))
            self._connection.execute(f"INSERT INTO schedule ({_COLUMNS}) VALUES ({marks})", _row_of(schedule))  # noqa: S608 - fixed names
            self._put_files(schedule.id, files or {})

    def all(self, agent: str | None = None) -> list[Schedule]:
        """All schedules, or one agent's, oldest first."""
        sql = f"SELECT {_COLUMNS} FROM schedule WHERE ?1 IS NULL OR agent = ?1 ORDER BY made, id"  # noqa: S608 - fixed names
        return [_schedule(row) for row in self._query(sql, (agent,))]

    def find(self, identity: str) -> Schedule | None:
        rows = self._query(f"SELECT {_COLUMNS} FROM schedule WHERE id = ?", (identity,))  # noqa: S608 - fixed names
        return _schedule(rows[0]) if rows else None

    def one(self, identity: str) -> Schedule:
        """A schedule by its id, or by the beginning of it. Raises `BadInput`."""
        sql = f"SELECT {_COLUMNS} FROM schedule WHERE substr(id, 1, length(?1)) = ?1 ORDER BY id LIMIT 2"  # noqa: S608 - fixed names
        rows = self._query(sql, (identity,)) if identity else []
        if len(rows) > 1 and rows[0][0] != identity:
            raise BadInput("schedule.ambiguous", f"several schedules begin with {identity!r}", "loket schedule list")
        if not rows:
            raise BadInput("schedule.unknown", f"there is no schedule {identity[:80]!r}", "loket schedule list")
        return _schedule(rows[0])

    def due(self, now: float) -> list[Schedule]:
        """Schedules whose next time has come, in the order of these times."""
        sql = f"SELECT {_COLUMNS} FROM schedule WHERE next <= ? AND paused = 0 ORDER BY next, id"  # noqa: S608 - fixed names
        return [_schedule(row) for row in self._query(sql, (now,))]

    def first(self) -> float | None:
        """The next time of all, or None."""
        found: float | None = self._query("SELECT min(next) FROM schedule WHERE paused = 0")[0][0]
        return found

    def move(self, identity: str, following: float | None, now: float) -> None:
        """Put the next time right."""
        self._change("UPDATE schedule SET next = ?, reckoned = ? WHERE id = ?", (following, now, identity))

    def pause(self, identity: str, *, paused: bool, following: float | None, now: float) -> None:
        """Pause a schedule, whose firings that were not sent yet are dropped; or let it go on."""
        with self.transaction():
            sql = "UPDATE schedule SET paused = ?, next = ?, reckoned = ? WHERE id = ?"
            self._connection.execute(sql, (int(paused), following, now, identity))
            drop = "UPDATE firing SET state = ?, ended = ? WHERE schedule = ? AND state = ?"
            self._connection.execute(drop, (DROPPED, now, identity, WAITING))

    def approve(self, identity: str) -> None:
        """From now on its text is the owner's words."""
        self._change("UPDATE schedule SET approved = 1 WHERE id = ?", (identity,))

    def remove(self, identity: str) -> bool:
        """Remove a schedule with its firings; whether there was one."""
        with self.transaction():
            gone = self._connection.execute("DELETE FROM schedule WHERE id = ? RETURNING id", (identity,)).fetchall()
        self._cut()
        return bool(gone)

    def remove_agents(self, agents: Collection[str]) -> list[str]:
        """Remove the schedules of these agents; their ids."""
        if not agents:
            return []
        with self.transaction():
            sql = "DELETE FROM schedule WHERE agent IN (SELECT value FROM json_each(?)) RETURNING id"
            gone = [str(one) for (one,) in self._connection.execute(sql, (json.dumps(list(agents)),))]
        if gone:
            self._cut()
        return gone

    # For whoever sets a schedule aside

    def row(self, identity: str, run: str) -> dict[str, Json] | None:
        """A schedule that this run made, as a JSON object that `put_back` takes; None where it is not there."""
        one = self.find(identity)
        return asdict(one) if one is not None and one.run == run else None

    def put_back(self, row: Mapping[str, Json]) -> bool:
        """Give a schedule back as it was; False where it is there. What it missed is made up for by its own rule."""
        with self.transaction():
            one = Schedule(**{**row, "labels": tuple(row["labels"])})
            if self.find(one.id) is not None:
                return False
            self.add(one)
        return True

    # Firings

    def fire(
        self,
        schedule: Schedule,
        firings: Sequence[Fresh],
        *,
        following: float | None,
        now: float,
        reckoned: float | None = None,
        mark: float | None = None,
        files: Mapping[str, Known | None] | None = None,
    ) -> int:
        """Write firings and move the schedule on, in one transaction; how many are new.

        A key that was written before is passed over. Of those that wait the rule of the schedule keeps one (`once`), or
        so many (`all`, at most `MOST_WAITING`). `files` is what is known now of watched files; None for one that went.
        """
        with self.transaction():
            new = sum(self._insert(schedule.id, one, now) for one in firings)
            sql = "UPDATE schedule SET next = ?, reckoned = ?, mark = coalesce(?, mark) WHERE id = ?"
            self._connection.execute(sql, (following, now if reckoned is None else reckoned, mark, schedule.id))
            if new:
                self._keep_waiting(schedule.id, 1 if schedule.missed == "once" else MOST_WAITING, now)
                self._prune(schedule.id)
            self._put_files(schedule.id, files or {})
        return new

    def open_firings(self) -> list[Firing]:
        """Firings that are not sent yet, or that nobody knows were, in the order of their due times."""
        sql = f"SELECT {_FIRING} FROM firing WHERE state IN ('waiting', 'sending') ORDER BY due, id"  # noqa: S608 - fixed names
        return [_firing(row) for row in self._query(sql)]

    def sent(self) -> list[Firing]:
        """Firings whose runs are not known to have ended."""
        return [_firing(row) for row in self._query(f"SELECT {_FIRING} FROM firing WHERE state = 'sent'")]  # noqa: S608 - fixed names

    def busy(self, identity: str) -> int:
        """How many runs of a schedule are not known to have ended."""
        sql = "SELECT count(*) FROM firing WHERE schedule = ? AND state IN ('sending', 'sent')"
        return int(self._query(sql, (identity,))[0][0])

    def firings(self, identity: str, limit: int = KEPT) -> list[Firing]:
        """The newest firings of a schedule first."""
        sql = f"SELECT {_FIRING} FROM firing WHERE schedule = ? ORDER BY id DESC LIMIT ?"  # noqa: S608 - fixed names
        return [_firing(row) for row in self._query(sql, (identity, limit))]

    def runs_of(self, identities: Collection[str]) -> set[str]:
        """Runs that these schedules started, as far as they are kept."""
        sql = "SELECT run FROM firing WHERE run IS NOT NULL AND schedule IN (SELECT value FROM json_each(?))"
        return {str(run) for (run,) in self._query(sql, (json.dumps(list(identities)),))}

    def set_sending(self, firing: int) -> bool:
        """The firing is about to be sent; False where it is gone."""
        sql = "UPDATE firing SET state = 'sending' WHERE id = ? AND state IN ('waiting', 'sending') RETURNING id"
        return bool(self._change(sql, (firing,)))

    def set_sent(self, firing: int, run: str) -> None:
        self._change("UPDATE firing SET state = 'sent', run = ? WHERE id = ?", (run, firing))

    def set_done(self, firing: int, result: Mapping[str, Json], now: float, state: str = DONE) -> None:
        """The firing is over; the contents that came with it are not kept."""
        sql = "UPDATE firing SET state = ?, result = ?, ended = ?, payload = NULL WHERE id = ?"
        self._change(sql, (state, json.dumps(dict(result)), now, firing))

    def _insert(self, schedule: str, one: Fresh, now: float) -> int:
        payload = json.dumps(one.payload) if one.payload is not None else None
        values = (schedule, one.key, one.due, now, one.state, payload, json.dumps(one.labels), one.run)
        self._connection.execute(
            "INSERT OR IGNORE INTO firing (schedule, key, due, at, state, payload, labels, run)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )
        return self._connection.changes()

    def _keep_waiting(self, schedule: str, most: int, now: float) -> None:
        """Of the firings that wait only the newest stay: the others are dropped, what came with them goes along."""
        waiting = self._connection.execute(
            f"SELECT {_FIRING} FROM firing WHERE schedule = ? AND state = 'waiting' ORDER BY due DESC, id DESC",  # noqa: S608 - fixed names
            (schedule,),
        ).fetchall()
        dropped = [_firing(row) for row in waiting[most:]]
        if not dropped:
            return
        merged = _merged([_firing(row) for row in reversed(waiting)])
        if most == 1 and merged is not None:
            self._connection.execute("UPDATE firing SET payload = ? WHERE id = ?", (json.dumps(merged), waiting[0][0]))
        sql = "UPDATE firing SET state = 'dropped', ended = ?, payload = NULL WHERE id = ?"
        self._connection.executemany(sql, [(now, one.id) for one in dropped])

    def _prune(self, schedule: str) -> None:
        self._connection.execute(
            "DELETE FROM firing WHERE schedule = ?1 AND state IN ('done', 'dropped') AND id NOT IN"
            " (SELECT id FROM firing WHERE schedule = ?1 ORDER BY id DESC LIMIT ?2)",
            (schedule, KEPT),
        )

    # Watched files

    def files(self, identity: str) -> dict[str, Known]:
        """By path: what is known of the files that a schedule watches."""
        rows = self._query("SELECT path, size, modified, digest FROM file WHERE schedule = ?", (identity,))
        return {str(path): Known(size, modified, digest) for path, size, modified, digest in rows}

    def note_files(self, identity: str, files: Mapping[str, Known | None]) -> None:
        """Keep what is known now; None for a file that went."""
        if files:
            with self.transaction():
                self._put_files(identity, files)

    def _put_files(self, identity: str, files: Mapping[str, Known | None]) -> None:
        gone = [(identity, path) for path, known in files.items() if known is None]
        there = [(identity, path, k.size, k.modified, k.digest) for path, k in files.items() if k is not None]
        self._connection.executemany("DELETE FROM file WHERE schedule = ? AND path = ?", gone)
        self._connection.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", there)

    # Calls of runs

    def once(self, run: str, ordinal: int, perform: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Perform a change in one transaction, or answer what it answered when it was performed before."""
        with self.transaction():
            sql = "SELECT answer FROM applied WHERE run = ? AND ordinal = ?"
            done = self._connection.execute(sql, (run, ordinal)).fetchone()
            if done is not None:
                known: dict[str, Any] = json.loads(str(done[0]))
                return known
            answer = perform()
            self._connection.execute("INSERT INTO applied VALUES (?, ?, ?)", (run, ordinal, json.dumps(answer)))
        return answer

    def wake_at(self, run: str, ordinal: int, until: float) -> float:
        """Until when a call sleeps: what it was told first, whatever process asks."""
        with self.transaction():
            self._connection.execute("INSERT OR IGNORE INTO sleep VALUES (?, ?, ?)", (run, ordinal, until))
            sql = "SELECT until FROM sleep WHERE run = ? AND ordinal = ?"
            known: list[Any] = self._connection.execute(sql, (run, ordinal)).fetchall()
        return float(known[0][0])

    def forget_sleeps(self, before: float) -> None:
        """Forget the sleeps that were over before a time."""
        self._change("DELETE FROM sleep WHERE until < ?", (before,))

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Erase the schedules that these runs of an agent made, and what is kept by run, for good; their ids."""
        wanted = json.dumps(list(runs))
        with self.transaction():
            mine = "DELETE FROM schedule WHERE agent = ?1 AND run IN (SELECT value FROM json_each(?2)) RETURNING id"
            gone = [str(one) for (one,) in self._connection.execute(mine, (agent, wanted))]
            for table in ("applied", "sleep"):
                sql = f"DELETE FROM {table} WHERE run IN (SELECT value FROM json_each(?))"  # noqa: S608 - fixed names
                self._connection.execute(sql, (wanted,))
            hide = "UPDATE firing SET result = NULL, payload = NULL WHERE run IN (SELECT value FROM json_each(?))"
            self._connection.execute(hide, (wanted,))
        self._cut()
        return gone

    # Below

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction, on the disk when the context ends; a transaction inside of it is part of it."""
        with self._lock, self._connection:
            yield

    def _change(self, sql: str, values: tuple[Any, ...]) -> list[Any]:
        with self.transaction():
            return self._connection.execute(sql, values).fetchall()

    def _query(self, sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _cut(self) -> None:
        """The words are still in the write-ahead log: bring it home and cut it off."""
        with self._lock:
            if not self._connection.in_transaction:
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


MOST_WAITING = 100
"""Firings of a schedule that wait to be sent, at most: the newest."""


def _merged(waiting: Iterable[Firing]) -> dict[str, Json] | None:
    """The files that all of these firings were about, once each; None where they are about none."""
    found: dict[str, Json] = {}
    for one in waiting:
        if isinstance(one.payload, dict) and "files" in one.payload:
            found |= {str(file["path"]): file for file in one.payload["files"]}
    return {"files": list(found.values())} if found else None


def _row_of(one: Schedule) -> tuple[Any, ...]:
    texts = (json.dumps(dict(one.what)), json.dumps(dict(one.trigger)))
    head = (one.id, one.agent, one.by, one.run, *texts, one.conversation, one.missed, one.most)
    flags = (json.dumps(one.labels), int(one.approved), int(one.paused))
    return (*head, *flags, one.made, one.anchor, one.next, one.reckoned, one.mark)


def _schedule(row: Sequence[Any]) -> Schedule:
    identity, agent, by, run, what, trigger, conversation, missed, most, labels, approved, paused, *times = row
    texts = (json.loads(what), json.loads(trigger), conversation, missed, most, tuple(json.loads(labels)))
    return Schedule(identity, agent, by, run, *texts, bool(approved), bool(paused), *times)


def _firing(row: Sequence[Any]) -> Firing:
    identity, schedule, key, due, at, state, payload, labels, run, result, ended = row
    said = json.loads(payload) if payload is not None else None
    how = json.loads(result) if result is not None else None
    return Firing(identity, schedule, key, due, at, state, said, tuple(json.loads(labels)), run, how, ended)
