"""`bus.db`: which agent subscribes to which topics, and to whom each message went.

Every change writes (run, ordinal) with its answer in its own transaction, so performing it again changes nothing. For a
message that is published it is the list of those who subscribe at that moment: after a crash the rest of them get it,
whoever has come or gone meanwhile.
"""

import json
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from loket.contracts import Call, Labels, Refusal, join_labels
from loket.store.database import open_database

MIGRATIONS = (
    """
    CREATE TABLE subscriptions (
        agent TEXT NOT NULL, topic TEXT NOT NULL, since REAL NOT NULL, run TEXT NOT NULL,
        PRIMARY KEY (agent, topic)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX subscriptions_topic ON subscriptions (topic);
    CREATE INDEX subscriptions_run ON subscriptions (run);
    CREATE TABLE applied (
        run TEXT NOT NULL, ordinal INTEGER NOT NULL, answer TEXT NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    -- JSON list: where the topic came from.
    ALTER TABLE subscriptions ADD COLUMN labels TEXT NOT NULL DEFAULT '[]';
    """,
)

MOST_TOPICS = 100
"""Topics that one agent may subscribe to."""

_SUBSCRIBE = """INSERT INTO subscriptions VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (agent, topic) DO UPDATE SET run = excluded.run, labels = excluded.labels"""
"""A subscription that is renewed is the newer run's: erasing the older one does not take it."""

_HEARING = """SELECT agent FROM subscriptions
    WHERE topic = ?1 OR (substr(topic, -1) = '/' AND substr(?1, 1, length(topic)) = topic) GROUP BY agent"""


class Subscription(NamedTuple):
    """An agent hears a topic since a time (seconds since 1970 UTC), by a call of this run."""

    agent: str
    topic: str
    since: float
    run: str


class Bus:
    """Subscriptions on one file; safe to use from several threads. `now` gives seconds since 1970."""

    def __init__(self, path: Path, now: Callable[[], float] = time.time, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.Lock()
        self._now = now

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def subscribe(self, call: Call, topic: str) -> list[str]:
        """Subscribe the call's agent; all its topics. Raises `Refusal` where it has too many."""

        def change() -> list[str]:
            if len(set(self._topics(call.agent)) | {topic}) > MOST_TOPICS:
                raise Refusal(
                    "bus.full",
                    f"{call.agent} subscribes to {MOST_TOPICS} topics, the most there may be",
                    "message.unsubscribe from some, or subscribe to one that ends in /",
                )
            row = (call.agent, topic, self._now(), call.run, json.dumps(call.labels_of("topic")))
            self._connection.execute(_SUBSCRIBE, row)
            return self._topics(call.agent)

        return self._once(call, change)

    def unsubscribe(self, call: Call, topic: str) -> list[str]:
        """Take a subscription of the call's agent back; the topics that are left."""

        def change() -> list[str]:
            self._connection.execute("DELETE FROM subscriptions WHERE agent = ? AND topic = ?", (call.agent, topic))
            return self._topics(call.agent)

        return self._once(call, change)

    def labels(self, agent: str) -> Labels:
        """Where the topics of an agent came from, together."""
        with self._lock:
            sql = "SELECT DISTINCT labels FROM subscriptions WHERE agent = ?"
            rows = self._connection.execute(sql, (agent,)).fetchall()
        return join_labels((), *(tuple(json.loads(str(text))) for (text,) in rows))

    def hearing(self, call: Call, topic: str) -> list[str]:
        """Agents that subscribed to a topic when this call was first made, the call's own left out."""

        def look() -> list[str]:
            return [agent for (agent,) in self._connection.execute(_HEARING, (topic,)) if agent != call.agent]

        return self._once(call, look)

    def remove(self, agent: str, topic: str) -> bool:
        """Take a subscription back by the owner's word. False where there was none."""
        sql = "DELETE FROM subscriptions WHERE agent = ? AND topic = ? RETURNING topic"
        with self._lock, self._connection:
            removed = self._connection.execute(sql, (agent, topic)).fetchall()
        return bool(removed)

    def all(self) -> list[Subscription]:
        """All subscriptions, by agent and topic."""
        with self._lock:
            found = self._connection.execute("SELECT agent, topic, since, run FROM subscriptions ORDER BY 1, 2")
            return [Subscription(*row) for row in found]

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Erase the subscriptions that these runs of an agent made, for good; their topics."""
        with self._lock:
            with self._connection:
                delete = "DELETE FROM subscriptions WHERE run = ? AND agent = ? RETURNING topic"
                erased = [str(topic) for run in runs for (topic,) in self._connection.execute(delete, (run, agent))]
                self._connection.executemany("DELETE FROM applied WHERE run = ?", [(run,) for run in runs])
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return erased

    def _topics(self, agent: str) -> list[str]:
        found = self._connection.execute("SELECT topic FROM subscriptions WHERE agent = ? ORDER BY topic", (agent,))
        return [topic for (topic,) in found]

    def _once(self, call: Call, perform: Callable[[], list[str]]) -> list[str]:
        """Perform something in one transaction, or answer what it answered when it was performed before."""
        done_as = (call.run, call.ordinal)
        with self._lock, self._connection:
            found = self._connection.execute("SELECT answer FROM applied WHERE run = ? AND ordinal = ?", done_as)
            done = found.fetchone()
            if done is not None:
                known: list[Any] = json.loads(done[0])
                return known
            answer = perform()
            self._connection.execute("INSERT INTO applied VALUES (?, ?, ?)", (*done_as, json.dumps(answer)))
        return answer
