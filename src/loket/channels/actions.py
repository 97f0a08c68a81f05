"""What a translation answers, checked by one schema and decoded into types: a module is somebody else's code."""

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from loket.channels.frames import Actions, Beat, Mail, Request, Response
from loket.contracts import ChannelMessage, Failed, Json

Schema: TypeAlias = dict[str, Any]

LONGEST_TEXT = 100_000
"""Characters of a message, either way."""
LONGEST_FRAME = 1 << 20
"""Characters of a frame, a request's body or a response's."""
_MOST_STATE = 64 << 10
_MOST_CONTEXT = 4 << 10


def _closed(properties: Schema, *required: str) -> Schema:
    """An object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _words(most: int, *, least: int = 1) -> Schema:
    """A text with so many characters."""
    return {"type": "string", "minLength": least, "maxLength": most}


_ANY: Schema = {"type": "object"}
_ID = _words(128)
_FRAME: Schema = {"type": "string", "maxLength": LONGEST_FRAME}
_MESSAGE = _closed(
    {
        "id": _ID,
        "sender": {**_words(200), "pattern": r"^\S+$"},
        "name": _words(200, least=0),
        "conversation": _words(160),
        "text": _words(LONGEST_TEXT, least=0),
        "reply_to": _words(200, least=0),
        "direct": {"type": "boolean"},
        "context": _ANY,
    },
    *("id", "sender", "conversation", "text"),
)
_REQUEST = _closed(
    {
        "method": {"enum": ["GET", "POST", "PUT", "PATCH", "DELETE"]},
        "url": _words(8_192),
        "headers": {"type": "object", "maxProperties": 32, "additionalProperties": _words(4_000, least=0)},
        "body": _FRAME,
        "json": {},
        "tag": _words(64, least=0),
        "quiet": _ANY,
        "done": _ANY,
        "timeout_s": {"type": "number", "minimum": 1, "maximum": 120},
    },
    *("method", "url"),
)
_MAIL = _closed(
    {
        "to": _words(320),
        "subject": _words(998, least=0),
        "text": _words(LONGEST_TEXT, least=0),
        "id": _words(250),
        "in_reply_to": _words(998, least=0),
        "references": {"type": "array", "items": _words(998), "maxItems": 100},
    },
    *("to", "subject", "text", "id"),
)
ACTIONS: Schema = _closed(
    {
        "messages": {"type": "array", "items": _MESSAGE, "maxItems": 200},
        "requests": {"type": "array", "items": _REQUEST, "maxItems": 8},
        "frames": {"type": "array", "items": _FRAME, "maxItems": 16},
        "connect": _words(2_000),
        "beat": _closed(
            {"every_s": {"type": "number", "minimum": 5}, "frame": _FRAME, "ack": _ANY}, "every_s", "frame"
        ),
        "reconnect": {"type": "boolean"},
        "mail": _MAIL,
        "timer_s": {"type": "number", "minimum": 1, "maximum": 86_400},
        "state": _ANY,
        "response": _closed(
            {
                "status": {"type": "integer", "minimum": 200, "maximum": 599},
                "body": _FRAME,
                "hold_s": {"type": "number", "minimum": 0, "maximum": 55},
            },
            "status",
        ),
        "delivered": {"type": "boolean"},
        "retry_s": {"type": "number", "minimum": 0, "maximum": 86_400},
        "failed": _words(500),
    }
)
"""The answer of `inbound` and of `outbound`, as a JSON Schema."""


class Decoder:
    """Decodes answers. `compile_check` makes of a JSON Schema what says what is wrong with a value."""

    def __init__(self, compile_check: Callable[[Mapping[str, Any]], Callable[[Any], str | None]]) -> None:
        self._check = compile_check(ACTIONS)

    def decode(self, module: str, answer: Mapping[str, Json]) -> Actions:
        """The actions. Raises `Failed` (`channel.answer`) where an answer is none, or too large."""
        wrong = self._check(dict(answer)) or _too_large(answer)
        if wrong is not None:
            raise Failed(
                "channel.answer",
                f"{module} answered what no translation may: {wrong[:300]}",
                "mend the module: docs/channels.md says what it answers",
                blame="module",
            )
        return _decoded(answer)


def _too_large(answer: Mapping[str, Json]) -> str | None:
    if len(json.dumps(answer.get("state"))) > _MOST_STATE:
        return f"state has more than {_MOST_STATE >> 10} KiB"
    if any(len(json.dumps(one.get("context", {}))) > _MOST_CONTEXT for one in answer.get("messages", ())):
        return f"a context has more than {_MOST_CONTEXT >> 10} KiB"
    names = [word for one in answer.get("messages", ()) for word in (one["id"], one["sender"], one["conversation"])]
    return next((f"{name!r} holds what cannot be printed" for name in names if not name.isprintable()), None)


def _decoded(answer: Mapping[str, Json]) -> Actions:
    plain = {
        name: answer[name]
        for name in ("connect", "reconnect", "timer_s", "state", "delivered", "retry_s", "failed")
        if name in answer
    }
    return Actions(
        messages=tuple(ChannelMessage(**one) for one in answer.get("messages", ())),
        requests=tuple(_request(one) for one in answer.get("requests", ())),
        frames=tuple(answer.get("frames", ())),
        beat=Beat(**answer["beat"]) if "beat" in answer else None,
        mail=_mail(answer["mail"]) if "mail" in answer else None,
        response=Response(**{"body": "", **answer["response"]}) if "response" in answer else None,
        **plain,
    )


def _request(one: Mapping[str, Json]) -> Request:
    return Request(**{"headers": {}, "body": "", **one})


def _mail(one: Mapping[str, Json]) -> Mail:
    return Mail(**{**one, "references": tuple(one.get("references", ()))})


def says(body: Json, wanted: Mapping[str, Json], *, whole: bool) -> bool:
    """Whether a JSON body says what a pattern does, in which `null` stands for anything.

    With `whole` it may have no other keys than the pattern's, and may lack some; else it has all of them, and others.
    """
    if not isinstance(body, dict):
        return False
    names = body.keys() if whole else wanted.keys()
    return all(name in body and name in wanted and _same(body[name], wanted[name], whole) for name in names)


def _same(body: Json, wanted: Json, whole: bool) -> bool:
    if wanted is None:
        return True
    return says(body, wanted, whole=whole) if isinstance(wanted, dict) else bool(body == wanted)


def decoded_json(text: str) -> Json:
    """A text as JSON, or None where it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
