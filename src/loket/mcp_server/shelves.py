"""What a client can read beside tools: resources and prompts, each kind of them on a shelf.

A shelf shows a client what it may have, and takes it from the counter as a call of that client's.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Protocol
from urllib.parse import parse_qs, urlsplit

from loket.clients import Client, granted
from loket.contracts import Json
from loket.mcp_server.calls import Again, Calls

ASK = "agent.ask"
_BRAIN = "brain.search"
_MEMORIES = 100


class Shelf(Protocol):
    """Resources and prompts of one kind. What is not on it is None."""

    def resources(self, client: Client) -> Sequence[Mapping[str, Json]]: ...

    def templates(self, client: Client) -> Sequence[Mapping[str, Json]]: ...

    async def read(self, client: Client, uri: str) -> dict[str, Json] | None: ...

    def mark(self, client: Client, uri: str) -> str | None: ...

    def prompts(self, client: Client) -> Sequence[Mapping[str, Json]]: ...

    async def prompt(
        self, client: Client, name: str, args: Mapping[str, Json], again: Again | None
    ) -> dict[str, Json] | None: ...


def agents_of(calls: Calls, client: Client) -> list[tuple[str, str]]:
    """The agents that a client may ask: id and summary."""
    held = granted(calls.system, client).get(ASK)
    if held is None:
        return []
    chosen = held.get("agents")
    found = [(ref.id, package) for ref, package in calls.system.installed.all() if package.manifest.kind == "agent"]
    return [(name, package.manifest.summary) for name, package in found if chosen is None or name in chosen]


class Brains:
    """The memories of agents, `brain://AGENT/memories`, for who may ask the agent and was granted `brain.search`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def _agents(self, client: Client) -> list[str]:
        if _BRAIN not in granted(self._calls.system, client):
            return []
        return [name for name, _summary in agents_of(self._calls, client)]

    def resources(self, client: Client) -> list[dict[str, Json]]:
        """One resource for each agent."""
        return [
            {
                "uri": f"brain://{name}/memories",
                "name": f"{name}-memories",
                "title": f"What {name} remembers",
                "description": f"The newest {_MEMORIES} memories of the agent {name}, as JSON.",
                "mimeType": "application/json",
            }
            for name in self._agents(client)
        ]

    def templates(self, client: Client) -> list[dict[str, Json]]:
        """Memories that are looked for by words."""
        if not self._agents(client):
            return []
        return [
            {
                "uriTemplate": "brain://{agent}/memories{?query}",
                "name": "memories",
                "title": "Memories by words",
                "description": "The memories of an agent that fit words best, as JSON.",
                "mimeType": "application/json",
            }
        ]

    async def read(self, client: Client, uri: str) -> dict[str, Json] | None:
        """The memories behind an address."""
        parts = urlsplit(uri)
        agent = parts.netloc
        if parts.scheme != "brain" or parts.path != "/memories" or agent not in self._agents(client):
            return None
        query = parse_qs(parts.query).get("query", [""])[0]
        answer = await self._calls.answer(client, _BRAIN, {"query": query, "limit": _MEMORIES}, agent=agent)
        text = json.dumps(answer["memories"], ensure_ascii=False)
        return {"contents": [{"uri": uri, "mimeType": "application/json", "text": text}]}

    def mark(self, client: Client, uri: str) -> str | None:
        """How the agent's file is: its times and sizes."""
        parts = urlsplit(uri)
        if parts.scheme != "brain" or parts.netloc not in self._agents(client):
            return None
        folder = self._calls.system.home.brains
        files = [folder / f"{parts.netloc}.db{end}" for end in ("", "-wal")]
        return " ".join(f"{at.stat().st_mtime_ns}:{at.stat().st_size}" for at in files if at.exists())

    def prompts(self, _client: Client) -> list[dict[str, Json]]:
        """There are none here."""
        return []

    async def prompt(
        self, _client: Client, _name: str, _args: Mapping[str, Json], _again: Again | None
    ) -> dict[str, Json] | None:
        """There are none here."""
        return None
