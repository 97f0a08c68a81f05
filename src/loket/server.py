"""A running system behind its gateway, on loopback, until it is interrupted: what `loket up` starts."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from loket.a2a import a2a_door
from loket.app import Loket, running
from loket.contracts import BadInput, Failed, LoketError, Provider
from loket.durable import write_private
from loket.gateway.accounts import Accounts
from loket.gateway.endpoint import Api
from loket.gateway.http import Gateway, make_server
from loket.gateway.passwords import Passwords
from loket.gateway.sessions import Sessions, Tokens
from loket.home import Home, hold
from loket.mcp_server.desk import Desk
from loket.mcp_server.door import mcp_door
from loket.mcp_server.local import listening
from loket.operations import Operations
from loket.operations.audit import auditor_of
from loket.operations.pending import arrived_at, dropbox_of
from loket.resting import drain
from loket.retention import Retention
from loket.schemas import compile_check
from loket.store.accounts import Accounts as AccountDatabase

_BUSY_S = 20.0
"""Seconds to wait for a command that works on the home."""

_PAUSE_S = 0.1
_BACKLOG = 128
"""Connections that wait until they are accepted."""

IDLE_S = 10.0
"""Seconds without a run after which an agent's lessons are looked through."""


async def serve(home: Home, port: int, say: Callable[[str], None]) -> None:
    """Serve the home's operations on 127.0.0.1 until SIGINT or SIGTERM. `say` takes sentences for the owner.

    `port` 0 takes a free one. The home is prepared. Raises `Failed` (`server.running`, `home.held`) where another
    process works on the home, `BadInput` (`port.taken`) where the port cannot be used, and what a failed start raises.
    """
    await _wait_for(home)
    with _listen(port) as listener:
        port = listener.getsockname()[1]
        say(f"Loket starts on http://127.0.0.1:{port} (home {home.root}) ...")
        async with (
            running(home, idle_s=IDLE_S) as system,
            api_of(home) as api,
            contextlib.AsyncExitStack() as more,
        ):
            desk = Desk(system, os.urandom(32))
            doors = (a2a_door, mcp_door(desk))
            gateway = Gateway(Operations(system).perform, home.secret(home.token), lambda: True, api, doors)
            server = make_server(gateway, port)
            loop = asyncio.get_running_loop()
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(name, setattr, server, "should_exit", True)
            await more.enter_async_context(listening(desk))
            if system.config.listen is not None:
                from loket.sharing import sharing  # certificates: few homes share anything

                await more.enter_async_context(sharing(home, system.config, api, mcp_door(desk), say))
            code = await api.accounts.setup_code()
            listener.listen(_BACKLOG)  # whoever reads where it listens may connect at once
            write_private(home.server, json.dumps({"port": port, "pid": os.getpid()}).encode())
            beside = _beside(system, say)
            try:
                say(f'Loket is ready: http://127.0.0.1:{port}\n  try: loket ask main "Hello"   (stop: Ctrl-C)')
                if code is not None:
                    say(_setup_line(port, code))
                for line in _left_undone(system):
                    say(line)
                await system.channels.start()
                await server.serve(sockets=[listener])
            finally:
                home.server.unlink(missing_ok=True)
                await more.aclose()  # nothing new comes in while what is there is drained
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)  # before what they send to is drained
                await system.channels.close()
                await drain(system.engine)
    say("Loket has stopped.")


def _beside(system: Loket, say: Callable[[str], None]) -> list[asyncio.Task[None]]:
    """What a server does beside answering: models and servers are warmed up, and whatever comes due is done."""
    retention = Retention(system.database, system.eraser, system.config.retention, system.now)
    return [
        asyncio.create_task(work)
        for work in (
            _warm(system.llm),
            system.mcp.warm(),
            system.runner.keep(failed=say),
            retention.keep(failed=say),
            auditor_of(system).keep(failed=say),
            dropbox_of(system).keep(arrived_at(system, say), failed=say),
        )
    ]


@contextlib.asynccontextmanager
async def api_of(home: Home) -> AsyncIterator[Api]:
    """Account, sessions and tokens of a home, until the context ends. The home need not be held."""
    store = await asyncio.to_thread(AccountDatabase, home.gateway)
    try:
        accounts = Accounts(store, Passwords(), time.time)
        yield Api(accounts, Sessions(store, accounts, time.time), Tokens(store, time.time), compile_check)
    finally:
        store.close()


def _left_undone(system: Loket) -> list[str]:
    """What the start could not go on with."""
    said = [f"Run {run} cannot be read, and does not go on: loket runs verify" for run in system.unreadable_runs]
    undone = system.unfinished_erasure
    return said if undone is None else [*said, f"An erasure is not done everywhere: {undone}"]


def _setup_line(port: int, code: str) -> str:
    """The code is for whoever makes the account through the API; it is shown here alone, and a start makes another."""
    return (
        "There is no owner's account yet, which browsers and programs need. Make it once:\n"
        "  loket account create NAME\n"
        f"  or: POST http://127.0.0.1:{port}/v1/setup with name, password and the code {code}"
    )


async def _wait_for(home: Home) -> None:
    """Wait until nobody holds the home. Raises `Failed` at once where that is a server, else after a while."""
    until = time.monotonic() + _BUSY_S
    while True:
        try:
            with hold(home):
                return
        except Failed:
            said = home.running()
            if said is not None and _answers(said["port"]):
                raise _already(said) from None
            if time.monotonic() > until:
                raise
        await asyncio.sleep(_PAUSE_S)


def _already(said: dict[str, Any]) -> Failed:
    return Failed(
        "server.running",
        f"Loket already runs on this home: http://127.0.0.1:{said['port']} (pid {said['pid']})",
        f"use it as it is, stop it with `kill {said['pid']}`, or name another home with --home",
        blame="owner",
    )


def _answers(port: int) -> bool:
    """Whether anybody listens there: what a killed server left behind names a port that is free."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio asks for it
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise BadInput(
            "port.taken", f"port {port} on 127.0.0.1 cannot be used: {error.strerror}", "loket up --port ANOTHER"
        ) from None
    return listener


async def _warm(model: Provider) -> None:
    """Load the model while nobody waits; a model that fails says so when it is asked."""
    warm = getattr(model, "warm", None)
    if warm is not None:
        with contextlib.suppress(LoketError):
            await warm()
