"""What a poisoned source left behind: everything derived from it and, apart from that, everything exposed to it.

A source is a label: `host:example.org`, `capability:net.fetch`, `agent:NAME`, `sender:CHANNEL:NAME`, `run:ID`. What a
value was derived from is kept with it, in every store, so a thing derives from a source where its own labels say so. A
thing is exposed where the run that wrote it had seen the source by then and its labels do not say more; the journal
tells what each run had seen at each of its calls.

An agent, a run and a sender are sources by themselves: whatever such a run wrote derives from it, as does what the runs
wrote that it started; who read that was exposed.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Protocol, TypeAlias

from loket.contracts import BadInput, Effect, Json, Row, RowKind
from loket.kernel.journal import Journal
from loket.kernel.refs import AS
from loket.store.kernel import KernelDatabase

DERIVED, EXPOSED = "derived", "exposed"

_SOURCE = re.compile(r"[a-z][a-z0-9_.-]*:[^\s\x00-\x1f]{1,300}")
_NOT_SOURCES = ("owner", "private", "confidential")
_STEP = 1000
"""Rows between two reports of progress."""
_STORES = frozenset({"brain", "kv", "fs", "plan"})
"""Families whose effects stay in the home, where they can be taken back; deletions cannot."""
_BUS = frozenset({"message.subscribe", "message.unsubscribe"})
_LEAVES = "host:"

Name: TypeAlias = tuple[str, str, str]
"""Agent, store, and the name of a thing in it."""


class Store(Protocol):
    """Names what a journaled call wrote in one store, and what it showed of it (see `Erasable`)."""

    @property
    def id(self) -> str: ...

    def writes(self, capability: str, args: Mapping[str, Json], answer: Mapping[str, Json]) -> Sequence[str]: ...

    def reads(self, capability: str, args: Mapping[str, Json], answer: Mapping[str, Json]) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A source as the owner named it; `*` in it stands for any text."""

    text: str

    def matches(self, label: str) -> bool:
        """Whether a label names it."""
        return label == self.text or ("*" in self.text and fnmatchcase(label, self.text))

    def among(self, labels: Iterable[str]) -> bool:
        """Whether one of the labels names it."""
        return any(self.matches(label) for label in labels)

    def is_run(self, run: str, agent: str, principal: str) -> bool:
        """Whether a run is the source itself."""
        return self.among((f"run:{run}", f"agent:{agent}")) or (
            principal.startswith("sender:") and self.matches(principal)
        )

    @property
    def itself(self) -> bool:
        """Whether its runs are the source, so that what they wrote bears no label of it."""
        return self.text.startswith(("run:", "agent:", "sender:"))


def source_of(text: str) -> Source:
    """The source that a text names. Raises `BadInput`."""
    if text.partition(":")[0] in _NOT_SOURCES:
        raise BadInput("trace.source", f"{text} is no source that can be poisoned", "loket trace host:example.org")
    if _SOURCE.fullmatch(text) is None:
        raise BadInput(
            "trace.source",
            f"{text[:80]!r} is no source: it needs a kind and a name",
            "loket trace host:example.org (or capability:net.fetch, agent:NAME, sender:CHANNEL:NAME, run:ID)",
        )
    return Source(text.lower() if text.startswith("host:") else text)


@dataclass(slots=True)
class Touched:
    """A run that derives from the source (it was started with it, or is it), or has seen it.

    `parent` is the run that started it, if one did; `ended` whether it has.
    """

    run: str
    agent: str
    parent: str | None
    why: str | None = None
    itself: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """A call that cannot be taken back: something was sent, asked for, spent or deleted."""

    run: str
    ordinal: int
    agent: str
    capability: str
    why: str


@dataclass(frozen=True, slots=True)
class Write:
    """Which run wrote a thing last, and how it stood to the source then."""

    run: str
    why: str | None


@dataclass(slots=True)
class _Open:
    """A call whose outcome is still to come."""

    facts: Mapping[str, Any]
    args: Mapping[str, Any]
    why: str | None


@dataclass(slots=True)
class Footprint:
    """What the journal says of a source. Used by one thread at a time; `read` goes on where it stopped.

    `unreadable` are runs that were erased: what they had seen nobody can say any more.
    """

    source: Source
    stores: Mapping[str, Store]
    runs: dict[str, Touched] = field(default_factory=dict)
    writes: dict[Name, Write] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)
    _open: dict[tuple[str, int], _Open] = field(default_factory=dict)
    _seq: int = 0

    def read(
        self, database: KernelDatabase, journal: Journal, progress: Callable[[int], None] = lambda _rows: None
    ) -> None:
        """Read what the journal has since the last time. `progress` is told rows."""
        journal.sync()
        for row in database.rows(after=self._seq):
            self._seq = row.seq
            if row.seq % _STEP == 0:
                progress(row.seq)
            if row.run:
                self._follow(row)

    def touched(self) -> Iterator[Touched]:
        """The runs that have to do with the source, in the order in which they began."""
        return (run for run in self.runs.values() if run.why is not None)

    def gone(self) -> Iterator[Sent]:
        """Calls that cannot be taken back; those too of which nobody knows whether they happened."""
        yield from self.sent
        for (run, ordinal), call in self._open.items():
            if call.why is not None and _cannot_be_taken_back(call.facts, {}):
                yield Sent(run, ordinal, self.runs[run].agent, str(call.facts["capability"]), call.why)

    def why(self, name: Name, run: str, labels: Sequence[str] | None) -> str | None:
        """How a thing that a run wrote last stands to the source. `labels` are its own; None where a store has none."""
        known = self.runs.get(run)
        if self.source.among(labels or ()) or (known is not None and known.itself):
            return DERIVED
        written = self.writes.get(name)
        same = written is not None and written.run == run
        last = written if same else known  # where the journal does not have the write, the run as a whole tells
        seen = last.why if last is not None else None
        return seen if labels is None or seen is None else EXPOSED

    def _follow(self, row: Row) -> None:
        if row.erased or not row.value:
            self.unreadable.add(row.run)
        value = json.loads(row.value) if row.value and not row.erased else {}
        if row.kind is RowKind.START:
            self._start(row, value)
        run = self.runs.get(row.run)
        if run is None:
            return
        if row.kind is RowKind.END:
            run.ended = True
        elif row.kind is RowKind.INTENT:
            self._open[(row.run, row.ordinal)] = _Open(row.meta, value.get("args", {}), self._stands(run, value))
        elif row.kind in (RowKind.CALL, RowKind.OUTCOME) and value:
            self._called(run, row, value)

    def _start(self, row: Row, value: Mapping[str, Any]) -> None:
        facts = row.meta
        run = self.runs[row.run] = Touched(row.run, facts["agent"], facts["parent"])
        starter = self.runs.get(facts["parent"] or "")
        principal = str(value.get("principal", facts["principal"]))
        run.itself = self.source.is_run(run.run, run.agent, principal) or bool(starter and starter.itself)
        if run.itself or self.source.among(value.get("labels", ())):
            run.why = DERIVED
        elif starter is not None and starter.why is not None:
            run.why = EXPOSED

    def _called(self, run: Touched, row: Row, value: Mapping[str, Any]) -> None:
        opened = self._open.pop((row.run, row.ordinal), None) if row.kind is RowKind.OUTCOME else None
        args = opened.args if opened is not None else value.get("args", {})
        why = opened.why if opened is not None else self._stands(run, value)
        answer = value.get("answer")
        if isinstance(args, dict) and isinstance(answer, dict):
            self._changed(run, row, args, answer, why)
        if why is not None and _cannot_be_taken_back(row.meta, value):
            self.sent.append(Sent(run.run, row.ordinal, run.agent, row.meta["capability"], why))
        unseen = isinstance(args, dict) and AS in args
        if run.why is None and not unseen and self._shows(run, row, value, args):
            run.why = EXPOSED

    def _stands(self, run: Touched, value: Mapping[str, Any]) -> str | None:
        """How a call stands to the source: by what its arguments were made of, or by what its run has seen."""
        given = value.get("arg_labels", {})
        if run.itself or self.source.among(label for labels in given.values() for label in labels):
            return DERIVED
        return EXPOSED if run.why is not None else None

    def _changed(
        self, run: Touched, row: Row, args: Mapping[str, Any], answer: Mapping[str, Any], why: str | None
    ) -> None:
        capability = str(row.meta["capability"])
        store = self.stores.get(capability.partition(".")[0])
        for name in store.writes(capability, args, answer) if store is not None else ():
            self.writes[(run.agent, store.id, name)] = Write(run.run, why)  # type: ignore[union-attr]

    def _shows(self, run: Touched, row: Row, value: Mapping[str, Any], args: Any) -> bool:
        """Whether an answer shows the source: by its labels, or because it holds what the source itself wrote."""
        if self.source.among(value.get("labels", ())):
            return True
        answer = value.get("answer")
        if not self.source.itself or not isinstance(answer, dict) or not isinstance(args, dict):
            return False
        other = self.runs.get(str(answer.get("run", "")))
        if other is not None and other.why is not None and other.parent == run.run:
            return True
        capability = str(row.meta["capability"])
        store = self.stores.get(capability.partition(".")[0])
        names = store.reads(capability, args, answer) if store is not None else ()
        found = (self.writes.get((run.agent, store.id if store else "", name)) for name in names)
        return any(write is not None and write.why is not None for write in found)


def _cannot_be_taken_back(facts: Mapping[str, Any], value: Mapping[str, Any]) -> bool:
    """Whether a call did something outside of the home's stores, or for good. A model counts where it is not local."""
    if "effect" not in facts or "error" in facts:
        return False
    capability, effect = str(facts["capability"]), Effect(facts["effect"])
    if not effect.changes or capability in _BUS:
        return False
    if capability.startswith("llm."):
        return any(label.startswith(_LEAVES) for label in value.get("labels", ()))
    return effect is Effect.DESTROY or capability.partition(".")[0] not in _STORES
