"""A home with the suite's capabilities, served at `/mcp` as `loket up` serves it, to the client of one token.

The suite cannot send a token, so whoever comes without one here gets the client's; all other checks are the gateway's.
Prints its port.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import fixture
import uvicorn

from live import free_port
from loket import clients
from loket.app import running
from loket.gateway.http import Gateway, make_server
from loket.home import Home
from loket.mcp_server.desk import Desk
from loket.mcp_server.door import mcp_door
from loket.operations import Operations
from loket.server import api_of


def with_token(app: Any, secret: str) -> Any:
    """The application, which takes a request without a token as the client's."""

    async def serve(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and all(name != b"authorization" for name, _ in scope["headers"]):
            headers = [*scope["headers"], (b"authorization", f"Bearer {secret}".encode())]
            scope = {**scope, "headers": headers}
        await app(scope, receive, send)

    return serve


async def main(folder: Path) -> None:
    home = Home(folder)
    async with running(home) as system, api_of(home) as api:
        system.registry.put("module:conformance", fixture.capabilities(), fixture.handlers())
        made = await api.tokens.make("suite", None)
        for known in fixture.capabilities():
            clients.allow(system, "suite", known.id, {})
        desk = Desk(system, os.urandom(32), shelves=lambda calls: [fixture.Shelf(calls)], naming=fixture.naming)
        gateway = Gateway(Operations(system).perform, home.secret(home.token), lambda: True, api, (mcp_door(desk),))
        port = free_port()
        server: uvicorn.Server = make_server(gateway, port)
        server.config.app = with_token(gateway.app, made["secret"])
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        await server.serve()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
