"""Values under keys, private to the agent: `kv.get`, `kv.set`, `kv.delete` and `kv.list`.

They live in the agent's own database. Every effect writes (run, ordinal) with its answer in its own transaction, so
performing it again changes nothing.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from itertools import takewhile
from typing import Any

import apsw

from loket.contracts import AgentStore, Answer, Call, Handler, Labels, Refusal, join_labels

KV_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE kv_applied (
        run TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        answer TEXT NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) WITHOUT ROWID;
    """,
    """
    -- Which run stored the value: it is erased with the run.
    ALTER TABLE kv ADD COLUMN run TEXT NOT NULL DEFAULT '';
    CREATE INDEX kv_run ON kv (run);
    """,
    """
    -- JSON lists: where the value came from, and its key.
    ALTER TABLE kv ADD COLUMN labels TEXT NOT NULL DEFAULT '[]';
    ALTER TABLE kv ADD COLUMN key_labels TEXT NOT NULL DEFAULT '[]';
    """,
)
"""SQL scripts, oldest first; join them with those of other families that live in the same file."""

_GET = "SELECT value, labels FROM kv WHERE key = ?"
_LIST = "SELECT key, key_labels FROM kv WHERE key >= ? AND key > ? ORDER BY key LIMIT ?"

_ERASE = "DELETE FROM kv WHERE run = ? RETURNING key"

_decode = json.JSONDecoder().decode
_MISSING = Answer({"found": False, "value": None})


class KvProvider:
    """Performs `kv.*` on the agents' databases, which have `KV_MIGRATIONS`."""

    id = "kv"

    def __init__(self, store: AgentStore) -> None:
        self._store = store

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler, all synchronous."""
        return {"kv.get": self.get, "kv.set": self.set, "kv.delete": self.delete, "kv.list": self.list}

    async def start(self) -> None:
        """Nothing to start: files are opened when they are needed."""

    async def close(self) -> None:
        """Nothing to close: the store belongs to whoever made it."""

    def get(self, call: Call) -> Answer:
        """Answers `found`, and `value` (null where there is none) with the labels that it was stored with."""
        key = _key(call.args["key"])
        with self._store.open(call.agent) as connection:
            row = connection.execute(_GET, (key,)).fetchone()
        return _MISSING if row is None else Answer({"found": True, "value": _decode(row[0])}, _labels(row[1]))

    def set(self, call: Call) -> Answer:
        """Store a value, in the place of any that was there. Answers an empty object."""
        return self._once(call, _set)

    def delete(self, call: Call) -> Answer:
        """Remove a key with its value. Answers `existed`."""
        answer = self._once(call, _delete)
        with self._store.open(call.agent) as connection:
            # The value is still in the write-ahead log: bring it home and cut it off.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return answer

    def list(self, call: Call) -> Answer:
        """Answers `keys` with the prefix, after `after`, in the order of their code points."""
        prefix = _key(call.args.get("prefix", ""))
        bounds = (prefix, _key(call.args.get("after", "")), call.args.get("limit", 100))
        with self._store.open(call.agent) as connection:
            rows = connection.execute(_LIST, bounds).fetchall()
        found = list(takewhile(lambda row: str(row[0]).startswith(prefix), rows))
        return Answer({"keys": [key for key, _ in found]}, join_labels((), *(_labels(str(text)) for _, text in found)))

    # What a run left here

    def writes(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        """The key that a journaled call stored a value under."""
        return [args["key"]] if capability == "kv.set" else []

    def reads(self, capability: str, args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        """The keys that a journaled call showed."""
        return [args["key"]] if capability == "kv.get" else answer.get("keys", ())

    def erase(self, agent: str, runs: Collection[str]) -> Sequence[str]:
        """Erase the values that these runs stored, with their keys; the keys."""
        erased = []
        with self._store.open(agent) as connection:
            with connection:
                for run in runs:
                    erased += [str(key) for (key,) in connection.execute(_ERASE, (run,))]
                connection.executemany("DELETE FROM kv_applied WHERE run = ?", [(run,) for run in runs])
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return erased

    def _once(self, call: Call, change: Callable[[apsw.Connection, Call], dict[str, Any]]) -> Answer:
        """Perform a change in one transaction, or answer what it answered when it was performed before."""
        done_as = (call.run, call.ordinal)
        with self._store.open(call.agent) as connection, connection:
            done = connection.execute("SELECT answer FROM kv_applied WHERE run = ? AND ordinal = ?", done_as).fetchone()
            if done is not None:
                return Answer(json.loads(done[0]))
            answer = change(connection, call)
            connection.execute("INSERT INTO kv_applied VALUES (?, ?, ?)", (*done_as, json.dumps(answer)))
        return Answer(answer)


def _set(connection: apsw.Connection, call: Call) -> dict[str, Any]:
    connection.execute(
        "INSERT INTO kv VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value,"
        " run = excluded.run, labels = excluded.labels, key_labels = excluded.key_labels",
        (
            _key(call.args["key"]),
            json.dumps(call.args["value"], separators=(",", ":")),
            call.run,
            json.dumps(call.labels_of("value")),
            json.dumps(call.labels_of("key")),
        ),
    )
    return {}


def _delete(connection: apsw.Connection, call: Call) -> dict[str, Any]:
    connection.execute("DELETE FROM kv WHERE key = ?", (_key(call.args["key"]),))
    return {"existed": connection.changes() > 0}


@lru_cache(1024)
def _labels(text: str) -> Labels:
    """The labels in a row; many rows have the same."""
    return tuple(json.loads(text))


def _key(text: str) -> str:
    """The key itself. Raises `Refusal` for half of a surrogate pair, which JSON allows and a database cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal("args.key", "key holds half of a surrogate pair", "Use whole characters in keys") from None
    return text
