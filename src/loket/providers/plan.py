"""Plans: `plan.make`, `plan.check` and `plan.run` through a planner; `plan.save`, `.list`, `.show`, `.remove` here.

Saved plans live in the agent's own database, beside its memories: encrypted, backed up and erased with them. Who saved
one, and the labels of what it was made of, are written by the host. Every change writes (run, ordinal) in its own
transaction, so performing it again changes nothing.
"""

import datetime as dt
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import apsw

from loket.contracts import OWNER, AgentStore, Answer, Call, Handler, Json, Labels, Refusal, command

PLAN_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE plan (
        name TEXT PRIMARY KEY,
        plan TEXT NOT NULL,
        by TEXT NOT NULL,
        labels TEXT NOT NULL,
        saved REAL NOT NULL,
        run TEXT NOT NULL
    );
    CREATE INDEX plan_run ON plan (run);
    CREATE TABLE plan_applied (
        run TEXT NOT NULL,
        ordinal INTEGER NOT NULL,
        answer TEXT NOT NULL,
        PRIMARY KEY (run, ordinal)
    ) WITHOUT ROWID;
    """,
)
"""SQL scripts, oldest first; join them with those of other families that live in the same file."""

MOST = 200
"""Saved plans of an agent."""

_MAKE_S, _RUN_S = 600.0, 86_400.0

Given: TypeAlias = Callable[[], tuple[Json, Labels, bool]]
"""A plan, the labels of where it comes from, and whether the owner wrote it; raises `Refusal` where it is gone."""


class Planner(Protocol):
    """Does what needs the running system; the same call, made again, finds what it started."""

    async def make(self, call: Call, request: str, tools: Sequence[str] | None, timeout_s: float) -> Answer:
        """Have the model make a plan: `plan`, `check`, `attempts`, `run`."""

    async def check(self, call: Call, plan: Json) -> Mapping[str, Json]:
        """Check a plan as the call's run could run it (see `loket.orchestrator.Report`)."""

    async def run(self, call: Call, given: Given, timeout_s: float) -> Answer:
        """Run a plan as a child of the call's run: `run`, `status`, `steps`, `answer`, `error`."""


class PlanProvider:
    """Performs `plan.*`. The databases of `store` have `PLAN_MIGRATIONS`; `now` gives seconds since 1970."""

    id = "plan"

    def __init__(self, planner: Planner, store: AgentStore, now: Callable[[], float]) -> None:
        self._planner = planner
        self._store = store
        self._now = now

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler; those of the planner wait."""
        return {
            "plan.make": self.make,
            "plan.check": self.check,
            "plan.run": self.run,
            "plan.save": self.save,
            "plan.list": self.list,
            "plan.show": self.show,
            "plan.remove": self.remove,
        }

    async def start(self) -> None:
        """Nothing to start: runs belong to the engine, files are opened when they are needed."""

    async def close(self) -> None:
        """Nothing to close."""

    async def make(self, call: Call) -> Answer:
        """Answers `plan`, `check`, `attempts` and `run`. Raises `Refusal` or `Failed` where no sound plan came."""
        seconds = min(float(call.args.get("timeout_s", _MAKE_S)), call.deadline_s)
        return await self._planner.make(call, call.args["request"], call.args.get("tools"), seconds)

    async def check(self, call: Call) -> Answer:
        """Answers what the check found; a plan with problems is an answer, too."""
        return Answer(await self._planner.check(call, call.args["plan"]))

    async def run(self, call: Call) -> Answer:
        """Answers `run`, `status`, `steps` and `answer`. Raises `Refusal` for a plan with problems."""
        seconds = min(float(call.args.get("timeout_s", _RUN_S)), call.deadline_s)
        return await self._planner.run(call, lambda: self._given(call), seconds)

    def _given(self, call: Call) -> tuple[Json, Labels, bool]:
        if "plan" in call.args:
            return call.args["plan"], call.labels_of("plan"), call.principal == OWNER
        plan, by, labels, _saved = self._saved(call.agent, call.args["name"])
        return plan, labels, by == str(OWNER)

    # Saved plans

    def save(self, call: Call) -> Answer:
        """Save a plan. Answers `name`. Raises `Refusal` where there are too many."""
        return self._once(call, self._put)

    def remove(self, call: Call) -> Answer:
        """Remove a plan. Answers `existed`."""
        answer = self._once(call, _delete)
        with self._store.open(call.agent) as connection:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return answer

    def list(self, call: Call) -> Answer:
        """Answers `plans`: `name`, `title`, `by`, `labels` and `saved` of each, by name."""
        with self._store.open(call.agent) as connection:
            rows = list(connection.execute("SELECT name, plan, by, labels, saved FROM plan ORDER BY name"))
        return Answer({"plans": [_listed(name, json.loads(plan), *more) for name, plan, *more in rows]}, _all(rows))

    def show(self, call: Call) -> Answer:
        """Answers `name` and `plan` with what `list` says of it. Raises `Refusal` where there is none."""
        name = call.args["name"]
        plan, by, labels, saved = self._saved(call.agent, name)
        return Answer({**_listed(name, plan, by, json.dumps(labels), saved), "plan": plan}, labels)

    def _saved(self, agent: str, name: str) -> tuple[Any, str, Labels, float]:
        with self._store.open(agent) as connection:
            found = connection.execute("SELECT plan, by, labels, saved FROM plan WHERE name = ?", (name,)).fetchone()
        if found is None:
            raise Refusal("plan.unknown", f"{agent} has no plan {name!r}", command("plans", "list", agent))
        plan, by, labels, saved = found
        return json.loads(plan), by, tuple(json.loads(labels)), saved

    def _put(self, connection: apsw.Connection, call: Call) -> dict[str, Any]:
        name = call.args["name"]
        ((others,),) = connection.execute("SELECT count(*) FROM plan WHERE name != ?", (name,))
        if others >= MOST:
            raise Refusal(
                "plan.many", f"{call.agent} has {others} plans", command("plans", "remove", call.agent, "NAME")
            )
        by = str(call.principal) if call.principal == OWNER else f"agent:{call.agent}"
        plan, labels = json.dumps(call.args["plan"]), json.dumps(call.labels_of("name", "plan"))
        connection.execute(
            "INSERT INTO plan VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (name) DO UPDATE"
            " SET plan = ?2, by = ?3, labels = ?4, saved = ?5, run = ?6",
            (name, plan, by, labels, self._now(), call.run),
        )
        return {"name": name}

    def _once(self, call: Call, change: Callable[[apsw.Connection, Call], dict[str, Any]]) -> Answer:
        """Perform a change in one transaction, or answer what it answered when it was performed before."""
        done_as = (call.run, call.ordinal)
        with self._store.open(call.agent) as connection, connection:
            sql = "SELECT answer FROM plan_applied WHERE run = ? AND ordinal = ?"
            done = connection.execute(sql, done_as).fetchone()
            if done is not None:
                return Answer(json.loads(done[0]))
            answer = change(connection, call)
            connection.execute("INSERT INTO plan_applied VALUES (?, ?, ?)", (*done_as, json.dumps(answer)))
        return Answer(answer)

    # What a run left here

    def writes(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        """The name under which a journaled call saved a plan."""
        return [args["name"]] if capability == "plan.save" else []

    def reads(self, capability: str, args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        """The plans that a journaled call showed or ran."""
        if capability == "plan.list":
            return [one["name"] for one in answer.get("plans", ())]
        return [args["name"]] if capability in ("plan.show", "plan.run") and "name" in args else []

    def erase(self, agent: str, runs: Collection[str]) -> Sequence[str]:
        """Erase the plans that these runs saved; their names."""
        erased = []
        with self._store.open(agent) as connection:
            with connection:
                for run in runs:
                    gone = connection.execute("DELETE FROM plan WHERE run = ? RETURNING name", (run,))
                    erased += [str(name) for (name,) in gone]
                connection.executemany("DELETE FROM plan_applied WHERE run = ?", [(run,) for run in runs])
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return erased


def _delete(connection: apsw.Connection, call: Call) -> dict[str, Any]:
    connection.execute("DELETE FROM plan WHERE name = ?", (call.args["name"],))
    return {"existed": connection.changes() > 0}


def _listed(name: str, plan: Mapping[str, Any], by: str, labels: str, saved: float) -> dict[str, Any]:
    when = dt.datetime.fromtimestamp(saved, dt.UTC).isoformat()
    return {"name": name, "title": plan["title"], "by": by, "labels": json.loads(labels), "saved": when}


def _all(rows: Sequence[tuple[Any, ...]]) -> Labels:
    """The labels of all plans that are shown."""
    return tuple(sorted({label for row in rows for label in json.loads(row[3])}))
