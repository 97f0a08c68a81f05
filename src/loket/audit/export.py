"""Writes rows of the journal with the proofs that they are in it: JSON lines (the format is in `docs/audit.md`)."""

import heapq
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loket.audit.checkpoint import Checkpoint, PublicKey
from loket.audit.merkle import Tree
from loket.audit.rows import EVERY, Progress, public_text
from loket.contracts import BadInput, Damaged, Row
from loket.durable import appearing
from loket.kernel.journal import GENESIS
from loket.store.check import opened
from loket.store.kernel import KernelDatabase

FORMAT: Final = 1
HEAD, EARLIER, ROW = "loket-audit", "earlier", "row"
"""The types of lines."""

_HASHES: Final = "SELECT run, at, hash FROM journal WHERE seq <= ? ORDER BY seq"
_HASH: Final = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """Which rows to export: of these runs (whole ids; none means all), since a time; and whether with their values."""

    runs: tuple[str, ...] = ()
    since: float | None = None
    values: bool = False

    @property
    def complete(self) -> bool:
        """Whether all rows are asked for."""
        return not self.runs and self.since is None

    def takes(self, run: str, at: float) -> bool:
        return (not self.runs or run in self.runs) and (self.since is None or at >= self.since)


class _Hashes:
    """The hashes of the journal's rows up to a checkpoint, and which of the rows are asked for."""

    def __init__(self, path: Path, size: int, asked: Asked) -> None:
        self._all = bytearray(GENESIS)
        self.wanted = 0
        with opened(path) as connection:
            for run, at, row_hash in connection.execute(_HASHES, (size,)):
                self._all += row_hash
                self.wanted += asked.takes(run, at)
        self.size = len(self._all) // _HASH - 1

    def of(self, seq: int) -> bytes:
        """The hash of a row; of row 0 what the first one is chained to."""
        return bytes(self._all[seq * _HASH : (seq + 1) * _HASH])

    def __iter__(self) -> Iterator[bytes]:
        return map(self.of, range(1, self.size + 1))


def write_export(
    target: Path,
    asked: Asked,
    database: KernelDatabase,
    path: Path,
    checkpoint: Checkpoint,
    text: str,
    key: PublicKey,
    earlier: Sequence[tuple[Checkpoint, str]],
    progress: Progress,
) -> dict[str, Any]:
    """Write the rows of `kernel.db` at `path`, up to a checkpoint with this text, to a new file (mode 0600).

    Raises `BadInput` (`audit.file`) where it cannot be written, `Damaged` where the journal changed since the
    checkpoint.
    """
    hashes = _Hashes(path, checkpoint.size, asked)
    tree = Tree(hashes)
    if tree.size != checkpoint.size or tree.root() != checkpoint.root:
        raise Damaged("audit.inconsistent", "the journal changed while it was read", "loket audit verify")
    head = {
        "type": HEAD,
        "format": FORMAT,
        "key": str(key),
        "checkpoint": text,
        "complete": asked.complete,
        "runs": list(asked.runs),
        "since": asked.since,
        "rows": hashes.wanted,
    }
    rows = _rows(database, asked, checkpoint.size, progress)
    lines = (_row_line(row, hashes, tree, asked) for row in rows)
    count = _write(target, _all_lines(head, _earlier_lines(tree, earlier), lines))
    return {"file": str(target), "rows": hashes.wanted, "size": checkpoint.size, "bytes": count}


def _all_lines(head: dict[str, Any], *parts: Iterable[dict[str, Any]]) -> Iterator[bytes]:
    yield _line(head)
    for part in parts:
        yield from map(_line, part)


def _line(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _earlier_lines(tree: Tree, earlier: Sequence[tuple[Checkpoint, str]]) -> Iterator[dict[str, Any]]:
    for one, text in earlier:
        proof = [part.hex() for part in tree.consistency(one.size, tree.size)]
        yield {"type": EARLIER, "checkpoint": text, "proof": proof}


def _rows(database: KernelDatabase, asked: Asked, size: int, progress: Progress) -> Iterator[Row]:
    """The rows that are asked for, in their order."""
    sources = [database.rows(run) for run in asked.runs] if asked.runs else [database.rows()]
    for row in heapq.merge(*sources, key=_seq):
        if row.seq > size:
            return
        if row.seq % EVERY == 0:
            progress(row.seq)
        if asked.takes(row.run, row.at):
            yield row


def _seq(row: Row) -> int:
    return row.seq


def _row_line(row: Row, hashes: _Hashes, tree: Tree, asked: Asked) -> dict[str, Any]:
    line: dict[str, Any] = {
        "type": ROW,
        "public": public_text(row.seq, row.run, row.ordinal, row.kind.value, row.at, row.facts),
        "commitment": row.commitment.hex(),
        "prev": hashes.of(row.seq - 1).hex(),
        "hash": row.hash.hex(),
    }
    if row.erased:
        line["erased"] = True
    elif asked.values:
        line |= {"salt": row.salt.hex(), "value": row.value.decode("utf-8", "replace")}
    if not asked.complete:
        line["proof"] = [part.hex() for part in tree.inclusion(row.seq - 1, tree.size)]
    return line


def _write(target: Path, lines: Iterable[bytes]) -> int:
    """Write a file as a whole; its size in bytes."""
    try:
        with appearing(target) as file:
            file.writelines(lines)
            return file.tell()
    except OSError as error:
        raise BadInput("audit.file", f"{target} cannot be written: {error.strerror}", "name another file") from None
