"""Schedules over HTTP, and the door for webhooks.

`POST /hooks/{id}` is open to whoever can sign with the hook's secret: the bytes of the body are what is signed, so they
are handed on as they came. Like every route it listens on loopback alone; see `docs/schedules.md` for requests from
elsewhere.
"""

import base64

from starlette.responses import Response

from loket.contracts import Refusal
from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, through, unheard
from loket.gateway.shapes import ANY_OBJECT, MAYBE_TEXT, MAYBE_TIME, TEXT, TIME, given, listed, taken, text

HEADER = "loket-signature"

_ID = {"id": text(64, "the schedule's id, or the beginning of it")}
_WHEN: shapes.Schema = {
    **ANY_OBJECT,
    "description": "one of `cron` (with `timezone`), `every_s`, `at`, `file`, `idle_s` and `webhook`",
}

FIRED = given(
    {
        "due": TIME,
        "at": {**TIME, "description": "when it was written down"},
        "run": MAYBE_TEXT,
        "ended": MAYBE_TIME,
        "status": {**TEXT, "description": "waiting, sending, sent, dropped, or how its run ended"},
        "result": {**ANY_OBJECT, "description": "`status`, and `code` and `message` where something went wrong"},
    }
)
SCHEDULE = given(
    {
        "id": TEXT,
        "agent": TEXT,
        "by": {**TEXT, "description": "`owner`, or `agent:NAME`"},
        "what": {**ANY_OBJECT, "description": "`text`; or `call` and `args`; or `backup`"},
        "when": _WHEN,
        "conversation": TEXT,
        "missed": {"enum": ["once", "skip", "all"]},
        "most": {"type": "integer", "description": "unfinished runs of it at a time"},
        "labels": {"type": "array", "items": TEXT},
        "approved": {"type": "boolean", "description": "whether its text counts as the owner's words"},
        "paused": {"type": "boolean"},
        "made": TIME,
        "next": MAYBE_TIME,
        "last": {"type": ["object", "null"], "description": "the last time that it came due"},
        "secret": {**TEXT, "description": "of a webhook; shown when it is made"},
        "path": TEXT,
        "firings": {"type": "array", "items": FIRED},
    },
    *("secret", "path", "firings"),
)
_SECRET = given({"id": TEXT, "secret": TEXT, "path": TEXT})

_NEW = taken(
    {
        "agent": text(64, "the module's id"),
        "when": _WHEN,
        "text": text(20_000, "what is said; it counts as the owner's words"),
        "call": text(128, "a capability that is called in the owner's name, in the place of a text"),
        "args": {**ANY_OBJECT, "description": "its arguments"},
        "conversation": {**text(200, "in which conversation"), "default": "main"},
        "missed": {"enum": ["once", "skip", "all"], "default": "once"},
        "most": {"type": "integer", "minimum": 1, "maximum": 100, "default": 1},
    },
    "agent",
    "when",
)
_PAUSE = taken({"paused": {"type": "boolean", "default": True}})


async def _add(services: Services, asked: Asked) -> Response:
    value = await services.perform("schedules.add", asked.args, unheard)
    return answered(value, 201, {"Location": f"/v1/schedules/{value['id']}"})


async def _hook(services: Services, asked: Asked) -> Response:
    """The body is in `raw`, as it came."""
    signatures = asked.request.headers.getlist(HEADER)
    if len(signatures) != 1:
        raise Refusal(
            "hook.signature",
            f"the header Loket-Signature is there {len(signatures)} times",
            "send it once: t=SECONDS,v1=HMAC-SHA256 of `SECONDS.BODY` in hex",
            blame="owner",
        )
    body = base64.b64encode(asked.body["raw"]).decode()
    args = {"id": asked.params["id"], "signature": signatures[0], "body": body}
    return answered(await services.perform("schedules.hook", args, unheard), 202)


ROUTES = (
    Endpoint(
        "GET",
        "/v1/schedules",
        "listSchedules",
        "Schedules, oldest first",
        through("schedules.list"),
        query={"agent": text(64, "only this agent's")},
        answers={200: listed("schedules", SCHEDULE)},
    ),
    Endpoint(
        "POST",
        "/v1/schedules",
        "addSchedule",
        "Make a schedule: a text for an agent, or a call in the owner's name",
        _add,
        Access.OWNER,
        body=_NEW,
        answers={201: SCHEDULE},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/schedules/{id}",
        "showSchedule",
        "A schedule with its last firings",
        through("schedules.show"),
        params=_ID,
        answers={200: SCHEDULE},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/schedules/{id}",
        "removeSchedule",
        "Remove a schedule; runs that it started go on",
        through("schedules.remove"),
        Access.OWNER,
        params=_ID,
        answers={200: given({"id": TEXT, "removed": {"const": True}})},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/schedules/{id}/pause",
        "pauseSchedule",
        "Pause a schedule, or let it go on",
        through("schedules.pause"),
        Access.OWNER,
        params=_ID,
        body=_PAUSE,
        answers={200: SCHEDULE},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/schedules/{id}/run",
        "runSchedule",
        "Perform a schedule now, and wait for what comes of it",
        through("schedules.run"),
        Access.OWNER,
        params=_ID,
        answers={200: given({**FIRED["properties"], "answer": {"type": ["object", "null"]}}, "answer")},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/schedules/{id}/approve",
        "approveSchedule",
        "Have an agent's schedule speak for the owner",
        through("schedules.approve"),
        Access.OWNER,
        params=_ID,
        answers={200: SCHEDULE},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/schedules/{id}/secret",
        "renewSecret",
        "Make a new secret for a webhook; the one before counts no more",
        through("schedules.secret"),
        Access.OWNER,
        params=_ID,
        answers={200: _SECRET},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/hooks/{id}",
        "takeHook",
        "A request of a webhook, signed with its secret: `Loket-Signature: t=SECONDS,v1=HEX`",
        _hook,
        Access.OPEN,
        params={"id": text(10, "the schedule's id")},
        raw=True,
        answers={202: shapes.ACCEPTED},
        errors=(409, 429),
    ),
)
