"""`proposals.db`: lines that lessons propose for an agent's rules, and how far lessons have been drawn.

A proposal keeps the runs that it was drawn from, so that erasing one of them erases the proposal, an accepted one too.
"""

import json
import threading
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import apsw

from loket.contracts import BadInput
from loket.store.database import open_database

MIGRATIONS = (
    """
    -- `topic` is what the line is about (capability and code of the refusal): proposed once for each agent.
    CREATE TABLE proposal (
        id INTEGER PRIMARY KEY AUTOINCREMENT, agent TEXT NOT NULL, topic TEXT NOT NULL, line TEXT NOT NULL,
        memories TEXT NOT NULL, runs TEXT NOT NULL, status TEXT NOT NULL, made REAL NOT NULL, decided REAL
    ) STRICT;
    CREATE UNIQUE INDEX proposal_topic ON proposal (agent, topic);
    -- Lessons of runs that ended before `at` (seconds since 1970 UTC) are all there.
    CREATE TABLE drawn (id INTEGER PRIMARY KEY CHECK (id = 1), at REAL NOT NULL) STRICT;
    -- Agents with lessons that were not looked through since.
    CREATE TABLE due (agent TEXT PRIMARY KEY) STRICT;
    """,
)

OPEN, ACCEPTED, REJECTED = "open", "accepted", "rejected"

_SELECT = "SELECT id, agent, topic, line, memories, status, made, decided FROM proposal"
_COLUMNS = ("id", "agent", "topic", "line", "memories", "status", "made", "decided")


class Proposals:
    """Proposals of agents' rules, and marks of what is done. Thread-safe."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()
        self._additions: dict[str, str] = {}
        self._read_additions()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def rules(self, agent: str, rules: str) -> str:
        """The rules of an agent's package with what accepted proposals add behind them, a line each."""
        added = self._additions.get(agent)
        return f"{rules.rstrip()}{added}" if added else rules

    def propose(
        self, agent: str, topic: str, line: str, memories: Sequence[int], runs: Collection[str], at: float
    ) -> bool:
        """Propose a line, or put an open proposal on the topic right; whether anything is new.

        What the owner has decided on is left as it was decided.
        """
        values = (line, json.dumps(list(memories)), json.dumps(sorted(runs)))
        with self._lock, self._connection:
            held = self._query("SELECT id, status, line FROM proposal WHERE agent = ? AND topic = ?", (agent, topic))
            identity, status, before = held[0] if held else (0, OPEN, None)
            if not held:
                sql = "INSERT INTO proposal (agent, topic, line, memories, runs, status, made) VALUES (?,?,?,?,?,?,?)"
                self._connection.execute(sql, (agent, topic, *values, OPEN, at))
            elif status == OPEN:
                sql = "UPDATE proposal SET line = ?, memories = ?, runs = ? WHERE id = ?"
                self._connection.execute(sql, (*values, identity))
        return bool(status == OPEN and before != line)

    def listed(self, agent: str | None = None) -> list[dict[str, Any]]:
        """Proposals of one agent, or all, oldest first.

        `id`, `agent`, `topic`, `line`, `memories` (ids), `status` (open, accepted, rejected), `made`, `decided`.
        """
        rows = self._query(f"{_SELECT} WHERE ?1 IS NULL OR agent = ?1 ORDER BY id", (agent,))
        return [_shown(row) for row in rows]

    def one(self, identity: int) -> dict[str, Any]:
        """A proposal as `listed` shows it. Raises `BadInput` where there is none."""
        rows = self._query(f"{_SELECT} WHERE id = ?", (identity,)) if identity < 1 << 63 else []
        if not rows:
            raise BadInput("proposal.unknown", f"there is no proposal {identity}", "loket proposals")
        return _shown(rows[0])

    def decide(self, identity: int, *, accept: bool, at: float) -> None:
        """Write the owner's decision down; it counts from the agent's next message on."""
        with self._lock:
            sql = "UPDATE proposal SET status = ?, decided = ? WHERE id = ?"
            with self._connection:
                self._connection.execute(sql, (ACCEPTED if accept else REJECTED, at, identity))
            self._read_additions()

    def rules_of(self) -> list[tuple[str, str, list[str]]]:
        """Agent, line and runs of every proposal that the owner has decided on: the line may have been a rule."""
        rows = self._query("SELECT agent, line, runs FROM proposal WHERE decided IS NOT NULL ORDER BY id")
        return [(agent, line, json.loads(runs)) for agent, line, runs in rows]

    def purge(self, runs: Collection[str]) -> None:
        """Delete the proposals that were drawn from these runs, accepted ones too."""
        gone = frozenset(runs)
        with self._lock:
            rows = self._query("SELECT id, runs FROM proposal")
            doomed = [(identity,) for identity, names in rows if gone.intersection(json.loads(names))]
            if doomed:
                with self._connection:
                    self._connection.executemany("DELETE FROM proposal WHERE id = ?", doomed)
                # The words are still in the write-ahead log: bring it home and cut it off.
                self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                self._read_additions()

    # How far lessons have been drawn

    def drawn(self) -> float:
        """The time (seconds since 1970 UTC) before which every run's lessons are there; 0 at the first start."""
        rows = self._query("SELECT at FROM drawn")
        return float(rows[0][0]) if rows else 0.0

    def draw(self, at: float) -> None:
        """Lessons of runs that ended before this time are there."""
        with self._lock, self._connection:
            self._connection.execute("INSERT OR REPLACE INTO drawn VALUES (1, ?)", (at,))

    def due(self) -> list[str]:
        """Agents whose lessons are to be looked through."""
        return [agent for (agent,) in self._query("SELECT agent FROM due ORDER BY agent")]

    def set_due(self, agent: str, *, due: bool) -> None:
        """Note that an agent has new lessons, or that they were looked through."""
        sql = "INSERT OR IGNORE INTO due VALUES (?)" if due else "DELETE FROM due WHERE agent = ?"
        with self._lock, self._connection:
            self._connection.execute(sql, (agent,))

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _read_additions(self) -> None:
        found: dict[str, str] = {}
        for agent, line in self._query("SELECT agent, line FROM proposal WHERE status = ? ORDER BY id", (ACCEPTED,)):
            found[agent] = f"{found.get(agent, '')}\n- {line}"
        self._additions = found


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    shown = dict(zip(_COLUMNS, row, strict=True))
    return {**shown, "memories": json.loads(shown["memories"])}
