"""Commands that work without a model: a message that begins with a slash."""

import re
from collections.abc import Callable

from loket_guest import Refused, call

Reply = tuple[str, list[int]]
"""The text, and the ids of the memories in it."""

_NAME = re.compile(r"/[A-Za-z][A-Za-z0-9-]{0,30}")


def is_command(text: str) -> bool:
    """Tell whether the first word is a slash and a name: `/etc/hosts is wrong` is a message like any other.

    What people type is answered by Loket itself; here it is what other agents say.
    """
    return _NAME.fullmatch(text.split(maxsplit=1)[0]) is not None


def serve(text: str) -> Reply:
    """Do a command. A refusal becomes the reply, with its remedy."""
    word, _, rest = text[1:].partition(" ")
    command = COMMANDS.get(word.lower())
    if command is None:
        return f"There is no command /{word}.\n\n{help_text()}", []
    try:
        return command[1](rest.strip())
    except Refused as refused:
        return "\n".join(part for part in (refused.message, refused.remedy) if part), []


def help_text() -> str:
    """List the commands."""
    return "Commands:\n" + "\n".join(f"- {usage}" for usage, _ in COMMANDS.values())


def _remember(text: str) -> Reply:
    if not text:
        return "What should I remember? /remember TEXT", []
    ids = call("brain.add", items=[{"text": text, "kind": "fact", "speaker": "user"}])["ids"]
    return f"Remembered as number {ids[0]}.", []


def _recall(query: str) -> Reply:
    memories = call("brain.search", query=query, limit=10)["memories"]
    if not memories:
        return "I remember nothing about that." if query else "I remember nothing yet.", []
    lines = [f"{memory['id']}. {memory['text']}" for memory in memories]
    return "\n".join(lines), [memory["id"] for memory in memories]


def _forget(number: str) -> Reply:
    if not _is_id(number):
        return "Which one? /forget NUMBER, as /recall shows it", []
    gone = call("brain.forget", id=int(number))["forgotten"]
    return "Forgotten: " + ", ".join(map(str, gone)) + ".", []


def _correct(rest: str) -> Reply:
    number, _, text = rest.partition(" ")
    if not _is_id(number) or not text.strip():
        return "Which one, and what is right? /correct NUMBER TEXT", []
    corrected = call("brain.correct", id=int(number), text=text.strip())["id"]
    return f"Corrected: number {corrected} stands in the place of {number}.", []


def _lesson(text: str) -> Reply:
    if not text:
        return "What is the lesson? /lesson TEXT", []
    learned = call("brain.lesson", text=text)["id"]
    return f"Learned as number {learned}.", []


def _help(_rest: str) -> Reply:
    return help_text(), []


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:19]) < 1 << 63


COMMANDS: dict[str, tuple[str, Callable[[str], Reply]]] = {
    "remember": ("/remember TEXT: keep it as a fact", _remember),
    "recall": ("/recall WORDS: what I remember about it; without words, the newest", _recall),
    "forget": ("/forget NUMBER: remove a memory and its history", _forget),
    "correct": ("/correct NUMBER TEXT: put a memory right", _correct),
    "lesson": ("/lesson TEXT: what to do another way from now on", _lesson),
    "help": ("/help: this list", _help),
}
