"""The client under the official conformance suite: adds the server whose address is the last argument, and uses it.

What a person would do (open the page of a login, approve tools) is done at once. `MCP_CONFORMANCE_CONTEXT` has, as
JSON, what the scenario gives a client beforehand.
"""

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import threading
import urllib.request
from pathlib import Path
from typing import Any

from loket.contracts import BadInput, LoketError, Refusal
from loket.mcp import names, owner
from mcp_kit import Rig, rig


def opened(url: str) -> None:
    """What a browser does with the address of a login."""
    threading.Thread(target=_get, args=(url,), daemon=True).start()


def _get(url: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as page:  # noqa: S310 - a scenario's own server
        page.read()


def sample(schema: dict[str, Any]) -> Any:
    """A value that a schema may allow."""
    values = {"string": "x", "integer": 1, "number": 1.0, "boolean": True, "array": [], "null": None}
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "object":
        return {name: sample(inner) for name, inner in schema.get("properties", {}).items()}
    return values.get(str(schema.get("type")), "x")


async def answered(_context: Any, params: Any) -> Any:
    """Accept what is asked for, with the values that the question proposes."""
    from mcp_types import ElicitResult

    schema = getattr(params, "requested_schema", None) or {}
    content = {
        name: inner["default"] if "default" in inner else sample(inner)
        for name, inner in schema.get("properties", {}).items()
    }
    return ElicitResult(action="accept", content=content)


def _given(args: dict[str, Any]) -> dict[str, Any]:
    """Arguments that have a value: what is null is left out, as the tools' schemas want it."""
    return {name: value for name, value in args.items() if value is not None}


async def used(made: Rig, wanted: list[dict[str, Any]]) -> None:
    """Approve all tools that can be used, and call each once, or as the scenario wants."""
    for tool in made.servers.table.tools("server"):
        with contextlib.suppress(BadInput):
            await owner.approve_tool(made.servers, "server", tool.name)
    calls = [(names.capability_id("server", one["name"]), _given(one["arguments"])) for one in wanted]
    echo = {tool.name: tool.definition["inputSchema"] for tool in made.servers.table.tools("server")}
    if "json_schema_echo" in echo:
        schema = next(schema for name, schema in echo.items() if name != "json_schema_echo")
        calls.append((names.capability_id("server", "json_schema_echo"), {"schema": schema}))
    for name, args in calls or [(known.id, sample(dict(known.arguments))) for known in made.registry.all()]:
        for _ in range(3):
            try:
                await made.call(name, **args)
                break
            except LoketError as error:
                sys.stderr.write(f"{name}: {error.code} {error.message}\n")
                if error.code != "mcp.login":
                    break
                await made.servers.login("server", opened)


async def main(url: str) -> None:
    context = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
    entry: dict[str, Any] = {"url": url}
    if os.environ.get("MCP_CONFORMANCE_SCENARIO") == "auth/basic-cimd":
        entry["oauth"] = {"client_id": "https://conformance-test.local/client-metadata.json"}
    if "client_id" in context:
        entry["oauth"] = {"client_id": context["client_id"], "client_secret": context.get("client_secret", "")}
    with tempfile.TemporaryDirectory() as home:
        async with rig(Path(home), elicit=answered) as made:
            await made.add("server", entry)
            try:
                await owner.tested(made.servers, "server")
            except Refusal as refusal:
                if refusal.code != "mcp.login":
                    raise
                await made.servers.login("server", opened)
                await owner.tested(made.servers, "server")
            await used(made, context.get("toolCalls", []))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
