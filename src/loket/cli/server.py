"""`loket up` and `loket status`."""

import asyncio
import os

import typer

from loket.cli import client, show


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket up --port 1987")(up)
    app.command(epilog="Example: loket status --json")(status)


def _port() -> int:
    text = os.environ.get("LOKET_PORT")
    if text is not None:
        return client.port_of(text)
    from loket.config import load_config

    return load_config(client.home().config).port


def up() -> None:
    """Start Loket on loopback and serve until it is interrupted."""
    from loket.server import serve

    home = client.home()
    home.prepare()
    port = _port()
    client.tell_first_start(home)
    asyncio.run(serve(home, port, show.say))


def status(json_: show.JsonFlag = False) -> None:
    """Version, home, agents and unfinished runs."""
    result = client.perform("status")
    if json_:
        show.as_json(result)
    else:
        show.pairs([(name, result[name]) for name in ("version", "home", "agents", "unfinished")])
