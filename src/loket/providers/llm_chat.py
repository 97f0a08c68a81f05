"""One answer of a model, one failed attempt, and the mapping between the catalogue's messages and OpenAI's format."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.contracts import Failed, Json, Refusal

Emit: TypeAlias = Callable[[str], None]

_SHORTEST_ECHO = 6


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered. `tool_calls` are those of the catalogue; tokens None where the server sent no usage."""

    text: str
    tool_calls: tuple[Mapping[str, Json], ...]
    finish: str
    tokens_in: int | None
    tokens_out: int | None


class AttemptFailed(Failed):
    """One attempt did not work.

    `again`: the same route may be tried again, after at least `after_s` seconds where the server said so. `spent` is
    what the attempt cost nevertheless (tokens in, tokens out).
    """

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        again: bool = False,
        after_s: float | None = None,
        spent: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__(code, message, remedy)
        self.again = again
        self.after_s = after_s
        self.spent = spent


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text that no server counted.

    A token for every 4 characters, rounded up: the rule of thumb that OpenAI gives for English text.
    """
    return -(-len(text) // 4)


def to_openai(messages: Sequence[Mapping[str, Json]]) -> list[dict[str, Any]]:
    """Put messages of the catalogue into OpenAI's format. Raises `Refusal` for a tool's result without a call."""
    return [_message_out(place, message) for place, message in enumerate(messages)]


def _message_out(place: int, message: Mapping[str, Json]) -> dict[str, Any]:
    role = message["role"]
    out: dict[str, Any] = {"role": role, "content": message["content"]}
    if role == "tool":
        if not message.get("tool_call_id"):
            raise Refusal(
                "model.bad_messages",
                f"messages[{place}] is a tool's result and does not say of which call",
                "set tool_call_id to the id of the tool call that it answers",
            )
        out["tool_call_id"] = message["tool_call_id"]
    if role == "assistant" and message.get("tool_calls"):
        out["content"] = message["content"] or None
        out["tool_calls"] = [
            {
                "id": call["id"],
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["arguments"], ensure_ascii=False)},
            }
            for call in message["tool_calls"]
        ]
    return out


def tools_to_openai(tools: Sequence[Mapping[str, Json]]) -> list[dict[str, Any]]:
    """Put tools of the catalogue into OpenAI's format."""
    return [
        {
            "type": "function",
            "function": {
                "name": tool["name"],
                "description": tool["description"],
                "parameters": tool["parameters"],
            },
        }
        for tool in tools
    ]


def without_tools(messages: Sequence[Mapping[str, Json]]) -> list[dict[str, str]]:
    """Make the same conversation for a model that knows no tools.

    A tool's result becomes a user's message, a tool call is left out.
    """
    plain = []
    for message in messages:
        if message["role"] == "tool":
            plain.append({"role": "user", "content": f"Result: {message['content']}"})
        elif message["content"] or not message.get("tool_calls"):
            plain.append({"role": message["role"], "content": message["content"]})
    return plain


def tool_call(place: int, ident: str | None, name: str | None, arguments: str | None) -> dict[str, Json] | None:
    """Put a model's tool call into the catalogue's form; None where it cannot be used.

    That is where it has no name, or arguments that are no JSON object. No arguments at all mean an empty object: that
    is how servers send a call without any.
    """
    try:
        value = json.loads(arguments) if arguments and arguments.strip() else {}
    except ValueError:
        return None
    if not name or not isinstance(value, dict):
        return None
    return {"id": ident or f"call_{place}", "name": name, "arguments": value}


def quote(text: str, secret: str | None) -> str:
    """Shorten a server's own words for an error message: one line of at most 200 characters.

    Nothing of them is kept where they repeat as little as 6 characters in a row of the secret.
    """
    line = re.sub(r"\s+", " ", re.sub(r"[^\x20-\x7e\u00a0-\uffff]", " ", text)).strip()
    if secret and _echoes(text + line, secret):
        return "(its text is left out: it repeats the key)"
    return line[:200]


def _echoes(text: str, secret: str) -> bool:
    size = min(_SHORTEST_ECHO, len(secret))
    low, hidden = text.lower(), secret.lower()
    return any(hidden[start : start + size] in low for start in range(len(hidden) - size + 1))
