"""The journal: what happened, in order, hash-chained, on disk before anyone relies on it.

It is in the kernel because every promise of Loket is read from it: resume, replay and proof. It knows nothing of what
rows mean; `loket.chain` compares what is there with its hashes.
"""

import contextlib
import hashlib
import hmac
import os
import threading
from collections.abc import Callable, Iterator, Mapping
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
        self._commit = threading.RLock()
        self._together = False
        self._rows: list[Row] = []
        self._statements: list[Statement] = []
        self._broken: str | None = None
        head = store.head()
        if head is None:
            self._seq, self._head, self._durable = 0, GENESIS, 0
        else:
            self._seq, self._head, _seal = head
            self._durable = self._seq
            if not self.sealed(self._seq, self._head):
                self._broken = "its last row does not match its seal: rows were changed, added or removed from outside"

    def sealed(self, seq: int, head: bytes) -> bool:
        """Whether the store's seal says that the journal ends with this row and its hash."""
        held = self._store.head() or (0, GENESIS, self._seal(0, GENESIS))
        return held[:2] == (seq, head) and hmac.compare_digest(held[2], self._seal(seq, head))

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
    def last(self) -> int:
        """The number of the newest row, which may not be on the disk yet; 0 where there is none."""
        return self._seq

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

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Have all rows that this thread appends inside written in one transaction, which is done when it ends."""
        with self._commit:
            self._together = True
            try:
                yield
            finally:
                self._together = False
                self.sync()

    def sync(self, seq: int | None = None) -> None:
        """Return when the row `seq` (or all appended so far) is on the disk. Whoever comes first writes for all."""
        wanted = self._seq if seq is None else seq
        with self._commit:
            self._check()
            # Together is of this thread: others wait for the lock.
            if self._together or (self._durable >= wanted and not (seq is None and self._statements)):
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
