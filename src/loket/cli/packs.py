"""`loket pack`, `versions`, `rollback`, `pending`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import asking, client, show
from loket.cli.arguments import Agent
from loket.cli.asking import GrantOption, MoreFlag, TrustOption, UnsignedFlag, YesFlag
from loket.contracts import BadInput

_pending = typer.Typer(
    help="What lies in the home's dropbox/ and waits for you: list, approve, dismiss.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name in the drop box.")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket pack weather -o weather.loket --key acme")(pack)
    app.command(epilog="Example: loket versions weather")(versions)
    app.command(epilog="Example: loket rollback weather")(rollback)
    app.add_typer(_pending, name="pending")


def pack(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of built modules.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="NAME.loket", help="The pack that is made.")],
    key: Annotated[str | None, typer.Option(help="Sign it with this key of yours (`loket keys new NAME`).")] = None,
    name: Annotated[str | None, typer.Option(help="The pack's name; else the module's, or the file's.")] = None,
    version: Annotated[str | None, typer.Option(help="The pack's version; else the module's, or 1.0.0.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Make one file of one or more built modules, with the digest of every file, signed if a key is named."""
    from loket.packages.pack import SUFFIX, make_pack

    if output.suffix != SUFFIX:
        raise BadInput("pack.output", f"a pack is called NAME{SUFFIX}, not {output.name}", f"-o {output.stem}{SUFFIX}")
    made = make_pack(folders, output, _signer(key) if key is not None else None, name=name, version=version)
    if json_:
        ids = [module.id for module in made.modules]
        facts = {"path": str(output.absolute()), "name": made.name, "version": made.version, "modules": ids}
        show.as_json({**facts, "digest": made.digest, "publisher": made.publisher, "fingerprint": made.fingerprint})
        return
    signed = f"signed by {made.publisher} ({made.fingerprint})" if made.key is not None else "not signed (--key NAME)"
    show.say(f"Packed {', '.join(module.id for module in made.modules)} into {output}: {signed}")


def _signer(publisher: str) -> Any:
    from loket.packages.pack import Signer
    from loket.packages.signature import public_key

    key = client.perform("keys.show", publisher=publisher)

    def sign(data: bytes) -> bytes:
        answer = client.perform("keys.sign", publisher=publisher, listed=data.decode())
        return bytes.fromhex(answer["signature"])

    return Signer(key["publisher"], public_key(key["key"]), sign)


def versions(agent: Agent, json_: show.JsonFlag = False) -> None:
    """List the versions of a module that are kept, the newest first."""
    result = client.perform("module.versions", agent=agent)
    if json_:
        show.as_json(result)
        return
    rows = [
        [
            "current" if one["current"] else "",
            one["version"],
            one["publisher"],
            show.when(one["installed"]),
            f"{one['digest'][:16]}...",
            "REVOKED" if one["revoked"] else one["source"],
        ]
        for one in result["versions"]
    ]
    show.table(["", "version", "publisher", "installed", "sha256", "from"], rows, "none are kept", whole=("version",))


def rollback(
    agent: Agent,
    to: Annotated[str | None, typer.Option(metavar="VERSION", help="This version; else the one before.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Go back to the version before, at once. What was granted stays as it is."""
    result = client.perform("module.rollback", agent=agent, version=to)
    show.as_json(result) if json_ else show.say(f"{result['id']} {result['version']} counts again")


@_pending.command("list", epilog="Example: loket pending list")
def list_(json_: show.JsonFlag = False) -> None:
    """List what waits, and what it asks for."""
    result = client.perform("pending.list")
    if json_:
        show.as_json(result)
        return
    if not result["pending"]:
        show.say(f"nothing waits in {result['folder']}")
    for one in result["pending"]:
        show.say(f"-- {one['name']}")
        if one["error"] is not None:
            show.say(f"It cannot be installed: {one['error']['message']} ({one['error']['code']})")
        else:
            asking.shown(one)


@_pending.command(epilog="Example: loket pending approve weather.loket --grant net.fetch")
def approve(
    name: Name,
    yes: YesFlag = False,
    grant: GrantOption = None,
    more: MoreFlag = False,
    unsigned: UnsignedFlag = False,
    trust: TrustOption = None,
    json_: show.JsonFlag = False,
) -> None:
    """Install what waits under a name, and take it out of the drop box."""
    waiting = {one["name"]: one for one in client.perform("pending.list")["pending"]}
    asked = waiting.get(name)
    if asked is None or asked["error"] is not None:
        result = client.perform("pending.approve", name=name)  # raises what is wrong with it
        show.as_json(result)
        return
    word = asking.decided(
        asked, yes=yes, only=grant, nothing=False, more=more, unsigned=unsigned, trust=trust, quiet=json_
    )
    result = client.perform("pending.approve", name=name, **word)
    show.as_json(result) if json_ else asking.done(asked, result)


@_pending.command(epilog="Example: loket pending dismiss weather.loket")
def dismiss(name: Name, json_: show.JsonFlag = False) -> None:
    """Remove what waits under a name; nothing of it is installed."""
    result = client.perform("pending.dismiss", name=name)
    show.as_json(result) if json_ else show.say(f"{name} is gone.")
