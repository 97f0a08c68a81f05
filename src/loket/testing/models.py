"""A model for tests and benchmarks that answers at once, in this process, from a function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from loket.contracts import Answer, Call, Handler, Json, Usage

Reply: TypeAlias = str | Mapping[str, Any]
"""A text, or some of the fields of an answer of `llm.complete` (the rest is filled in)."""


class InstantModel:
    """A provider of `llm.complete` and `llm.models`.

    `answer` gets the messages and returns a text or fields of the answer (`text`, `tool_calls`, `finish`); what it
    raises is what the call raises. With `stream` the text is emitted word by word. Tokens are counted as words, and
    cost nothing. `calls` lists the messages of every call, in order.
    """

    id = "llm"
    leaves = False
    """No call leaves this machine."""

    def __init__(
        self, answer: Callable[[Sequence[Mapping[str, Json]]], Reply], *, name: str = "instant", tools: bool = True
    ) -> None:
        self._answer = answer
        self._name = name
        self._tools = tools
        self.calls: list[Sequence[Mapping[str, Json]]] = []

    def handlers(self) -> Mapping[str, Handler]:
        """`llm.complete` (asynchronous) and `llm.models`."""
        return {"llm.complete": self._complete, "llm.models": self._models}

    async def start(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""

    async def _complete(self, call: Call) -> Answer:
        messages = call.args["messages"]
        self.calls.append(messages)
        reply = self._answer(messages)
        fields = {"text": reply} if isinstance(reply, str) else dict(reply)
        text, tool_calls = str(fields.get("text", "")), list(fields.get("tool_calls", []))
        if call.args.get("stream"):
            for piece in text.split(" "):
                call.emit(piece + " ")
        asked, said = sum(len(m["content"].split()) for m in messages), len(text.split())
        value = {
            "text": text,
            "tool_calls": tool_calls,
            "model": self._name,
            "finish": fields.get("finish", "tool_calls" if tool_calls else "stop"),
            "tokens": {"in": asked, "out": said},
        }
        return Answer(value, (f"model:{self._name}",), Usage(asked, said, model=self._name))

    def _models(self, _call: Call) -> Answer:
        return Answer({"models": [{"name": self._name, "local": True, "tools": self._tools, "context": 8192}]})
