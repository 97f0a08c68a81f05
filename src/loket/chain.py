"""Reads the whole journal and compares every row with its hash, its commitment and the seal.

Outside the kernel, which writes the chain: whoever compares it shares nothing with the writer but the two formulas.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from loket.contracts import Row, RowKind
from loket.kernel.journal import ERASED, GENESIS, Journal, chain, commit_to

_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the journal. `run` is empty where it concerns no single run."""

    seq: int
    run: str
    reason: str


def check_chain(
    journal: Journal, progress: Callable[[int], None] | None = None, erasing: Collection[str] = ()
) -> list[Fault]:
    """All that is wrong with a journal, in the order of its rows; `progress` hears of every thousandth.

    `erasing` are runs whose erasure is not done yet: they can still be read.
    """
    faults: list[Fault] = []
    prev, seq = GENESIS, 0
    gone: dict[str, int] = {}
    read: dict[str, int] = {}
    began = journal.last
    for row in journal.rows():
        faults.extend(_faults_of(row, prev, seq + 1))
        prev, seq = row.hash, row.seq
        (gone if row.erased else read).setdefault(row.run, row.seq)
        if row.kind is RowKind.NOTE and row.meta.get("what") == ERASED:
            for run in row.meta["runs"]:
                gone.pop(run, None)
                if run in read and run not in erasing and row.seq <= began:
                    faults.append(Fault(read[run], run, "it was erased, and can be read: its key was put back"))
        if progress is not None and seq % _EVERY == 0:
            progress(seq)
    if not journal.sealed(seq, prev):
        faults.append(Fault(seq, "", "the journal ends at another row than its seal says"))
    unsaid = "its values cannot be read, and no erasure in the journal says why: its key is missing"
    return faults + [Fault(seq, run, unsaid) for run, seq in gone.items()]


def _faults_of(row: Row, prev: bytes, expected: int) -> Iterator[Fault]:
    if row.seq != expected:
        yield Fault(row.seq, row.run, f"row {expected} is missing before row {row.seq}")
    if not row.erased and commit_to(row.salt, row.value) != row.commitment:
        yield Fault(row.seq, row.run, f"the value of row {row.seq} was changed")
    if chain(prev, row.seq, row.run, row.ordinal, row.kind, row.at, row.facts, row.commitment) != row.hash:
        yield Fault(row.seq, row.run, f"row {row.seq} does not follow from the row before it: one of them was changed")
