"""`/mcp`: Streamable HTTP over the official SDK, in both eras of the protocol, behind the gateway's checks.

A session belongs to the client that began it: the SDK, which is imported at the first request, holds it to that by the
user in the request's scope. There is no authorization server: tokens are made by the owner (`loket token create NAME`)
and are good for this server alone.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from loket.clients import LOCAL, Client
from loket.contracts import LoketError
from loket.gateway.access import Visitor
from loket.gateway.doors import Door, Guarded, visitor_of
from loket.gateway.endpoint import Services
from loket.gateway.errors import answer
from loket.mcp_server.desk import Desk

if TYPE_CHECKING:
    from loket.mcp_server.served import Served

PATH = "/mcp"
CLIENT = "loket.client"
"""Where a request's scope has its client."""


def mcp_door(desk: Desk) -> Door:
    """The door of a desk."""

    def routes(services: Services) -> Iterable[BaseRoute]:
        return (Route(PATH, endpoint=Guarded(services, _Behind(services, desk), "mcp")),)

    return routes


class _Behind:
    """Knows the client of a request that was let in, and hands it on."""

    def __init__(self, services: Services, desk: Desk) -> None:
        self._services = services
        self._desk = desk
        self._served: Served | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope[CLIENT] = await self._client(visitor_of(scope))
            served = await self._ready()
        except LoketError as error:
            await answer(error)(scope, receive, send)
            return
        await served(scope, receive, send)

    async def _client(self, visitor: Visitor) -> Client:
        """By its token; whoever has the home's token is a program of the owner's own machine."""
        if visitor.kind != "token":
            return Client(LOCAL)
        found = await self._services.people.tokens.find(visitor.secret, used=False)
        return Client(visitor.name, found["id"] if found is not None else "gone")

    async def _ready(self) -> "Served":
        if self._served is None:
            from loket.mcp_server.served import Served

            self._served = Served(self._desk)
        await self._served.start()
        return self._served
