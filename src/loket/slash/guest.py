"""A module that answers slash commands beside what it does itself, under a reserved operation.

So a command is a run like any other: it stands in the journal, uses the grants of the agent that it is said to, is
decided by the policy with the labels of whoever said it, and can be replayed. What the host answers by itself comes
with the run as its argument.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from loket.contracts import Failed, Guest, Host, Json, Limits, LoketError, Refusal, Segment, Suspended
from loket.slash.words import is_number

COMMAND = "loket:command"
"""The operation. A module's own has no colon in its name."""

_RECALLED = 10

Calls = Callable[..., dict[str, Any]]
Reply = tuple[str, list[int]]
"""The text, and the numbers of the memories in it."""


class CommandGuest:
    """A loaded module that answers commands too."""

    def __init__(self, guest: Guest) -> None:
        self.digest = guest.digest
        self._guest = guest

    def run(self, host: Host, operation: str, args: str, limits: Limits) -> Segment:
        """Answer a command here: `text`, `recalled` and `model` (None); do anything else in the module."""
        if operation != COMMAND:
            return self._guest.run(host, operation, args, limits)
        try:
            text, recalled = _answered(host, json.loads(args))
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)
        return Segment(answer=json.dumps({"text": text, "recalled": recalled, "model": None}, ensure_ascii=False))


def _answered(host: Host, args: Mapping[str, Json]) -> Reply:
    """The reply to a command. Raises `Refusal` where whoever typed it may not."""
    if "refusal" in args:
        raise Refusal(**args["refusal"], blame="owner")
    if "reply" in args:
        return str(args["reply"]), []

    def call(name: str, **arguments: Json) -> dict[str, Any]:
        if host.stopped is not None:
            raise host.stopped
        answer: dict[str, Any] = json.loads(host(name, json.dumps(arguments, ensure_ascii=False)))
        return answer

    rest = str(args["rest"]).strip()
    try:
        if "capability" in args:
            return said(call(args["capability"], text=rest)), []
        return BRAIN[args["command"]](call, rest)
    except (Refusal, Failed) as error:
        return "\n".join(part for part in (error.message, error.remedy) if part), []


def said(answer: Mapping[str, Json]) -> str:
    """What an operation's answer is said as: its `text`, else all of it."""
    text = answer.get("text")
    return text if isinstance(text, str) else json.dumps(answer, ensure_ascii=False, indent=1)


def _remember(call: Calls, text: str) -> Reply:
    if not text:
        return "What should I remember? /remember TEXT", []
    ids = call("brain.add", items=[{"text": text, "kind": "fact", "speaker": "user"}])["ids"]
    return f"Remembered as number {ids[0]}.", []


def _recall(call: Calls, query: str) -> Reply:
    memories = call("brain.search", query=query, limit=_RECALLED)["memories"]
    if not memories:
        return "I remember nothing about that." if query else "I remember nothing yet.", []
    lines = [f"{memory['id']}. {memory['text']}" for memory in memories]
    return "\n".join(lines), [memory["id"] for memory in memories]


def _forget(call: Calls, number: str) -> Reply:
    if not is_number(number):
        return "Which one? /forget NUMBER, as /recall shows it", []
    gone = call("brain.forget", id=int(number))["forgotten"]
    return "Forgotten: " + ", ".join(map(str, gone)) + ".", []


def _correct(call: Calls, rest: str) -> Reply:
    number, _, text = rest.partition(" ")
    if not is_number(number) or not text.strip():
        return "Which one, and what is right? /correct NUMBER TEXT", []
    corrected = call("brain.correct", id=int(number), text=text.strip())["id"]
    return f"Corrected: number {corrected} stands in the place of {number}.", []


def _lesson(call: Calls, text: str) -> Reply:
    if not text:
        return "What is the lesson? /lesson TEXT", []
    return f"Learned as number {call('brain.lesson', text=text)['id']}.", []


BRAIN: Mapping[str, Callable[[Calls, str], Reply]] = {
    "remember": _remember,
    "recall": _recall,
    "forget": _forget,
    "correct": _correct,
    "lesson": _lesson,
}
"""Commands that are calls on the agent's brain."""
