"""What a source left in the agents' stores is set aside where no agent reaches it, and given back.

All that is set aside lies in a table of its own in the agent's own file, so it is encrypted, backed up and removed with
it, and one transaction takes memories, values, plans and the contents of files together. A memory leaves a row without
words, as one that is forgotten does, so its number is not used again. Files and subscriptions are elsewhere: their rows
say `taking` until they are gone from there, so what a crash interrupts is finished by the next call.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from loket.contracts import OWNER, AgentStore, Call, Json, LoketError
from loket.poison import Footprint
from loket.quarantine import files, memories
from loket.quarantine.rows import insert, row_of
from loket.store.bus import Bus
from loket.store.schedules import ScheduleStore

_TABLE = """
    CREATE TABLE IF NOT EXISTS quarantine (
        id TEXT NOT NULL, store TEXT NOT NULL, name TEXT NOT NULL, run TEXT NOT NULL, why TEXT NOT NULL,
        source TEXT NOT NULL, at REAL NOT NULL, state TEXT NOT NULL, said TEXT NOT NULL, data BLOB,
        PRIMARY KEY (id, store, name)
    ) WITHOUT ROWID
"""
"""`said` is the row that was taken, as a JSON object; `data` the bytes of a file. Made in the first transaction that
sets something aside, so a file without it has nothing set aside."""

_TAKING, _HELD = "taking", "held"
_LIMIT_S = 600.0
"""Seconds that one agent's transaction may take."""
_SHOWN = 160
"""Characters of a memory that are shown."""

_PLAIN = {
    "kv": ("kv", "key", ("key", "value", "run", "labels", "key_labels")),
    "plan": ("plan", "name", ("name", "plan", "by", "labels", "saved", "run")),
}
"""Stores whose things are one row each: its table, the column with its name, and all columns."""
_FILE = ("path", "run", "written", "size", "modified", "labels", "path_labels")
_OUTSIDE = ("fs", "message", "schedule")
_SINCE = "another one was written under its name since"


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in a store: `store` is `brain`, `kv`, `fs`, `plan`, `schedule` or `message` (a subscription).

    `why` is `derived` or `exposed`, `labels` its own, `about` what an owner knows it by. `left` says why it cannot be
    set aside; empty where it can.
    """

    agent: str
    store: str
    name: str
    run: str
    why: str
    labels: tuple[str, ...] = ()
    about: str = ""
    left: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """One thing that is set aside, under the id of its quarantine; `at` in seconds since 1970."""

    id: str
    agent: str
    store: str
    name: str
    run: str
    why: str
    source: str
    at: float


class Quarantine:
    """Finds, sets aside and gives back. `store` holds the agents' files, `folder` their folders; safe from any thread.

    It is one of the stores that an erasure empties (see `Erasable`): what a run wrote is erased here too.
    """

    id = "quarantine"

    def __init__(
        self,
        store: AgentStore,
        bus: Bus,
        folder: Path,
        now: Callable[[], float],
        schedules: ScheduleStore | None = None,
    ) -> None:
        self._store = store
        self._bus = bus
        self._schedules = schedules
        self._folder = folder
        self._now = now

    # Finding

    def find(self, agents: Collection[str], footprint: Footprint) -> list[Thing]:
        """All things of these agents that have to do with a source, by agent and store."""
        found = [thing for agent in sorted(agents) for thing in self._in_file(agent, footprint)]
        for one in self._bus.all():
            why = footprint.why((one.agent, "message", one.topic), one.run, None)
            if why is not None:
                found.append(Thing(one.agent, "message", one.topic, one.run, why))
        return [*found, *self._scheduled(footprint)]

    def _scheduled(self, footprint: Footprint) -> Iterator[Thing]:
        """The schedules that runs made; the owner's are nobody's to take."""
        made = self._schedules.all() if self._schedules is not None else []
        for one in (one for one in made if one.run):
            why = footprint.why((one.agent, "schedule", one.id), one.run, one.labels)
            if why is not None:
                about = str(one.what.get("text", ""))[:_SHOWN]
                yield Thing(one.agent, "schedule", one.id, one.run, why, one.labels, about)

    def _in_file(self, agent: str, footprint: Footprint) -> Iterator[Thing]:
        with self._store.open(agent, _LIMIT_S) as connection:
            rows = list(_all(connection))
        for store, name, run, labels, about, written in rows:
            why = footprint.why((agent, store, name), run, labels)
            if why is not None:
                left = files.changed(self._folder, agent, name, written) if store == "fs" else ""
                yield Thing(agent, store, name, run, why, labels, about, left)

    # Setting aside

    def take(self, identity: str, source: str, agent: str, things: Sequence[Thing]) -> list[Thing]:
        """Set things of one agent aside, in one transaction of its file; those that were still as they were found."""
        with self._store.open(agent, _LIMIT_S) as connection:
            with connection:
                connection.execute(_TABLE)
                taken = self._take_memories(connection, identity, source, things)
                for thing in things:
                    if self._take_other(connection, identity, source, thing):
                        taken.append(thing)
            self._finish(connection, agent)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return taken

    def finish(self, agents: Collection[str]) -> None:
        """Finish what a crash interrupted."""
        for agent in agents:
            with self._store.open(agent, _LIMIT_S) as connection:
                self._finish(connection, agent)

    def _take_memories(
        self, connection: apsw.Connection, identity: str, source: str, things: Sequence[Thing]
    ) -> list[Thing]:
        mine = {int(thing.name): thing for thing in things if thing.store == "brain"}
        said = memories.take(connection, {one: thing.run for one, thing in mine.items()}, self._now())
        for one, row in said.items():
            self._keep(connection, identity, source, mine[one], row)
        return [mine[one] for one in said]

    def _take_other(self, connection: apsw.Connection, identity: str, source: str, thing: Thing) -> bool:
        """Keep a thing that is no memory, and remove it where it is in the same file; whether it was there."""
        data = None
        if thing.store == "fs" and not thing.left:
            row = row_of(connection, "fs_origin", _FILE, "path = ? AND run = ?", (thing.name, thing.run))
            data = files.content(self._folder, thing.agent, thing.name) if row is not None else None
            row = row if data is not None else None
        elif thing.store == "message":
            row = {"run": thing.run} if self._subscribes(thing.agent, thing.name, thing.run) else None
        elif thing.store == "schedule" and self._schedules is not None:
            row = self._schedules.row(thing.name, thing.run)
        elif thing.store in _PLAIN:
            table, column, columns = _PLAIN[thing.store]
            row = row_of(connection, table, columns, f"{column} = ? AND run = ?", (thing.name, thing.run))
            connection.execute(f"DELETE FROM {table} WHERE {column} = ? AND run = ?", (thing.name, thing.run))  # noqa: S608 - fixed names
        else:
            row = None
        if row is not None:
            self._keep(connection, identity, source, thing, row, data)
        return row is not None

    def _keep(
        self,
        connection: apsw.Connection,
        identity: str,
        source: str,
        thing: Thing,
        said: Mapping[str, Json],
        data: bytes | None = None,
    ) -> None:
        state = _TAKING if thing.store in _OUTSIDE else _HELD
        values = (identity, thing.store, thing.name, thing.run, thing.why, source, self._now(), state)
        connection.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*values, json.dumps(said), data)
        )

    def _finish(self, connection: apsw.Connection, agent: str) -> None:
        """Take away what is elsewhere and is kept here already: files, and subscriptions on the bus."""
        if not _exists(connection):
            return
        sql = "SELECT id, store, name, run, said FROM quarantine WHERE state = ?"
        for identity, store, name, run, said in connection.execute(sql, (_TAKING,)).fetchall():
            if store == "fs":
                row = json.loads(str(said))
                files.unlink(self._folder, agent, str(name), (row["size"], row["modified"]))
            elif store == "schedule" and self._schedules is not None:
                self._schedules.remove(str(name))
            elif self._subscribes(agent, str(name), str(run)):
                self._bus.remove(agent, str(name))
            with connection:
                if store == "fs":
                    connection.execute("DELETE FROM fs_origin WHERE path = ? AND run = ?", (name, run))
                done = "UPDATE quarantine SET state = ? WHERE id = ? AND store = ? AND name = ?"
                connection.execute(done, (_HELD, identity, store, name))

    def _subscribes(self, agent: str, topic: str, run: str) -> bool:
        return any((one.agent, one.topic, one.run) == (agent, topic, run) for one in self._bus.all())

    # Giving back

    def held(self, agents: Collection[str], identity: str | None = None) -> list[Held]:
        """What is set aside, the newest first; under one id, or all."""
        found: list[Held] = []
        for agent in agents:
            with self._store.open(agent, _LIMIT_S) as connection:
                if _exists(connection):
                    sql = "SELECT id, store, name, run, why, source, at FROM quarantine WHERE ?1 IS NULL OR id = ?1"
                    rows = connection.execute(sql, (identity,)).fetchall()
                    found += [_held(agent, row) for row in rows]
        return sorted(found, key=lambda one: (-one.at, one.id, one.agent, one.store, one.name))

    def restore(self, agent: str, identity: str) -> tuple[list[Held], list[tuple[Held, str]]]:
        """Give an agent back what is set aside under an id: what was given, and what was not with the reason.

        One transaction for memories, values and plans. What was written under a name since is never overwritten.
        """
        self.finish([agent])
        given: list[Held] = []
        left: list[tuple[Held, str]] = []
        mine = sorted(self.held([agent], identity), key=lambda one: (one.store, one.name.zfill(20)))
        with self._store.open(agent, _LIMIT_S) as connection:
            with connection:
                for one in (one for one in mine if one.store not in _OUTSIDE):
                    _sort(one, self._give(connection, one), given, left)
            for one in (one for one in mine if one.store in _OUTSIDE):
                _sort(one, self._give_outside(connection, one), given, left)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return given, left

    def _give(self, connection: apsw.Connection, one: Held) -> str:
        """Give back what is in the same file, inside the caller's transaction; why not, or nothing."""
        said, _data = _kept(connection, one)
        if one.store == "brain":
            memories.give_back(connection, said, self._now())
        else:
            table, column, columns = _PLAIN[one.store]
            if row_of(connection, table, columns, f"{column} = ?", (one.name,)) is not None:
                return _SINCE
            insert(connection, table, columns, said)
        _drop(connection, one)
        return ""

    def _give_outside(self, connection: apsw.Connection, one: Held) -> str:
        """Give back a file, a schedule or a subscription; why not, or nothing. Safe to repeat after a crash."""
        said, data = _kept(connection, one)
        try:
            if one.store == "message":
                self._bus.subscribe(_subscription(one), one.name)
                now = None
            elif one.store == "schedule":
                now = None
                if self._schedules is None or not self._schedules.put_back(said):
                    return _SINCE
            else:
                now = files.put_back(self._folder, one.agent, one.name, data or b"")
                if now is None:
                    return _SINCE
        except LoketError as error:
            return error.message
        with connection:
            if now is not None:
                row = {**said, "size": now[0], "modified": now[1]}
                insert(connection, "fs_origin", _FILE, row, replace=True)
            _drop(connection, one)
        return ""

    # Erasing

    def writes(self, _capability: str, _args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        """Nothing: no call writes here."""
        return ()

    def reads(self, _capability: str, _args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        """Nothing: no call reads here."""
        return ()

    def erase(self, agent: str, runs: Collection[str]) -> Sequence[str]:
        """Erase what these runs wrote and is set aside, for good; the names."""
        with self._store.open(agent, _LIMIT_S) as connection:
            if not _exists(connection):
                return ()
            self._finish(connection, agent)
            with connection:
                sql = "DELETE FROM quarantine WHERE run IN (SELECT value FROM json_each(?)) RETURNING name"
                gone = [str(name) for (name,) in connection.execute(sql, (json.dumps(list(runs)),))]
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return gone


def _all(connection: apsw.Connection) -> Iterator[tuple[str, str, str, tuple[str, ...], str, tuple[Any, Any]]]:
    """Everything in an agent's file: store, name, run, labels, what it is known by, and how a file was written."""
    known = f"SELECT id, run, labels, '[]', substr(text, 1, {_SHOWN}) FROM memory WHERE forgotten IS NULL ORDER BY id"  # noqa: S608 - a number
    selects = [
        ("brain", known),
        ("kv", "SELECT key, run, labels, key_labels, '' FROM kv ORDER BY key"),
        ("fs", "SELECT path, run, labels, path_labels, '', size, modified FROM fs_origin ORDER BY path"),
    ]
    if _exists(connection, "plan"):
        selects.append(("plan", "SELECT name, run, labels, '[]', '' FROM plan ORDER BY name"))
    for store, sql in selects:
        for row in connection.execute(sql):
            name, run, labels, more, about = map(str, row[:5])
            own = tuple(sorted({*json.loads(labels), *json.loads(more)}))
            yield store, name, run, own, about, (row[5], row[6]) if store == "fs" else (None, None)


def _exists(connection: apsw.Connection, table: str = "quarantine") -> bool:
    sql = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return connection.execute(sql, (table,)).fetchone() is not None


def _held(agent: str, row: Sequence[Any]) -> Held:
    identity, store, name, run, why, source, at = row
    return Held(str(identity), agent, str(store), str(name), str(run), str(why), str(source), float(at))


def _sort(one: Held, reason: str, given: list[Held], left: list[tuple[Held, str]]) -> None:
    if reason:
        left.append((one, reason))
    else:
        given.append(one)


def _kept(connection: apsw.Connection, one: Held) -> tuple[dict[str, Any], bytes | None]:
    """The row that was taken, and the bytes of a file."""
    row = row_of(
        connection, "quarantine", ("said", "data"), "id = ? AND store = ? AND name = ?", (one.id, one.store, one.name)
    )
    return (json.loads(row["said"]), row["data"]) if row is not None else ({}, None)


def _drop(connection: apsw.Connection, one: Held) -> None:
    sql = "DELETE FROM quarantine WHERE id = ? AND store = ? AND name = ?"
    connection.execute(sql, (one.id, one.store, one.name))


def _subscription(one: Held) -> Call:
    """A call that subscribes again, in the name of the run that did; its number is none that a call of a run has."""
    digest = hashlib.sha256(f"{one.id}/{one.name}".encode()).digest()
    number = -1 - int.from_bytes(digest[:6], "big")
    return Call(one.run, number, one.agent, "", OWNER, "message.subscribe", {"topic": one.name}, ())
