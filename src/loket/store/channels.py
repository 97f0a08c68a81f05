"""`channels.db`: which channels there are, who may speak through them, and a ledger of every message.

A message from the wire is written in the same transaction as the state that the module keeps (its place on the wire),
and what an agent answers in the same one that closes the message. So whatever stops Loket, every message is accepted
once and every answer is sent at least once. Texts are kept for as long as they are needed: a message's until it is
accepted (its run has it then), an answer's until it has arrived or never will.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import ChannelMessage, Json
from loket.store.database import open_database

MIGRATIONS = (
    """
    -- `fields` and `private` are JSON; secret fields are in the vault. Times are seconds since 1970 UTC.
    CREATE TABLE channel (
        name TEXT PRIMARY KEY, module TEXT NOT NULL, agent TEXT NOT NULL, fields TEXT NOT NULL, private TEXT NOT NULL,
        enabled INTEGER NOT NULL, made REAL NOT NULL, state TEXT NOT NULL DEFAULT '{}'
    ) STRICT;
    CREATE TABLE message (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL REFERENCES channel (name) ON DELETE CASCADE,
        wire TEXT NOT NULL, sender TEXT NOT NULL, name TEXT NOT NULL, conversation TEXT NOT NULL, text TEXT,
        context TEXT NOT NULL, direct INTEGER NOT NULL, state TEXT NOT NULL, run TEXT, at REAL NOT NULL, ended REAL,
        reason TEXT
    ) STRICT;
    CREATE UNIQUE INDEX message_wire ON message (channel, wire);
    CREATE INDEX message_open ON message (channel, id) WHERE state IN ('received', 'accepted');
    -- `key` names an outbound message for good: what it answers and which part of it.
    CREATE TABLE outbound (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        channel TEXT NOT NULL REFERENCES channel (name) ON DELETE CASCADE,
        key TEXT NOT NULL, conversation TEXT NOT NULL, text TEXT, reply_to TEXT NOT NULL, context TEXT NOT NULL,
        labels TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, next REAL NOT NULL,
        at REAL NOT NULL, ended REAL, reason TEXT
    ) STRICT;
    CREATE UNIQUE INDEX outbound_key ON outbound (channel, key);
    CREATE INDEX outbound_open ON outbound (channel, id) WHERE state = 'queued';
    CREATE INDEX outbound_failed ON outbound (channel, ended) WHERE state = 'failed';
    -- `speaks` is owner, sender or user:NAME.
    CREATE TABLE pairing (
        channel TEXT NOT NULL REFERENCES channel (name) ON DELETE CASCADE,
        sender TEXT NOT NULL, name TEXT NOT NULL, speaks TEXT NOT NULL, conversation TEXT NOT NULL,
        context TEXT NOT NULL, at REAL NOT NULL, PRIMARY KEY (channel, sender)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE code (
        code TEXT PRIMARY KEY, channel TEXT NOT NULL REFERENCES channel (name) ON DELETE CASCADE,
        sender TEXT NOT NULL, name TEXT NOT NULL, conversation TEXT NOT NULL, context TEXT NOT NULL,
        made REAL NOT NULL, expires REAL NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX code_sender ON code (channel, sender);
    """,
)

RECEIVED, ACCEPTED, ANSWERED, DROPPED = "received", "accepted", "answered", "dropped"
"""Where a message is: written; a run of the agent; its answer is queued; never for the agent, by a rule."""

QUEUED, DELIVERED, FAILED = "queued", "delivered", "failed"
"""Where an outbound message is."""

KEPT = 10_000
"""Ended messages of a channel that are kept, so that one which the wire repeats is known."""

_CHANNEL = "name, module, agent, fields, private, enabled, made"
_MESSAGE = "id, channel, wire, sender, name, conversation, text, context, direct, state, run, at, reason"
_OUTBOUND = "id, channel, key, conversation, text, reply_to, context, labels, state, attempts, next, at, reason"
_PAIRING = "channel, sender, name, speaks, conversation, context, at"
_CODE = "code, channel, sender, name, conversation, context, made, expires"


@dataclass(frozen=True, slots=True)
class Channel:
    """One channel as the owner set it up. `private` lists places (`HOST:PORT`) of this machine or network."""

    name: str
    module: str
    agent: str
    fields: Mapping[str, str]
    private: tuple[str, ...]
    enabled: bool
    made: float


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the ledger. `wire` is its id there; `text` is None once it was accepted or dropped."""

    id: int
    channel: str
    wire: str
    sender: str
    name: str
    conversation: str
    text: str | None
    context: Mapping[str, Json]
    direct: bool
    state: str
    run: str | None
    at: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Outbound:
    """An outbound message of the ledger. `next` is when it is tried next; `text` is None once it has ended."""

    id: int
    channel: str
    key: str
    conversation: str
    text: str | None
    reply_to: str
    context: Mapping[str, Json]
    labels: tuple[str, ...]
    state: str
    attempts: int
    next: float
    at: float
    reason: str | None


@dataclass(frozen=True, slots=True)
class Fresh:
    """An outbound message that is to be written."""

    key: str
    conversation: str
    text: str
    reply_to: str = ""
    context: Mapping[str, Json] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Pairing:
    """Who may speak through a channel, and as whom: `owner`, `sender` or `user:NAME`."""

    channel: str
    sender: str
    name: str
    speaks: str
    conversation: str
    context: Mapping[str, Json]
    at: float


@dataclass(frozen=True, slots=True)
class Code:
    """A code that a sender was told, for the owner to approve."""

    code: str
    channel: str
    sender: str
    name: str
    conversation: str
    context: Mapping[str, Json]
    made: float
    expires: float


class ChannelStore:
    """Channels, pairings and the ledger on one file; safe to use from several threads."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    # Channels

    def add(self, channel: Channel) -> bool:
        """Write a new channel; whether there was none of its name."""
        values = (
            *(channel.name, channel.module, channel.agent, json.dumps(dict(channel.fields))),
            *(json.dumps(channel.private), int(channel.enabled), channel.made),
        )
        return self._change(f"INSERT OR IGNORE INTO channel ({_CHANNEL}) VALUES (?, ?, ?, ?, ?, ?, ?)", values) > 0  # noqa: S608 - fixed names

    def replace(self, channel: Channel) -> None:
        """Write what the owner changed of a channel; ledger, pairings and state stay."""
        self._change(
            "UPDATE channel SET agent = ?, fields = ?, private = ?, enabled = ? WHERE name = ?",
            (
                *(channel.agent, json.dumps(dict(channel.fields)), json.dumps(channel.private)),
                *(int(channel.enabled), channel.name),
            ),
        )

    def channels(self) -> list[Channel]:
        """All channels, by name."""
        return [_channel(row) for row in self._query(f"SELECT {_CHANNEL} FROM channel ORDER BY name")]  # noqa: S608 - fixed names

    def channel(self, name: str) -> Channel | None:
        rows = self._query(f"SELECT {_CHANNEL} FROM channel WHERE name = ?", (name,))  # noqa: S608 - fixed names
        return _channel(rows[0]) if rows else None

    def remove(self, name: str) -> bool:
        """Remove a channel with pairings, codes and ledger; whether there was one."""
        return self._change("DELETE FROM channel WHERE name = ?", (name,)) > 0

    def state(self, name: str) -> dict[str, Json]:
        """What the channel's module kept; empty where there is none."""
        rows = self._query("SELECT state FROM channel WHERE name = ?", (name,))
        found: dict[str, Json] = json.loads(rows[0][0]) if rows else {}
        return found

    # From the wire

    def take(self, name: str, messages: Sequence[ChannelMessage], state: Mapping[str, Json] | None, now: float) -> int:
        """Write messages and the module's state in one transaction; how many of the messages are new."""
        new = 0
        with self._lock, self._connection:
            for one in messages:
                self._connection.execute(
                    "INSERT OR IGNORE INTO message (channel, wire, sender, name, conversation, text, context, direct,"
                    " state, at) SELECT name, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM channel WHERE name = ?",
                    (
                        *(one.id, one.sender, one.name, one.conversation, one.text, json.dumps(dict(one.context))),
                        *(int(one.direct), RECEIVED, now, name),
                    ),
                )
                new += self._connection.changes()
            if state is not None:
                self._connection.execute("UPDATE channel SET state = ? WHERE name = ?", (json.dumps(dict(state)), name))
            if new:
                self._prune(name)
        return new

    def open_messages(self, name: str, state: str) -> list[Received]:
        """A channel's messages in a state that is not their last, in the order in which they came."""
        sql = f"SELECT {_MESSAGE} FROM message WHERE channel = ? AND state = ? ORDER BY id"  # noqa: S608 - fixed names
        return [_received(row) for row in self._query(sql, (name, state))]

    def message(self, name: str, wire: str) -> Received | None:
        rows = self._query(f"SELECT {_MESSAGE} FROM message WHERE channel = ? AND wire = ?", (name, wire))  # noqa: S608 - fixed names
        return _received(rows[0]) if rows else None

    def accepted(self, identity: int, run: str) -> None:
        """The message is a run, which has its text from now on."""
        sql = "UPDATE message SET state = ?, run = ?, text = NULL WHERE id = ?"
        self._change(sql, (ACCEPTED, run, identity))

    def ended(self, identity: int, state: str, now: float, answers: Sequence[Fresh] = (), reason: str = "") -> None:
        """The message is answered or dropped; its answers are queued in the same transaction."""
        with self._lock, self._connection:
            rows = self._connection.execute("SELECT channel FROM message WHERE id = ?", (identity,)).fetchall()
            sql = "UPDATE message SET state = ?, text = NULL, ended = ?, reason = ? WHERE id = ?"
            self._connection.execute(sql, (state, now, reason or None, identity))
            for (name,) in rows:
                self._queue(str(name), answers, now)

    # To the wire

    def queue(self, name: str, answers: Sequence[Fresh], now: float) -> int:
        """Queue outbound messages; how many are new. A key that was queued before is passed over."""
        with self._lock, self._connection:
            new = self._queue(name, answers, now)
        return new  # noqa: RET504 - a return inside would be one that mypy cannot see

    def _queue(self, name: str, answers: Sequence[Fresh], now: float) -> int:
        new = 0
        for one in answers:
            self._connection.execute(
                "INSERT OR IGNORE INTO outbound (channel, key, conversation, text, reply_to, context, labels, state,"
                " next, at) SELECT name, ?, ?, ?, ?, ?, ?, ?, ?, ? FROM channel WHERE name = ?",
                (
                    *(one.key, one.conversation, one.text, one.reply_to, json.dumps(dict(one.context or {}))),
                    *(json.dumps(one.labels), QUEUED, now, now, name),
                ),
            )
            new += self._connection.changes()
        return new

    def heads(self, name: str) -> list[Outbound]:
        """The first queued message of each conversation, in the order in which they came."""
        sql = (
            f"SELECT {_OUTBOUND} FROM outbound WHERE channel = ?1 AND state = 'queued' AND id IN"  # noqa: S608 - fixed names
            " (SELECT min(id) FROM outbound WHERE channel = ?1 AND state = 'queued' GROUP BY conversation) ORDER BY id"
        )
        return [_outbound(row) for row in self._query(sql, (name,))]

    def again(self, identity: int, following: float, reason: str, *, counted: bool) -> None:
        """An attempt did not work; it is tried again then. `counted`: it is one of the attempts that are bounded."""
        sql = "UPDATE outbound SET attempts = attempts + ?, next = ?, reason = ? WHERE id = ?"
        self._change(sql, (int(counted), following, reason, identity))

    def finish(self, identity: int, state: str, now: float, reason: str = "") -> None:
        """An outbound message has arrived, or never will; its text is forgotten."""
        sql = "UPDATE outbound SET state = ?, text = NULL, context = '{}', ended = ?, reason = ? WHERE id = ?"
        self._change(sql, (state, now, reason or None, identity))

    def outbound(self, name: str, key: str) -> Outbound | None:
        rows = self._query(f"SELECT {_OUTBOUND} FROM outbound WHERE channel = ? AND key = ?", (name, key))  # noqa: S608 - fixed names
        return _outbound(rows[0]) if rows else None

    def counts(self, name: str) -> dict[str, Json]:
        """`queued`, `failed` (outbound), `unanswered`, and `reason`: why the newest that failed did."""
        queued = self._query("SELECT count(*) FROM outbound WHERE channel = ? AND state = 'queued'", (name,))[0][0]
        failed = self._query("SELECT count(*) FROM outbound WHERE channel = ? AND state = 'failed'", (name,))[0][0]
        sql = "SELECT count(*) FROM message WHERE channel = ? AND state IN ('received', 'accepted')"
        waiting = self._query(sql, (name,))[0][0]
        sql = "SELECT reason FROM outbound WHERE channel = ? AND state = 'failed' ORDER BY ended DESC LIMIT 1"
        why = self._query(sql, (name,))
        return {"queued": queued, "failed": failed, "unanswered": waiting, "reason": why[0][0] if why else None}

    def _prune(self, name: str) -> None:
        for table, states in (("message", (ANSWERED, DROPPED)), ("outbound", (DELIVERED, FAILED))):
            self._connection.execute(
                f"DELETE FROM {table} WHERE channel = ?1 AND state IN (?2, ?3) AND id <="  # noqa: S608 - fixed names
                f" (SELECT max(id) FROM {table} WHERE channel = ?1) - ?4",
                (name, *states, KEPT),
            )

    # Pairing

    def pairing(self, name: str, sender: str) -> Pairing | None:
        sql = f"SELECT {_PAIRING} FROM pairing WHERE channel = ? AND sender = ?"  # noqa: S608 - fixed names
        rows = self._query(sql, (name, sender))
        return _pairing(rows[0]) if rows else None

    def pairings(self, name: str) -> list[Pairing]:
        """Who may speak through a channel, oldest first."""
        sql = (
            "SELECT channel, sender, name, speaks, conversation, context, at FROM pairing WHERE channel = ? ORDER BY at"
        )
        return [_pairing(row) for row in self._query(sql, (name,))]

    def unpair(self, name: str, sender: str) -> bool:
        """Whether the sender was paired."""
        return self._change("DELETE FROM pairing WHERE channel = ? AND sender = ?", (name, sender)) > 0

    def codes(self, name: str | None, now: float) -> list[Code]:
        """The open codes of a channel, or of all, oldest first; those that expired are taken away."""
        self._change("DELETE FROM code WHERE expires <= ?", (now,))
        sql = f"SELECT {_CODE} FROM code WHERE ?1 IS NULL OR channel = ?1 ORDER BY made"  # noqa: S608 - fixed names
        return [_code(row) for row in self._query(sql, (name,))]

    def add_code(self, code: Code, message: int, said: Fresh, now: float) -> None:
        """Write a code, queue the line that says it, and drop the message that it answers, in one transaction."""
        with self._lock, self._connection:
            self._connection.execute(
                f"INSERT INTO code ({_CODE}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - fixed names
                (
                    *(code.code, code.channel, code.sender, code.name, code.conversation),
                    *(json.dumps(dict(code.context)), code.made, code.expires),
                ),
            )
            self.ended(message, DROPPED, now, (said,), "the sender is not paired")

    def approve(self, code: Code, speaks: str, said: Fresh, now: float) -> None:
        """Make a pairing of a code, and queue the line that tells the sender."""
        with self._lock, self._connection:
            self._connection.execute("DELETE FROM code WHERE code = ?", (code.code,))
            self._connection.execute(
                "INSERT OR REPLACE INTO pairing VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(code.channel, code.sender, code.name, speaks, code.conversation),
                    *(json.dumps(dict(code.context)), now),
                ),
            )
            self._queue(code.channel, (said,), now)

    # The connection

    def _query(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _change(self, sql: str, values: Sequence[Any]) -> int:
        with self._lock, self._connection:
            self._connection.execute(sql, values)
            changed = self._connection.changes()
        return changed  # noqa: RET504 - as above


def _channel(row: tuple[Any, ...]) -> Channel:
    name, module, agent, fields, private, enabled, made = row
    return Channel(name, module, agent, json.loads(fields), tuple(json.loads(private)), bool(enabled), made)


def _received(row: tuple[Any, ...]) -> Received:
    values = list(row)
    values[7], values[8] = json.loads(values[7]), bool(values[8])
    return Received(*values)


def _outbound(row: tuple[Any, ...]) -> Outbound:
    values = list(row)
    values[6], values[7] = json.loads(values[6]), tuple(json.loads(values[7]))
    return Outbound(*values)


def _pairing(row: tuple[Any, ...]) -> Pairing:
    channel, sender, name, speaks, conversation, context, at = row
    return Pairing(channel, sender, name, speaks, conversation, json.loads(context), at)


def _code(row: tuple[Any, ...]) -> Code:
    code, channel, sender, name, conversation, context, made, expires = row
    return Code(code, channel, sender, name, conversation, json.loads(context), made, expires)
