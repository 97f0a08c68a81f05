"""The stock agent: recall, think, act through tools in a bounded loop, reply, remember.

A plain turn makes four calls: `brain.search`, `llm.models`, `llm.complete`, `brain.add`. For a capable model a second
`brain.search` brings the last turns of the conversation: they are memories like all others, and forgotten with them.
Lessons come with the first search; before a tool is used, one more looks for those about it.
"""

from typing import Any

from commands import help_text, is_command, serve
from learned import for_prompt
from loket_guest import Refused, call, operation
from prompts import (
    asks_for_a_fact,
    first_paragraph,
    full_prompt,
    is_small,
    is_told,
    is_turn,
    small_prompt,
    turn_of,
)
from tools import Toolbox, without_references

RECALLED = 10
"""Memories asked for; the prompts take fewer."""

SHOWN = 5
"""Memories that a reply without a model lists."""

ROUNDS = 6
"""How often a model may ask for tools before it has to answer."""

KEPT_TURNS = 16
"""Turns of the conversation, the person's and the agent's, that a capable model sees."""

MEMORY_LENGTH = 20_000
"""Characters that one memory takes."""

SMALL_REPLY_TOKENS = 120

NOT_TOLD = "You have not told me that yet. Tell me, and I will remember it."

NO_MODEL = (
    "There is no language model here yet, so I cannot think about that. I remember what you tell me, though, and "
    "/help lists what I can do without one."
)

GET_MODEL = "To get a model: `loket model list` shows what there is, `loket model use NAME` chooses one."


@operation
def message(args: dict[str, Any]) -> dict[str, Any]:
    """Answer a message. Answers `text`, `recalled` (ids of memories) and `model` (its name or None)."""
    text = args["text"].strip()
    if not text:
        return {"text": help_text(), "recalled": [], "model": None}
    if is_command(text):
        reply, recalled = serve(text)
        return {"text": reply, "recalled": recalled, "model": None}
    return Conversation(args, text).answer()


class Conversation:
    """One message and what belongs to it."""

    def __init__(self, args: dict[str, Any], text: str) -> None:
        self.text = text
        self.persona = args.get("persona") or ""
        self.rules = args.get("rules") or ""
        self.tools = Toolbox(args.get("tools") or [], text, self.rules)
        self.memories = call("brain.search", query=text[:4_000], limit=RECALLED)["memories"]
        self.used: list[dict[str, Any]] = []
        self.model: str | None = None

    def answer(self) -> dict[str, Any]:
        """Think, and remember once, whatever came of it."""
        try:
            reply, thought = self.think(), True
        except Refused as refused:
            reply, thought = self.without_model(refused), False
        self.remember(reply if thought else None)
        return {"text": reply, "recalled": [memory["id"] for memory in self.used], "model": self.model}

    def think(self) -> str:
        """Ask the model. Raises `Refused` where none answers."""
        models = call("llm.models")["models"]
        if not models:
            raise Refused("model.none", NO_MODEL, GET_MODEL)
        if is_small(models[0]):
            return self.think_small()
        return self.think_fully(with_tools=models[0]["tools"])

    def think_small(self) -> str:
        """Ask a model that takes a few plain lines only.

        It would make up what nobody told it, so a question for such a thing does not go to it.
        """
        messages, self.used = small_prompt(self.memories, self.text)
        if not self.used and asks_for_a_fact(self.text):
            return NOT_TOLD
        answer = self.complete(messages=messages, temperature=0, max_tokens=SMALL_REPLY_TOKENS)
        reply = first_paragraph(answer["text"])
        return whole_sentences(reply) if answer["finish"] == "length" else reply

    def think_fully(self, *, with_tools: bool) -> str:
        """Ask a capable model, and do what it asks for through the counter."""
        recent = call("brain.search", query="", conversation=True, limit=KEPT_TURNS)["memories"]
        turns = [turn_of(memory) for memory in reversed(recent) if is_turn(memory)]
        lessons = for_prompt(self.memories, self.tools.capabilities)
        self.tools.warned(lessons)
        about = (self.persona, self.rules, self.tools.rule())
        messages, self.used = full_prompt(about, self.memories, lessons, turns, self.text)
        offered = {"tools": self.tools.offered} if with_tools and self.tools.offered else {}
        for _ in range(ROUNDS):
            answer = self.complete(messages=messages, **offered)
            if not answer["tool_calls"]:
                return str(answer["text"])
            messages.append({"role": "assistant", "content": answer["text"], "tool_calls": answer["tool_calls"]})
            messages.extend(self.tools.use(wanted) for wanted in answer["tool_calls"])
        messages.append({"role": "user", "content": "Answer now with what you have; no more tools."})
        return str(self.complete(messages=messages)["text"])

    def complete(self, **arguments: Any) -> dict[str, Any]:
        """Ask the model once; whoever waits sees the text while it is written."""
        answer = call("llm.complete", stream=True, **arguments)
        self.model = answer["model"]
        answer["tool_calls"] = without_references(answer["tool_calls"])
        return answer

    def without_model(self, refused: Refused) -> str:
        """Say why no model answered and what would help, and what is remembered about the message."""
        none = refused.code == "model.none"
        lines = [NO_MODEL if none else f"I could not think about that: {refused.message}"]
        self.used = [memory for memory in self.memories if is_told(memory, self.text)][:SHOWN]
        if self.used:
            lines += ["", "What I remember about it:", *(f"- {memory['text']}" for memory in self.used)]
        remedy = refused.remedy or (GET_MODEL if none else None)
        return "\n".join([*lines, "", remedy] if remedy else lines)

    def remember(self, reply: str | None) -> None:
        """Store both turns, or only the person's where no model answered."""
        said = [("user", self.text), ("agent", reply)]
        items = [
            {"text": text[:MEMORY_LENGTH], "kind": "episode", "speaker": speaker} for speaker, text in said if text
        ]
        call("brain.add", items=items)


def whole_sentences(text: str) -> str:
    """Cut what stops in the middle of a sentence, as long as a sentence remains."""
    end = max(text.rfind(mark) for mark in (".", "!", "?"))
    return text[: end + 1] if end > 0 else text


@operation
def measure(n: int, capability: str = "kv.get", arguments: dict[str, Any] | None = None) -> dict[str, int]:
    """Ask for the same thing `n` times: what a call costs, for `loket bench`. Answers `n`."""
    given = arguments or {"key": "measure"}
    for _ in range(n):
        call(capability, **given)
    return {"n": n}
