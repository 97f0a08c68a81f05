"""The catalogue's clockwork: what an agent has done later, and how a run waits."""

from loket.contracts.capability import Capability, Effect, OnUncertain
from loket.contracts.records import ArgType, Data, Rows
from loket.contracts.shapes import Schema, closed, words

_ID: Schema = {"type": "string", "pattern": "^[0-9a-f]{10}$", "description": "of a schedule"}
_ZONE = words(64, about="IANA name of a time zone; this machine's if left out")
_MOST_S = 316_224_000
_WHEN: Schema = {
    **closed(
        {
            "cron": words(200, about="minute, hour, day, month, day of the week: 30 8 * * mon-fri"),
            "timezone": _ZONE,
            "every_s": {"type": "integer", "minimum": 1, "maximum": _MOST_S, "description": "seconds between two runs"},
            "at": words(64, about="once, at a date with a time of day (ISO 8601)"),
            "file": words(200, about="when a file below the agent's folder changed: inbox/*.pdf"),
            "idle_s": {
                "type": "integer",
                "minimum": 1,
                "maximum": _MOST_S,
                "description": "when the agent has done nothing for so many seconds",
            },
            "webhook": {"const": True, "description": "when a request comes; only the owner can make such a schedule"},
        }
    ),
    "description": "one of cron, every_s, at, file, idle_s and webhook",
    "minProperties": 1,
}
_TIME: Schema = {"type": ["string", "null"], "description": "ISO 8601; null where it is not known, or there is none"}

SCHEDULED = closed(
    {
        "id": _ID,
        "text": {"type": "string"},
        "when": {"type": "object"},
        "conversation": {"type": "string"},
        "missed": {"enum": ["once", "skip", "all"]},
        "paused": {"type": "boolean"},
        "by": {"type": "string", "description": "who made it: owner, or the agent"},
        "next": _TIME,
        "last": {
            "type": ["object", "null"],
            "properties": {"at": _TIME, "status": {"type": "string"}},
            "description": "the last time that it came due",
        },
    },
    *("id", "text", "when", "conversation", "missed", "paused", "by", "next", "last"),
)

_ROWS = Rows(
    "schedule",
    "schedules[]",
    id="id",
    minted={"next": "date"},
    text={"text": "by"},
    keys=("text",),
    maker="by",
    nouns=("schedule", "schedules", "reminder", "reminders"),
)
_ONE = Data(types={"id": ArgType("object", kind="schedule")})

SCHEDULES: tuple[Capability, ...] = (
    Capability(
        id="schedule.create",
        summary="Have a message said to this agent later: at times, at intervals, or when something happens",
        effect=Effect.MODIFY,
        arguments=closed(
            {
                "text": words(20_000, about="the message"),
                "when": _WHEN,
                "conversation": {**words(200, about="in which conversation"), "default": "main"},
                "missed": {
                    "enum": ["once", "skip", "all"],
                    "default": "once",
                    "description": "times that were missed: one run for all, none, or one each (the last hundred)",
                },
                "most": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": 100,
                    "default": 1,
                    "description": "unfinished runs of it at a time",
                },
            },
            "text",
            "when",
        ),
        answer=closed({"id": _ID, "next": _TIME}, "id", "next"),
        critical=("text", "when"),
        data=Data(
            types={
                "text": ArgType("text"),
                "when": ArgType(
                    "struct",
                    fields={
                        "at": ArgType("date"),
                        "every_s": ArgType("number"),
                        "idle_s": ArgType("number"),
                        "file": ArgType("path"),
                        "timezone": ArgType("name", lenient=True),
                        "webhook": ArgType("flag"),
                    },
                ),
            }
        ),
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"text": "What is new?", "when": {"cron": "0 8 * * *", "timezone": "Europe/Berlin"}},),
    ),
    Capability(
        id="schedule.list",
        summary="List the schedules of this agent, oldest first",
        effect=Effect.PRIVATE,
        arguments=closed({}),
        answer=closed({"schedules": {"type": "array", "items": SCHEDULED}}, "schedules"),
        data=Data(rows=(_ROWS,), listing={}),
        examples=({},),
    ),
    Capability(
        id="schedule.pause",
        summary="Pause a schedule that the agent made, or let it go on",
        effect=Effect.MODIFY,
        arguments=closed({"id": _ID, "paused": {"type": "boolean", "default": True}}, "id"),
        answer=closed({"id": _ID, "paused": {"type": "boolean"}, "next": _TIME}, "id", "paused", "next"),
        critical=("id",),
        data=_ONE,
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"id": "0a1b2c3d4e"},),
    ),
    Capability(
        id="schedule.remove",
        summary="Remove a schedule that the agent made",
        effect=Effect.DESTROY,
        arguments=closed({"id": _ID}, "id"),
        answer=closed({"id": _ID, "text": {"type": "string"}}, "id", "text"),
        critical=("id",),
        data=_ONE,
        on_uncertain=OnUncertain.DEDUPE,
        examples=({"id": "0a1b2c3d4e"},),
    ),
    Capability(
        id="clock.sleep",
        summary="Wait, for seconds or until a time; the run holds nothing meanwhile, and a restart changes nothing",
        effect=Effect.READ,
        arguments={
            **closed(
                {
                    "seconds": {"type": "number", "minimum": 0, "maximum": 2_592_000},
                    "until": {"type": "string", "format": "date-time"},
                }
            ),
            "oneOf": [{"required": ["seconds"]}, {"required": ["until"]}],
        },
        answer=closed({"until": {"type": "string", "format": "date-time"}}, "until"),
        timeout_s=2_595_600.0,
        waits=True,
        examples=({"seconds": 60}, {"until": "2026-11-22T08:00:00+01:00"}),
    ),
)
