"""What the owner was asked and said: a table of `kernel.db`, beside the runs.

Which run asked for which capability, when, and how it came out is plain. The call's values, where they come from, and
the owner's words are encrypted with the run's key, so they are erased with the run. A claim reads the decision from
what is encrypted: whoever changes the plain columns from outside changes what a list shows, and approves nothing.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from loket.contracts import Damaged, Statement
from loket.store.keys import RunKeys
from loket.store.plain import json_bytes

APPROVALS_MIGRATION: Final = """
    -- What the owner was asked: `said` (the call) and `decision` (the owner's word) are encrypted with the run's key.
    CREATE TABLE approvals (
        id TEXT PRIMARY KEY, run TEXT NOT NULL, root TEXT NOT NULL, agent TEXT NOT NULL, capability TEXT NOT NULL,
        ordinal INTEGER NOT NULL, status TEXT NOT NULL, asked REAL NOT NULL, until REAL NOT NULL, decided REAL,
        used REAL, said BLOB NOT NULL, decision BLOB
    ) STRICT;
    CREATE INDEX approvals_run ON approvals (run);
    CREATE INDEX approvals_root ON approvals (root);
    CREATE INDEX approvals_open ON approvals (agent) WHERE status = 'open';
    """

OPEN, ALLOWED, DENIED, EXPIRED, WITHDRAWN, PASSED = "open", "allowed", "denied", "expired", "withdrawn", "passed"
"""`WITHDRAWN`: the call came again with other arguments. `PASSED`, which no row has: the run went on without it."""

_SELECT: Final = "SELECT id, run, root, agent, capability, ordinal, status, asked, until, decided, used, said, decision"
_WENT_ON: Final = (
    "EXISTS (SELECT 1 FROM journal AS j WHERE j.run = a.run AND j.ordinal >= a.ordinal AND j.kind <> 'intent')"
)
"""Whether the call was answered without the owner, or the run has ended: an intent alone may be from before a crash."""

_LISTED: Final = (
    f"{_SELECT}, CASE WHEN status = 'open' AND {_WENT_ON} THEN 'passed'"
    " WHEN status = 'open' AND until <= ?1 THEN 'expired' ELSE status END AS state FROM approvals AS a"
)
_COUNT: Final = "SELECT count(*) AS n FROM approvals AS a"
_RUNS: Final = "SELECT DISTINCT run FROM approvals AS a"
_WAITING: Final = f"WHERE status = 'open' AND until > ?1 AND (?2 IS NULL OR agent = ?2) AND NOT {_WENT_ON}"
_INSERT: Final = "INSERT OR IGNORE INTO approvals VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"


@dataclass(frozen=True, slots=True)
class Kept:
    """One row. `said` and `decision` are what was encrypted: None where the run was erased, or nothing was decided.

    Times are seconds since 1970 UTC; `status` is one of the words above. `unreadable` says why what was not erased
    cannot be read.
    """

    id: str
    run: str
    root: str
    agent: str
    capability: str
    ordinal: int
    status: str
    asked: float
    until: float
    decided: float | None = None
    used: float | None = None
    said: Mapping[str, Any] | None = None
    decision: Mapping[str, Any] | None = None
    unreadable: str | None = None

    @property
    def erased(self) -> bool:
        """Whether what was asked was erased with its run."""
        return self.said is None and self.unreadable is None


class ApprovalRows:
    """The queries and statements of the table. `query` gives rows as objects, `slot` the slot of a run's key."""

    def __init__(
        self,
        query: Callable[[str, tuple[object, ...]], list[dict[str, Any]]],
        slot: Callable[[str], int],
        keys: RunKeys,
    ) -> None:
        self._query = query
        self._slot = slot
        self._keys = keys

    # Statements

    def insert(self, row: Kept) -> Statement:
        """A question, or what an approval for the whole run allows without one."""
        said = self._sealed(row, "said", row.said)
        decision = self._sealed(row, "decision", row.decision) if row.decision is not None else None
        plain = (row.id, row.run, row.root, row.agent, row.capability, row.ordinal, row.status)
        return (_INSERT, (*plain, row.asked, row.until, row.decided, row.used, said, decision))

    def decide(self, row: Kept, status: str, at: float, decision: Mapping[str, Any]) -> Statement:
        """The owner's word on an open question."""
        return (
            "UPDATE approvals SET status = ?, decided = ?, decision = ? WHERE id = ? AND status = 'open'",
            (status, at, self._sealed(row, "decision", decision), row.id),
        )

    @staticmethod
    def close(row: Kept, status: str) -> Statement:
        """A question that the owner did not answer, or that was replaced by another one."""
        return ("UPDATE approvals SET status = ? WHERE id = ? AND used IS NULL", (status, row.id))

    @staticmethod
    def use(row: Kept, at: float) -> Statement:
        """The call that was approved is being made."""
        return ("UPDATE approvals SET used = coalesce(used, ?) WHERE id = ?", (at, row.id))

    def _sealed(self, row: Kept, name: str, value: Any) -> bytes:
        return self._keys.seal(self._slot(row.run), json_bytes(value), _about(row.id, name))

    # Reading

    def of_run(self, run: str) -> list[Kept]:
        """All that a run has asked, oldest first, with the status that the row has."""
        return self._read(f"{_SELECT}, status AS state FROM approvals WHERE run = ?1 ORDER BY rowid", (run,))

    def of_runs(self, run: str, now: float) -> list[Kept]:
        """All that a run, and those that came of it, have asked, oldest first."""
        return self._read(f"{_LISTED} WHERE run = ?2 OR root = ?2 ORDER BY rowid", (now, run))

    def one(self, identity: str, now: float) -> Kept | None:
        """The question with this id."""
        found = self._read(f"{_LISTED} WHERE id = ?2", (now, identity))
        return found[0] if found else None

    def newest(self, now: float, agent: str | None, limit: int) -> list[Kept]:
        """The newest questions first, of one agent or of all."""
        sql = f"{_LISTED} WHERE ?2 IS NULL OR agent = ?2 ORDER BY rowid DESC LIMIT ?3"
        return self._read(sql, (now, agent, limit))

    def open(self, now: float, agent: str | None, limit: int) -> list[Kept]:
        """The questions that wait, oldest first, of one agent or of all."""
        return self._read(f"{_LISTED} {_WAITING} ORDER BY rowid LIMIT ?3", (now, agent, limit))

    def count_open(self, now: float, agent: str) -> int:
        """How many questions of an agent wait."""
        found = self._query(f"{_COUNT} {_WAITING}", (now, agent))
        return int(found[0]["n"])

    def waiting(self, now: float, agent: str, capability: str) -> list[str]:
        """The runs of an agent in which a capability waits for the owner."""
        sql = f"{_RUNS} {_WAITING} AND capability = ?3"
        return [row["run"] for row in self._query(sql, (now, agent, capability))]

    def beginning(self, prefix: str) -> list[str]:
        """At most two ids that begin so."""
        sql = "SELECT id FROM approvals WHERE substr(id, 1, ?1) = ?2 LIMIT 2"
        return [row["id"] for row in self._query(sql, (len(prefix), prefix))]

    def _read(self, sql: str, values: tuple[object, ...]) -> list[Kept]:
        return [self._opened(row) for row in self._query(sql, values)]

    def _opened(self, row: dict[str, Any]) -> Kept:
        said, decision = row.pop("said"), row.pop("decision")
        row["status"] = row.pop("state")
        try:
            values = [self._unsealed(row["run"], row["id"], *part) for part in (("said", said), ("decision", decision))]
        except Damaged as error:
            return Kept(**row, unreadable=error.message)
        return Kept(**row, said=values[0], decision=values[1])

    def _unsealed(self, run: str, identity: str, name: str, sealed: bytes | None) -> Any:
        """What was encrypted, None where there is nothing, or the key was destroyed. Raises `Damaged`."""
        if sealed is None:
            return None
        text = self._keys.open(self._slot(run), sealed, _about(identity, name))
        return None if text is None else json.loads(text)


def _about(identity: str, name: str) -> bytes:
    """What a ciphertext of the table is bound to, so that it fits no other row."""
    return f"approval {identity} {name}".encode()
