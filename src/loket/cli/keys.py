"""`loket keys new|list|show|trust|revoke`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput

_app = typer.Typer(help="Keys that packs are signed with: yours, and those you trust.", no_args_is_help=True)

Publisher = Annotated[str, typer.Argument(metavar="PUBLISHER", help="A publisher's name, or a key's fingerprint.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_app, name="keys")


@_app.command(epilog="Example: loket keys new acme")
def new(
    publisher: Annotated[str, typer.Argument(metavar="NAME", help="What you call yourself: small letters, digits, -.")],
    json_: show.JsonFlag = False,
) -> None:
    """Make a key of your own. The private part stays in the vault."""
    _one(client.perform("keys.new", publisher=publisher), as_json=json_)


@_app.command("list", epilog="Example: loket keys list --json")
def list_(json_: show.JsonFlag = False) -> None:
    """List the keys that you made, trusted or revoked, and what is installed from each."""
    result = client.perform("keys.list")
    if json_:
        show.as_json(result)
        return
    rows = [
        [key["publisher"], "own" if key["own"] else "", key["state"], key["fingerprint"], key["modules"]]
        for key in result["keys"]
    ]
    columns = ["publisher", "", "state", "fingerprint", "installed modules"]
    show.table(columns, rows, "there are none: loket keys new NAME", whole=("publisher", "fingerprint"))


@_app.command("show", epilog="Example: loket keys show acme")
def show_(publisher: Publisher, json_: show.JsonFlag = False) -> None:
    """Show a public key with its fingerprint, to give to others."""
    _one(client.perform("keys.show", publisher=publisher), as_json=json_)


@_app.command(epilog="Example: loket keys trust acme.loket")
def trust(
    key: Annotated[
        str, typer.Argument(metavar="KEY|FILE", help="A public key (ed25519:...), or a pack signed with it.")
    ],
    name: Annotated[str | None, typer.Option(help="What you call the publisher; else what the pack says.")] = None,
    replaces: Annotated[
        str | None, typer.Option(metavar="PUBLISHER", help="It follows this publisher's key, which was changed.")
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Trust a publisher's key: compare its fingerprint with what the publisher says elsewhere first."""
    text, said = _read(key)
    wanted = name or said or replaces
    if wanted is None:
        raise BadInput("key.name", "a key alone says nobody's name", "--name acme")
    result = client.perform("keys.trust", key=text, publisher=wanted, replaces=replaces)
    _one(result, as_json=json_)


def _read(key: str) -> tuple[str, str | None]:
    """A public key as text, and what a pack calls its publisher. Raises `BadInput`."""
    from loket.packages.signature import PREFIX, public_key, written
    from loket.packages.unpack import read_pack

    if key.startswith(PREFIX):
        return written(public_key(key)), None
    listed = read_pack(Path(key))
    if listed.key is None:
        raise BadInput("pack.unsigned", f"nobody signed {key}", "name a signed pack, or a key: ed25519:...")
    return written(listed.key), listed.publisher


@_app.command(epilog="Example: loket keys revoke acme")
def revoke(publisher: Publisher, json_: show.JsonFlag = False) -> None:
    """Install nothing more that a key signed; says which installed modules came from it."""
    result = client.perform("keys.revoke", publisher=publisher)
    if json_:
        show.as_json(result)
        return
    show.say(f"The key {result['fingerprint']} of {result['publisher']} is revoked.")
    for module in result["modules"]:
        show.say(f"  installed from it, and running: {module}    loket remove {module}")


def _one(key: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show.as_json(key)
        return
    names = ("publisher", "state", "fingerprint", "key")
    show.pairs([*((name, key[name]) for name in names), ("installed", key["modules"])])
