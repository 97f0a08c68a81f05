"""Reads the journal for an audit: its rows as they stand in the file, their chain, their values, and the tree's roots.

The columns are read as texts, without the kernel's types: what somebody put there from outside is named, and stops
nothing.
"""

import hashlib
import hmac
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from loket.audit.merkle import Range
from loket.chain import Fault
from loket.contracts import LoketError, Row, RowKind
from loket.kernel.journal import ERASED, GENESIS, commit_to
from loket.store.check import opened

Progress = Callable[[int], None]
"""Told of rows read so far, now and again."""

EVERY: Final = 5_000

_LINKS: Final = "SELECT seq, run, ordinal, kind, at, facts, commitment, hash FROM journal ORDER BY seq"
_HASHES: Final = "SELECT seq, run, at, hash FROM journal ORDER BY seq"
_SEAL: Final = "SELECT seq, hash, seal FROM seal"


class Line(NamedTuple):
    """A row of the journal as its file has it, without its value."""

    seq: int
    run: str
    ordinal: int
    kind: str
    at: float
    facts: str
    commitment: bytes
    hash: bytes


def public_text(seq: int, run: str, ordinal: int, kind: str, at: float, facts: str) -> str:
    """The public part of a row, as its hash covers it."""
    return f'[{seq},"{run}",{ordinal},"{kind}",{at!r},{facts}]'


def linked(prev: bytes, public: str, commitment: bytes) -> bytes:
    """The hash of a row after one with the hash `prev` (the kernel's formula, see `docs/contract.md`)."""
    return hashlib.sha256(prev + public.encode() + commitment).digest()


@dataclass
class Survey:
    """What one pass over the journal found. `roots` are those after so many rows, `first` the first row looked at."""

    size: int = 0
    head: bytes = GENESIS
    root: bytes = b""
    roots: dict[int, bytes] = field(default_factory=dict)
    first: int = 1
    faults: list[Fault] = field(default_factory=list)


def survey(
    path: Path,
    sizes: Collection[int],
    seal_key: bytes,
    *,
    since: float | None = None,
    links: bool = True,
    progress: Progress = lambda _rows: None,
) -> Survey:
    """Read all of a `kernel.db` at one moment: roots after so many rows, chain and seal.

    With `since` (seconds since 1970) the chain is made again from the first row of that time on; the rows before it
    count by their hashes. Without `links` it is not made again at all. Raises `Damaged` and `Failed` as `opened` does.
    """
    with opened(path) as connection:
        connection.execute("BEGIN").fetchall()
        try:
            found = _surveyed(connection, set(sizes), since, progress, links=links)
            found.faults += _seal_faults(connection, found, seal_key)
        finally:
            connection.execute("ROLLBACK").fetchall()
    return found


def _surveyed(connection: Any, sizes: set[int], since: float | None, progress: Progress, *, links: bool) -> Survey:
    found, tree = Survey(), Range()
    looking = links and since is None
    if not looking:
        found.first = 0
    if 0 in sizes:
        found.roots[0] = tree.root()
    for line in connection.execute(_LINKS if links else _HASHES):
        seq, run, row_hash = line[0], line[1], line[-1]
        if seq != found.size + 1:
            found.faults.append(Fault(seq, run, f"row {found.size + 1} is missing before row {seq}"))
        if links and not looking and line[4] >= since:
            looking, found.first = True, seq
        if looking and linked(found.head, public_text(*line[:6]), line[6]) != row_hash:
            reason = f"row {seq} does not follow from the row before it: one of them was changed"
            found.faults.append(Fault(seq, run, reason))
        found.size, found.head = seq, row_hash
        tree.append(row_hash)
        if seq in sizes:
            found.roots[seq] = tree.root()
        if seq % EVERY == 0:
            progress(seq)
    found.root = tree.root()
    return found


def _seal_faults(connection: Any, found: Survey, key: bytes) -> Iterator[Fault]:
    sealed = next(iter(connection.execute(_SEAL)), None)
    if sealed is None and not found.size:
        return
    seq, head, seal = sealed or (0, GENESIS, b"")
    if (seq, head) != (found.size, found.head):
        yield Fault(found.size, "", f"the journal ends at row {found.size}, and its seal says row {seq}")
    if not hmac.compare_digest(seal, hmac.digest(key, seq.to_bytes(8, "big") + head, "sha256")):
        yield Fault(found.size, "", "the seal is not the home's")


def value_faults(
    rows: Iterable[Row], size: int, erasing: Collection[str], progress: Progress = lambda _rows: None
) -> Iterator[Fault]:
    """Values that are not what was committed to, and erasures that are not what the notes up to row `size` say.

    `erasing` are runs whose erasure was not done yet then: they can still be read. Rows after `size` are read too: the
    note of an erasure that happens meanwhile is among them.
    """
    gone: dict[str, int] = {}
    read: dict[str, int] = {}
    for row in _readable(rows):
        if isinstance(row, Fault):
            yield row
            return
        if not row.erased and commit_to(row.salt, row.value) != row.commitment:
            yield Fault(row.seq, row.run, f"the value of row {row.seq} was changed")
        (gone if row.erased else read).setdefault(row.run, row.seq)
        for run in _erased_by(row):
            gone.pop(run, None)
            if run in read and run not in erasing and row.seq <= size:
                yield Fault(read[run], run, "it was erased, and can be read: its key was put back")
        if row.seq % EVERY == 0:
            progress(row.seq)
    unsaid = "its values cannot be read, and no erasure in the journal says why: its key is missing"
    yield from (Fault(seq, run, unsaid) for run, seq in gone.items())


def _readable(rows: Iterable[Row]) -> Iterator[Row | Fault]:
    """The rows, and at last a fault where one cannot be read at all."""
    last = 0
    try:
        for row in rows:
            last = row.seq
            yield row
    except (LoketError, ValueError) as error:
        yield Fault(last + 1, "", f"the rows after row {last} cannot be read: {error}")


def _erased_by(row: Row) -> list[str]:
    """The runs of which a note says that they were erased."""
    if row.kind is not RowKind.NOTE or row.meta.get("what") != ERASED:
        return []
    return [str(run) for run in row.meta["runs"]]
