"""Further protocols on the same server: their routes stand behind the gateway's own checks.

A door gets the gateway's services and answers with routes; what it serves is `Guarded`, so that nothing behind it ever
sees a request of somebody who was not let in, or a body without a bound.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from loket.contracts import LoketError
from loket.gateway.access import Access, Visitor
from loket.gateway.endpoint import Services, received
from loket.gateway.errors import answer

Door: TypeAlias = Callable[[Services], Iterable[BaseRoute]]
"""Makes the routes of a protocol, once, when the server is made. What is slow to import it imports at first use."""

_VISITOR = "loket.visitor"


class Guarded:
    """An application behind the gateway's doorkeeper; `visitor_of` says who asks."""

    def __init__(self, services: Services, app: ASGIApp, door: str, access: Access = Access.ANY) -> None:
        self._services = services
        self._app = app
        self._door = door
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            scope[_VISITOR] = await self._services.doorkeeper.admit(request, self._access, self._door)
            body = await received(request)
        except LoketError as error:
            await answer(error)(scope, receive, send)
        except ClientDisconnect:  # nobody reads an answer
            return
        else:
            await self._app(scope, _again(body, receive), send)


def visitor_of(scope: Scope) -> Visitor:
    """Who was let in with a request."""
    visitor: Visitor = scope[_VISITOR]
    return visitor


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; then whatever comes, which is the end of the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed


def saying(who: str | None, agent: str, text: str, conversation: str, **more: str) -> tuple[str, dict[str, Any]]:
    """The operation that says something to an agent, with its arguments: in a program's name, or as the owner (None).

    A program's conversations are its own: their names begin with its.
    """
    args = {"agent": agent, "text": text, **more}
    if who is None:
        return "ask", {**args, "conversation": conversation}
    return "clients.ask", {**args, "client_name": who, "conversation": f"{who}:{conversation}"}
