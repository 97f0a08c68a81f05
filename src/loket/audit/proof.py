"""Verifies an export without any home: nothing but the file, and a public key or checkpoints that somebody kept."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loket.audit.checkpoint import Checkpoint, PublicKey, open_note, parse_key
from loket.audit.export import EARLIER, FORMAT, HEAD, ROW
from loket.audit.merkle import Range, is_consistent, is_included
from loket.audit.rows import EVERY, linked
from loket.contracts import BadInput, Damaged
from loket.kernel.journal import GENESIS

_MOST: Final = 1000
"""Faults after which reading goes on without naming more."""
_LONGEST: Final = 1 << 28
"""Bytes of the longest line."""


@dataclass
class Proved:
    """What a file proves. `faults` are sentences; `rows` were each found in the tree of the checkpoint."""

    key: PublicKey
    checkpoint: Checkpoint
    complete: bool
    rows: int = 0
    erased: int = 0
    values: int = 0
    earlier: dict[int, bytes] = field(default_factory=dict)
    """Roots of the earlier checkpoints that are proved to be beginnings of this one's tree, by their sizes."""
    compared: list[dict[str, Any]] = field(default_factory=list)
    """The checkpoints that were given: `name`, `size`, `time`, `ok`, `reason`."""
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults and all(one["ok"] for one in self.compared)


def verify_export(
    file: Path,
    key: PublicKey | None = None,
    against: Mapping[str, str] | None = None,
    progress: Callable[[int, int | None], None] = lambda _done, _total: None,
) -> Proved:
    """Verify a file that `loket audit export` wrote.

    Without `key` the file's own is taken: then it is proved that who has that key signed it, and the home's id says
    who that is. `against` are checkpoints (name to text) that were kept elsewhere. Raises `BadInput` where the file
    cannot be read or is no export, or a text is no checkpoint.
    """
    try:
        with file.open("rb") as lines:
            return _verified(lines, key, against or {}, progress)
    except OSError as error:
        raise BadInput("audit.file", f"{file} cannot be read: {error.strerror}", "name another file") from None


def _verified(
    lines: Any, given: PublicKey | None, against: Mapping[str, str], progress: Callable[[int, int | None], None]
) -> Proved:
    head = _head(lines.readline(_LONGEST))
    own = parse_key(head["key"])
    key = given or own
    try:
        proved = Proved(own, open_note(head["checkpoint"], key), head["complete"])
    except Damaged as error:
        raise Damaged(error.code, f"the export's checkpoint: {error.message}", "do not rely on this file") from None
    if own != key:
        proved.faults.append(f"the export names another key ({own.origin}) than that which signed it")
    _Reader(proved, head["rows"]).read(lines, lambda rows: progress(rows, head["rows"]))
    proved.compared = [_compared(proved, name, text) for name, text in against.items()]
    return proved


def _head(line: bytes) -> dict[str, Any]:
    try:
        head = json.loads(line)
        kinds = {"key": str, "checkpoint": str, "complete": bool, "rows": int}
        if head["type"] == HEAD and head["format"] == FORMAT and all(type(head[k]) is v for k, v in kinds.items()):
            return dict(head)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise BadInput(
        "audit.export", "this is no export of an audit that this version knows", "loket audit export FILE makes one"
    )


class _Reader:
    """Goes through the lines after the head."""

    def __init__(self, proved: Proved, announced: int) -> None:
        self._proved = proved
        self._announced = announced
        self._tree = Range()
        self._last = 0
        self._hash = GENESIS

    def read(self, lines: Any, progress: Callable[[int], None]) -> None:
        proved = self._proved
        number = 1
        while line := lines.readline(_LONGEST):
            number += 1
            for fault in self._line(line):
                if len(proved.faults) < _MOST:
                    proved.faults.append(f"line {number}: {fault}")
            if proved.rows % EVERY == 0:
                progress(proved.rows)
        proved.faults += self._end()

    def _line(self, line: bytes) -> Iterator[str]:
        try:
            said = json.loads(line)
            if said["type"] == ROW:
                yield from self._row(said)
            elif said["type"] == EARLIER:
                yield from self._earlier(said)
            else:
                yield f"lines of the type {said['type']!r} are unknown"
        except (ValueError, KeyError, TypeError, RecursionError, BadInput, Damaged) as error:
            yield f"it cannot be read: {error}"

    def _earlier(self, said: Mapping[str, Any]) -> Iterator[str]:
        new = self._proved.checkpoint
        old = open_note(said["checkpoint"], self._key)
        proof = [bytes.fromhex(part) for part in said["proof"]]
        if is_consistent(old.size, old.root, new.size, new.root, proof):
            self._proved.earlier[old.size] = old.root
        else:
            yield f"the journal is not what was signed at {old.time}: rows up to {old.size} were changed since"

    @property
    def _key(self) -> PublicKey:
        return self._proved.key

    def _row(self, said: Mapping[str, Any]) -> Iterator[str]:
        proved = self._proved
        public, commitment = said["public"], bytes.fromhex(said["commitment"])
        seq, row_hash = json.loads(public)[0], bytes.fromhex(said["hash"])
        proved.rows += 1
        proved.erased += said.get("erased") is True
        if type(seq) is not int or seq <= self._last:
            yield f"row {seq} stands after row {self._last}"
        if linked(bytes.fromhex(said["prev"]), public, commitment) != row_hash:
            yield f"row {seq} was changed: its hash does not fit"
        if seq == self._last + 1 and said["prev"] != self._hash.hex():
            yield f"row {seq} does not follow from the row before it"
        if "value" in said:
            proved.values += 1
            if hashlib.sha256(bytes.fromhex(said["salt"]) + said["value"].encode()).digest() != commitment:
                yield f"the value of row {seq} was changed"
        self._last, self._hash = seq, row_hash
        yield from self._placed(said, seq, row_hash)

    def _placed(self, said: Mapping[str, Any], seq: int, row_hash: bytes) -> Iterator[str]:
        """Whether the row is where it says: the whole tree decides in a complete export, else the row's own proof."""
        signed = self._proved.checkpoint
        if self._proved.complete:
            if seq != self._tree.size + 1:
                yield f"row {self._tree.size + 1} is missing before row {seq}"
            self._tree.append(row_hash)
            return
        proof = [bytes.fromhex(part) for part in said["proof"]]
        if not is_included(row_hash, seq - 1, signed.size, signed.root, proof):
            yield f"row {seq} is not in the journal that was signed"

    def _end(self) -> Iterator[str]:
        signed, rows = self._proved.checkpoint, self._proved.rows
        if rows != self._announced:
            yield f"{rows} rows are here, and {self._announced} were written: the file was cut or lengthened"
        if self._proved.complete and (self._tree.size, self._tree.root()) != (signed.size, signed.root):
            yield f"these rows are not the {signed.size} that were signed at {signed.time}"


def _compared(proved: Proved, name: str, text: str) -> dict[str, Any]:
    """A checkpoint that somebody kept, against what the export proves."""
    try:
        said = open_note(text, proved.key)
    except Damaged as error:
        return {"name": name, "size": None, "time": None, "ok": False, "reason": f"{name}: {error.message}"}
    roots = {**proved.earlier, proved.checkpoint.size: proved.checkpoint.root}
    reason = None
    if said.size > proved.checkpoint.size:
        reason = (
            f"{name}: the journal had {said.size} rows at {said.time}, and the export is of {proved.checkpoint.size}"
        )
    elif said.size not in roots:
        reason = f"{name}: the export has no proof from {said.size} rows on, so nothing is known of it"
    elif roots[said.size] != said.root:
        reason = f"{name}: rows up to {said.size} were changed, removed or put elsewhere after {said.time}"
    return {"name": name, "size": said.size, "time": said.time, "ok": reason is None, "reason": reason}
