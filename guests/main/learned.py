"""Lessons in the stock agent: which of them a prompt carries, and which of them stands in the way of a tool."""

import json
import re
from typing import Any

from loket_guest import lessons

Memory = dict[str, Any]

HOST = "host:lessons"
"""The source of the lessons that Loket drew itself; nobody else can write it."""

KINDS = ("lesson", "procedure")

IN_PROMPT = 3
"""Lessons that a prompt carries, at most."""

RECALLED = 20
"""Lessons about a tool that are recalled before it is used."""

_FIRST = re.compile(r"\S+(?: for (?P<what>.+))? (?:was refused|failed) \((?P<code>[^()]+)\)\.")
"""The first line of a lesson about a call (`loket.lesson_words`)."""

_WHOLE = ("grant.", "policy.", "module.")
"""Codes of refusals that count whatever a capability is asked for."""


def is_drawn(memory: Memory) -> bool:
    """Tell whether Loket drew this memory from errors, or took it back: nobody said it."""
    return bool(memory.get("source") == HOST)


def is_lesson(memory: Memory) -> bool:
    """Tell whether a memory is a lesson, or advice that several make together."""
    return memory["kind"] in KINDS


def for_prompt(memories: list[Memory], offered: set[str]) -> list[Memory]:
    """Choose the lessons that belong to a message: those it recalled, the ones about offered tools first.

    One about a capability that is not offered would only take room.
    """
    found = [memory for memory in memories if is_lesson(memory)]
    about = [memory for memory in found if memory.get("subject") in offered]
    others = [memory for memory in found if memory not in about and not is_drawn(memory)]
    return [*about, *others][:IN_PROMPT]


class Warnings:
    """The lessons about tools in one turn. Each is given once; who asks again after it may try."""

    def __init__(self) -> None:
        self._given: set[int] = set()
        self._known: dict[str, list[Memory]] = {}

    def give(self, memories: list[Memory]) -> None:
        """Note that the model has these lessons before it."""
        self._given.update(memory["id"] for memory in memories)

    def before(self, capability: str, arguments: dict[str, Any]) -> str | None:
        """Recall what failed the same way before, and was not told in this turn; one search for each capability."""
        if capability not in self._known:
            self._known[capability] = [memory for memory in lessons(capability, RECALLED) if is_drawn(memory)]
        found = [
            memory
            for memory in self._known[capability]
            if memory["id"] not in self._given and _stands_in_the_way(memory, arguments)
        ]
        self.give(found)
        return "\n\n".join(memory["text"] for memory in found) or None


def _stands_in_the_way(lesson: Memory, arguments: dict[str, Any]) -> bool:
    first = _FIRST.fullmatch(lesson["text"].partition("\n")[0])
    if first is None or lesson["kind"] != "lesson":
        return False
    if first["what"] is None:
        return first["code"].startswith(_WHOLE)
    return any(_is_about(first["what"], value, first["code"]) for value in arguments.values())


def _is_about(what: str, value: Any, code: str) -> bool:
    """Tell whether an argument is what the lesson names: the whole of it, its host, or what it begins with."""
    text = value if isinstance(value, str) else json.dumps(value)
    if text == what or f"://{what}/" in f"{text}/":
        return True
    return code == "grant.constraint" and what.endswith("/") and text.startswith(what)
