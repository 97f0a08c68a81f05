"""The catalogue's plans: requests of several steps as data, made, checked, run and kept."""

from loket.contracts.capability import Capability, Effect, OnUncertain
from loket.contracts.shapes import Schema, closed, words

PLAN_NAME: Schema = {
    "type": "string",
    "pattern": "^[a-z][a-z0-9-]{0,39}$",
    "description": "of a saved plan: small letters, digits and hyphens",
}

_REFERENCE = closed({"$step": words(1_000, about="find.memories[0].text: a part of what a step answered")}, "$step")

_STEP = closed(
    {
        "id": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,39}$"},
        "call": words(128, about="the capability"),
        "args": {"type": "object", "description": "its arguments, with references where values come from steps"},
        "as": {
            "enum": ["reference", "value"],
            "description": "whether the plan's run sees the answer; by need if left out",
        },
        "if": {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "description": "exists, empty, equals, less, more, not, all or any",
        },
        "each": closed(
            {
                "in": _REFERENCE,
                "most": {"type": "integer", "minimum": 1, "maximum": 100},
                "as": {"type": "string", "pattern": "^[a-z][a-z0-9_]{0,39}$", "default": "item"},
            },
            "in",
            "most",
        ),
        "retry": {"type": "integer", "minimum": 0, "maximum": 3, "default": 0},
        "after": {"type": "array", "items": {"type": "string"}},
    },
    "id",
    "call",
)

PLAN = closed(
    {
        "title": words(200, about="what it does, in a few words"),
        "steps": {"type": "array", "items": _STEP, "minItems": 1, "maxItems": 100},
        "answer": {"type": "object", "description": "what comes of it, with references"},
    },
    "title",
    "steps",
)
"""A plan. Names, paths, types and circles are looked at by `plan.check`, which says what is wrong where."""

LONGEST_S = 30 * 86_400.0
"""Seconds that a call which waits for another run may take: as long as a run's token lives. Its own `timeout_s` does
not count the time in which that run waits for the owner."""

_ANY_PLAN: Schema = {"type": "object", "description": "see `plan.check`"}

_PROBLEM = closed(
    {
        "path": {"type": "string"},
        "message": {"type": "string"},
        "remedy": {"type": "string"},
        "refused": {
            "type": "boolean",
            "description": "the plan is sound, and a grant, limit or the policy is against it",
        },
    },
    *("path", "message", "remedy", "refused"),
)
_RULES: Schema = {"type": "array", "items": {"type": "string"}}
_FORESEEN = closed(
    {
        "id": {"type": "string"},
        "call": {"type": "string"},
        "effect": {"type": "string"},
        "as": {"enum": ["reference", "value"]},
        "most": {"type": "integer", "description": "calls, without those that are tried again"},
        "decision": {"enum": ["allow", "ask", "deny"]},
        "certain": {"type": "boolean", "description": "false where it depends on what earlier steps answer"},
        "rules": _RULES,
        "reason": {"type": "string"},
    },
    *("id", "call", "effect", "as", "most", "decision", "certain", "rules", "reason"),
)
_APPROVAL = closed(
    {
        "step": {"type": "string"},
        "call": {"type": "string"},
        "args": {"type": "object"},
        "rules": _RULES,
        "reason": {"type": "string"},
    },
    *("step", "call", "args", "rules", "reason"),
)
REPORT = closed(
    {
        "ok": {"type": "boolean", "description": "whether it may run"},
        "problems": {"type": "array", "items": _PROBLEM},
        "steps": {"type": "array", "items": _FORESEEN, "description": "in the order in which they are done"},
        "approvals": {"type": "array", "items": _APPROVAL, "description": "what the owner will be asked"},
        "calls": {"type": "integer", "minimum": 0, "description": "the most that it makes"},
    },
    *("ok", "problems", "steps", "approvals", "calls"),
)
"""What a check found."""

_DONE: Schema = {
    "type": "object",
    "required": ["id", "call", "status", "attempts", "calls"],
    "properties": {
        "id": {"type": "string"},
        "call": {"type": "string"},
        "status": {"enum": ["done", "skipped", "failed", "not reached"]},
        "attempts": {"type": "integer", "minimum": 0},
        "calls": {"type": "array", "items": {"type": "integer"}, "description": "numbers of its answered calls"},
        "reason": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}, "description": "why it was tried again, or not"},
    },
}

_SAVED = closed(
    {
        "name": PLAN_NAME,
        "title": {"type": "string"},
        "by": {"type": "string", "description": "who saved it: owner, or the agent"},
        "labels": {"type": "array", "items": {"type": "string"}, "description": "where it comes from"},
        "saved": {"type": "string", "format": "date-time"},
    },
    *("name", "title", "by", "labels", "saved"),
)

PLANS: tuple[Capability, ...] = (
    Capability(
        id="plan.make",
        summary="Have the model turn a request into a checked plan; it sees the schemas of the granted tools, no data",
        effect=Effect.MODIFY,
        arguments=closed(
            {
                "request": words(20_000, about="what is wanted"),
                "tools": {
                    "type": "array",
                    "items": words(128),
                    "maxItems": 100,
                    "description": "capabilities to plan with; all that are granted, but kv and llm, if left out",
                },
                "timeout_s": {"type": "number", "minimum": 1, "maximum": 3_600, "default": 600},
            },
            "request",
        ),
        answer=closed(
            {
                "plan": {"type": "object"},
                "check": REPORT,
                "attempts": {"type": "integer", "minimum": 1, "maximum": 3},
                "run": {"type": "string"},
            },
            *("plan", "check", "attempts", "run"),
        ),
        on_uncertain=OnUncertain.DEDUPE,
        timeout_s=LONGEST_S,
        waits=True,
        examples=({"request": "Note what I know about my sister in notes/sister.md"},),
    ),
    Capability(
        id="plan.check",
        summary="Check a whole plan before anything runs: names, types, grants, limits, labels and policy",
        effect=Effect.PRIVATE,
        arguments=closed({"plan": {"type": "object", "description": "see `plan.run`"}}, "plan"),
        answer=REPORT,
        args_kb=1_024,
        waits=True,
        examples=({"plan": {"title": "A", "steps": [{"id": "a", "call": "brain.search", "args": {"query": ""}}]}},),
    ),
    Capability(
        id="plan.run",
        summary="Run a plan, or a saved one by name, as a run of its own with the module's grants, and wait for it",
        effect=Effect.MODIFY,
        arguments={
            **closed(
                {
                    "plan": PLAN,
                    "name": PLAN_NAME,
                    "timeout_s": {"type": "number", "minimum": 1, "maximum": 604_800, "default": 86_400},
                }
            ),
            "oneOf": [{"required": ["plan"]}, {"required": ["name"]}],
        },
        answer=closed(
            {
                "run": {"type": "string"},
                "status": {"enum": ["done", "failed"]},
                "steps": {"type": "array", "items": _DONE, "description": "the strict history, in the order of doing"},
                "answer": {"type": "object"},
                "error": {"type": "object", "description": "of the step that failed"},
            },
            *("run", "status", "steps", "answer"),
        ),
        on_uncertain=OnUncertain.DEDUPE,
        timeout_s=LONGEST_S,
        args_kb=1_024,
        answer_kb=4_096,
        waits=True,
        examples=({"name": "morning"},),
    ),
    Capability(
        id="plan.save",
        summary="Save a plan under a name, in the place of any that was there",
        effect=Effect.MODIFY,
        arguments=closed({"name": PLAN_NAME, "plan": PLAN}, "name", "plan"),
        answer=closed({"name": PLAN_NAME}, "name"),
        critical=("name",),
        on_uncertain=OnUncertain.DEDUPE,
        args_kb=1_024,
        examples=({"name": "morning", "plan": {"title": "Morning", "steps": [{"id": "new", "call": "llm.models"}]}},),
    ),
    Capability(
        id="plan.list",
        summary="List the agent's saved plans, by name",
        effect=Effect.PRIVATE,
        arguments=closed({}),
        answer=closed({"plans": {"type": "array", "items": _SAVED}}, "plans"),
        examples=({},),
    ),
    Capability(
        id="plan.show",
        summary="Show a saved plan",
        effect=Effect.PRIVATE,
        arguments=closed({"name": PLAN_NAME}, "name"),
        answer={**_SAVED, "properties": {**_SAVED["properties"], "plan": _ANY_PLAN}, "required": ["name", "plan"]},
        examples=({"name": "morning"},),
    ),
    Capability(
        id="plan.remove",
        summary="Remove a saved plan",
        effect=Effect.DESTROY,
        arguments=closed({"name": PLAN_NAME}, "name"),
        answer=closed({"existed": {"type": "boolean"}}, "existed"),
        critical=("name",),
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"name": "morning"},),
    ),
)
