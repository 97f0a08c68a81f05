"""The meter of a home, over its settings, its journal and its list of runs."""

from collections.abc import Callable, Collection

from loket.config import Config
from loket.contracts import Principal, RowKind
from loket.kernel.journal import Journal
from loket.limits.bounds import table_of
from loket.limits.meter import HomeMeter
from loket.store.kernel import KernelDatabase
from loket.store.usage import RunUse


def home_meter(
    config: Config,
    database: KernelDatabase,
    journal: Journal,
    *,
    now: Callable[[], float],
    roles_of: Callable[[Principal], Collection[str]],
    cost_of: Callable[[str, int], float | None],
) -> HomeMeter:
    """The meter for what `[limits]` of a home's settings bounds (the other arguments as in `HomeMeter`)."""

    def used_on(day: int) -> list[RunUse]:
        journal.sync()  # what is not written yet was used as well
        return database.used_by_runs(day)

    def principal_of(root: str) -> Principal | None:
        found = database.run(root)
        if found is None or found["erased"] or "unreadable" in found:
            return None
        kind, _, name = found["principal"].partition(":")
        return Principal(kind, name)

    return HomeMeter(
        table_of(config),
        used_on=used_on,
        principal_of=principal_of,
        now=now,
        repeats=config.repeats,
        roles_of=roles_of,
        cost_of=cost_of,
        note=lambda facts: journal.append("", 0, RowKind.NOTE, facts, "{}"),
    )
