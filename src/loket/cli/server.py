"""`loket up` and `loket status`."""

import asyncio

import typer

from loket.cli import client, show


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket up --port 1987")(up)
    app.command(epilog="Example: loket status --json")(status)


def _port() -> int:
    given = client.port_given()
    if given is not None:
        return given
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
        names = ("version", "home", "agents", "unfinished")
        more = [name for name in ("unreadable", "unfinished_erasure") if result[name]]
        show.pairs([(name, result[name]) for name in (*names, *more)])
