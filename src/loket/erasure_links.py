"""Who got to know what a run said: read from the journal, and from who asked whom.

To each run belong those that read in a store what it wrote there, those that it asked or was asked by, and those whose
rules had a line that was drawn from it.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.contracts import Erasable, Json, Row, RowKind
from loket.kernel.journal import Journal
from loket.store.kernel import KernelDatabase

Rule: TypeAlias = tuple[str, str, Collection[str]]
"""An agent, a line that the owner added to its rules, and the runs that the line was drawn from."""

_STEP = 1000
"""Rows between two reports of progress."""

_CALLS = (RowKind.CALL, RowKind.INTENT, RowKind.OUTCOME)


class Links:
    """The links between runs, as far as the journal was read. Used by one thread at a time.

    `read` goes on where it stopped, so what could be read once stays known after its run was erased. A name of a store
    that ends in `/` is a folder's: whoever reads it got to know what all said who wrote below it.
    """

    def __init__(
        self,
        database: KernelDatabase,
        journal: Journal,
        stores: Mapping[str, Erasable],
        rules: Callable[[], Sequence[Rule]],
    ) -> None:
        self._database = database
        self._journal = journal
        self._stores = stores
        self._find_rules = rules
        self._rules: dict[Rule, None] = {}
        self._links: dict[str, set[str]] = defaultdict(set)
        self._writers: dict[tuple[str, str, str], set[str]] = defaultdict(set)
        """By agent, store and name: the run that wrote it last, or all, for a folder."""
        self._calls = _Calls()
        self._agents: dict[str, str] = {}
        self._seq = 0

    def read(self, progress: Callable[[int], None] = lambda _rows: None) -> None:
        """Read what the journal has since the last time. `progress` is told rows."""
        self._journal.sync()
        for run, parent in self._database.family_links():
            self._links[run].add(parent)
            self._links[parent].add(run)
        self._agents = self._database.agents_of_runs()
        self._rules |= dict.fromkeys((agent, line, tuple(runs)) for agent, line, runs in self._find_rules())
        for row in self._database.rows(after=self._seq):
            self._seq = row.seq
            if row.seq % _STEP == 0:
                progress(row.seq)
            if row.value and not row.erased:
                self._follow(row)

    def reachable(self, start: Collection[str]) -> set[str]:
        """These runs and all that got to know what they said, directly or through others."""
        seen, stack = set(start), list(start)
        while stack:
            for run in self._links.get(stack.pop(), ()):
                if run not in seen:
                    seen.add(run)
                    stack.append(run)
        return seen

    def _follow(self, row: Row) -> None:
        if row.kind is RowKind.START and self._rules:
            self._follow_rules(row)
        if row.kind not in _CALLS:
            return
        made = self._calls.of(row.run, row.ordinal, row.kind, row.meta, row.value)
        store = self._stores.get(made.family) if made is not None else None
        if made is None or store is None:
            return
        agent = self._agents.get(row.run, "")
        for name in store.reads(made.capability, made.args, made.answer):
            for before in self._writers.get((agent, store.id, name), set()) - {row.run}:
                self._links[before].add(row.run)
        for name in store.writes(made.capability, made.args, made.answer):
            held = self._writers[(agent, store.id, name)]
            if not name.endswith("/"):  # a folder shows what all said who wrote below it
                held.clear()
            held.add(row.run)

    def _follow_rules(self, row: Row) -> None:
        """A run got to know what the accepted proposals among its rules were drawn from."""
        rules = json.loads(row.value).get("args", {}).get("rules")
        if not isinstance(rules, str):
            return
        for agent, line, runs in self._rules:
            if agent == self._agents.get(row.run) and f"\n- {line}\n" in f"\n{rules}\n":
                for run in runs:
                    self._links[run].add(row.run)


@dataclass(frozen=True, slots=True)
class _Made:
    """A call that was answered."""

    capability: str
    args: Mapping[str, Json]
    answer: Mapping[str, Json]

    @property
    def family(self) -> str:
        return self.capability.partition(".")[0]


class _Calls:
    """Puts intents and outcomes together again."""

    def __init__(self) -> None:
        self._intents: dict[tuple[str, int], Mapping[str, Json]] = {}

    def of(self, run: str, ordinal: int, kind: RowKind, meta: Mapping[str, Any], value: bytes) -> _Made | None:
        """The call that this row ends; None where it ends none, or one without an answer."""
        said = json.loads(value)
        if kind is RowKind.INTENT:
            self._intents[(run, ordinal)] = said["args"]
            return None
        args = self._intents.pop((run, ordinal), None) if kind is RowKind.OUTCOME else said.get("args")
        if args is None or "answer" not in said:
            return None
        return _Made(meta["capability"], args, said["answer"])
