"""How a run and its journal rows look to a person."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from loket.cli import show

_MOST = 240
"""Characters of a value that are shown, unless all are asked for."""

_CUT = " ..."


def show_run(run: Mapping[str, Any], *, full: bool) -> None:
    """Print a run as `runs.show` gives it: what it is, then each of its rows. Values are cut unless `full`."""
    show.pairs(_facts(run, full=full))
    for one in run["approvals"]:
        show.say()
        asked = "".join(
            f" of {link['agent']}, run {link['run']}," for link in one["chain"][:1] if link["run"] != run["id"]
        )
        show.say(f"waits for you: {one['capability']}{asked} (loket approvals show {one['id']})")
    for row in run["rows"]:
        show.say()
        show.say("  ".join(_heading(row)).rstrip())
        for name, text in _said(row):
            show.say(f"    {name:<10}{_cut(text, full=full)}")


def show_trace(found: Mapping[str, Any]) -> None:
    """Print a trace as `runs.trace` gives it: a line a span, indented below its parent, with who decided."""
    spans = found["spans"]
    show.pairs([("trace", found["trace"]), ("root", found["root"]), ("runs", len(found["runs"]))])
    show.say()
    began = min((span["start"] for span in spans), default=0.0)
    depths: dict[str, int] = {}
    for span in spans:
        depth = depths[span["id"]] = depths.get(span.get("parent", ""), -1) + 1
        took = f"{(span['end'] - span['start']) * 1000:10.1f} ms" if "end" in span else f"{'goes on':>13}"
        name = "  " * depth + span["name"]
        show.say("  ".join([f"{(span['start'] - began) * 1000:10.1f}", took, name, *_marks(span)]))


def _marks(span: Mapping[str, Any]) -> Iterator[str]:
    """What is worth knowing of a span beside its times."""
    for event in span.get("events", ()):
        decided = event["attributes"]
        yield f"{decided['loket.decision']} by {', '.join(decided['loket.rules'])}"
    for link in span.get("links", ()):
        yield f"asked for by trace {link['trace']}"
    yield from [span["error"]] if "error" in span else []


def _facts(run: Mapping[str, Any], *, full: bool) -> Iterator[tuple[str, Any]]:
    for name in ("id", "agent", "conversation", "status"):
        yield name, run.get(name)
    if run.get("digest"):
        digest = run["digest"] if full else run["digest"][:16] + "..."
        yield "module", f"{run['module']} {run['version']} (sha256 {digest})"
    yield "accepted", show.when(run.get("accepted"))
    yield "ended", show.when(run.get("ended"))
    for name in ("calls", "tokens"):
        yield name, run.get(name)
    yield "money", f"{run['money']:.4f} US dollars" if run.get("money") else None
    answer = dict(run.get("answer") or {})
    if "text" in answer:
        yield "answer", answer.pop("text")
    for name, value in answer.items():
        objects = isinstance(value, list) and bool(value) and isinstance(value[0], dict)
        yield name, len(value) if objects else _cut(show.word(value), full=full)
    error = run.get("error")
    yield "error", f"{error['message']} ({error['code']})" if error else None
    yield "remedy", error.get("remedy") if error else None


def _heading(row: Mapping[str, Any]) -> Iterator[str]:
    yield f"{row['seq']:>4}"
    yield f"{row['kind']:<7}"
    for name in ("capability", "decision", "rules"):
        if name in row:
            yield show.word(row[name])
    if row.get("attempt", 1) > 1:
        yield f"attempt {row['attempt']}"
    if "ms" in row:
        yield f"{row['ms']:.1f} ms"


def _said(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    value = row["value"] if isinstance(row["value"], dict) else {"value": row["value"]}
    if row["kind"] == "start" and "text" in value.get("args", {}):
        yield "said", value["args"]["text"]
    names = ["args", "answer", "error", *sorted(value.keys() - {"args", "answer", "error", "seed"})]
    for name in names:
        if name in value:
            yield from _part(name, value[name])
    if row.get("labels"):
        yield "labels", show.word(row["labels"])


def _part(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if name == "error" and isinstance(value, dict):
        yield name, f"{value['message']} ({value['code']})"
        if value.get("remedy"):
            yield "remedy", value["remedy"]
    elif name == "answer" and isinstance(value, dict) and isinstance(value.get("memories"), list):
        if not value["memories"]:
            yield "recalled", "nothing"
        for memory in value["memories"]:
            yield "recalled", f"memory {memory['id']} ({memory['kind']}, from {memory['source']}): {memory['text']}"
    else:
        yield name, json.dumps(value, ensure_ascii=False)


def _cut(text: str, *, full: bool) -> str:
    return text if full or len(text) <= _MOST else text[:_MOST] + _CUT
