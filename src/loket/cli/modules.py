"""`loket new`, `build`, `install`, `remove`, `agents`, `caps`, `grants`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import asking, client, show
from loket.cli.arguments import Agent, AnyAgent
from loket.cli.asking import GrantOption, MoreFlag, TrustOption, UnsignedFlag, YesFlag
from loket.contracts import BadInput, command

_new = typer.Typer(help="Start something of your own.", no_args_is_help=True)
_grants = typer.Typer(help="What modules may do: list, allow, revoke.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The module's folder (it holds loket.toml).")]
CapabilityName = Annotated[str, typer.Argument(metavar="CAPABILITY", help="For instance kv.get (`loket caps`).")]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_new, name="new")
    app.add_typer(_grants, name="grants")
    app.command(epilog="Example: loket build weather")(build)
    app.command(epilog="Example: loket install weather --yes")(install)
    app.command(epilog="Example: loket remove weather")(remove)
    app.command(epilog="Example: loket agents --json")(agents)
    app.command(epilog="Example: loket caps brain.search")(caps)


@_new.command("agent", epilog="Example: loket new agent weather && loket build weather && loket install weather")
def new_agent(
    name: Annotated[str, typer.Argument(help="The agent's id: small letters, digits, hyphens.")],
    directory: Annotated[Path, typer.Option(help="Where the folder is made.")] = Path(),
    language: Annotated[str, typer.Option(help="python, javascript or typescript.")] = "python",
    json_: show.JsonFlag = False,
) -> None:
    """Make a folder with a small agent that runs as it is."""
    from loket.packages.scaffold import new_agent as make

    folder = make(name, directory, language)
    if json_:
        show.as_json({"agent": name, "folder": str(folder), "language": language})
    else:
        steps = (("build", str(folder)), ("install", str(folder)), ("ask", name, "Hello"))
        show.say(f"Made {folder}. Next: {' && '.join(filter(None, (command(*step) for step in steps)))}")


@_new.command("channel", epilog="Example: loket new channel office-chat && loket build office-chat")
def new_channel(
    name: Annotated[str, typer.Argument(help="The channel's id: small letters, digits, hyphens.")],
    directory: Annotated[Path, typer.Option(help="Where the folder is made.")] = Path(),
    json_: show.JsonFlag = False,
) -> None:
    """Make a folder with a small channel that can be built as it is."""
    from loket.packages.scaffold import new_channel as make

    folder = make(name, directory)
    if json_:
        show.as_json({"channel": name, "folder": str(folder)})
    else:
        steps = (("build", str(folder)), ("install", str(folder)), ("channels", "add", name))
        show.say(f"Made {folder}. Next: {' && '.join(filter(None, (command(*step) for step in steps)))}")


def build(folder: Folder, json_: show.JsonFlag = False) -> None:
    """Build a module's WebAssembly from its sources (needs the extra `build`)."""
    from loket.packages.build import build as make

    built = make(folder, progress=None if json_ else show.say)
    if json_:
        show.as_json({"path": str(built.path), "digest": built.digest, "seconds": round(built.seconds, 1)})
    else:
        show.say(f"Built {built.path} in {built.seconds:.1f} s (sha256 {built.digest[:16]}...)")


def install(
    source: Annotated[
        str,
        typer.Argument(metavar="DIR|FILE|URL", help="A module's folder, a pack (NAME.loket), or its https address."),
    ],
    yes: YesFlag = False,
    grant: GrantOption = None,
    no_grants: Annotated[bool, typer.Option("--no-grants", help="Grant nothing now.")] = False,
    more: MoreFlag = False,
    unsigned: UnsignedFlag = False,
    trust: TrustOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what it asks for, and install nothing.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Install a module or a pack: see what it asks for, decide, and it runs at once, without a restart."""
    named = _named(source)
    with show.progress("fetching", quiet=json_ or "://" not in named) as told:
        asked = client.perform("module.inspect", told, source=named)
    try:
        if dry_run:
            show.as_json(asked) if json_ else asking.shown(asked)
            return
        word = asking.decided(
            asked, yes=yes, only=grant, nothing=no_grants, more=more, unsigned=unsigned, trust=trust, quiet=json_
        )
        result = client.perform("module.install", source=asked["place"], named=named, **word)
    finally:
        if asked["place"] != named:
            Path(asked["place"]).unlink(missing_ok=True)
    show.as_json(result) if json_ else asking.done(asked, result)


def _named(source: str) -> str:
    """An address as it is; a folder or a file from the root on. A module's own component stands for its folder."""
    if "://" in source:
        return source
    path = Path(source).absolute()
    return str(path.parent if path.suffix == ".wasm" and path.is_file() else path)


def remove(
    agent: Agent,
    revoke: Annotated[bool, typer.Option("--revoke", help="Its bytes may still be replayed, but not run.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Remove a module and its grants; what it remembers and what it did stay."""
    result = client.perform("module.remove", agent=agent, revoke=revoke)
    if json_:
        show.as_json(result)
        return
    never = " Its bytes may still be replayed, but not run." if revoke else ""
    show.say(f"Removed {agent}; its brain and its journal stay.{never}")


def agents(json_: show.JsonFlag = False) -> None:
    """List installed modules."""
    result = client.perform("agents")
    if json_:
        show.as_json(result)
        return
    rows = [[a["id"], a["version"], a["publisher"], a["summary"], a["asks"]] for a in result["agents"]]
    columns = ["id", "version", "publisher", "summary", "asks beyond its grants"]
    show.table(columns, rows, "no modules are installed", whole=("id", "version"), spare=("publisher",))


def caps(
    name: Annotated[str | None, typer.Argument(metavar="[CAPABILITY]", help="Show one with its schemas.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """List the capabilities that exist, or show one."""
    result = client.perform("caps", name=name)
    if json_ or name is not None:
        show.as_json(result)
        return
    rows = [[c["id"], c["effect"], _narrowed(c["constraints"]), c["summary"]] for c in result["capabilities"]]
    columns = ["capability", "effect", "a grant names", "summary"]
    show.table(columns, rows, "there are none", whole=("capability", "effect"), spare=("a grant names",))


def _narrowed(constraints: list[dict[str, Any]]) -> str:
    """The names of constraints; one without which a grant allows nothing is marked."""
    return ", ".join(f"{rule['name']} (needed)" if rule["required"] else rule["name"] for rule in constraints)


@_grants.command("list", epilog="Example: loket grants list main")
def grants_list(agent: AnyAgent = None, json_: show.JsonFlag = False) -> None:
    """List grants: who may do what, since when and because of whom."""
    result = client.perform("grants.list", agent=agent)
    if json_:
        show.as_json(result)
        return
    rows = [
        [g["agent"], g["capability"], g["constraints"] or "", show.when(g["at"]), g["by"], g["reason"]]
        for g in result["grants"]
    ]
    columns = ["module", "capability", "within", "granted", "by", "because it"]
    if not any(row[2] for row in rows):
        columns.remove("within")
        rows = [[*row[:2], *row[3:]] for row in rows]
    show.table(columns, rows, "nothing is granted", whole=("module", "capability"), spare=("by", "granted"))


@_grants.command("allow", epilog="Example: loket grants allow weather kv.get --constraint 'prefixes=[\"places/\"]'")
def grants_allow(
    agent: Agent,
    capability: CapabilityName,
    constraint: Annotated[
        list[str] | None, typer.Option(metavar="NAME=JSON", help="Narrows the grant; may be repeated.")
    ] = None,
    add: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="Widens the grant by one more text; may be repeated.")
    ] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Let a module use a capability, from its next call on."""
    constraints = dict(_constraint(text) for text in constraint or [])
    if add and constraints:
        raise BadInput("grant.constraint", "--add and --constraint do not go together", "use one of them")
    for name, text in map(_added, add or []):
        constraints.setdefault(name, []).append(text)
    args = {"agent": agent, "capability": capability, "constraints": constraints, "add": bool(add)}
    result = client.perform("grants.allow", **args)
    constraints = result["constraints"]
    within = f" within {show.word(constraints)}" if constraints else ""
    show.as_json(result) if json_ else show.say(f"{agent} may use {capability}{within}")


def _added(text: str) -> tuple[str, str]:
    """Name and text of what widens a grant. Raises `BadInput`."""
    name, equals, value = text.partition("=")
    if not name or not equals or not value:
        raise BadInput("grant.constraint", f"{text!r} is not NAME=TEXT", "--add hosts=api.example.org")
    return name, value


def _constraint(text: str) -> tuple[str, Any]:
    """Name and value of a constraint. Raises `BadInput`."""
    name, equals, value = text.partition("=")
    remedy = "--constraint 'prefixes=[\"places/\"]'"
    if not name or not equals:
        raise BadInput("grant.constraint", f"the constraint {text!r} is not NAME=JSON", remedy)
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise BadInput("grant.constraint", f"the value of the constraint {name} is no JSON: {error}", remedy) from None


@_grants.command("revoke", epilog="Example: loket grants revoke weather kv.get")
def grants_revoke(agent: Agent, capability: CapabilityName, json_: show.JsonFlag = False) -> None:
    """Take a grant back, from the next call on."""
    result = client.perform("grants.revoke", agent=agent, capability=capability)
    show.as_json(result) if json_ else show.say(f"{agent} may not use {capability} any more")
