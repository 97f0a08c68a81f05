"""Traces: what a run did and when, as spans that follow from the journal."""

import asyncio
from collections import defaultdict
from typing import Any

from loket.app import Loket
from loket.contracts import RowKind
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation
from loket.tracing import Span, Tracer, trace_id
from loket.tracing.links import link_facts


@operation("runs.trace")
async def runs_trace(system: Loket, _emit: Emit, *, run: str) -> dict[str, Any]:
    """The trace that a run belongs to: `trace` (its id), `run`, `root`, `runs` and `spans`, a parent before its own.

    A span has `id`, `parent`, `run`, `layer`, `name`, `start` and `end` (seconds since 1970), `attributes`, and where
    there are any `events`, `links` and `error`. No span holds anything that was said.
    """
    name = run_id(system, run)
    return await asyncio.to_thread(_traced, system, name)


@operation("runs.link")
async def runs_link(system: Loket, _emit: Emit, *, run: str, traceparent: str) -> dict[str, Any]:
    """Link a run to the trace of whoever asked for it, which a `traceparent` header names. Raises `BadInput`."""
    name = run_id(system, run)
    system.journal.append("", 0, RowKind.NOTE, link_facts(name, traceparent), "{}")
    return {"run": name, "trace": trace_id(name)}


def _traced(system: Loket, name: str) -> dict[str, Any]:
    root = str((system.database.run(name) or {"root": name})["root"])
    runs = _family(system.database.family_links(), root)
    tracer = Tracer(system.journal.rows, lambda after: system.database.rows("", after=after), {})
    spans = [span for one in runs for span in tracer.spans(one)]
    shown = [span.as_dict() for span in _ordered(spans)]
    return {"trace": trace_id(root), "run": name, "root": root, "runs": runs, "spans": shown}


def _family(links: list[tuple[str, str]], root: str) -> list[str]:
    """A run and all that came of it, parents first."""
    children: dict[str, list[str]] = defaultdict(list)
    for run, parent in links:
        children[parent].append(run)
    found = [root]
    for run in found:
        found += children[run]
    return found


def _ordered(spans: list[Span]) -> list[Span]:
    """Spans with what is below them, in the order of their beginnings."""
    below: dict[str | None, list[Span]] = defaultdict(list)
    known = {span.id for span in spans}
    for span in sorted(spans, key=lambda span: span.start):
        below[span.parent if span.parent in known else None].append(span)
    ordered, stack = [], below[None][::-1]
    while stack:
        ordered.append(stack.pop())
        stack += below[ordered[-1].id][::-1]
    return ordered
