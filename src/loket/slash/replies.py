"""The words of the replies to commands: pure functions."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from loket.contracts import Ending, LoketError, RunStatus, from_dict
from loket.slash.guest import said

WAITS = "This waits for the word of whoever runs this assistant."

_VALUE = 80
"""Characters of a value in a line."""


def ended(ending: Ending) -> str:
    """What a command's run answered. Raises what it ended with."""
    if ending.status is RunStatus.DONE and ending.answer is not None:
        return said(ending.answer)
    raise from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})


def commands(known: Sequence[Mapping[str, Any]]) -> str:
    """All commands, a line each."""
    lines = [
        f"- {one['usage']}: {one['summary']}"
        + (" (the owner alone)" if one["owner"] else "")
        + (f" ({one['module']})" if one["module"] else "")
        for one in known
    ]
    return "\n".join(["Commands:", *lines])


def unknown(name: str, near: Sequence[str]) -> str:
    """That a command is none, with those that are like it."""
    meant = " or ".join(f"/{one}" for one in near)
    return f"There is no command /{name}. Did you mean {meant}? /help lists them all."


def wrong(error: LoketError) -> str:
    """Why a command did not work, and what would help."""
    return "\n".join(part for part in (error.message, error.remedy) if part)


def named(known: Sequence[tuple[str, str]], nothing: str) -> str:
    """Names with what they are, a line each."""
    return "\n".join(f"- {name}: {' '.join(summary.split())}" for name, summary in known) or nothing


def run(name: str, status: str, agent: str) -> str:
    """A run in one line."""
    return f"{name} {status} ({agent})"


def questions(waiting: Sequence[Mapping[str, Any]]) -> str:
    """What waits for the owner: each exact call with its critical arguments, and how to decide it."""
    if not waiting:
        return "Nothing waits for you."
    lines = [f"- {one['id']}: {one['agent']} wants {one['capability']} with {_with(one)}" for one in waiting]
    return "\n".join([*lines, "/approve ID lets it happen, /deny ID refuses it."])


def _with(one: Mapping[str, Any]) -> str:
    args = one.get("args") or {}
    names = one.get("critical") or sorted(args)
    shown = (f"{name}={_short(args[name])}" for name in names if name in args)
    return ", ".join(shown) or "no arguments"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= _VALUE else f"{text[: _VALUE - 3]}..."


def status(agents: Sequence[str], unfinished: int, waiting: int) -> str:
    """How things are, for the owner."""
    lines = [f"Agents: {', '.join(agents) or 'none'}", f"Runs that go on: {unfinished}"]
    lines.append(f"Waiting for you: {waiting}" + (" (/approve lists them)" if waiting else ""))
    return "\n".join(lines)
