"""What the models are told: a few plain lines for a small one, all of it for a capable one."""

import datetime as dt
from typing import Any, TypedDict

Memory = dict[str, Any]
Message = dict[str, Any]

SMALL_CONTEXT = 8_192
"""Tokens: a model with no more than these and without tool calling is a small one."""

SMALL_MEMORIES = 3
FULL_MEMORIES = 8
MEMORY_LENGTH = 1_000
"""Characters of a memory that a prompt takes."""

DEFAULT_PERSONA = "You are a helpful assistant."
"""Small models answer nonsense without a system message."""


class Turn(TypedDict):
    """One exchange of a conversation."""

    user: str
    agent: str


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


def small_prompt(persona: str, memories: list[Memory], text: str) -> tuple[list[Message], list[Memory]]:
    """Build the messages for a small model, and list the memories in them.

    It gets the persona's first lines, at most three things that the person said, and the message alone: earlier turns
    and questions make a small model repeat them.
    """
    used = [memory for memory in memories if is_told(memory, text)][:SMALL_MEMORIES]
    system = persona or DEFAULT_PERSONA
    if used:
        facts = "\n".join(f"- {_one_line(memory)}" for memory in used)
        system = f"{system} Facts the user told you:\n{facts}"
    return [{"role": "system", "content": system}, {"role": "user", "content": text}], used


def is_told(memory: Memory, text: str) -> bool:
    """Tell whether a memory is a statement of the person, or a kept fact, and not this message once more."""
    if memory["text"].strip().endswith("?") or memory["text"] == text:
        return False
    return memory["kind"] != "episode" or memory.get("speaker") == "user"


def full_prompt(
    persona: str, rules: str, memories: list[Memory], turns: list[Turn], text: str
) -> tuple[list[Message], list[Memory]]:
    """Build the messages for a capable model, and list the memories in them."""
    used = [memory for memory in memories if memory["text"] != text][:FULL_MEMORIES]
    today = dt.datetime.now(dt.UTC).strftime("%A, %d %B %Y")
    parts = [persona.strip() or DEFAULT_PERSONA, rules.strip(), f"Today is {today} (UTC)."]
    if used:
        parts.append("What you remember:\n" + "\n".join(_noted(memory) for memory in used))
    messages: list[Message] = [{"role": "system", "content": "\n\n".join(part for part in parts if part)}]
    for turn in turns:
        messages += [{"role": "user", "content": turn["user"]}, {"role": "assistant", "content": turn["agent"]}]
    return [*messages, {"role": "user", "content": text}], used


def _noted(memory: Memory) -> str:
    who = f", said by the {memory['speaker']}" if memory.get("speaker") in ("user", "agent") else ""
    day = (memory.get("happened") or memory["created"])[:10]
    return f"- [{memory['id']}] ({memory['kind']}{who}, {day}) {_one_line(memory)}"


def _one_line(memory: Memory) -> str:
    text = " ".join(memory["text"].split())
    return text if len(text) <= MEMORY_LENGTH else text[:MEMORY_LENGTH] + "…"
