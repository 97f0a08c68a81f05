"""The routes of approvals. An API token may look, and the owner decides: a program must not approve for its agents."""

from starlette.responses import Response

from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, answered, through, unheard
from loket.gateway.shapes import ANY_OBJECT, MAYBE_TEXT, MAYBE_TIME, TEXT, TIME, given, listed, taken, text

_ID = {"id": text(64, "the approval's id, or the beginning of it")}
_NAMES: shapes.Schema = {"type": "array", "items": TEXT}

APPROVAL = given(
    {
        "id": TEXT,
        "run": TEXT,
        "root": TEXT,
        "agent": TEXT,
        "conversation": MAYBE_TEXT,
        "capability": TEXT,
        "ordinal": {"type": "integer", "description": "the call's number in its run"},
        "status": {"enum": ["open", "allowed", "denied", "expired", "withdrawn", "passed"]},
        "asked": TIME,
        "until": {**TIME, "description": "when it is denied if nobody has decided"},
        "args": {"type": ["object", "null"], "description": "the call's exact values; null where the run was erased"},
        "critical": _NAMES,
        "labels": {**ANY_OBJECT, "description": "where each argument comes from"},
        "origins": {**ANY_OBJECT, "description": "of each critical argument: `origin` and `why`"},
        "rules": {**_NAMES, "description": "ids of the rules that asked"},
        "reason": MAYBE_TEXT,
        "seen": {**_NAMES, "description": "labels of all that the run had seen"},
        "decided": MAYBE_TIME,
        "used": {**MAYBE_TIME, "description": "when the call was made"},
        "decision": {"type": ["object", "null"], "description": "`verdict`, `scope`, `by`, `reason`, `rule`"},
        "erased": {"type": "boolean"},
        "chain": {
            "type": "array",
            "items": given({"run": TEXT, "agent": TEXT}),
            "description": "the run that asks, the one that waits for it, and so on",
        },
        "rule": {**TEXT, "description": "the rule that the scope `rule` would save; shown for one that waits"},
    },
    "rule",
)

_DECISION = taken(
    {
        "decision": {"enum": ["allow", "deny"]},
        "scope": {"enum": ["once", "run", "rule"], "default": "once"},
        "reason": text(2000, "what the agent is told of a denial", 0),
        "rule": text(20_000, "a narrower rule than the one that is proposed"),
    },
    "decision",
)


async def _decide(services: Services, asked: Asked) -> Response:
    value = await services.perform("approvals.decide", {"ids": [asked.params["id"]], **asked.body}, unheard)
    return answered(value["approvals"][0])


ROUTES = (
    Endpoint(
        "GET",
        "/v1/approvals",
        "listApprovals",
        "Questions that wait for the owner, oldest first",
        through("approvals.list"),
        query={
            "run": text(64, "only those of this run, and of the runs that came of it"),
            "agent": text(64, "only this agent's"),
            "limit": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
        },
        answers={200: listed("approvals", APPROVAL)},
        errors=(404, 409),
    ),
    Endpoint(
        "GET",
        "/v1/approvals/{id}",
        "showApproval",
        "A question with the exact call, where its values come from, and the rule that it proposes",
        through("approvals.show"),
        params=_ID,
        answers={200: APPROVAL},
        errors=(404, 409),
    ),
    Endpoint(
        "POST",
        "/v1/approvals/{id}",
        "decideApproval",
        "Allow or deny a call that waits",
        _decide,
        Access.OWNER,
        params=_ID,
        body=_DECISION,
        answers={200: APPROVAL},
        errors=(404, 409),
    ),
)
