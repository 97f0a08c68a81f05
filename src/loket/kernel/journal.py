"""The journal: what happened, in order, hash-chained, on disk before anyone relies on it.

It is in the kernel because every promise of Loket is read from it: resume, replay and proof. It knows nothing of what
rows mean. Considered and left out: a log file of its own (SQLite's WAL already gives one write per group of rows, with
recovery that others have tested), and a thread that writes (a leader that commits for all who wait is as quick and has
no queue to lose).
"""

import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loket.contracts import Damaged, Row, RowKind, RowStore, Statement
from loket.kernel.text import canonical

_SALT = 16
ERASED = "erase"
"""What the note of an erasure says that it is; its fact `runs` lists the runs whose keys were destroyed."""

GENESIS = bytes(32)
"""What the first row's hash is chained to."""


def commit_to(salt: bytes, value: bytes) -> bytes:
    """SHA-256 of salt and value: the row's commitment."""
    return hashlib.sha256(salt + value).digest()


def chain(
    prev: bytes, seq: int, run: str, ordinal: int, kind: RowKind, at: float, facts: str, commitment: bytes
) -> bytes:
    """The hash of a row after one with the hash `prev`: SHA-256 of prev, the public part and the commitment."""
    public = f'[{seq},"{run}",{ordinal},"{kind.value}",{at!r},{facts}]'
    return hashlib.sha256(prev + public.encode() + commitment).digest()


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the journal. `run` is empty where it concerns no single run."""

    seq: int
    run: str
    reason: str


class Journal:
    """Appends rows in memory, in order, and writes them in groups. Thread-safe.

    `append` never waits for the disk; `sync` returns when everything appended so far is on it. When a write fails the
    journal refuses all further work: the kernel then refuses too, because a call that cannot be recorded must not be
    made.
    """

    def __init__(self, store: RowStore, key: bytes, now: Callable[[], float]) -> None:
        self._store = store
        self._key = key
        self._now = now
        self._lock = threading.Lock()
        self._commit = threading.Lock()
        self._rows: list[Row] = []
        self._statements: list[Statement] = []
        self._broken: str | None = None
        head = store.head()
        if head is None:
            self._seq, self._head, self._durable = 0, GENESIS, 0
        else:
            self._seq, self._head, seal = head
            self._durable = self._seq
            if not hmac.compare_digest(seal, self._seal(self._seq, self._head)):
                self._broken = "its last row does not match its seal: rows were changed, added or removed from outside"

    def _seal(self, seq: int, head: bytes) -> bytes:
        return hmac.digest(self._key, seq.to_bytes(8, "big") + head, "sha256")

    def append(
        self,
        run: str,
        ordinal: int,
        kind: RowKind,
        facts: str | Mapping[str, Any],
        value: str,
        statements: tuple[Statement, ...] = (),
    ) -> int:
        """Add a row and, in the same transaction, these statements; its sequence number.

        Texts are canonical JSON already; facts that are none are written here.
        """
        facts = facts if isinstance(facts, str) else canonical(facts)
        salt = os.urandom(_SALT)
        data = value.encode("utf-8")
        commitment = commit_to(salt, data)
        with self._lock:
            self._check()
            self._seq, at = self._seq + 1, self._now()
            self._head = chain(self._head, self._seq, run, ordinal, kind, at, facts, commitment)
            self._rows.append(Row(self._seq, run, ordinal, kind, at, facts, data, salt, commitment, self._head))
            self._statements.extend(statements)
            return self._seq

    def also(self, *statements: Statement) -> None:
        """Have these statements written with the next group of rows."""
        with self._lock:
            self._check()
            self._statements.extend(statements)

    @property
    def broken(self) -> str | None:
        """Why the journal takes no more rows; None where it does."""
        return self._broken

    def _check(self) -> None:
        if self._broken is not None:
            raise Damaged(
                "journal.broken",
                f"the journal cannot be written ({self._broken}), so nothing is done any more",
                "`loket runs verify` says what is wrong with it; mend the disk, or restore a backup",
            )

    def sync(self, seq: int | None = None) -> None:
        """Return when the row `seq` (or all appended so far) is on the disk. Whoever comes first writes for all."""
        wanted = self._seq if seq is None else seq
        with self._commit:
            self._check()
            if self._durable >= wanted and not (seq is None and self._statements):
                return
            with self._lock:
                rows, statements, last, head = self._rows, self._statements, self._seq, self._head
                self._rows, self._statements = [], []
            try:
                self._store.write(rows, statements, self._seal(last, head))
            except BaseException as error:
                self._broken = f"{type(error).__name__}: {error}"
                self._check()
                raise
            self._durable = last

    def rows(self, run: str | None = None) -> Iterator[Row]:
        """The rows of one run, or all, in order, what is not written yet included."""
        if self._broken is None:
            self.sync()
        return self._store.rows(run)

    def check(self, progress: Callable[[int], None] | None = None, erasing: Collection[str] = ()) -> list[Fault]:
        """Read the whole journal and compare every row with its hash, its commitment and the seal.

        `erasing` are runs whose erasure is not done yet: they can still be read.
        """
        faults: list[Fault] = []
        prev, seq = GENESIS, 0
        gone: dict[str, int] = {}
        read: dict[str, int] = {}
        began = self._seq
        for row in self.rows():
            faults.extend(_faults_of(row, prev, seq + 1))
            prev, seq = row.hash, row.seq
            (gone if row.erased else read).setdefault(row.run, row.seq)
            if row.kind is RowKind.NOTE and row.meta.get("what") == ERASED:
                for run in row.meta["runs"]:
                    gone.pop(run, None)
                    if run in read and run not in erasing and row.seq <= began:
                        faults.append(Fault(read[run], run, "it was erased, and can be read: its key was put back"))
            if progress is not None and seq % 1000 == 0:
                progress(seq)
        head = self._store.head() or (0, GENESIS, self._seal(0, GENESIS))
        if (head[0], head[1]) != (seq, prev) or not hmac.compare_digest(head[2], self._seal(seq, prev)):
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
