"""The routes of A2A: a card, JSON-RPC and REST for each agent, made at the first request for it.

    /.well-known/agent-card.json            the card of the agent `main`
    /a2a/AGENT/.well-known/agent-card.json  the card of an agent
    /a2a/AGENT/                             JSON-RPC
    /a2a/AGENT/v1/message:send, ...         REST

The SDK is imported at the first request, as few homes use it.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from loket.a2a.words import WELL_KNOWN
from loket.contracts import BadInput, Failed, LoketError
from loket.gateway.access import Access
from loket.gateway.doors import Guarded
from loket.gateway.endpoint import Services, unheard
from loket.gateway.errors import answer

if TYPE_CHECKING:
    from starlette.applications import Starlette

DEFAULT_AGENT = "main"


def a2a_door(services: Services) -> Iterable[BaseRoute]:
    """The door's routes."""
    agents = _Agents(services)
    return (
        Route(WELL_KNOWN, _main_card, methods=["GET"]),
        Mount("/a2a/{agent}", app=_Parted(services, agents)),
    )


async def _main_card(_request: Request) -> Response:
    return RedirectResponse(f"/a2a/{DEFAULT_AGENT}{WELL_KNOWN}", 307)


class _Parted:
    """Cards are for anybody on this machine, as the protocol wants; all else is for who was let in."""

    def __init__(self, services: Services, agents: "_Agents") -> None:
        self._open = Guarded(services, agents, "a2a", Access.OPEN)
        self._closed = Guarded(services, agents, "a2a")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_card = scope["method"] == "GET" and scope["path"].endswith(WELL_KNOWN)
        await (self._open if is_card else self._closed)(scope, receive, send)


class _Agents:
    """The application of each agent, made when it is first asked for, and anew when the agent has changed."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._made: dict[str, tuple[str, Starlette]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            app = await self._app(scope["path_params"]["agent"])
        except LoketError as error:
            await answer(error)(scope, receive, send)
        else:
            await app(scope, receive, send)

    async def _app(self, agent: str) -> "Starlette":
        found = await self._services.perform("agents", {}, unheard)
        about = next((one for one in found["agents"] if one["id"] == agent and one["kind"] == "agent"), None)
        if about is None:
            self._made.pop(agent, None)
            raise BadInput("agent.unknown", f"there is no agent {agent[:80]!r}", "loket agents")
        digest = f"{about['version']} {about['digest']}"
        if agent not in self._made or self._made[agent][0] != digest:
            self._made[agent] = (digest, _application(self._services, about))
        return self._made[agent][1]


def _application(services: Services, about: dict[str, str]) -> "Starlette":
    try:
        from loket.a2a.application import application
    except ImportError as error:
        raise Failed(
            "a2a.missing", f"the A2A library is not installed ({error.name})", "pip install 'loket[a2a]'", blame="owner"
        ) from None
    return application(services, about)
