"""What channels say by themselves, in one line each, and how an answer becomes messages of a wire."""

import json
from collections.abc import Mapping, Sequence

from loket.contracts import Ending, Json, RunStatus


def split(text: str, longest: int) -> list[str]:
    """A text in pieces of at most `longest` characters, cut at a paragraph, a line or a blank where there is one."""
    pieces, rest = [], text.strip()
    while len(rest) > longest:
        at = _cut(rest, longest)
        pieces.append(rest[:at].rstrip())
        rest = rest[at:].lstrip()
    return [piece for piece in [*pieces, rest] if piece]


def _cut(text: str, longest: int) -> int:
    for mark in ("\n\n", "\n", " "):
        at = text.rfind(mark, longest // 2, longest)
        if at > 0:
            return at
    return longest


def answer_of(ending: Ending, *, owner: bool) -> str:
    """What a run's end is said as; only the owner is told why one did not work."""
    if ending.status is RunStatus.DONE:
        return _text(ending.answer or {})
    error = ending.error or {}
    if ending.status is RunStatus.STOPPED:
        return "This was stopped."
    if not owner:
        return "Sorry, this did not work."
    remedy = f" ({error['remedy']})" if error.get("remedy") else ""
    return f"This did not work: {error.get('message', ending.status.value)}{remedy}"


def _text(answer: Mapping[str, Json]) -> str:
    text = answer.get("text")
    return text if isinstance(text, str) else json.dumps(dict(answer), ensure_ascii=False) if answer else ""


def asking(approvals: Sequence[str], *, owner: bool) -> str:
    """That a run waits for its owner's word."""
    if owner and approvals:
        return f"This waits for your word: /approve {approvals[0]} or /deny {approvals[0]}"
    return "This waits for the word of whoever runs this assistant."


def pairing(code: str) -> str:
    """What an unknown sender is told."""
    return (
        "This is somebody's own assistant, and it does not know you yet. Tell its owner this code, who can let you in"
        f" with: loket channels approve {code}"
    )


PAIRED = "You are known here now. Write a message."
