"""Performs operations: through the running server of the home, or on the home directly when there is none."""

import asyncio
import contextlib
import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from loket.contracts import BadInput, Failed, LoketError, RunStatus, from_dict
from loket.home import DEFAULT_PORT, Home, hold

if TYPE_CHECKING:
    from loket.app import Loket

OnEvent: TypeAlias = Callable[[dict[str, Any]], None]

_BUSY_S = 20.0
"""Seconds to wait for another command that holds the home."""

RESUMING = frozenset({"ask", "approvals.decide", "approvals.follow", "runs.stop", "runs.settle", "schedules.run"})
"""Operations that go on with unfinished runs where no server does; all others only look, or change something else."""

_FINISHING = frozenset({"ask", "approvals.decide", "approvals.follow", "schedules.run"})
"""Of these, those after which what is unfinished gets the time to come to its end."""

_OTHERS_S = 60.0
"""Seconds to wait for runs that a question found unfinished."""

_MOST_PORT = (1 << 16) - 1


def home() -> Home:
    """The home that this command works on: `--home`, `LOKET_HOME` or `~/.loket`."""
    return Home(Path(os.environ.get("LOKET_HOME") or Path.home() / ".loket").expanduser().absolute())


def port_given() -> int | None:
    """The port that `--port` or LOKET_PORT names. Raises `BadInput`."""
    text = os.environ.get("LOKET_PORT")
    return port_of(text) if text is not None else None


def port_of(text: str) -> int:
    """A port as it is written. Raises `BadInput`."""
    if not (text.isascii() and text.isdigit() and int(text) <= _MOST_PORT):
        raise BadInput(
            "port.invalid", f"the port {text!r} is no number from 0 to {_MOST_PORT}", f"--port {DEFAULT_PORT}"
        )
    return int(text)


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
                connection = _connected(where)
                return _remote(connection, where, name, given, on_event)
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
        async with running(where, resume=name in RESUMING) as system:
            result = await Operations(system).perform(name, args, on_event or _ignore)
            if name in _FINISHING:
                await system.lessons.settled()
                await _finish_others(system)
            return result

    return asyncio.run(work())


async def _finish_others(system: "Loket") -> None:
    """Let what an earlier process left unfinished, and this one went on with, come to its end."""
    from loket.resting import finish_others

    states = system.engine.unfinished().values()
    count = sum(state.status is not RunStatus.ASKING for state in states)
    if count:
        runs = "1 earlier run" if count == 1 else f"{count} earlier runs"
        sys.stderr.write(f"Going on with {runs}, for at most {_OTHERS_S:g} seconds ...\n")
        await finish_others(system.engine, _OTHERS_S)


def _ignore(_event: dict[str, Any]) -> None:
    """Nobody watches."""


def _connected(where: Home) -> http.client.HTTPConnection:
    """A connection to the server. Raises `ConnectionError` or `TimeoutError` where there is none (yet)."""
    said = where.running()
    if said is None:
        raise ConnectionError
    connection = http.client.HTTPConnection("127.0.0.1", said["port"], timeout=None)
    connection.connect()
    return connection


def _remote(
    connection: http.client.HTTPConnection, where: Home, name: str, args: dict[str, Any], on_event: OnEvent | None
) -> Any:
    """The server may have accepted what was sent, so nothing is sent again: a lost connection is an error."""
    headers = {"Authorization": f"Bearer {where.secret(where.token)}", "Content-Type": "application/json"}
    with contextlib.closing(connection):
        try:
            connection.request("POST", f"/v1/operations/{name}", json.dumps(args).encode(), headers)
            return _read(connection.getresponse(), on_event or _ignore)
        except (http.client.HTTPException, OSError):
            raise _gone() from None


def _read(response: http.client.HTTPResponse, on_event: OnEvent) -> Any:
    if response.status != HTTPStatus.OK:
        raise _refused(response)
    for line in response:
        event = json.loads(line)
        if event["type"] == "result":
            return event["value"]
        if event["type"] == "error":
            raise _error(event)
        on_event(event)
    raise _gone()


def _gone() -> Failed:
    return Failed(
        "server.gone",
        "the server stopped before the answer was there; what it accepted it will answer when it starts again",
        "loket up, then loket runs list",
        blame="machine",
    )


def _refused(response: http.client.HTTPResponse) -> LoketError:
    try:
        return _error(json.loads(response.read())["error"])
    except (ValueError, KeyError, TypeError):
        return Failed(
            "server.answer",
            f"the server answered with status {response.status}, and in no way that Loket does",
            "is another program on its port? stop the server, then `loket up --port ANOTHER`",
            blame="machine",
        )


def _error(event: dict[str, Any]) -> LoketError:
    error = from_dict(event)
    error.run = event.get("run")
    return error
