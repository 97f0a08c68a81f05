"""What a client of the Model Context Protocol finds here, as the protocol's own objects: tools, resources and prompts.

It says nothing of transports and versions: `door.py` (HTTP, over the official SDK) and `lines.py` (a line of bytes)
serve it. Whatever it does for a client is a call at the counter; a client that was granted nothing sees nothing.
"""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket import __version__
from loket.app import Loket
from loket.clients import Client, granted
from loket.contracts import BadInput, Capability, Failed, Json, LoketError, Refusal
from loket.mcp_server.calls import INPUT, NEEDS, Again, Calls, Tell
from loket.mcp_server.shelves import ASK, Brains, Shelf, agents_of

NAME = "loket"
TITLE = "Loket"
VERSION = __version__

ERA_2025 = "2025-11-25"
ERA_2026 = "2026-07-28"

LONGEST = 64
"""Characters of a tool's name that every client takes."""

WATCH_S = 1.0
"""Seconds between looks whether what clients follow has changed."""

TTL_MS = 5_000
"""Milliseconds for which a client may keep a list: the owner's grants count from the next call on anyway."""

LACKING = -32021
"""JSON-RPC: `MissingRequiredClientCapabilityError`."""

NOT_FOUND = -32602
"""JSON-RPC: what was named is not there (2026-07-28; MCP before it said -32002 of resources)."""

_ASK_PREFIX = "ask_"
_ASK_S = 600
_REQUIRES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}
"""What a client must be able to, to be asked so."""

Shelves: TypeAlias = Callable[[Calls], Sequence[Shelf]]
Naming: TypeAlias = Callable[[str], str]
"""A capability's id to the name of its tool."""


class Unknown(BadInput):
    """What a client named is not there: an error of the protocol, while errors of calls are results."""


class Lacking(Refusal):
    """A call needs what the client does not offer: `capabilities`, in the protocol's words."""

    def __init__(self, capabilities: Sequence[str]) -> None:
        self.capabilities = tuple(capabilities)
        said = ", ".join(capabilities)
        super().__init__("mcp.capability", f"this needs {said}, which the client does not offer", "use another client")


def plain_name(capability: str) -> str:
    """The name of a capability's tool: clients take letters, digits, underscores and hyphens."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", capability)


@dataclass(frozen=True, slots=True)
class _Tool:
    capability: str
    shown: dict[str, Json]
    fixed: Mapping[str, Json]
    """Arguments that the tool's name stands for."""


class Desk:
    """What clients find and do. Used from the system's event loop. `key` signs what clients keep for us."""

    def __init__(
        self,
        system: Loket,
        key: bytes,
        *,
        shelves: Shelves = lambda calls: [Brains(calls)],
        naming: Naming = plain_name,
    ) -> None:
        self.system = system
        self.calls = Calls(system, key)
        self._shelves = tuple(shelves(self.calls))
        self._naming = naming

    # Tools

    def tools(self, client: Client) -> list[dict[str, Json]]:
        """`tools/list`: an `ask_AGENT` for each agent that it may ask, and its granted capabilities."""
        return [tool.shown for tool in self._tools(client).values()]

    def _tools(self, client: Client) -> dict[str, _Tool]:
        found: dict[str, _Tool] = {}
        for agent, summary in agents_of(self.calls, client):
            _put(found, f"{_ASK_PREFIX}{agent}", ASK, {"agent": agent}, _ask_tool(agent, summary))
        for name in sorted(granted(self.system, client)):
            entry = self.system.registry.get(name)
            if entry is not None and name != ASK and not entry.capability.side:
                _put(found, self._naming(name), name, {}, _tool(entry.capability))
        return found

    async def call(
        self,
        client: Client,
        name: str,
        args: Mapping[str, Json],
        *,
        again: Again | None = None,
        tell: Tell | None = None,
        able: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """`tools/call`: a `CallToolResult`, or an `InputRequiredResult` where the capability needs more.

        `able` is what the client can do. Refusals and failures are results with `isError`. Raises `Unknown`, and
        `Lacking` where the client cannot give what the call needs.
        """
        tool = self._tools(client).get(name) or await self._not_listed(client, name)
        given = dict(args)
        conversation = given.pop("conversation", None) if tool.fixed else None
        if conversation is not None and not isinstance(conversation, str):
            raise Unknown("arguments.invalid", "conversation is no text", '"conversation": "main"')
        sent = self.calls.again(client, tool.capability, {**given, **tool.fixed}, again)
        place = f"mcp:{conversation or 'main'}"[:150] if tool.fixed else None
        try:
            answer = await self.calls.answer(client, tool.capability, sent, conversation=place, tell=tell)
        except LoketError as error:
            return _failed(error)
        if NEEDS in answer:
            return self._needs(client, tool.capability, answer[NEEDS], able)
        return _result(answer)

    async def _not_listed(self, client: Client, name: str) -> _Tool:
        """A tool that the client has no grant for is refused with the line that would allow it, where it exists."""
        for known in self.system.registry.all():
            if not known.side and self._naming(known.id) == name:
                return _Tool(known.id, {}, {})
        if name.startswith(_ASK_PREFIX) and name.removeprefix(_ASK_PREFIX) in self.system.installed.names():
            return _Tool(ASK, {}, {"agent": name.removeprefix(_ASK_PREFIX)})
        have = ", ".join(self._tools(client)) or f"none; `loket grants allow {client.ref.id} CAPABILITY` gives some"
        raise Unknown("mcp.tool", f"Unknown tool: {name[:80]}", f"tools: {have[:500]}")

    def _needs(
        self, client: Client, capability: str, needs: Mapping[str, Json], able: Mapping[str, Json] | None
    ) -> dict[str, Json]:
        """What is still needed, of what the client can give."""
        wanted: Mapping[str, Mapping[str, Json]] = needs.get("requests") or {}
        can = {
            key: request
            for key, request in wanted.items()
            if able is None or able.get(_REQUIRES.get(request["method"], "")) is not None
        }
        if wanted and not can:
            raise Lacking(sorted({_REQUIRES[request["method"]] for request in wanted.values()}))
        result: dict[str, Json] = {"resultType": "input_required", "inputRequests": can}
        if "state" in needs:
            result["requestState"] = self.calls.sealed(client, capability, needs["state"])
        return result

    # Resources and prompts

    def resources(self, client: Client) -> list[dict[str, Json]]:
        """`resources/list`."""
        return [dict(one) for shelf in self._shelves for one in shelf.resources(client)]

    def templates(self, client: Client) -> list[dict[str, Json]]:
        """`resources/templates/list`."""
        return [dict(one) for shelf in self._shelves for one in shelf.templates(client)]

    async def read(self, client: Client, uri: str) -> dict[str, Json]:
        """`resources/read`. Raises `Unknown`, and what the counter says."""
        for shelf in self._shelves:
            found = await shelf.read(client, uri)
            if found is not None:
                return found
        raise Unknown("mcp.resource", f"Resource not found: {uri[:200]}", "resources/list")

    def prompts(self, client: Client) -> list[dict[str, Json]]:
        """`prompts/list`."""
        return [dict(one) for shelf in self._shelves for one in shelf.prompts(client)]

    async def prompt(
        self,
        client: Client,
        name: str,
        args: Mapping[str, Json],
        again: Again | None = None,
        able: Mapping[str, Json] | None = None,
    ) -> dict[str, Json]:
        """`prompts/get`. Raises `Unknown`, and what the counter says."""
        for shelf in self._shelves:
            found = await shelf.prompt(client, name, args, again)
            if found is not None:
                return self._needs(client, f"prompt {name}", found[NEEDS], able) if NEEDS in found else found
        raise Unknown("mcp.prompt", f"Unknown prompt: {name[:80]}", "prompts/list")

    # Changes

    def mark(self, client: Client, uri: str) -> str:
        """Changes when what is behind an address may have."""
        return next((mark for shelf in self._shelves if (mark := shelf.mark(client, uri)) is not None), "")

    def state_of(self, client: Client) -> str:
        """Changes when the lists of a client do."""
        lists = [self.tools(client), self.resources(client), self.prompts(client)]
        return hashlib.sha256(json.dumps(lists, sort_keys=True).encode()).hexdigest()


def instructions(client: Client | None = None) -> str:
    """What a client's model is told of the server."""
    name = client.ref.id if client is not None else "client:NAME"
    return (
        "Loket runs the owner's agents. A tool ask_AGENT sends a message to an agent and waits for its answer; all "
        "other tools are capabilities that the owner granted. What is refused can be allowed by the owner alone: "
        f"loket grants allow {name} CAPABILITY"
    )


def _put(
    found: dict[str, _Tool], name: str, capability: str, fixed: Mapping[str, Json], shown: dict[str, Json]
) -> None:
    if len(name) > LONGEST or name in found:
        mark = hashlib.sha256(capability.encode()).hexdigest()[:8]
        name = f"{name[: LONGEST - 9]}_{mark}"
    found[name] = _Tool(capability, {"name": name, **shown}, fixed)


def _ask_tool(agent: str, summary: str) -> dict[str, Json]:
    return {
        "title": f"Ask {agent}",
        "description": f"Send a message to the agent {agent} and wait for its answer. {summary}".strip(),
        "inputSchema": {
            "type": "object",
            "properties": {
                "text": {"type": "string", "minLength": 1, "description": "the message"},
                "conversation": {
                    "type": "string",
                    "maxLength": 100,
                    "description": "which conversation goes on; without it, one that this client always uses",
                },
                "timeout_s": {"type": "number", "minimum": 1, "maximum": 3_600, "default": _ASK_S},
            },
            "required": ["text"],
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": False, "openWorldHint": True},
    }


def _tool(capability: Capability) -> dict[str, Json]:
    """A capability as a tool; the argument by which it is asked again is not the model's."""
    schema = dict(capability.arguments)
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and NEEDS in json.dumps(capability.answer):
        schema["properties"] = {name: about for name, about in properties.items() if name != INPUT}
    changes = capability.effect.changes
    return {
        "description": capability.summary,
        "inputSchema": {"type": "object", **schema},
        "annotations": {"readOnlyHint": not changes, "destructiveHint": capability.effect.value == "destroy"},
    }


def _result(answer: Mapping[str, Json]) -> dict[str, Json]:
    """An answer as a `CallToolResult`: one that is made of content blocks as it is, a text as a text, else its JSON."""
    content = answer.get("content")
    if isinstance(content, list) and all(isinstance(block, Mapping) and "type" in block for block in content):
        kept = {key: answer[key] for key in ("structuredContent", "isError", "_meta") if key in answer}
        return {"content": content, **kept}
    text = answer.get("text")
    said = text if isinstance(text, str) else json.dumps(answer, ensure_ascii=False)
    return {"content": [{"type": "text", "text": said}], "structuredContent": dict(answer), "isError": False}


def _failed(error: LoketError) -> dict[str, Json]:
    """A refusal or a failure, for the model to read: what happened, and what would help."""
    shown: dict[str, Any] = {**error.as_dict(), **({"run": error.run} if error.run else {})}
    text = f"{error.code}: {error.message}" + (f" ({error.remedy})" if error.remedy else "")
    return {
        "content": [{"type": "text", "text": text}],
        "structuredContent": {"error": shown},
        "isError": True,
        "_meta": {"loket/failed": isinstance(error, Failed)},
    }


def progress_of(event: Mapping[str, Any]) -> str:
    """An event of a run as a sentence for who waits; empty for what is not for them."""
    kind = event["type"]
    if kind == "piece":
        return str(event["text"])[:300]
    if kind == "call":
        return f"{event['capability']}: {event.get('decision', 'done')}"
    if kind in ("asking", "behind"):
        what = event.get("capability") or "what happened"
        return f"waits for the owner's word about {what}: loket approvals list"
    return str(event.get("text", ""))[:300] if kind == "log" else ""
