"""The arguments of a call on their way through the counter: how long they are, what they refer to, what names them.

In the kernel because steps 1 to 4 rest on it; apart from the counter so that its steps can be read in one sitting.
"""

import hashlib
from collections.abc import Callable
from typing import Any

from loket.contracts import WITHDRAW, Capability, Labels, Question, Refusal, join_labels
from loket.kernel import refs
from loket.kernel.registry import Entry
from loket.kernel.state import RunState
from loket.kernel.text import canonical


def longer(text: str, limit: int) -> bool:
    """Whether a text takes more than so many bytes of UTF-8."""
    return len(text) > limit or (len(text) * 4 > limit and len(text.encode("utf-8", "replace")) > limit)


def resolved(run: RunState, entry: Entry, given: dict[str, Any], text: str) -> tuple[dict[str, Any], int, bool]:
    """Arguments with their references resolved, their size in characters, and whether the answer is to be one.

    Raises `Refusal` for a wrong reference, and where they are too large.
    """
    if refs.REF not in text and refs.AS not in text:
        return given, len(text), False
    by_reference = refs.wants_reference(given)
    try:
        decoded = refs.resolve({name: value for name, value in given.items() if name != refs.AS}, run.history)
        whole = canonical(decoded)
    except RecursionError:
        raise Refusal("arguments.depth", f"{entry.capability.id}: too deeply nested arguments", "nest less") from None
    if longer(whole, entry.capability.args_kb << 10):
        raise too_long(entry.capability, whole)
    return decoded, len(whole), by_reference


def quoted(run: RunState, args: str) -> Labels:
    """The labels of what a refusal may quote: of the arguments, or of all that the run holds by reference.

    Before the facts of a call are known, nobody has said which of these a reference in it meant.
    """
    if run.facts is not None:
        return join_labels((), *run.facts.labels.values())
    return join_labels((), *(held.labels for held in run.history if held.by_reference)) if refs.REF in args else ()


def too_long(capability: Capability, text: str) -> Refusal:
    return Refusal(
        "limit.args",
        f"the arguments of {capability.id} take {len(text):,} characters; {capability.args_kb} KiB are allowed",
        "send less in one call",
    )


def fingerprint(question: Question, ordinal: int) -> str:
    """What an approval is bound to: SHA-256 (hex) over run, ordinal, module, capability and resolved arguments."""
    run, module = question.run, question.run.module
    bound = [run.id, ordinal, module.digest if module else "", question.capability.id, question.args]
    return hashlib.sha256(canonical(bound).encode()).hexdigest()


def pieces(run: RunState, attempt: int) -> Callable[[str], None]:
    """Hands provisional pieces of an answer to whoever watches, numbered by attempt; a withdrawal starts the next."""
    number = attempt

    def emit(piece: str) -> None:
        nonlocal number
        if piece == WITHDRAW:
            run.emit("withdrawn", {"attempt": number})
            number += 1
        else:
            run.emit("piece", {"text": piece, "attempt": number})

    return emit
