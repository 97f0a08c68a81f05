"""Channels over HTTP, for the panel, and the door for the requests of webhook channels.

`POST /channels/{name}` is open to whoever can sign with the channel's secret: the bytes of the body are what is signed,
so they are handed on as they came. Like every route it listens on loopback alone; a program elsewhere reaches it
through a tunnel or a proxy of the owner's.
"""

import base64

from starlette.responses import Response

from loket.contracts import Refusal
from loket.gateway import shapes
from loket.gateway.access import Access
from loket.gateway.endpoint import Asked, Endpoint, Services, through, unheard
from loket.gateway.shapes import ANY_OBJECT, COUNT, MAYBE_TEXT, MAYBE_TIME, TEXT, TIME, given, listed, taken, text

_MOST_HEADERS = 64
_LONGEST_HEADER = 4_000

_NAME = {"name": text(41, "the channel's name")}
_FIELDS: shapes.Schema = {
    "type": "object",
    "description": "name to text; those of secret fields go into the vault",
    "additionalProperties": text(500, "its value", 0),
    "maxProperties": 16,
}
_PRIVATE: shapes.Schema = {
    "type": "array",
    "items": text(260, "HOST:PORT"),
    "maxItems": 16,
    "description": "places of this machine or network that it may reach",
}
_BOOLEAN: shapes.Schema = {"type": "boolean"}
_FIELD = given(
    {
        "name": TEXT,
        "label": TEXT,
        "secret": _BOOLEAN,
        "required": _BOOLEAN,
        "help": TEXT,
        "value": {**MAYBE_TEXT, "description": "null for a secret"},
        "set": _BOOLEAN,
    }
)
_HEALTH = given(
    {
        "state": {"enum": ["off", "starting", "connected", "failing"]},
        "connected": MAYBE_TIME,
        "error": {"type": ["object", "null"], "description": "the last one, with `at`"},
        "translations": {**COUNT, "description": "runs of the module since it was switched on"},
        "queued": COUNT,
        "failed": COUNT,
        "unanswered": COUNT,
        "reason": {**MAYBE_TEXT, "description": "why the newest answer that failed did"},
    }
)
CARD = given(
    {
        "name": TEXT,
        "module": TEXT,
        "agent": TEXT,
        "wire": MAYBE_TEXT,
        "enabled": _BOOLEAN,
        "fields": {"type": "array", "items": _FIELD},
        "hosts": {"type": "array", "items": TEXT},
        "private": {"type": "array", "items": TEXT},
        "pairings": COUNT,
        "health": _HEALTH,
    }
)
_CODE = given(
    {"code": TEXT, "channel": TEXT, "sender": TEXT, "name": TEXT, "made": TIME, "expires": TIME},
)
_PAIRING = given({"channel": TEXT, "sender": TEXT, "name": TEXT, "speaks": TEXT, "at": TIME})
_PAIRED = given({"channel": TEXT, "sender": TEXT, "name": TEXT, "speaks": TEXT, "warning": MAYBE_TEXT})
_TESTED = given({"name": TEXT, "ok": _BOOLEAN, "said": TEXT, "remedy": MAYBE_TEXT})
_REMOVED = given({"name": TEXT, "removed": {"const": True}, "secrets": COUNT, "pairings": COUNT})
_NEW = taken(
    {
        "module": text(41, "the installed channel module"),
        "agent": text(64, "whom people talk to"),
        "fields": _FIELDS,
        "private": _PRIVATE,
        "name": text(41, "the module's if left out"),
        "enabled": {**_BOOLEAN, "default": True},
    },
    "module",
    "agent",
)
_CHANGES = taken({"fields": _FIELDS, "private": _PRIVATE, "agent": text(64, "whom people talk to")})
_APPROVE = taken(
    {
        "code": text(40, "what the sender was told"),
        "speaks": {"enum": ["sender", "owner", "user"], "default": "sender"},
        "user": text(64, "which user"),
    },
    "code",
)


async def _hook(services: Services, asked: Asked) -> Response:
    """The body is in `raw`, as it came."""
    headers = {name: value for name, value in asked.request.headers.items() if len(value) <= _LONGEST_HEADER}
    if len(headers) > _MOST_HEADERS:
        raise Refusal("channel.headers", "there are too many headers", f"send at most {_MOST_HEADERS}", blame="owner")
    args = {
        "name": asked.params["name"],
        "headers": headers,
        "query": dict(asked.request.query_params),
        "body": base64.b64encode(asked.body["raw"]).decode(),
    }
    value = await services.perform("channels.hook", args, unheard)
    return Response(value["body"].encode(), value["status"], media_type="application/json")


ROUTES = (
    Endpoint(
        "GET",
        "/v1/channels",
        "listChannels",
        "Channels with their cards, and the installed channel modules",
        through("channels.list"),
        answers={
            200: given(
                {"channels": {"type": "array", "items": CARD}, "modules": {"type": "array", "items": ANY_OBJECT}}
            )
        },
    ),
    Endpoint(
        "POST",
        "/v1/channels",
        "addChannel",
        "Set a channel up and switch it on",
        through("channels.add"),
        Access.OWNER,
        body=_NEW,
        secret=True,
        answers={200: CARD},
    ),
    Endpoint(
        "GET",
        "/v1/channels/{name}",
        "showChannel",
        "A channel's card",
        through("channels.show"),
        params=_NAME,
        answers={200: CARD},
        errors=(404,),
    ),
    Endpoint(
        "PATCH",
        "/v1/channels/{name}",
        "changeChannel",
        "Change fields, the agent, or the private places that it may reach",
        through("channels.set"),
        Access.OWNER,
        params=_NAME,
        body=_CHANGES,
        secret=True,
        answers={200: CARD},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/channels/{name}",
        "removeChannel",
        "Remove a channel with its secrets and pairings",
        through("channels.remove"),
        Access.OWNER,
        params=_NAME,
        answers={200: _REMOVED},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/channels/{name}/enable",
        "enableChannel",
        "Switch a channel on or off",
        through("channels.enable"),
        Access.OWNER,
        params=_NAME,
        body=taken({"enabled": {**_BOOLEAN, "default": True}}),
        answers={200: CARD},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/v1/channels/{name}/test",
        "testChannel",
        "Try a channel's fields at the other side",
        through("channels.test"),
        Access.OWNER,
        params=_NAME,
        answers={200: _TESTED},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/channel-codes",
        "listCodes",
        "Senders who wait for the owner's word",
        through("channels.codes"),
        answers={200: listed("codes", _CODE)},
    ),
    Endpoint(
        "POST",
        "/v1/channel-codes",
        "approveCode",
        "Let the sender of a code in: as a sender, as the owner, or as a user",
        through("channels.approve"),
        Access.OWNER,
        body=_APPROVE,
        answers={200: _PAIRED},
        errors=(404,),
    ),
    Endpoint(
        "GET",
        "/v1/channel-pairings",
        "listPairings",
        "Who may speak, and as whom",
        through("channels.pairings"),
        query=_NAME,
        answers={200: listed("pairings", _PAIRING)},
        errors=(404,),
    ),
    Endpoint(
        "DELETE",
        "/v1/channel-pairings/{name}/{sender}",
        "removePairing",
        "Take a sender's pairing back",
        through("channels.unpair"),
        Access.OWNER,
        params={**_NAME, "sender": text(200, "the sender's id")},
        answers={200: given({"channel": TEXT, "sender": TEXT, "removed": {"const": True}})},
        errors=(404,),
    ),
    Endpoint(
        "POST",
        "/channels/{name}",
        "takeChannelRequest",
        "A request of a webhook channel, signed as its module declares",
        _hook,
        Access.OPEN,
        params=_NAME,
        raw=True,
        answers={200: None, 202: None},
        errors=(429,),
    ),
)
