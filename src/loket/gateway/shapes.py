"""JSON Schemas (2020-12) of what the HTTP API takes and answers. Answers may grow: their objects are open."""

from typing import Any

from loket.contracts import RunStatus

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TIME: Schema = {"type": "number", "description": "seconds since 1970 (UTC)"}
MAYBE_TIME: Schema = {"type": ["number", "null"], "description": "seconds since 1970 (UTC)"}
MAYBE_TEXT: Schema = {"type": ["string", "null"]}
COUNT: Schema = {"type": "integer", "minimum": 0}
ANY_OBJECT: Schema = {"type": "object"}
STATUS: Schema = {"type": "string", "enum": [status.value for status in RunStatus]}


def text(most: int, about: str, least: int = 1) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most, "description": about}


def taken(properties: Schema, *required: str) -> Schema:
    """An object that is sent to us: unknown fields are errors."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def given(properties: Schema, *optional: str) -> Schema:
    """An object that we answer with; what is not `optional` is always there."""
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def listed(name: str, item: Schema, **more: Schema) -> Schema:
    return given({name: {"type": "array", "items": item}, **more})


ERROR = given(
    {
        "error": given(
            {
                "kind": {"enum": ["refusal", "failure", "ended", "input", "damaged"]},
                "code": {**TEXT, "description": "stable and dotted, such as `agent.unknown`"},
                "message": {**TEXT, "description": "a sentence that names the field and the reason"},
                "remedy": {**MAYBE_TEXT, "description": "the exact line or command that would help"},
                "blame": {"enum": ["owner", "module", "provider", "machine"]},
                "run": TEXT,
            },
            "run",
        )
    }
)

NAME = text(64, "the owner's name")
PASSWORD: Schema = {"type": "string", "description": "at least 10 characters", "format": "password"}
ACCEPTED = given({"run": {**TEXT, "description": "the run's id"}})
SESSION = given({"name": TEXT, "began": TIME, "ends": {**TIME, "description": "when it ends if it is not used again"}})
TOKEN = given(
    {
        "id": TEXT,
        "name": TEXT,
        "made": TIME,
        "expires": MAYBE_TIME,
        "used": MAYBE_TIME,
        "doors": {"type": "array", "items": TEXT, "description": "what it opens; empty: all"},
    }
)
NEW_TOKEN = given({**TOKEN["properties"], "secret": {**TEXT, "description": "shown this once"}})

RUN = given(
    {
        "id": TEXT,
        "agent": TEXT,
        "status": STATUS,
        "conversation": MAYBE_TEXT,
        "operation": TEXT,
        "accepted": TIME,
        "ended": MAYBE_TIME,
        "answer": {"type": ["object", "null"]},
        "error": {"type": ["object", "null"]},
        "calls": COUNT,
        "tokens": COUNT,
        "money": {"type": "number", "description": "US dollars"},
        "erased": {"type": "boolean"},
    }
)
RUN_SHOWN = given({**RUN["properties"], "rows": {"type": "array", "items": given({"seq": COUNT, "kind": TEXT})}})
RUNS = listed("runs", RUN, next={**MAYBE_TEXT, "description": "`before` of the next page"})
STOPPED = given({"run": TEXT, "status": STATUS})
VERIFIED = given(
    {
        "ok": {"type": "boolean"},
        "verified": COUNT,
        "erased": COUNT,
        "failed": COUNT,
        "failures": {"type": "array", "items": given({"run": TEXT, "reason": TEXT})},
        "journal": given({"ok": {"type": "boolean"}, "faults": {"type": "array"}}),
    }
)
_NAMES: Schema = {"type": "array", "items": TEXT}
AGENT = given(
    {
        "id": TEXT,
        "version": TEXT,
        "kind": TEXT,
        "publisher": TEXT,
        "summary": TEXT,
        "digest": TEXT,
        "granted": _NAMES,
        "asks": _NAMES,
    }
)
AGENTS = listed("agents", AGENT, unreadable={"type": "array", "items": given({"id": TEXT, "error": ANY_OBJECT})})
CAPABILITY = given({"id": TEXT, "effect": TEXT, "summary": TEXT, "critical": _NAMES, "on_uncertain": TEXT})
CAPABILITY_SHOWN = given({**CAPABILITY["properties"], "arguments": ANY_OBJECT, "answer": ANY_OBJECT})
CAPABILITIES = listed("capabilities", CAPABILITY)
GRANT = given(
    {
        "agent": TEXT,
        "publisher": TEXT,
        "capability": TEXT,
        "constraints": ANY_OBJECT,
        "by": TEXT,
        "at": TIME,
        "reason": TEXT,
    }
)
GRANTS = listed("grants", GRANT)
REVOKED = given({"agent": TEXT, "capability": TEXT, "revoked": {"const": True}})
MEMORIES = listed("memories", given({"id": {"type": "integer"}, "text": TEXT, "kind": TEXT, "source": TEXT}))
STATE = given({"version": TEXT, "home": TEXT, "agents": _NAMES, "unfinished": COUNT})
HEALTH = given({"status": {"enum": ["ok", "starting"]}})
EVENTS: Schema = {
    "type": "string",
    "description": "server-sent events: `event` is the type (accepted, state, call, piece, withdrawn, asking, behind,"
    " dropped, end, error), `data` a JSON object, `id` a number. `end` carries `status`, `answer` and `error`; `asking`"
    " and `behind` the id of the `approval` that the run waits for, where it is one.",
}
LINES: Schema = {"type": "string", "description": "JSON objects, a line each; the last one is a `result` or an `error`"}
