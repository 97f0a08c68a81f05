"""Compares the lists that commands read with the journal that proves them.

Runs and grants are listed in tables beside the journal, written in the same transactions. The chain covers the journal
alone: whoever changes a table from outside changes what commands show, and which calls are granted. Everything that is
compared here is public, so that it can be compared for erased runs, too.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from loket.chain import Fault
from loket.contracts import RunStatus
from loket.kernel.journal import ERASED
from loket.store.check import opened

_STARTED: Final = ("agent", "root", "parent", "operation", "module", "version", "digest")
_APART_S: Final = 60.0
"""Seconds that a time on the list and that of its row may be apart: the row is made a moment later."""

_UNFINISHED: Final = (RunStatus.ACCEPTED, RunStatus.RUNNING, RunStatus.WAITING, RunStatus.ASKING)
_RUNS: Final = (
    "SELECT id, principal, agent, root, parent, operation, module, version, digest, status, accepted, ended, calls,"
    " tokens, money FROM runs ORDER BY id"
)
_ROWS: Final = (
    "SELECT seq, kind, at, facts FROM journal"
    " WHERE run = ? AND (kind IN ('start', 'end') OR instr(facts, '\"elsewhere\"') > 0) ORDER BY seq"
)
_UNLISTED: Final = "SELECT min(seq), run FROM journal WHERE run <> '' AND run NOT IN (SELECT id FROM runs) GROUP BY run"
_NOTES: Final = "SELECT seq, facts, value FROM journal WHERE run = '' AND kind = 'note' ORDER BY seq"
_GRANTS: Final = "SELECT publisher, module, capability, constraints, reason FROM grants"


def compare(path: Path) -> list[Fault]:
    """What the lists of a `kernel.db` say otherwise than its journal, at one moment; nothing where they agree.

    The system that has the file open may go on writing. Raises `Damaged` and `Failed` as `opened` does.
    """
    with opened(path) as connection:
        connection.execute("BEGIN").fetchall()
        try:
            erased, granted = _noted(connection)
            return [*_runs(connection, erased), *_grants(connection, granted)]
        finally:
            connection.execute("ROLLBACK").fetchall()


def _noted(connection: Any) -> tuple[set[str], dict[tuple[str, str, str], tuple[int, Any]]]:
    """What the owner's notes say: runs that were erased, and of each grant its last row, with what it allows or None.

    A note that cannot be read gives nothing here; the check of the chain names it.
    """
    erased: set[str] = set()
    granted: dict[tuple[str, str, str], tuple[int, Any]] = {}
    for seq, facts, value in connection.execute(_NOTES):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            said = json.loads(facts)
            if said["what"] == ERASED:
                erased.update(said["runs"])
            elif said["what"] in ("grant.allow", "grant.revoke"):
                key = (said["publisher"], said["module"], said["capability"])
                granted[key] = (seq, json.loads(value) if said["what"] == "grant.allow" else None)
    return erased, granted


def _runs(connection: Any, erased: set[str]) -> Iterator[Fault]:
    """Runs of the list that are not as the journal has them, and those of the journal that are not on it."""
    names = _RUNS.removeprefix("SELECT ").partition(" FROM")[0].split(", ")
    for values in connection.execute(_RUNS):
        listed = dict(zip(names, values, strict=True))
        rows: list[Any] = connection.execute(_ROWS, (listed["id"],)).fetchall()
        seq = rows[0][0] if rows else 0
        try:
            found = list(_differences(listed, rows, erased=listed["id"] in erased))
        except (ValueError, KeyError, TypeError) as error:
            found = [f"its rows cannot be read ({type(error).__name__})"]
        for wrong in found:
            yield Fault(seq, listed["id"], f"the list of runs was changed: {wrong}")
    unlisted: list[Any] = connection.execute(_UNLISTED).fetchall()
    for seq, run in unlisted:
        yield Fault(seq, run, "the list of runs was changed: the journal has this run, and the list does not")


def _differences(listed: Mapping[str, Any], rows: list[Any], *, erased: bool) -> Iterator[str]:
    by_kind = {kind: (at, json.loads(facts)) for _seq, kind, at, facts in rows if kind in ("start", "end")}
    if "start" not in by_kind:
        yield "the journal does not have this run"
        return
    at, start = by_kind["start"]
    kind = {"principal": str(start["principal"]).partition(":")[0]}  # an earlier version had the whole name there
    yield from _unlike(listed, {**{name: start[name] for name in _STARTED if name in start}, **kind})
    yield from _later("accepted", listed["accepted"], at)
    if "end" in by_kind:
        yield from _end(listed, *by_kind["end"], _elsewhere(rows))
    elif erased and listed["ended"] is not None:  # nobody can go on with what nobody can read
        yield from _unlike(listed, {"status": RunStatus.FAILED.value})
    elif listed["ended"] is not None or listed["status"] not in _UNFINISHED:
        yield f"it is {listed['status']} there, and has not ended in the journal"


def _end(listed: Mapping[str, Any], at: float, end: Mapping[str, Any], others: tuple[int, float]) -> Iterator[str]:
    """The list has what a run used itself, its end row also what was used by those whom it asked."""
    if listed["ended"] is None:
        yield f"it is {listed['status']} there, and has ended in the journal"
        return
    tokens, money = end.get("tokens", 0) - others[0], end.get("money", 0.0) - others[1]
    yield from _unlike(listed, {"status": end["status"], "calls": end["calls"], "tokens": tokens})
    if not math.isclose(listed["money"], money, rel_tol=1e-9, abs_tol=1e-9):
        yield f"money is {listed['money']:g} there, and {money:g} in the journal"
    yield from _later("ended", listed["ended"], at)


def _elsewhere(rows: list[Any]) -> tuple[int, float]:
    """Tokens and money that other runs used for this one, which count it themselves."""
    told = [json.loads(facts).get("usage") or {} for _seq, kind, _at, facts in rows if kind not in ("start", "end")]
    used = [usage for usage in told if usage.get("elsewhere")]
    return sum(usage["in"] + usage["out"] for usage in used), sum(usage["money"] for usage in used)


def _unlike(listed: Mapping[str, Any], said: Mapping[str, Any]) -> Iterator[str]:
    for name, value in said.items():
        if listed[name] != value:
            yield f"{name} is {str(listed[name])[:80]!r} there, and {str(value)[:80]!r} in the journal"


def _later(name: str, listed: float, at: float) -> Iterator[str]:
    if abs(at - listed) > _APART_S:
        yield f"{name} is {listed:.0f} there (seconds since 1970), and {at:.0f} in the journal"


def _grants(connection: Any, granted: Mapping[tuple[str, str, str], tuple[int, Any]]) -> Iterator[Fault]:
    """Grants of the table that the owner's notes do not give, or give otherwise, and those that are missing there."""
    held = {(row[0], row[1], row[2]): (_constraints(row[3]), row[4]) for row in connection.execute(_GRANTS)}
    for key, (constraints, reason) in held.items():
        seq, said = granted.get(key, (0, None))
        what = f"the list of grants was changed: {key[1]} has one for {key[2]}"
        if said is None:
            yield Fault(seq, "", f"{what} that the journal does not give")
        elif said != {"constraints": constraints, "reason": reason}:
            yield Fault(seq, "", f"{what} with other constraints than the journal gives")
    for key, (seq, said) in granted.items():
        if said is not None and key not in held:
            yield Fault(seq, "", f"the list of grants was changed: the one of {key[1]} for {key[2]} is missing")


def _constraints(text: str) -> Any:
    """Constraints as the table has them; the text itself where somebody put something else there."""
    try:
        return json.loads(text)
    except ValueError:
        return text
