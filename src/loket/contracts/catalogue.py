"""The catalogue: every capability of the stock distribution, declared once.

Documents (`docs/capabilities.md`), argument checks, defaults and policy names are derived from it. A capability that
changes becomes a new version beside the old one (`brain.search@2`); nothing is ever redefined.
"""

from collections.abc import Mapping

from loket.contracts.capability import Capability, Constraint, Effect, OnUncertain
from loket.contracts.catalogue_channel import CHANNELS
from loket.contracts.catalogue_exec import EXEC
from loket.contracts.catalogue_plan import PLANS
from loket.contracts.catalogue_schedule import SCHEDULES
from loket.contracts.catalogue_skill import SKILLS
from loket.contracts.catalogue_tools import TOOLS
from loket.contracts.records import ArgType, Data, Rows
from loket.contracts.shapes import Schema, closed, words

KINDS = ["episode", "fact", "correction", "lesson", "procedure"]

MEMORY_ID: Schema = {"type": "integer", "minimum": 1, "maximum": 2**53, "description": "id of a memory"}

NEW_MEMORY = closed(
    {
        "text": words(20_000, about="what to remember, in words"),
        "kind": {"enum": KINDS, "default": "episode"},
        "subject": words(200, about="whom or what it is about"),
        "key": words(200, about="which property of the subject; one live fact for each (subject, key)"),
        "speaker": {**words(200, about="who said it"), "examples": ["user", "agent", "owner"]},
        "gist": words(2_000, about="one line that says the same in other words; searched as well"),
        "note": words(4_000, about="a caption or other text that belongs to it; searched as well"),
        "happened": {"type": "string", "format": "date-time", "description": "when it happened; now if left out"},
    },
    "text",
)

MEMORY = closed(
    {
        "id": MEMORY_ID,
        "text": {"type": "string"},
        "kind": {"enum": KINDS},
        "subject": {"type": ["string", "null"]},
        "key": {"type": ["string", "null"]},
        "speaker": {"type": ["string", "null"]},
        "score": {"type": "number", "description": "higher is better; 0 in a history"},
        "source": {"type": "string", "description": "who stored it, written by the host"},
        "run": {"type": "string", "description": "the run that stored it"},
        "labels": {"type": "array", "items": {"type": "string"}},
        "created": {"type": "string", "format": "date-time"},
        "happened": {"type": "string", "format": "date-time"},
        "replaced_by": {"type": ["integer", "null"], "description": "the memory that superseded it"},
        "closed": {"type": ["string", "null"], "description": "when it was superseded"},
    },
    "id",
    "text",
    "kind",
    "score",
    "source",
    "run",
    "labels",
    "created",
)

TOOL_CALL = closed(
    {"id": {"type": "string"}, "name": {"type": "string"}, "arguments": {"type": "object"}}, "id", "name", "arguments"
)

MESSAGE = closed(
    {
        "role": {"enum": ["system", "user", "assistant", "tool"]},
        "content": {"type": "string", "maxLength": 200_000},
        "tool_calls": {"type": "array", "items": TOOL_CALL, "maxItems": 32},
        "tool_call_id": {"type": "string", "maxLength": 200},
    },
    "role",
    "content",
)

TOOL = closed(
    {
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
        "description": {"type": "string", "maxLength": 4_000},
        "parameters": {"type": "object"},
    },
    "name",
    "description",
    "parameters",
)

TOKENS = closed({"in": {"type": "integer", "minimum": 0}, "out": {"type": "integer", "minimum": 0}}, "in", "out")

KEY = {"type": "string", "minLength": 1, "maxLength": 512, "description": "key, private to the agent"}

PREFIXES = (Constraint("prefixes", "key"),)

MEMORIES = Rows(
    "memory",
    "memories[]",
    id="id",
    minted={"created": "date"},
    text={"text": "speaker"},
    keys=("subject", "key", "text"),
    maker="labels",
    nouns=("memory", "memories"),
)
"""A memory is the owner's own where its labels say nothing but `owner`."""

A_MEMORY = Data(types={"id": ArgType("object", kind="memory")})
A_KEY = Data(types={"key": ArgType("text", lenient=True)})

STOCK: tuple[Capability, ...] = (
    Capability(
        id="brain.add",
        summary="Remember: store memories in the agent's own brain",
        effect=Effect.MODIFY,
        arguments=closed({"items": {"type": "array", "items": NEW_MEMORY, "minItems": 1, "maxItems": 64}}, "items"),
        answer=closed({"ids": {"type": "array", "items": MEMORY_ID}}, "ids"),
        on_uncertain=OnUncertain.DEDUPE,
        args_kb=1024,
        examples=({"items": [{"text": "Ana is the owner's sister", "kind": "fact", "subject": "Ana", "key": "is"}]},),
    ),
    Capability(
        id="brain.search",
        summary="Recall: find memories by words, best first",
        effect=Effect.PRIVATE,
        arguments=closed(
            {
                "query": words(4_000, least=0, about="words to look for; empty lists the newest"),
                "limit": {"type": "integer", "minimum": 1, "maximum": 200, "default": 10},
                "kinds": {"type": "array", "items": {"enum": KINDS}, "minItems": 1, "maxItems": 5},
                "subject": words(200, about="only memories about this subject"),
                "key": words(200, about="only this property of the subject"),
                "as_of": {"type": "string", "format": "date-time", "description": "what was believed at that time"},
                "history": {"type": "boolean", "default": False, "description": "superseded memories as well"},
                "conversation": {"type": "boolean", "default": False, "description": "only of this conversation"},
            },
            "query",
        ),
        answer=closed({"memories": {"type": "array", "items": MEMORY}}, "memories"),
        examples=({"query": "sister", "limit": 5},),
        data=Data(rows=(MEMORIES,), listing={"query": "", "limit": 200}),
    ),
    Capability(
        id="brain.correct",
        summary="Correct a memory: the new text supersedes the old one, which stays in the history",
        effect=Effect.MODIFY,
        arguments=closed({"id": MEMORY_ID, "text": words(20_000), "gist": words(2_000)}, "id", "text"),
        answer=closed({"id": MEMORY_ID, "replaced": MEMORY_ID}, "id", "replaced"),
        critical=("id",),
        data=A_MEMORY,
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"id": 7, "text": "Ana lives in Utrecht now"},),
    ),
    Capability(
        id="brain.forget",
        summary="Forget: remove the text of a memory and of its history from the brain and its index",
        effect=Effect.DESTROY,
        arguments=closed({"id": MEMORY_ID}, "id"),
        answer=closed({"forgotten": {"type": "array", "items": MEMORY_ID}}, "forgotten"),
        critical=("id",),
        data=A_MEMORY,
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"id": 7},),
    ),
    Capability(
        id="brain.lesson",
        summary="Store a lesson: what failed, why, and what to do instead",
        effect=Effect.MODIFY,
        arguments=closed(
            {
                "text": words(4_000, about="the lesson"),
                "cause": words(2_000, about="why it failed"),
                "remedy": words(2_000, about="what to do instead"),
                "about": words(200, about="the capability or topic it belongs to"),
            },
            "text",
        ),
        answer=closed({"id": MEMORY_ID}, "id"),
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"text": "Ask for kv.get with a key that was set before", "about": "kv.get"},),
    ),
    Capability(
        id="brain.history",
        summary="Show a memory with all that it superseded and all that superseded it, oldest first",
        effect=Effect.PRIVATE,
        arguments=closed({"id": MEMORY_ID}, "id"),
        answer=closed({"memories": {"type": "array", "items": {"type": "object"}}}, "memories"),
        answer_kb=16 * 1024,
        examples=({"id": 7},),
    ),
    Capability(
        id="brain.export",
        summary="List all memories with every column, in the order in which they were stored, a page at a time",
        effect=Effect.PRIVATE,
        arguments=closed(
            {
                "after": {
                    "type": "integer",
                    "minimum": 0,
                    "maximum": 2**53,
                    "default": 0,
                    "description": "go on after this id",
                },
                "limit": {"type": "integer", "minimum": 1, "maximum": 500, "default": 200},
            }
        ),
        answer=closed({"memories": {"type": "array", "items": {"type": "object"}}}, "memories"),
        answer_kb=16 * 1024,
        examples=({"after": 0, "limit": 200},),
    ),
    Capability(
        id="llm.complete",
        summary="Ask a language model to continue a conversation; the owner's settings choose which",
        effect=Effect.FETCH,
        arguments=closed(
            {
                "messages": {"type": "array", "items": MESSAGE, "minItems": 1, "maxItems": 500},
                "tools": {"type": "array", "items": TOOL, "maxItems": 128},
                "max_tokens": {"type": "integer", "minimum": 1, "maximum": 32_768},
                "temperature": {"type": "number", "minimum": 0, "maximum": 2},
                "stream": {
                    "type": "boolean",
                    "default": False,
                    "description": "show the text to whoever waits for the answer while it is written",
                },
            },
            "messages",
        ),
        answer=closed(
            {
                "text": {"type": "string"},
                "tool_calls": {"type": "array", "items": TOOL_CALL},
                "model": {"type": "string"},
                "finish": {"enum": ["stop", "length", "tool_calls"]},
                "tokens": TOKENS,
            },
            "text",
            "tool_calls",
            "model",
            "finish",
            "tokens",
        ),
        on_uncertain=OnUncertain.REPEAT,
        timeout_s=300.0,
        args_kb=1024,
        waits=True,
        examples=({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 64},),
    ),
    Capability(
        id="llm.extract",
        summary="Read fields of a schema out of a text that somebody else wrote; pass the text as a reference, unseen",
        effect=Effect.FETCH,
        arguments=closed(
            {
                "text": words(200_000, about="the text, as a rule a reference to it"),
                "schema": {"type": "object", "description": "JSON Schema of an object: the fields that are wanted"},
                "about": words(2_000, about="what is wanted, in words"),
                "max_tokens": {"type": "integer", "minimum": 1, "maximum": 32_768},
            },
            "text",
            "schema",
        ),
        answer=closed(
            {"value": {"type": "object", "description": "fits the schema"}, "model": {"type": "string"}},
            "value",
            "model",
        ),
        on_uncertain=OnUncertain.REPEAT,
        timeout_s=300.0,
        args_kb=1024,
        waits=True,
        examples=(
            {
                "text": "12.50 EUR",
                "schema": {"type": "object", "properties": {"eur": {"type": "number"}}},
            },
        ),
    ),
    Capability(
        id="llm.models",
        summary="Which model would answer, and what it can do; empty where there is none",
        effect=Effect.READ,
        arguments=closed({}),
        answer=closed(
            {
                "models": {
                    "type": "array",
                    "items": closed(
                        {
                            "name": {"type": "string"},
                            "local": {"type": "boolean"},
                            "tools": {"type": "boolean", "description": "whether it can call tools"},
                            "context": {"type": "integer", "minimum": 1, "description": "tokens that fit"},
                        },
                        "name",
                        "local",
                        "tools",
                        "context",
                    ),
                }
            },
            "models",
        ),
        examples=({},),
    ),
    Capability(
        id="kv.get",
        summary="Read a value that the agent stored under a key",
        effect=Effect.PRIVATE,
        arguments=closed({"key": KEY}, "key"),
        answer=closed({"found": {"type": "boolean"}, "value": {}}, "found", "value"),
        constraints=PREFIXES,
        examples=({"key": "last-visit"},),
    ),
    Capability(
        id="kv.set",
        summary="Store a JSON value under a key",
        effect=Effect.MODIFY,
        arguments=closed({"key": KEY, "value": {"description": "any JSON value"}}, "key", "value"),
        answer=closed({}),
        critical=("key",),
        data=A_KEY,
        on_uncertain=OnUncertain.DEDUPE,
        constraints=PREFIXES,
        examples=({"key": "last-visit", "value": {"day": "2026-11-21"}},),
    ),
    Capability(
        id="kv.delete",
        summary="Remove a key and its value",
        effect=Effect.DESTROY,
        arguments=closed({"key": KEY}, "key"),
        answer=closed({"existed": {"type": "boolean"}}, "existed"),
        critical=("key",),
        data=A_KEY,
        on_uncertain=OnUncertain.DEDUPE,
        constraints=PREFIXES,
        examples=({"key": "last-visit"},),
    ),
    Capability(
        id="kv.list",
        summary="List keys, in order, by prefix",
        effect=Effect.PRIVATE,
        arguments=closed(
            {
                "prefix": {"type": "string", "maxLength": 512, "default": ""},
                "after": {"type": "string", "maxLength": 512, "description": "go on after this key"},
                "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
            }
        ),
        answer=closed({"keys": {"type": "array", "items": {"type": "string"}}}, "keys"),
        constraints=(Constraint("prefixes", "prefix"),),
        examples=({"prefix": "visit/", "limit": 10},),
    ),
    Capability(
        id="clock.now",
        summary="The time; one reading between two other calls",
        effect=Effect.READ,
        arguments=closed({}),
        answer=closed({"seconds": {"type": "number", "description": "seconds since 1970-01-01T00:00Z"}}, "seconds"),
        side=True,
        examples=({},),
    ),
    Capability(
        id="random.bytes",
        summary="Random bytes, from one seed a run",
        effect=Effect.READ,
        arguments=closed({"n": {"type": "integer", "minimum": 1, "maximum": 65_536}}, "n"),
        answer=closed({"hex": {"type": "string", "pattern": "^([0-9a-f]{2})+$"}}, "hex"),
        side=True,
        examples=({"n": 16},),
    ),
    Capability(
        id="log.write",
        summary="Write a line to the run's log",
        effect=Effect.READ,
        arguments=closed(
            {
                "text": {"type": "string", "maxLength": 65_536},
                "level": {"enum": ["debug", "info", "warning", "error"], "default": "info"},
            },
            "text",
        ),
        answer=closed({}),
        side=True,
        examples=({"text": "started", "level": "info"},),
    ),
    *TOOLS,
    *PLANS,
    *SCHEDULES,
    *SKILLS,
    *EXEC,
    *CHANNELS,
)

BY_ID: Mapping[str, Capability] = {capability.id: capability for capability in STOCK}
