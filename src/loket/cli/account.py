"""`loket account create|password` and `loket token create|list|revoke`: for browsers and programs, server or not.

They work on the account's own database, which a running server has open at the same time; agents are not touched.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from loket.cli import client, show
from loket.contracts import BadInput

if TYPE_CHECKING:
    from loket.gateway.endpoint import Api

_T = TypeVar("_T")

_account = typer.Typer(help="The owner's account, for browsers: create, password.", no_args_is_help=True)
_token = typer.Typer(help="API tokens, for programs: create, list, revoke.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The token's name: what it is for.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_account, name="account")
    app.add_typer(_token, name="token")


def _do(work: "Callable[[Api], Awaitable[_T]]") -> _T:
    """Do something with the home's account and tokens. Raises `LoketError`."""
    from loket.server import api_of

    home = client.home()
    home.prepare()

    async def done() -> _T:
        async with api_of(home) as api:
            return await work(api)

    return asyncio.run(done())


@_account.command(epilog="Example: loket account create ana")
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name to log in with.")],
    json_: show.JsonFlag = False,
) -> None:
    """Make the owner's account: the password is asked for without showing it, or read from standard input."""
    password = _password()
    _do(lambda api: api.accounts.create(name, password))
    show.as_json({"name": name}) if json_ else show.say(f"The account {name} is made.")


@_account.command(epilog="Example: loket account password")
def password(json_: show.JsonFlag = False) -> None:
    """Set a new password and end all sessions: asked for without showing it, or read from standard input."""
    new = _password()
    _do(lambda api: api.accounts.change(new, None))
    if json_:
        show.as_json({"changed": True})
    else:
        show.say("The password is changed; all sessions have ended. API tokens go on: loket token list")


def _password() -> str:
    """Never an argument: those stand in the list of processes and in the shell's history."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password (at least 10 characters)", hide_input=True, confirmation_prompt=True))
    return sys.stdin.read().removesuffix("\n").removesuffix("\r")


@_token.command("create", epilog="Example: loket token create partner --for a2a --expires 90")
def create_token(
    name: Name,
    door: Annotated[
        list[str] | None,
        typer.Option(
            "--for", metavar="DOOR", help="What it opens: api, chat, a2a, mcp; again for more. All if left out."
        ),
    ] = None,
    expires: Annotated[float | None, typer.Option(metavar="DAYS", help="Days until it expires.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Make an API token. It is shown this once."""
    made = _do(lambda api: api.tokens.make(name, expires, door or ()))
    if json_:
        show.as_json(made)
        return
    show.say(made["secret"])
    sys.stderr.write("It is shown this once. Send it as the header `Authorization: Bearer TOKEN`.\n")
    if not door:
        sys.stderr.write("It opens all that programs of your own may see and say; give others one made --for a door.\n")


@_token.command("list", epilog="Example: loket token list --json")
def list_tokens(json_: show.JsonFlag = False) -> None:
    """List the API tokens; their secrets are kept nowhere."""
    tokens = _do(lambda api: api.tokens.all())
    if json_:
        show.as_json({"tokens": tokens})
        return
    columns = ["id", "name", "for", "made", "expires", "last used"]
    times = ("made", "expires", "used")
    rows = [[t["id"], t["name"], " ".join(t["doors"]) or "all", *(show.when(t[key]) for key in times)] for t in tokens]
    show.table(columns, rows, "there is no token: loket token create NAME", whole=("id", "name"), spare=("made",))


@_token.command("revoke", epilog="Example: loket token revoke editor")
def revoke_token(name: Name, json_: show.JsonFlag = False) -> None:
    """Revoke an API token, from its next request on."""

    async def revoke(api: "Api") -> dict[str, Any]:
        tokens = await api.tokens.all()
        found = next((token for key in ("name", "id") for token in tokens if token[key] == name), None)
        if found is None:
            raise BadInput("token.unknown", f"there is no token {name!r}", "loket token list")
        await api.tokens.revoke(found["id"])
        return found

    revoked = _do(revoke)
    show.as_json({"revoked": revoked["name"]}) if json_ else show.say(f"The token {revoked['name']} is revoked.")
