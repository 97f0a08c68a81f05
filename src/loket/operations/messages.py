"""Messages to agents."""

import asyncio
import json
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Ending, Row, RowKind, RunStatus, Sender, from_dict
from loket.operations.table import Emit, operation
from loket.operations.watch import events


@operation("ask")
async def ask(
    system: Loket, emit: Emit, *, agent: str, text: str, conversation: str = "main", message: str | None = None
) -> dict[str, Any]:
    """Send a message and wait for the answer; events on the way. `run`, `answer`, `calls`, `tokens`."""
    if not text.strip():
        raise BadInput("ask.text", "the text is empty", 'loket ask main "Hello"')
    return await answered(system, emit, agent, text, conversation, message)


async def answered(
    system: Loket,
    emit: Emit,
    agent: str,
    text: str,
    conversation: str,
    message: str | None,
    sender: Sender | None = None,
) -> dict[str, Any]:
    """What an agent answers to a message (the owner's without `sender`), as `ask` shows it; events on the way."""
    run = await system.send(agent, text, conversation=conversation, message=message, sender=sender)
    emit({"type": "accepted", "run": run})
    async for event in events(system, run):
        emit(event)
    return await result_of(system, run, await system.finished(run))


async def result_of(system: Loket, run: str, ending: Ending) -> dict[str, Any]:
    """A finished run as `ask` shows it. Raises the error that it ended with."""
    if ending.status is not RunStatus.DONE or ending.answer is None:
        error = from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
        error.run = run
        raise error
    answer = system.leaving.answer(ending.answer)
    rows = await asyncio.to_thread(lambda: list(system.journal.rows(run)))
    return {
        "run": run,
        "answer": str(answer.get("text", json.dumps(answer, ensure_ascii=False))),
        "calls": [_call_shown(row) for row in rows if row.kind in (RowKind.CALL, RowKind.OUTCOME)],
        "tokens": ending.tokens,
    }


def _call_shown(row: Row) -> dict[str, Any]:
    meta = row.meta
    reason = meta.get("reason") or json.loads(row.value)["error"]["message"]
    shown = {**{key: meta[key] for key in ("capability", "decision", "ms")}, "reason": reason}
    return {**shown, "error": meta.get("error")}
