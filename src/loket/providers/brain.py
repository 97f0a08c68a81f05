"""The agent's memory: `brain.add`, `brain.search`, `brain.correct`, `brain.forget` and `brain.lesson`.

Every effect writes (run, ordinal) with its answer in its own transaction, so performing it again changes nothing.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import apsw

from loket.contracts import OWNER, AgentStore, Answer, Call, Handler, Labels, Refusal, join_labels
from loket.providers import brain_owner, brain_search, brain_write
from loket.providers.brain_rows import parse_time, read
from loket.providers.brain_write import NewMemory

_SLICE = 300
"""Memories that one transaction erases: well under a second, where a lease has ten."""

_REBUILD_S = 600.0
"""Seconds that making the index anew may take."""

_ABOUT_ONE = ("brain.correct", "brain.forget", "brain.history")

Change = Callable[[apsw.Connection, Call], dict[str, Any]]


class BrainProvider:
    """Performs the brain's capabilities on the agents' databases, which have `BRAIN_MIGRATIONS`.

    `now` tells the time in seconds since 1970 UTC.
    """

    id = "brain"

    def __init__(self, store: AgentStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler, all synchronous."""
        return {
            "brain.add": self.add,
            "brain.search": self.search,
            "brain.correct": self.correct,
            "brain.forget": self.forget,
            "brain.lesson": self.lesson,
            "brain.history": self.history,
            "brain.export": self.export,
        }

    async def start(self) -> None:
        """Nothing to start: files are opened when they are needed."""

    async def close(self) -> None:
        """Nothing to close: the store belongs to whoever made it."""

    def add(self, call: Call) -> Answer:
        """Store memories; each closes the live one with its subject and key. Answers `ids`, in the order of the items.

        Raises `Refusal` for a time that cannot be read; nothing is stored then.
        """
        return self._once(call, self._add)

    def search(self, call: Call) -> Answer:
        """Recall memories; answers `memories`, best first, and carries the labels of each."""
        with self._store.open(call.agent) as connection:
            found = brain_search.search(connection, dict(call.args), call.conversation)
        return Answer({"memories": found}, join_labels((), *(tuple(memory["labels"]) for memory in found)))

    def correct(self, call: Call) -> Answer:
        """Supersede a memory; answers the new `id` and `replaced`.

        Raises `Refusal` for a memory that is not there, was forgotten, or was superseded before.
        """
        return self._once(call, self._correct)

    def forget(self, call: Call) -> Answer:
        """Remove the words of a memory and of its history; answers the ids that had any as `forgotten`.

        Raises `Refusal` for a memory that is not there.
        """
        answer = self._once(call, self._forget)
        with self._store.open(call.agent) as connection:
            # The words are still in the write-ahead log: bring it home and cut it off.
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return answer

    def lesson(self, call: Call) -> Answer:
        """Store a lesson with its cause and remedy as one memory about `about`; answers its `id`."""
        return self._once(call, self._lesson)

    def history(self, call: Call) -> Answer:
        """Answer a memory's history as `memories`. Raises `Refusal` for a memory that is not there."""
        with self._store.open(call.agent) as connection:
            found = brain_owner.history(connection, call.args["id"])
        if not found:
            raise _unknown(call.args["id"])
        return Answer({"memories": found}, join_labels((), *(tuple(memory["labels"]) for memory in found)))

    def export(self, call: Call) -> Answer:
        """Answer a page of all memories as `memories`; `damaged` marks a row that is not what was written."""
        with self._store.open(call.agent) as connection:
            page = list(brain_owner.export(connection, call.args.get("after", 0), call.args.get("limit", 200)))
        labels = (tuple(json.loads(memory["labels"])) for memory in page if not memory["damaged"])
        return Answer({"memories": page}, join_labels((), *labels))

    # What a run left here

    def writes(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        """Ids of the memories that a journaled call stored."""
        if capability == "brain.add":
            return [str(identity) for identity in answer["ids"]]
        return [str(answer["id"])] if capability in ("brain.correct", "brain.lesson") else []

    def reads(self, capability: str, args: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        """Ids of the memories that a journaled call showed, or whose subject and key went on in what it stored."""
        shown = [str(memory["id"]) for memory in answer.get("memories", ())]
        return [*shown, str(args["id"])] if capability in _ABOUT_ONE else shown

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Erase the memories that these runs stored; their ids."""
        wanted = frozenset(runs)
        with self._store.open(agent) as connection:
            mine = [i for i, run in connection.execute("SELECT id, run FROM memory") if run in wanted]
        erased = self.erase_memories(agent, mine)
        with self._store.open(agent) as connection:
            with connection:
                connection.executemany("DELETE FROM brain_applied WHERE run = ?", [(run,) for run in runs])
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return erased

    def erase_memories(self, agent: str, identities: Sequence[int]) -> list[str]:
        """Erase memories with their traces in the index and the write-ahead log; the ids of those that had words.

        So many at a time that each transaction stays far within its time limit and others come in between. Where a
        memory had no words any more, a crash may have come before its index was rebuilt, so that is done then.
        """
        erased: list[int] = []
        lingers = False
        for start in range(0, len(identities), _SLICE):
            part = identities[start : start + _SLICE]
            with self._store.open(agent) as connection, connection:
                ids, left = brain_write.erase(connection, part, self._now(), lingers=lingers)
                for identity in part:
                    brain_write.forget_source(connection, identity)
                erased += ids
                lingers = left or len(ids) < len(part)
        with self._store.open(agent, _REBUILD_S) as connection:
            if lingers:
                with connection:
                    brain_write.rebuild(connection)
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        return [str(identity) for identity in erased]

    def sources(self, agent: str, identity: int) -> dict[int, str]:
        """A memory and its history: id to the run that stored it. Raises `Refusal` for one that is not there."""
        with self._store.open(agent) as connection:
            ids = brain_write.chain(connection, identity)
            select = "SELECT run FROM memory WHERE id = ?"
            found = {i: str(run) for i in ids for (run,) in connection.execute(select, (i,))}
        if not found:
            raise _unknown(identity)
        return found

    def _once(self, call: Call, change: Change) -> Answer:
        """Perform a change in one transaction, or answer what it answered when it was performed before."""
        key = (call.run, call.ordinal)
        with self._store.open(call.agent) as connection, connection:
            done = connection.execute("SELECT answer FROM brain_applied WHERE run = ? AND ordinal = ?", key).fetchone()
            if done is not None:
                return Answer(json.loads(done[0]))
            answer = change(connection, call)
            brain_write.tidy(connection)
            connection.execute("INSERT INTO brain_applied VALUES (?, ?, ?)", (*key, json.dumps(answer)))
        return Answer(answer)

    def _add(self, connection: apsw.Connection, call: Call) -> dict[str, Any]:
        now = self._now()
        memories = [
            _memory(item, now, call.labels_of(f"items.{place}")) for place, item in enumerate(call.args["items"])
        ]
        return {"ids": [brain_write.insert(connection, call, memory) for memory in memories]}

    def _correct(self, connection: apsw.Connection, call: Call) -> dict[str, Any]:
        old = _existing(connection, call.args["id"])
        if old["forgotten"] is not None:
            raise Refusal("brain.forgotten", f"Memory {old['id']} was forgotten", "Add the memory anew with brain.add")
        if old["closed"] is not None:
            latest = brain_write.chain(connection, old["id"])[-1]
            raise Refusal(
                "brain.superseded", f"Memory {old['id']} was superseded before", f"Correct memory {latest} instead"
            )
        now = self._now()
        memory = NewMemory(
            text=_clean(call.args["text"]),
            kind="correction",
            created=now,
            happened=now,
            subject=old["subject"],
            key=old["key"],
            speaker=old["speaker"],
            gist=_optional(call.args, "gist"),
            corrects=old["corrects"] or old["kind"],
            labels=join_labels(call.labels_of(), *_inherited(call, old)),
        )
        return {"id": brain_write.insert(connection, call, memory, replaces=old["id"]), "replaced": old["id"]}

    def _forget(self, connection: apsw.Connection, call: Call) -> dict[str, Any]:
        identity = call.args["id"]
        if not connection.execute("SELECT 1 FROM memory WHERE id = ?", (identity,)).fetchone():
            raise _unknown(identity)
        ids, lingers = brain_write.erase(connection, brain_write.chain(connection, identity), self._now())
        if lingers:
            brain_write.rebuild(connection)
        return {"forgotten": ids}

    def _lesson(self, connection: apsw.Connection, call: Call) -> dict[str, Any]:
        now = self._now()
        lines = [
            label + _clean(call.args[field])
            for field, label in (("text", ""), ("cause", "Because: "), ("remedy", "Instead: "))
            if field in call.args
        ]
        about = _optional(call.args, "about")
        memory = NewMemory(
            text="\n".join(lines), kind="lesson", created=now, happened=now, subject=about, labels=call.labels_of()
        )
        return {"id": brain_write.insert(connection, call, memory)}


def _inherited(call: Call, old: Mapping[str, Any]) -> list[Labels]:
    """Labels of the memory that is corrected: its subject goes on; by the owner's own word they are dropped."""
    return [] if call.principal == OWNER else [tuple(old["labels"])]


def _memory(item: Mapping[str, Any], now: float, labels: Labels) -> NewMemory:
    return NewMemory(
        text=_clean(item["text"]),
        kind=item.get("kind", "episode"),
        created=now,
        happened=parse_time("happened", item["happened"]) if "happened" in item else now,
        subject=_optional(item, "subject"),
        key=_optional(item, "key"),
        speaker=_optional(item, "speaker"),
        gist=_optional(item, "gist"),
        note=_optional(item, "note"),
        labels=labels,
    )


def _optional(values: Mapping[str, Any], field: str) -> str | None:
    return _clean(values[field]) if field in values else None


def _clean(text: str) -> str:
    """A text that UTF-8 can hold: JSON allows halves of surrogate pairs, a database does not."""
    return text.encode(errors="replace").decode()


def _existing(connection: apsw.Connection, identity: int) -> dict[str, Any]:
    row = read(connection, identity)
    if row is None:
        raise _unknown(identity)
    return row


def _unknown(identity: int) -> Refusal:
    return Refusal("brain.unknown", f"There is no memory {identity}", "Take an id from the answer of brain.search")
