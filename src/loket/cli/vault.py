"""`loket vault put|list|remove`."""

import sys
from typing import Annotated

import typer

from loket.cli import client, show
from loket.contracts import BadInput, command

_app = typer.Typer(help="Secrets: put, list, remove. Modules get handles of them, never values.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The secret's name.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_app, name="vault")


@_app.command(epilog="Example: loket vault put weather < key.txt")
def put(name: Name, json_: show.JsonFlag = False) -> None:
    """Put a secret into the vault: asked for without showing it, or read from standard input."""
    result = client.perform("vault.put", name=name, value=_value(name))
    if json_:
        show.as_json(result)
    else:
        show.say(f"The secret {name} is in the vault{', in the place of the old one' if result['replaced'] else ''}.")


def _value(name: str) -> str:
    """Never an argument: those stand in the list of processes and in the shell's history."""
    value: str = typer.prompt(f"Secret {name}", hide_input=True) if sys.stdin.isatty() else sys.stdin.read()
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        line = command("vault", "put", name) or "loket vault put NAME"
        raise BadInput("vault.value", f"the secret {name} is empty", f"{line} < FILE")
    return value


@_app.command("list", epilog="Example: loket vault list --json")
def list_(json_: show.JsonFlag = False) -> None:
    """List the names of the secrets; their values are shown nowhere."""
    result = client.perform("vault.list")
    if json_:
        show.as_json(result)
        return
    empty = "the vault is empty: loket vault put NAME"
    show.table(["secret"], [[name] for name in result["secrets"]], empty, whole=("secret",))


@_app.command(epilog="Example: loket vault remove weather")
def remove(name: Name, json_: show.JsonFlag = False) -> None:
    """Remove a secret from the vault."""
    result = client.perform("vault.remove", name=name)
    show.as_json(result) if json_ else show.say(f"The secret {name} is gone.")
