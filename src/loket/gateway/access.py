"""Who sends a request: the owner's own commands, a session in a browser, or a program with an API token."""

import hmac
from dataclasses import dataclass
from enum import StrEnum
from http.cookies import CookieError, SimpleCookie

from starlette.requests import Request

from loket.contracts import LoketError, Refusal
from loket.gateway.sessions import COOKIE, Session, Sessions, Tokens


class Access(StrEnum):
    """Who may ask for a route."""

    OPEN = "open"
    """Anybody on this machine."""
    ANY = "any"
    """A session, an API token, or who has the home's token."""
    OWNER = "owner"
    """A session, or who has the home's token: a token that leaks makes no further ones."""
    HOME = "home"
    """Who has the home's token: the command line."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Whose request it is: `kind` is `home`, `session` or `token`.

    `name` is that of the token, and `doors` what it opens; empty: all.
    """

    kind: str
    secret: str
    session: Session | None = None
    name: str = ""
    doors: tuple[str, ...] = ()


_ADMITTED = {
    Access.ANY: ("home", "session", "token"),
    Access.OWNER: ("home", "session"),
    Access.HOME: ("home",),
}

_READS = frozenset({"GET", "HEAD"})


class Doorkeeper:
    """Knows the home's token, and whom to ask about the others. Without `sessions` and `tokens` there are none."""

    def __init__(self, home_token: str, sessions: Sessions | None, tokens: Tokens | None) -> None:
        self._home = home_token.encode()
        self._sessions = sessions
        self._tokens = tokens

    async def admit(self, request: Request, access: Access, door: str = "api") -> Visitor | None:
        """The visitor of a route behind a door; None at an open one. Raises `Refusal`."""
        if access is Access.OPEN:
            return None
        visitor = await self._visitor(request)
        if visitor.kind not in _ADMITTED[access]:
            raise _not_enough(visitor, access)
        if visitor.doors and door not in visitor.doors:
            made_for = " and ".join(visitor.doors)
            remedy = f"loket token create NAME --for {door}"
            raise Refusal("gateway.access", f"this token is for {made_for}, not for {door}", remedy, blame="owner")
        return visitor

    async def still(self, visitor: Visitor) -> bool:
        """Whether a visitor who is here would be let in again; it does not count as use."""
        if visitor.kind == "session" and self._sessions is not None:
            return await self._sessions.find(visitor.secret, used=False) is not None
        if visitor.kind == "token" and self._tokens is not None:
            return await self._tokens.find(visitor.secret, used=False) is not None
        return True

    async def _visitor(self, request: Request) -> Visitor:
        given = request.headers.get("authorization")
        if given is not None:
            return await self._bearer(given)
        cookies = _cookies(request)
        if not cookies:
            raise _no_token()
        if len(cookies) > 1:  # another server on this machine may set cookies for ours, as ports do not part them
            raise _session(f"the cookie {COOKIE} is there twice")
        _check_forged(request)
        session = await self._sessions.find(cookies[0], used=True) if self._sessions is not None else None
        if session is None:
            raise _session("the session has ended")
        return Visitor("session", cookies[0], session)

    async def _bearer(self, given: str) -> Visitor:
        scheme, _, secret = given.partition(" ")
        if scheme.lower() == "bearer":
            if hmac.compare_digest(secret.encode(), self._home):
                return Visitor("home", secret)
            found = await self._tokens.find(secret, used=True) if self._tokens is not None else None
            if found is not None:
                return Visitor("token", secret, name=found["name"], doors=tuple(found["doors"]))
        raise _no_token()


def _cookies(request: Request) -> list[str]:
    """The values of our cookie, also where it is there more than once."""
    found: list[str] = []
    for part in request.headers.get("cookie", "").split(";"):
        try:
            jar = SimpleCookie(part.strip())
        except CookieError:
            continue
        found += [morsel.value for name, morsel in jar.items() if name == COOKIE]
    return found


def _check_forged(request: Request) -> None:
    """A cookie comes along with what other pages send too (CSRF; other ports of this machine are the same *site*).

    A request that changes something has to say that it comes from our own page: by its `Origin`, which is checked
    already, or by `Sec-Fetch-Site`, which no page can set. One that only reads must not say otherwise.

    Raises `Refusal`.
    """
    site = request.headers.get("sec-fetch-site")
    said = site == "same-origin" or (site is None and "origin" in request.headers)
    if said or (request.method in _READS and site in (None, "none")):
        return
    raise Refusal(
        "gateway.forged",
        "a request with a cookie has to come from a page of this server's own",
        "send the header `Origin`, or use an API token: loket token create NAME",
        blame="owner",
    )


def _not_enough(visitor: Visitor, access: Access) -> LoketError:
    who = "an API token" if visitor.kind == "token" else "a session"
    remedy = "log in, or use the command line" if access is Access.OWNER else "use the command line"
    return Refusal("gateway.access", f"{who} is not enough for this", remedy, blame="owner")


def _no_token() -> LoketError:
    return Refusal(
        "gateway.token",
        "the request carries no valid token",
        "loket token create NAME, then send it as `Authorization: Bearer TOKEN`; or POST /v1/session",
        blame="owner",
    )


def _session(message: str) -> LoketError:
    return Refusal("gateway.session", message, "POST /v1/session with name and password", blame="owner")
