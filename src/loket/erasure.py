"""Erasure: what a run said is destroyed for good, wherever it was carried, and the journal still verifies.

A run's values are encrypted with its own key, so destroying the key erases them in the journal, in every copy of it.
What a run wrote into a store (memories, values, files) is erased there. Others may have read it since: the journal
says which run wrote and which one read each thing, so erasing follows what was said, run by run, until nobody has it;
runs that asked each other are one conversation and go together. `only` stops at the runs that were named.

Loket goes on working meanwhile: when the stores are empty the journal is read again for whoever has read them since,
until there is nobody; then keys are destroyed, what was being drawn from these runs is waited for, and the journal is
read a last time.

It survives a crash: the note in the journal comes first, with a list of what is still to be done, which the next start
goes on with. It survives a store that fails: the others are emptied and the keys destroyed, and it is tried again.
"""

import contextlib
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from loket.contracts import BadInput, Erasable, Failed, LoketError, RowKind
from loket.erasure_links import Links, Rule
from loket.kernel.journal import ERASED, Journal
from loket.store.kernel import KernelDatabase

_NOTE_RUNS = 500
"""Runs that one note of the journal lists at most."""


@dataclass(frozen=True, slots=True)
class Doomed:
    """What an erasure will take: the runs that were named, and those that got to know what these said.

    `links` goes on with reading the journal when it is carried out; None where `only` the named ones are meant.
    """

    named: frozenset[str]
    carried: frozenset[str]
    links: Links | None = field(default=None, compare=False)

    @property
    def runs(self) -> frozenset[str]:
        return self.named | self.carried


@dataclass(frozen=True, slots=True)
class Done:
    """What an erasure took: all `runs`, how many `things` in the stores.

    `left` names what the owner changed since, which stays; `unfinished` are runs that got to know it meanwhile and
    work still: they have to be stopped and erased.
    """

    runs: frozenset[str]
    things: int
    left: tuple[str, ...]
    unfinished: tuple[str, ...]


class Eraser:
    """Erases runs. `stores` are the providers that keep what runs wrote; `purge` erases what else hangs on runs.

    `unfinished` gives the runs that the engine works on. `rules` gives the lines of rules that were drawn from runs,
    `kept` what of an agent's runs a store will leave because the owner changed it. `settle` waits until what is being
    drawn from runs at this moment is written.
    """

    def __init__(
        self,
        database: KernelDatabase,
        journal: Journal,
        stores: Sequence[Erasable],
        unfinished: Callable[[], Collection[str]],
        purge: Callable[[Collection[str]], None] = lambda _runs: None,
        *,
        rules: Callable[[], Sequence[Rule]] = tuple,
        kept: Callable[[str, Collection[str]], Sequence[str]] = lambda _agent, _runs: (),
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._database = database
        self._journal = journal
        self._stores = {store.id: store for store in stores}
        self._unfinished = unfinished
        self._purge = purge
        self._rules = rules
        self._kept = kept
        self._settle = settle
        self._lock = threading.Lock()
        self.interrupted: LoketError | None = None
        """Why an erasure that is noted is not done everywhere; None where all are."""

    def plan(
        self, runs: Collection[str], *, only: bool = False, progress: Callable[[int], None] = lambda _rows: None
    ) -> Doomed:
        """What erasing these runs takes. Raises `BadInput` where one of them is not finished."""
        named = frozenset(runs)
        links = None if only else Links(self._database, self._journal, self._stores, self._rules)
        if links is not None:
            links.read(progress)
        reached = links.reachable(named) if links is not None else named
        waiting = sorted(reached & self._working())
        if waiting:
            raise BadInput(
                "erase.unfinished",
                f"run {waiting[0]} is not finished"
                + ("" if waiting[0] in named else ", and knows what would be erased"),
                self._remedy(waiting[0]),
            )
        return Doomed(named, frozenset(reached - named), links)

    def erase(self, doomed: Doomed, why: str) -> Done:
        """Erase these runs, and those that have got to know it since; `why` is kept for good: it must quote nobody.

        Raises `Failed` (`erase.partly`) where a store could not be emptied, after all else was done.
        """
        with self._attempt() as work:
            runs = set(doomed.runs)
            while runs:
                self._note(runs, why)
                self._empty(sorted(runs), work)
                runs = self._others(doomed, work)
                if not runs:
                    self._destroy(work)
                    self._settle()
                    self._purge(work.runs)  # of what was drawn until then
                    runs = self._others(doomed, work)
            unfinished = doomed.links.reachable(work.runs) & self._working() if doomed.links is not None else ()
        return Done(frozenset(work.runs), work.things, tuple(work.left), tuple(sorted(unfinished)))

    def resume(self) -> int:
        """Go on with what a crash or a store that failed interrupted; how many runs that were. Raises as `erase`."""
        with self._attempt() as work:
            runs = self._database.interrupted_erasures()
            if runs:
                self._empty(sorted(runs), work)
                self._destroy(work)
        return len(runs)

    @contextlib.contextmanager
    def _attempt(self) -> Iterator["_Work"]:
        """One erasure at a time; what it could not do is kept in `interrupted`, and raised when it has done the rest.

        Raises `Failed` (`erase.partly`).
        """
        with self._lock:
            work = _Work()
            try:
                yield work
                if work.failed:
                    raise _partly(work.failed)
            except LoketError as error:
                self.interrupted = error
                raise
            if not self._database.interrupted_erasures():
                self.interrupted = None

    def _working(self) -> set[str]:
        """Runs that are not finished: the list of runs has those too that no engine works on at this moment.

        What is unfinished and cannot be read never goes on, and may be erased.
        """
        working = set(self._unfinished())
        others, _unreadable = self._database.unfinished_runs(working)
        return working | {request.id for request, _seed in others}

    def _remedy(self, run: str) -> str:
        if run in self._unfinished():
            return f"loket runs stop {run}"
        return f"start Loket, which goes on with it (loket up), then: loket runs stop {run}"

    def _note(self, runs: Collection[str], why: str) -> None:
        listed = sorted(runs)
        for start in range(0, len(listed), _NOTE_RUNS):
            part = listed[start : start + _NOTE_RUNS]
            facts = {"what": ERASED, "principal": "owner", "why": why, "runs": part}
            self._journal.append("", 0, RowKind.NOTE, facts, "{}", tuple(self._database.erasing(part)))
        self._journal.sync()

    def _others(self, doomed: Doomed, work: "_Work") -> set[str]:
        """Finished runs that have got to know it since."""
        if doomed.links is None:
            return set()
        doomed.links.read()
        return doomed.links.reachable(work.runs) - work.runs - self._working()

    def _empty(self, runs: Sequence[str], work: "_Work") -> None:
        """Erase in every store what these runs wrote; one that fails hinders no other."""
        work.runs.update(runs)
        for agent, own in self._by_agent(runs).items():
            for name, erase in self._steps(agent, own, work):
                try:
                    work.things += len(erase())
                except LoketError as error:
                    work.failed.append((f"{name} of {agent}", error))
                    work.again.update(own)

    def _steps(
        self, agent: str, runs: Sequence[str], work: "_Work"
    ) -> Iterable[tuple[str, Callable[[], Collection[str]]]]:
        def look() -> Collection[str]:
            work.left += self._kept(agent, runs)
            return ()

        yield "files", look
        for store in self._stores.values():
            yield store.id, lambda store=store: store.erase(agent, runs)  # type: ignore[misc]

    def _destroy(self, work: "_Work") -> None:
        """What hangs on runs outside the stores, then their keys; those that a store has still stay listed."""
        self._purge(work.runs)
        self._database.destroy_keys(work.runs)
        self._journal.also(*self._database.erased(work.runs - work.again))
        self._journal.sync()

    def _by_agent(self, runs: Iterable[str]) -> Mapping[str, list[str]]:
        agents = self._database.agents_of_runs()
        mine: dict[str, list[str]] = defaultdict(list)
        for run in runs:
            if run in agents:
                mine[agents[run]].append(run)
        return mine


class _Work:
    """What an erasure has done so far. `again` are the runs of which a store has something still."""

    def __init__(self) -> None:
        self.runs: set[str] = set()
        self.again: set[str] = set()
        self.things = 0
        self.left: list[str] = []
        self.failed: list[tuple[str, LoketError]] = []


def _partly(failed: Sequence[tuple[str, LoketError]]) -> Failed:
    where, error = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return Failed(
        "erase.partly",
        f"{where} could not be erased{more}: {error.message}; the rest is erased",
        f"{error.remedy or 'loket doctor'}; it is tried again at the next start, and hourly by the server",
        blame=error.blame,
    )
