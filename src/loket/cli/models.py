"""`loket model list|use|pull|key`."""

import os
import socket
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from loket.cli import client, show
from loket.contracts import BadInput

_PROBE_S = 1.0
"""Seconds in which a server on this machine or beside it has to take a connection."""

_app = typer.Typer(help="Language models: list, use, pull, key.", no_args_is_help=True)


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_app, name="model")


@_app.command("list", epilog="Example: loket model list --json")
def list_(json_: show.JsonFlag = False) -> None:
    """List the models that are set up, and the servers found on this machine."""
    _show(client.perform("models.list"), as_object=json_)


def _show(result: dict[str, Any], *, as_object: bool) -> None:
    if as_object:
        show.as_json(result)
        return
    rows = [
        [m["used"] or "", m["name"], m["model"], "local" if m["local"] else "remote", "yes" if m["tools"] else "no"]
        for m in sorted(result["models"], key=lambda m: (m["used"] is None, m["used"] or 0, m["name"]))
    ]
    columns = ["order", "route", "model", "where", "tools"]
    show.table(columns, rows, "no model is set up: loket model pull", whole=("order", "route"))
    for server in result["found"]:
        show.say(f"found {server['name']} at {server['base_url']}: {show.word(server['models']) or 'no models'}")


@_app.command(epilog="Example: loket model use openai embedded --model gpt-5-mini --key openai")
def use(
    names: Annotated[list[str], typer.Argument(help="Routes in the order in which they are asked.")],
    model: Annotated[str | None, typer.Option(help="Name of the model at the first route.")] = None,
    base_url: Annotated[str | None, typer.Option(help="URL of an OpenAI-compatible endpoint.")] = None,
    key: Annotated[str | None, typer.Option(help="Name of the key in the vault; asked for if it is not there.")] = None,
    key_env: Annotated[str | None, typer.Option(help="Take the key from this environment variable.")] = None,
    tools: Annotated[bool | None, typer.Option("--tools/--no-tools", help="Whether the model can call tools.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens that fit.")] = None,
    price_in: Annotated[float | None, typer.Option(help="US dollars for a million tokens in.")] = None,
    price_out: Annotated[float | None, typer.Option(help="US dollars for a million tokens out.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Choose the models, in order; the next one is asked where one fails."""
    if key is not None:
        _store_key(key, key_env)
    options = {
        "model": model,
        "base_url": base_url,
        "key": key,
        "tools": tools,
        "context": context,
        "price_in": price_in,
        "price_out": price_out,
    }
    given = {name: value for name, value in options.items() if value is not None}
    result = client.perform("models.use", names=names, options=given)
    _show(result, as_object=json_)
    missing = _missing(result)
    if missing is not None:
        sys.stderr.write(f"Warning: {missing}\n")


def _missing(result: dict[str, Any]) -> str | None:
    """What the first route still needs before it can answer, where that can be seen from here."""
    first = next((model for model in result["models"] if model["used"] == 1), None)
    if first is None:
        return None
    if first["kind"] == "embedded":
        return None if result["embedded"] else "there is no model file yet: loket model pull"
    found = {server["base_url"].rstrip("/") for server in result["found"]}
    if not first["local"] or first["base_url"].rstrip("/") in found or _answers(first["base_url"]):
        return None
    return f"nothing answers at {first['base_url']}: start the server of {first['name']}, then ask"


def _answers(url: str) -> bool:
    """Whether anybody listens there; discovery knows the usual ports only."""
    place = urlsplit(url)
    try:
        port = place.port or (443 if place.scheme == "https" else 80)
        socket.create_connection((place.hostname or "", port), _PROBE_S).close()
    except OSError:
        return False
    return True


def _store_key(name: str, variable: str | None) -> None:
    if variable is None:
        if name in client.perform("models.keys")["keys"]:
            return
        value = typer.prompt(f"Key {name}", hide_input=True)
    else:
        value = os.environ.get(variable, "")
    if not value:
        raise BadInput("model.key", f"the key {name} is empty", "set the variable, or leave --key-env out to be asked")
    client.perform("models.key", name=name, value=value)


@_app.command(epilog="Example: loket model key openai --env OPENAI_API_KEY")
def key(
    name: Annotated[str, typer.Argument(help="The key's name in the vault.")],
    env: Annotated[str | None, typer.Option(help="Take it from this environment variable.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Put a key into the vault; no module, log or journal ever sees it."""
    value = os.environ.get(env, "") if env else typer.prompt(f"Key {name}", hide_input=True)
    if not value:
        raise BadInput("model.key", f"the key {name} is empty", "set the variable, or leave --env out to be asked")
    result = client.perform("models.key", name=name, value=value)
    show.as_json(result) if json_ else show.say(f"The key {name} is in the vault.")


@_app.command(epilog="Example: loket model pull")
def pull(
    file: Annotated[Path | None, typer.Argument(help="A GGUF file of your own; the stock model if left out.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Install the embedded model into the home."""
    with show.progress("Model", quiet=json_) as on_event:
        result = client.perform("models.pull", on_event, file=str(file.absolute()) if file else None)
    show.as_json(result) if json_ else show.say(f"The model is at {result['path']}")
