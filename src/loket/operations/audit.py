"""The audit that can be proved: checkpoints, their comparison with the journal, exports with proofs."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.audit import Auditor
from loket.audit.auditor import MOST_SHOWN
from loket.audit.export import Asked
from loket.contracts import BadInput
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation


def auditor_of(system: Loket) -> Auditor:
    """The audit of a system's home."""
    return Auditor(
        database=system.database,
        path=system.home.database,
        journal=system.journal,
        seal_key=system.home.journal_key(),
        seed=lambda: system.vault.master.subkey("audit"),
        folder=system.home.root / "audit",
        now=system.now,
    )


@operation("audit.checkpoint")
async def audit_checkpoint(system: Loket, emit: Emit) -> dict[str, Any]:
    """Sign the journal as it is, and keep that: `text`, `home`, `key`, `size`, `root` (hex), `time`."""
    auditor = auditor_of(system)
    told = _teller(emit)
    made, text = await asyncio.to_thread(auditor.checkpoint, lambda rows: told(rows, None))
    facts = {"home": made.origin, "key": str(auditor.key()), "size": made.size, "root": made.root.hex()}
    return {"text": text, **facts, "time": made.time}


@operation("audit.verify")
async def audit_verify(
    system: Loket, emit: Emit, *, against: dict[str, Any] | None = None, since: float | None = None
) -> dict[str, Any]:
    """Compare the journal with itself, with all kept checkpoints and those of `against` (name to text).

    Answers `ok`, `rows`, `root` (hex), `home`, `key`, `first` (the first row that was looked at by itself; 0: none),
    `checkpoints` and `faults`.
    """
    given = against or {}
    if not all(isinstance(text, str) for text in given.values()):
        raise BadInput("arguments.type", "against of audit.verify must be texts by their names", "send strings")
    verdict = await asyncio.to_thread(auditor_of(system).verify, given, since, _teller(emit))
    found = verdict.survey
    faults = [{"row": one.seq, "run": one.run, "reason": one.reason} for one in verdict.faults]
    facts = {"ok": verdict.ok, "rows": found.size, "root": found.root.hex(), "first": found.first}
    names = {"home": verdict.key.origin, "key": str(verdict.key)}
    return {**facts, **names, "checkpoints": verdict.checkpoints, "faults": faults[:MOST_SHOWN]}


@operation("audit.export")
async def audit_export(
    system: Loket,
    emit: Emit,
    *,
    file: str,
    runs: list[str] | None = None,
    since: float | None = None,
    values: bool = False,
) -> dict[str, Any]:
    """Write rows with their proofs to a new file: `file`, `rows`, `size` (of the journal), `bytes`."""
    target = Path(file)
    if not target.is_absolute():
        raise BadInput("audit.file", f"{file} is no whole path", "/media/disk/audit.jsonl")
    asked = Asked(tuple(dict.fromkeys(run_id(system, run) for run in runs or ())), since, values)
    told = _teller(emit)
    return await asyncio.to_thread(auditor_of(system).export, target, asked, lambda rows: told(rows, None))


def _teller(emit: Emit) -> Callable[[int, int | None], None]:
    loop = asyncio.get_running_loop()

    def tell(done: int, total: int | None) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": done, "total": total})

    return tell
