"""The routes of the owner's account, its sessions and its API tokens."""

from starlette.responses import Response

from loket.contracts import Refusal
from loket.gateway import shapes
from loket.gateway.access import Access, Visitor
from loket.gateway.endpoint import Asked, Endpoint, Services, answered
from loket.gateway.sessions import COOKIE, DOORS, LONGEST_S, MOST_DAYS, TOKEN_NAME, Session
from loket.gateway.shapes import NAME, PASSWORD, TEXT, given, listed, taken, text


async def _set_up(services: Services, asked: Asked) -> Response:
    await services.people.accounts.set_up(**asked.body)
    return answered({"name": await services.people.accounts.name()}, 201)


async def _log_in(services: Services, asked: Asked) -> Response:
    secret, session = await services.people.sessions.begin(**asked.body)
    response = answered(await _shown(services, session), 201)
    _set_cookie(response, secret, int(LONGEST_S))
    return response


async def _session(services: Services, asked: Asked) -> Response:
    return answered(await _shown(services, _of(asked).session))


async def _log_out(services: Services, asked: Asked) -> Response:
    await services.people.sessions.end(_of(asked).secret)
    response = Response(status_code=204)
    _set_cookie(response, "", 0)
    return response


async def _change(services: Services, asked: Asked) -> Response:
    """Who has the home need not know the old password; whoever sits at an open browser does."""
    old = asked.body.get("old")
    if old is None and asked.visitor is not None and asked.visitor.kind != "home":
        raise Refusal("login.wrong", "the old password is missing", "add `old`", blame="owner")
    await services.people.accounts.change(asked.body["password"], old)
    response = Response(status_code=204)
    _set_cookie(response, "", 0)
    return response


async def _tokens(services: Services, _asked: Asked) -> Response:
    return answered({"tokens": await services.people.tokens.all()})


async def _make_token(services: Services, asked: Asked) -> Response:
    return answered(
        await services.people.tokens.make(asked.body["name"], asked.body.get("days"), asked.body.get("doors", ())), 201
    )


async def _revoke_token(services: Services, asked: Asked) -> Response:
    await services.people.tokens.revoke(asked.params["id"])
    return Response(status_code=204)


async def _shown(services: Services, session: Session | None) -> dict[str, object]:
    name = await services.people.accounts.name()
    return {"name": name, "began": session.began, "ends": session.ends} if session else {"name": name}


def _of(asked: Asked) -> Visitor:
    """The visitor of a session. Raises `Refusal` for all others: they have none to show or to end."""
    if asked.visitor is None or asked.visitor.kind != "session":
        raise Refusal("gateway.session", "the request has no session", "POST /v1/session", blame="owner")
    return asked.visitor


def _set_cookie(response: Response, secret: str, seconds: int) -> None:
    # No `Secure`: this is plain HTTP on loopback, where nothing crosses a network, and Safari keeps no `Secure` cookie
    # of http://127.0.0.1. `Strict` keeps it out of requests that other sites cause; other ports of this machine are
    # the same site, which is why `access.py` looks at the origin as well.
    response.set_cookie(COOKIE, secret, max_age=seconds, path="/", secure=False, httponly=True, samesite="strict")


_LOGIN = taken({"name": NAME, "password": PASSWORD}, "name", "password")
_SETUP = taken(
    {"code": text(64, "what `loket up` printed"), "name": NAME, "password": PASSWORD}, "code", "name", "password"
)
_CHANGE = taken({"password": PASSWORD, "old": {**PASSWORD, "description": "the one until now"}}, "password")
_NEW = taken(
    {
        "name": {**text(64, "what it is for"), "pattern": TOKEN_NAME},
        "days": {
            "type": ["number", "null"],
            "exclusiveMinimum": 0,
            "maximum": MOST_DAYS,
            "description": "until it expires",
        },
        "doors": {
            "type": "array",
            "items": {"enum": list(DOORS)},
            "uniqueItems": True,
            "description": "what it opens; left out or empty: all",
        },
    },
    "name",
)

ROUTES = (
    Endpoint(
        "POST",
        "/v1/setup",
        "setUp",
        "Make the owner's account, once, with the code of `loket up`",
        _set_up,
        Access.OPEN,
        body=_SETUP,
        secret=True,
        answers={201: given({"name": TEXT})},
        errors=(403, 409, 429),
    ),
    Endpoint(
        "POST",
        "/v1/session",
        "logIn",
        "Begin a session: sets the cookie",
        _log_in,
        Access.OPEN,
        body=_LOGIN,
        secret=True,
        answers={201: shapes.SESSION},
        errors=(401, 409, 429),
    ),
    Endpoint(
        "GET",
        "/v1/session",
        "showSession",
        "The session of this cookie",
        _session,
        Access.OWNER,
        answers={200: shapes.SESSION},
    ),
    Endpoint("DELETE", "/v1/session", "logOut", "End the session", _log_out, Access.OWNER, answers={204: None}),
    Endpoint(
        "PUT",
        "/v1/account/password",
        "changePassword",
        "Change the password: ends all sessions",
        _change,
        Access.OWNER,
        body=_CHANGE,
        secret=True,
        answers={204: None},
        errors=(409, 429),
    ),
    Endpoint(
        "GET",
        "/v1/tokens",
        "listTokens",
        "API tokens, never their secrets",
        _tokens,
        Access.OWNER,
        answers={200: listed("tokens", shapes.TOKEN)},
    ),
    Endpoint(
        "POST",
        "/v1/tokens",
        "makeToken",
        "Make an API token: its secret is shown this once",
        _make_token,
        Access.OWNER,
        body=_NEW,
        answers={201: shapes.NEW_TOKEN},
        errors=(409,),
    ),
    Endpoint(
        "DELETE",
        "/v1/tokens/{id}",
        "revokeToken",
        "Revoke an API token",
        _revoke_token,
        Access.OWNER,
        params={"id": text(64, "the token's id")},
        answers={204: None},
        errors=(404,),
    ),
)
