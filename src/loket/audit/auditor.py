"""Makes, keeps and compares checkpoints of one home's journal."""

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from loket.audit.checkpoint import Checkpoint, PublicKey, key_of, open_note, sign
from loket.audit.export import Asked, write_export
from loket.audit.kept import Kept
from loket.audit.rows import Progress, Survey, survey, value_faults
from loket.chain import Fault
from loket.contracts import BadInput, Damaged
from loket.kernel.journal import Journal
from loket.periodic import periodically
from loket.store.kernel import KernelDatabase

EVERY_S: Final = 3600.0
"""Seconds between two looks whether the day has its checkpoint."""

MOST_SHOWN: Final = 100
"""Faults that an answer lists at most."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A checkpoint that was read: what it says, or why it counts for nothing."""

    name: str
    said: Checkpoint | None
    wrong: str | None = None


@dataclass
class Verdict:
    """What an audit found. `checkpoints` have `name`, `size`, `time`, `ok` and `reason`."""

    survey: Survey
    key: PublicKey
    faults: list[Fault] = field(default_factory=list)
    checkpoints: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults and all(one["ok"] for one in self.checkpoints)


class Auditor:
    """The audit of one home. `folder` is its `audit/`, `seed` gives the 32 bytes of its private key.

    Thread-safe: it keeps nothing between two calls but what is on the disk.
    """

    def __init__(
        self,
        *,
        database: KernelDatabase,
        path: Path,
        journal: Journal,
        seal_key: bytes,
        seed: Callable[[], bytes],
        folder: Path,
        now: Callable[[], float],
    ) -> None:
        self._database = database
        self._path = path
        self._journal = journal
        self._seal_key = seal_key
        self._seed = seed
        self._kept = Kept(folder)
        self._now = now

    def key(self) -> PublicKey:
        """The home's public key. Raises what the vault raises."""
        return key_of(self._seed())

    def checkpoint(self, progress: Progress = lambda _rows: None) -> tuple[Checkpoint, str]:
        """Sign the journal as it is on the disk, and keep that; the checkpoint and its text.

        Raises `Damaged` (`audit.inconsistent`) where the journal is not what was signed before: two histories must
        never be signed; and what `Kept.keep` raises.
        """
        seed = self._seed()
        key = key_of(seed)
        known = self._opened(key, {})
        found = self._survey(known, links=False, progress=progress)
        wrong = [fault.reason for fault in found.faults]
        wrong += [one["reason"] for one in _compared(known, found) if not one["ok"]]
        if wrong:
            raise Damaged(
                "audit.inconsistent",
                f"nothing is signed, because the journal is not what it was: {wrong[0]}",
                "`loket audit verify` says all that is wrong; restore a backup",
            )
        made, text = sign(seed, found.size, found.root, self._now())
        self._kept.keep(made, text, key)
        return made, text

    def daily(self) -> bool:
        """Make the checkpoint of today (UTC) where there is none yet; whether it was made."""
        today = dt.datetime.fromtimestamp(self._now(), dt.UTC).date().isoformat()
        if self._kept.has_day(today):
            return False
        self.checkpoint()
        return True

    async def keep(self, every_s: float = EVERY_S, failed: Callable[[str], None] = lambda _said: None) -> None:
        """Look now and again and again whether the day has its checkpoint, until cancelled."""
        await periodically(self.daily, "audit", every_s, failed)

    def verify(
        self,
        against: Mapping[str, str],
        since: float | None = None,
        progress: Callable[[int, int | None], None] = lambda _done, _total: None,
    ) -> Verdict:
        """Compare the journal with itself, and with all kept and these checkpoints (name to text).

        With `since` (seconds since 1970) only the rows from that time on are looked at one by one; those before count
        by their hashes, which the roots cover. `progress` takes rows done, of two passes, and their number if known.
        Raises `BadInput` where a text of `against` is no checkpoint at all.
        """
        key = self.key()
        known = self._opened(key, against)
        found = self._survey(known, since=since, progress=lambda rows: progress(rows, None))
        verdict = Verdict(found, key, list(found.faults), _compared(known, found))
        fault = self._kept.key_fault(key)
        if fault is not None:
            verdict.faults.append(Fault(0, "", fault))
        if found.first:
            rows = self._database.rows(after=found.first - 1)
            erasing = self._database.interrupted_erasures()
            verdict.faults += value_faults(
                rows, found.size, erasing, lambda done: progress(found.size + done, 2 * found.size)
            )
        return verdict

    def export(self, target: Path, asked: Asked, progress: Progress = lambda _rows: None) -> dict[str, Any]:
        """Write rows with their proofs to a new file, after a checkpoint over all; `file`, `rows`, `size`, `bytes`.

        Raises `BadInput` where the file is there or cannot be written, and what `checkpoint` raises.
        """
        if os.path.lexists(target):
            raise BadInput("audit.exists", f"{target} is there already", "name a file that is not there yet")
        made, text = self.checkpoint(progress)
        key = self.key()
        earlier = [(one.said, said) for one, said in self._valid(key) if one.said is not None]
        return write_export(target, asked, self._database, self._path, made, text, key, earlier, progress)

    def _valid(self, key: PublicKey) -> list[tuple[Opened, str]]:
        texts = self._kept.texts()
        return [(_open(name, text, key), text) for name, text in texts.items()]

    def _opened(self, key: PublicKey, against: Mapping[str, str]) -> list[Opened]:
        for name, text in against.items():
            try:
                open_note(text, key)
            except BadInput as error:
                raise BadInput(error.code, f"{name}: {error.message}", error.remedy) from None
            except Damaged:
                continue  # it is one, and named among what is wrong
        texts = [*self._kept.texts().items(), *against.items()]
        return [_open(name, text, key) for name, text in texts]

    def _survey(
        self, known: Sequence[Opened], *, since: float | None = None, links: bool = True, progress: Progress
    ) -> Survey:
        with contextlib.suppress(Damaged):  # a journal that takes no more rows can be read
            self._journal.sync()
        sizes = {one.said.size for one in known if one.said is not None}
        return survey(self._path, sizes, self._seal_key, since=since, links=links, progress=progress)


def _open(name: str, text: str, key: PublicKey) -> Opened:
    try:
        return Opened(name, open_note(text, key))
    except (BadInput, Damaged) as error:
        return Opened(name, None, error.message)


def _compared(known: Sequence[Opened], found: Survey) -> list[dict[str, Any]]:
    """Each checkpoint with what is wrong with it, or with the journal by it."""
    return [_one(one, found) for one in known]


def _one(one: Opened, found: Survey) -> dict[str, Any]:
    said = one.said
    if said is None:
        return {"name": one.name, "size": None, "time": None, "ok": False, "reason": f"{one.name}: {one.wrong}"}
    reason = None
    if said.size > found.size:
        reason = f"{one.name}: the journal was cut: it has {found.size} rows, and had {said.size} at {said.time}"
    elif found.roots.get(said.size) != said.root:
        reason = f"{one.name}: rows up to {said.size} were changed, removed or put elsewhere after {said.time}"
    return {"name": one.name, "size": said.size, "time": said.time, "ok": reason is None, "reason": reason}
