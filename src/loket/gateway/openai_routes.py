"""Agents behind the Chat Completions interface, so that any client of it can talk to them.

Source of the format: OpenAI API reference, "Chat completions" (create, and the chunk object) and "Models". Each agent
is a model. An agent keeps its own memory and persona, so of the messages only the last one is said to it, and the
system's ones are not; the first words of a chat say which conversation it is. A program speaks in its own name (the
principal `client:openai/TOKEN`), so what it says names nothing for the policy; the owner's commands speak as the owner.
"""

import hashlib
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.responses import Response, StreamingResponse

from loket.contracts import BadInput, LoketError, Refusal
from loket.gateway import shapes
from loket.gateway.doors import saying
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, unheard
from loket.gateway.errors import status_of
from loket.gateway.shapes import TEXT, given, listed, text
from loket.gateway.sse import HEARTBEAT_S, Work

_MOST_TEXT = 1_000_000
_CONVERSATION = 16
"""Hex digits that name a conversation by its first words."""

_UNSERVED = ("tools", "functions", "audio", "response_format")
"""Fields that change what an answer means; an agent would not do what they say."""

_PART: shapes.Schema = {
    "type": "object",
    "required": ["type"],
    "properties": {"type": TEXT, "text": TEXT},
}
_MESSAGE: shapes.Schema = {
    "type": "object",
    "required": ["role"],
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": ["string", "null"]}, {"type": "array", "items": _PART}]},
    },
}
_ASKED: shapes.Schema = {
    "type": "object",
    "required": ["model", "messages"],
    "properties": {
        "model": text(64, "an agent's id"),
        "messages": {"type": "array", "minItems": 1, "maxItems": 10_000, "items": _MESSAGE},
        "stream": {"type": ["boolean", "null"], "default": False},
        "stream_options": {"type": ["object", "null"]},
        "n": {"type": ["integer", "null"], "const": 1},
        "user": text(120, "names the conversation; left out, its first words do", 0),
    },
}
"""Open, as clients send much that chooses among models' settings; what is not here changes nothing."""


async def _models(services: Services, _asked: Asked) -> Response:
    found = await services.perform("agents", {}, unheard)
    return answered(
        {"object": "list", "data": [_model(one["id"]) for one in found["agents"] if one["kind"] == "agent"]}
    )


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "loket"}


async def _complete(services: Services, asked: Asked) -> Response:
    """An answer, or its pieces. What goes wrong is said in the format that clients of this interface read."""
    try:
        work = services.start(Work(services.perform, *_operation(asked)))
        first = await _first(work)
    except LoketError as error:
        return _failed(error)
    head = {"id": f"chatcmpl-{first['run']}", "created": int(time.time()), "model": asked.body["model"]}
    if asked.body.get("stream"):
        counted = bool((asked.body.get("stream_options") or {}).get("include_usage"))
        return StreamingResponse(_streamed(work, head, counted=counted), media_type="text/event-stream")
    return await _whole(work, head)


def _operation(asked: Asked) -> tuple[str, dict[str, Any]]:
    """The operation that a request means, with its arguments. Raises `BadInput`."""
    unserved = [name for name in _UNSERVED if asked.body.get(name) and asked.body[name] != {"type": "text"}]
    if unserved:
        raise BadInput(
            "openai.field",
            f"agents do not serve `{unserved[0]}`: they have tools of their own, behind grants",
            f"leave `{unserved[0]}` out",
        )
    visitor = asked.visitor
    who = f"openai/{visitor.name}" if visitor is not None and visitor.kind == "token" else None
    return saying(who, asked.body["model"], _said(asked.body["messages"]), _conversation(asked.body))


def _said(messages: list[dict[str, Any]]) -> str:
    """The text of the last message, which has to be the user's. Raises `BadInput`."""
    last = messages[-1]
    said = _text(last)
    if last["role"] != "user" or not said.strip():
        raise BadInput(
            "openai.messages", "the last message is not the user's, or has no text", "end with a user's text"
        )
    return said[:_MOST_TEXT]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    odd = [part["type"] for part in content if part["type"] != "text"]
    if odd:
        raise BadInput("openai.messages", f"a part of a message is of the type {odd[0][:40]!r}", "send texts alone")
    return "\n".join(part.get("text", "") for part in content)


def _conversation(body: Mapping[str, Any]) -> str:
    """A name that all requests of one chat share: what the client says, else the digest of the user's first words."""
    named = "".join(letter for letter in body.get("user") or "" if letter.isprintable())
    if named:
        return f"openai:{named}"
    first = next((_text(one) for one in body["messages"] if one["role"] == "user"), "")
    return f"openai:{hashlib.sha256(first.encode('utf-8', 'replace')).hexdigest()[:_CONVERSATION]}"


async def _first(work: Work) -> dict[str, Any]:
    """The event that says that the message was accepted. Raises what went wrong before."""
    event = await work.mailbox.get()
    if event is None or event[1] != "accepted":
        raise work.error or Refusal("gateway.stopping", "the server stops", "try again later")
    found: dict[str, Any] = json.loads(event[2])
    return found


async def _whole(work: Work, head: Mapping[str, Any]) -> Response:
    while (event := await work.mailbox.get()) is not None:
        if event[1] in ("asking", "behind"):
            return _failed(_waiting(json.loads(event[2])))
        if event[1] == "result":
            value = json.loads(event[2])["value"]
            choice = {"index": 0, "message": {"role": "assistant", "content": value["answer"]}, "finish_reason": "stop"}
            done = {**head, "object": "chat.completion", "choices": [choice], "usage": _usage(value["tokens"])}
            return answered(done)
    return _failed(work.error or Refusal("gateway.stopping", "the server stops", "try again later"))


async def _streamed(work: Work, head: Mapping[str, Any], *, counted: bool) -> AsyncIterator[bytes]:
    """Pieces as they are written; what the answer says beyond them, or instead of them, comes at its end."""
    sent = ""
    yield _chunk(head, {"role": "assistant", "content": ""})
    while not work.mailbox.over:
        event = await work.mailbox.within(HEARTBEAT_S)
        if event is None:
            yield b": waiting\n\n"
            continue
        said = json.loads(event[2])
        if event[1] == "piece":
            sent += said["text"]
            yield _chunk(head, {"content": said["text"]})
        elif event[1] in ("asking", "behind"):
            yield _chunk(head, {"content": f"\n\n[{_waiting(said).message}: {_waiting(said).remedy}]\n\n"})
        elif event[1] == "error":
            yield _line({"error": _shown(said)})
        elif event[1] == "result":
            for chunk in _ended(head, sent, said["value"], counted=counted):
                yield chunk
    yield b"data: [DONE]\n\n"


def _ended(head: Mapping[str, Any], sent: str, value: Mapping[str, Any], *, counted: bool) -> list[bytes]:
    answer = value["answer"]
    rest = answer[len(sent) :] if answer.startswith(sent) else "" if sent.endswith(answer) else f"\n\n{answer}"
    chunks = [_chunk(head, {"content": rest})] if rest else []
    chunks.append(_chunk(head, {}, "stop"))
    if counted:
        chunks.append(
            _line({**head, "object": "chat.completion.chunk", "choices": [], "usage": _usage(value["tokens"])})
        )
    return chunks


def _chunk(head: Mapping[str, Any], delta: Mapping[str, Any], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return _line({**head, "object": "chat.completion.chunk", "choices": [choice]})


def _line(value: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def _usage(tokens: int) -> dict[str, int]:
    """A run's tokens are counted together; they stand as those of the answer."""
    return {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}


def _waiting(event: Mapping[str, Any]) -> LoketError:
    approval = event.get("approval")
    shown = f"loket approvals show {approval}" if approval else f"loket runs show {event['run']}"
    return Refusal("approval.waiting", "the owner has to approve what the agent wants to do", shown, blame="owner")


def _failed(error: LoketError) -> Response:
    status = 409 if error.code == "approval.waiting" else status_of(error)
    return answered({"error": _shown(error.as_dict())}, status)


def _shown(error: Mapping[str, Any]) -> dict[str, Any]:
    remedy = f" ({error['remedy']})" if error.get("remedy") else ""
    return {"message": f"{error['message']}{remedy}", "type": error["kind"], "param": None, "code": error["code"]}


_CHOICES = {"type": "array", "items": {"type": "object"}}
_COMPLETION = given({"id": TEXT, "object": TEXT, "created": shapes.COUNT, "model": TEXT, "choices": _CHOICES})

ROUTES = (
    Endpoint(
        "GET",
        "/v1/models",
        "listModels",
        "Agents, as models of the Chat Completions interface",
        _models,
        door="chat",
        answers={200: listed("data", given({"id": TEXT, "object": TEXT}), object=TEXT)},
    ),
    Endpoint(
        "POST",
        "/v1/chat/completions",
        "complete",
        "Say the last message to an agent (`model`) and answer as a model does, in pieces where `stream` is true",
        _complete,
        door="chat",
        body=_ASKED,
        answers={200: _COMPLETION},
        stream=shapes.EVENTS,
        errors=(404, 409),
    ),
)
