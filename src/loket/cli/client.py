"""Performs operations: through the running server of the home, or on the home directly when there is none."""

import asyncio
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from loket.contracts import BadInput, Failed, LoketError, Refusal
from loket.home import Home, hold

OnEvent: TypeAlias = Callable[[dict[str, Any]], None]

_BUSY_S = 20.0
"""Seconds to wait for another command that holds the home."""

_KINDS: dict[str, type[LoketError]] = {"refusal": Refusal, "input": BadInput, "failure": Failed}


def home() -> Home:
    """The home that this command works on: `--home`, `LOKET_HOME` or `~/.loket`."""
    return Home(Path(os.environ.get("LOKET_HOME") or Path.home() / ".loket").expanduser().absolute())


def perform(name: str, on_event: OnEvent | None = None, /, **args: Any) -> Any:
    """Do one operation, wherever it has to be done. Raises `LoketError`."""
    where = home()
    where.prepare()
    given = {key: value for key, value in args.items() if value is not None}
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            with hold(where):
                pass
        except Failed as held:
            with contextlib.suppress(ConnectionError, TimeoutError):
                return _remote(where, name, given, on_event)
            if time.monotonic() > until:
                raise held from None
            time.sleep(0.1)
        else:
            return _local(where, name, given, on_event)


def tell_first_start(where: Home) -> None:
    """Say on stderr why the first start takes longer."""
    if not any(where.cache.glob("*.cwasm")):
        sys.stderr.write("First start: compiling the agent's module for this machine, about ten seconds ...\n")


def _local(where: Home, name: str, args: dict[str, Any], on_event: OnEvent | None) -> Any:
    from loket.app import running
    from loket.operations import Operations

    tell_first_start(where)

    async def work() -> Any:
        async with running(where) as system:
            return await Operations(system).perform(name, args, on_event or _ignore)

    return asyncio.run(work())


def _ignore(_event: dict[str, Any]) -> None:
    """Nobody watches."""


def _remote(where: Home, name: str, args: dict[str, Any], on_event: OnEvent | None) -> Any:
    said = where.running()
    if said is None:
        raise ConnectionError
    connection = http.client.HTTPConnection("127.0.0.1", said["port"], timeout=None)
    headers = {"Authorization": f"Bearer {where.secret(where.token)}", "Content-Type": "application/json"}
    try:
        connection.request("POST", f"/v1/operations/{name}", json.dumps(args).encode(), headers)
        response = connection.getresponse()
        return _read(response, on_event or _ignore)
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, on_event: OnEvent) -> Any:
    if response.status != 200:  # noqa: PLR2004 - the one good status
        body = json.loads(response.read() or b"{}").get("error", {})
        raise _error({"kind": "refusal", **body})
    try:
        for line in response:
            event = json.loads(line)
            if event["type"] == "result":
                return event["value"]
            if event["type"] == "error":
                raise _error(event)
            on_event(event)
    except http.client.HTTPException:
        pass
    raise Failed(
        "server.gone",
        "the server stopped before the answer was there; what it accepted it will answer when it starts again",
        "loket up, then loket runs list",
        blame="machine",
    )


def _error(event: dict[str, Any]) -> LoketError:
    branch = _KINDS.get(event.get("kind", ""), Failed)
    error = branch(event["code"], event["message"], event.get("remedy"), blame=event.get("blame"))
    error.run = event.get("run")
    return error
