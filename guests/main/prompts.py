"""What the models are told: a few plain lines for a small one, all of it for a capable one."""

import datetime as dt
import re
from typing import Any

from learned import Memory, is_drawn, is_lesson

Message = dict[str, Any]

SMALL_CONTEXT = 4_096
"""Tokens: a model with no more than these and without tool calling is a small one."""

EXAMPLES: tuple[Message, ...] = (
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "My cat's name is Tim. I live in Oslo. Where do I live?"},
    {"role": "assistant", "content": "You live in Oslo."},
    {"role": "user", "content": "What is the capital of Italy?"},
    {"role": "assistant", "content": "The capital of Italy is Rome."},
    {"role": "user", "content": "My aunt is called Mia."},
    {"role": "assistant", "content": "OK, your aunt is called Mia."},
)
"""Show a small model what is wanted: use what was told, know the world, acknowledge what is told."""

ROLES = {"user": "user", "agent": "assistant"}
"""The role of a speaker in a model's conversation."""

TURN_LENGTH = 2_000
"""Characters of a turn that a prompt takes."""

SMALL_MEMORIES = 3
FULL_MEMORIES = 8
MEMORY_LENGTH = 1_000
"""Characters of a memory that a prompt takes."""

DEFAULT_PERSONA = "You are a helpful assistant."

_OWN_FACT = re.compile(r"(who|what|where|when|which)\b.*\bmy\b.*\?$", re.IGNORECASE | re.DOTALL)


_REQUEST = re.compile(
    r"(please|tell|write|list|explain|give|show|help|say|make|can|could|would|hello|hi)\b", re.IGNORECASE
)
"""Begins what a person asked for, which says nothing about the person."""


def is_small(model: dict[str, Any]) -> bool:
    """Tell whether a model (of `llm.models`) needs the plain prompt."""
    return not model["tools"] and model["context"] <= SMALL_CONTEXT


def first_paragraph(text: str) -> str:
    """Take the text up to its first empty line; one that ends with a colon brings the next along."""
    taken: list[str] = []
    for paragraph in text.strip().split("\n\n"):
        taken.append(paragraph.strip())
        if not taken[-1].endswith(":"):
            break
    return "\n\n".join(taken)


def small_prompt(memories: list[Memory], text: str) -> tuple[list[Message], list[Memory]]:
    """Build the messages for a small model, and list the memories in them.

    It gets three worked examples and then, in one turn, at most three things that the person said before the message
    itself. Measured with SmolLM2-135M on 22 questions at temperature 0: 20 right; with the memories in the system
    message 16, after "Context:" or in earlier turns under 10. A persona costs it answers as well, so it gets none.
    """
    used = [memory for memory in memories if is_told(memory, text)][:SMALL_MEMORIES]
    told = " ".join([*(_sentence(memory) for memory in used), text])
    return [*EXAMPLES, {"role": "user", "content": told}], used


def asks_for_a_fact(text: str) -> bool:
    """Tell whether a message asks for something that only the person can have told: "What is my sister's name?"."""
    return _OWN_FACT.match(text) is not None


def is_told(memory: Memory, text: str) -> bool:
    """Tell whether a memory is a statement of the person, or a kept fact, and not this message once more."""
    if memory["text"].strip().endswith("?") or memory["text"] == text or _REQUEST.match(memory["text"]):
        return False
    if is_drawn(memory):
        return False
    return memory["kind"] != "episode" or memory.get("speaker") == "user"


def full_prompt(
    about: tuple[str, str, str], memories: list[Memory], lessons: list[Memory], turns: list[Message], text: str
) -> tuple[list[Message], list[Memory]]:
    """Build the messages for a capable model, and list the memories in them.

    `about` is persona, rules, and what is to be said of the results of tools.
    """
    persona, rules, results = about
    others = [memory for memory in memories if memory["text"] != text and not is_lesson(memory)]
    used = [memory for memory in others if not is_drawn(memory)][:FULL_MEMORIES]
    today = dt.datetime.now(dt.UTC).strftime("%A, %d %B %Y")
    parts = [persona.strip() or DEFAULT_PERSONA, rules.strip(), results, f"Today is {today} (UTC)."]
    if used:
        parts.append("What you remember:\n" + "\n".join(_noted(memory) for memory in used))
    if lessons:
        parts.append("What you learned from what went wrong:\n" + "\n".join(_noted(memory) for memory in lessons))
    messages: list[Message] = [{"role": "system", "content": "\n\n".join(part for part in parts if part)}]
    return [*messages, *turns, {"role": "user", "content": text}], [*used, *lessons]


def is_turn(memory: Memory) -> bool:
    """Tell whether a memory is something that was said, by the person or by the agent."""
    return memory["kind"] == "episode" and memory.get("speaker") in ROLES


def turn_of(memory: Memory) -> Message:
    """Make a message of something that was said."""
    return {"role": ROLES[memory["speaker"]], "content": memory["text"][:TURN_LENGTH]}


def _noted(memory: Memory) -> str:
    who = f", said by the {memory['speaker']}" if memory.get("speaker") in ("user", "agent") else ""
    day = (memory.get("happened") or memory["created"])[:10]
    return f"- [{memory['id']}] ({memory['kind']}{who}, {day}) {_one_line(memory)}"


def _one_line(memory: Memory) -> str:
    text = " ".join(memory["text"].split())
    return text if len(text) <= MEMORY_LENGTH else text[:MEMORY_LENGTH] + "…"


def _sentence(memory: Memory) -> str:
    text = _one_line(memory)
    return text if text.endswith((".", "!", "…")) else f"{text}."
