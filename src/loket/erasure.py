"""Erasure: what a run said is destroyed for good, wherever it was carried, and the journal still verifies.

A run's values are encrypted with its own key, so destroying the key erases them in the journal, in every copy of it.
What a run wrote into a store (memories, values, files) is erased there. Others may have read it since: the journal
says which run wrote and which one read each thing, so erasing follows what was said, run by run, until nobody has it;
runs that asked each other are one conversation and go together. `only` stops at the runs that were named.

It survives a crash: the note in the journal comes first, with a list of what is still to be done, which the next start
goes on with.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loket.contracts import BadInput, Erasable, Json, RowKind
from loket.kernel.journal import ERASED, Journal
from loket.store.kernel import KernelDatabase

_NOTE_RUNS = 500
"""Runs that one note of the journal lists at most."""

_STEP = 1000
"""Rows between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """What an erasure will take: the runs that were named, and those that got to know what these said."""

    named: frozenset[str]
    carried: frozenset[str]

    @property
    def runs(self) -> frozenset[str]:
        return self.named | self.carried


class Eraser:
    """Erases runs. `stores` are the providers that keep what runs wrote; `purge` erases what else hangs on runs."""

    def __init__(
        self,
        database: KernelDatabase,
        journal: Journal,
        stores: Sequence[Erasable],
        unfinished: Callable[[], Collection[str]],
        purge: Callable[[Collection[str]], None] = lambda _runs: None,
    ) -> None:
        self._database = database
        self._journal = journal
        self._stores = {store.id: store for store in stores}
        self._unfinished = unfinished
        self._purge = purge

    def plan(
        self, runs: Collection[str], *, only: bool = False, progress: Callable[[int], None] = lambda _rows: None
    ) -> Doomed:
        """What erasing these runs takes. Raises `BadInput` where one of them is not finished."""
        named = frozenset(runs)
        reached = named if only else _reachable(named, self._links(progress))
        waiting = sorted(reached & set(self._unfinished()))
        if waiting:
            raise BadInput(
                "erase.unfinished",
                f"run {waiting[0]} is not finished"
                + ("" if waiting[0] in named else ", and knows what would be erased"),
                f"loket runs stop {waiting[0]}",
            )
        return Doomed(named, frozenset(reached - named))

    def erase(self, doomed: Doomed, why: str) -> int:
        """Erase these runs; how many things were erased in the stores. `why` is kept for good: it must quote nobody."""
        runs = sorted(doomed.runs)
        for start in range(0, len(runs), _NOTE_RUNS):
            part = runs[start : start + _NOTE_RUNS]
            facts = {"what": ERASED, "principal": "owner", "why": why, "runs": part}
            self._journal.append("", 0, RowKind.NOTE, facts, "{}", tuple(self._database.erasing(part)))
        self._journal.sync()
        return self._carry_out(runs)

    def resume(self) -> int:
        """Go on with what a crash interrupted; how many runs that were."""
        runs = self._database.interrupted_erasures()
        if runs:
            self._carry_out(runs)
        return len(runs)

    def _carry_out(self, runs: Sequence[str]) -> int:
        mine = self._by_agent(runs)
        erased = sum(len(store.erase(agent, own)) for agent, own in mine.items() for store in self._stores.values())
        self._purge(runs)
        self._database.destroy_keys(runs)
        self._journal.also(*self._database.erased(runs))
        self._journal.sync()
        return erased

    def _by_agent(self, runs: Iterable[str]) -> Mapping[str, list[str]]:
        mine: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            found = self._database.run(run)
            if found is not None:
                mine[found["agent"]].append(run)
        return mine

    def _links(self, progress: Callable[[int], None]) -> Mapping[str, set[str]]:
        """To each run those that got to know what it said: by a store, or by asking it or being asked."""
        links: dict[str, set[str]] = defaultdict(set)
        for run, parent in self._database.family_links():
            links[run].add(parent)
            links[parent].add(run)
        writer: dict[tuple[str, str, str], str] = {}
        agents = self._database.agents_of_runs()
        calls = _Calls()
        for row in self._journal.rows():
            if row.seq % _STEP == 0:
                progress(row.seq)
            if row.erased or row.kind not in (RowKind.CALL, RowKind.INTENT, RowKind.OUTCOME):
                continue
            made = calls.of(row.run, row.ordinal, row.kind, row.meta, row.value)
            store = self._stores.get(made.family) if made is not None else None
            if made is None or store is None:
                continue
            agent = agents.get(row.run, "")
            for name in store.reads(made.capability, made.args, made.answer):
                before = writer.get((agent, store.id, name))
                if before is not None and before != row.run:
                    links[before].add(row.run)
            for name in store.writes(made.capability, made.args, made.answer):
                writer[(agent, store.id, name)] = row.run
        return links


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


def _reachable(start: Collection[str], links: Mapping[str, set[str]]) -> set[str]:
    seen, stack = set(start), list(start)
    while stack:
        for run in links.get(stack.pop(), ()):
            if run not in seen:
                seen.add(run)
                stack.append(run)
    return seen
