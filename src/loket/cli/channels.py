"""`loket channels list|add|set|show|enable|disable|test|codes|approve|pairings|unpair|remove`."""

import sys
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput

app = typer.Typer(
    help="Channels: people talk to an agent through Telegram, Discord, Slack, Matrix, mail or a webhook.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The channel's name.")]
Private = Annotated[
    list[str] | None, typer.Option("--private", help="HOST:PORT on this machine or network that it may reach.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="FIELD=VALUE; a secret as FIELD=- is read from the standard input, or asked for."),
]


@app.command("list", epilog="Example: loket channels list")
def list_(json_: show.JsonFlag = False) -> None:
    """All channels and how they are, and the channel modules that are installed."""
    found = client.perform("channels.list")
    if json_:
        show.as_json(found)
        return
    rows = [
        [one["name"], one["module"], one["agent"], one["health"]["state"], one["pairings"], one["health"]["queued"]]
        for one in found["channels"]
    ]
    show.table(["name", "module", "agent", "state", "paired", "queued"], rows, "no channels yet", whole=("name",))
    spare = [one["id"] for one in found["modules"]]
    show.say(f"Installed channel modules: {', '.join(spare) or 'none (loket install FOLDER)'}")


@app.command(epilog="Example: loket channels add telegram --agent main --set token=-")
def add(
    module: Annotated[str, typer.Argument(metavar="MODULE", help="The installed channel module.")],
    agent: Annotated[str, typer.Option("--agent", help="Whom people talk to.")] = "main",
    set_: Set = None,
    private: Private = None,
    name: Annotated[str | None, typer.Option("--name", help="The channel's name; the module's if left out.")] = None,
    off: Annotated[bool, typer.Option("--off", help="Do not switch it on yet.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Set a channel up and switch it on; what it needs and is not given is asked for."""
    fields = _given(set_)
    if not json_ and sys.stdin.isatty():
        fields |= _asked(module, fields)
    args = {"module": module, "agent": agent, "fields": fields, "private": private or [], "enabled": not off}
    made = client.perform("channels.add", **args, **({"name": name} if name else {}))
    if json_:
        show.as_json(made)
        return
    show.say(f"Channel {made['name']}: it reaches {', '.join(made['hosts']) or 'nobody by itself'}")
    show.say(f"try it: loket channels test {made['name']}")


def _given(words: list[str] | None) -> dict[str, str]:
    """The values of `--set`. Raises `BadInput`."""
    fields: dict[str, str] = {}
    for word in words or []:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise BadInput("channel.set", f"{word[:80]!r} is no FIELD=VALUE", "--set token=-")
        fields[name] = _secret(name) if value == "-" else value
    return fields


def _secret(name: str) -> str:
    """A value that stands in no command line: typed, or the next line of the standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt(name, hide_input=True))
    return sys.stdin.readline().rstrip("\r\n")


def _asked(module: str, given: dict[str, str]) -> dict[str, str]:
    """What a person at a terminal says of the fields that are missing."""
    known = {one["id"]: one for one in client.perform("channels.list")["modules"]}
    fields: dict[str, str] = {}
    for field in known.get(module, {"fields": []})["fields"]:
        if field["name"] not in given and field["required"] and not field["default"]:
            show.say(field["help"])
            fields[field["name"]] = typer.prompt(field["label"], hide_input=field["secret"])
    return fields


@app.command("set", epilog="Example: loket channels set matrix --set homeserver=https://matrix.example.org")
def set_fields(
    name: Name,
    set_: Set = None,
    private: Private = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Whom people talk to from now on.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Change a channel's fields, its agent, or what it may reach on this machine and network."""
    more = {"agent": agent} if agent is not None else {}
    made = client.perform("channels.set", name=name, fields=_given(set_), private=private or [], **more)
    _card(made, json_=json_)


@app.command("show", epilog="Example: loket channels show telegram")
def show_(name: Name, json_: show.JsonFlag = False) -> None:
    """A channel: fields, what it reaches, how it is."""
    _card(client.perform("channels.show", name=name), json_=json_)


@app.command(epilog="Example: loket channels enable telegram")
def enable(name: Name, json_: show.JsonFlag = False) -> None:
    """Switch a channel on."""
    _card(client.perform("channels.enable", name=name, enabled=True), json_=json_)


@app.command(epilog="Example: loket channels disable telegram")
def disable(name: Name, json_: show.JsonFlag = False) -> None:
    """Switch a channel off; what is queued goes out when it is on again."""
    _card(client.perform("channels.enable", name=name, enabled=False), json_=json_)


def _card(one: dict[str, Any], *, json_: bool) -> None:
    if json_:
        show.as_json(one)
        return
    health = one["health"]
    error = health["error"]
    fields = [(f["name"], ("set" if f["set"] else "not set") if f["secret"] else f["value"]) for f in one["fields"]]
    show.pairs(
        [
            *((key, one[key]) for key in ("name", "module", "agent", "wire")),
            *fields,
            ("reaches", ", ".join([*one["hosts"], *(f"{place} (private)" for place in one["private"])])),
            ("state", health["state"]),
            ("connected", show.when(health["connected"])),
            ("error", f"{error['message']} ({error['remedy']})" if error else None),
            *((key, health[key]) for key in ("unanswered", "queued", "failed")),
            ("failed because", health["reason"]),
            ("paired", one["pairings"]),
        ]
    )


@app.command(epilog="Example: loket channels test telegram")
def test(name: Name, json_: show.JsonFlag = False) -> None:  # noqa: PT028 - a command called test
    """Try a channel's fields at the other side."""
    done = client.perform("channels.test", name=name)
    if json_:
        show.as_json(done)
    else:
        remedy = f" ({done['remedy']})" if done["remedy"] else ""
        show.say(f"{'works' if done['ok'] else 'does not work'}: {done['said']}{remedy}")
    if not done["ok"]:
        raise typer.Exit(show.FAILED)


@app.command(epilog="Example: loket channels codes")
def codes(json_: show.JsonFlag = False) -> None:
    """Senders who wait for your word."""
    found = client.perform("channels.codes")
    if json_:
        show.as_json(found)
        return
    rows = [
        [one["code"], one["channel"], one["sender"], one["name"], show.when(one["expires"])] for one in found["codes"]
    ]
    show.table(["code", "channel", "sender", "calls himself", "until"], rows, "nobody waits", whole=("code",))


@app.command(epilog="Example: loket channels approve QK7MBW2A --as sender")
def approve(
    code: Annotated[str, typer.Argument(metavar="CODE", help="What the sender was told.")],
    as_: Annotated[str, typer.Option("--as", help="sender; owner (this is you); or user, with --user.")] = "sender",
    user: Annotated[str | None, typer.Option("--user", help="Which of your users it is.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Let a sender in. As owner, what the sender writes counts as your own words."""
    made = client.perform("channels.approve", code=code, speaks=as_, **({"user": user} if user else {}))
    if json_:
        show.as_json(made)
        return
    show.say(f"{made['sender']} on {made['channel']} speaks as {made['speaks']} now")
    if made["warning"]:
        show.say(f"Mind: {made['warning']}")


@app.command(epilog="Example: loket channels pairings")
def pairings(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Only this channel's.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Who may speak, and as whom."""
    found = client.perform("channels.pairings", **({"name": name} if name else {}))
    if json_:
        show.as_json(found)
        return
    rows = [
        [one["channel"], one["sender"], one["name"], one["speaks"], show.when(one["at"])] for one in found["pairings"]
    ]
    show.table(["channel", "sender", "calls himself", "speaks as", "since"], rows, "nobody is paired")


@app.command(epilog="Example: loket channels unpair telegram 123456789")
def unpair(
    name: Name,
    sender: Annotated[str, typer.Argument(metavar="SENDER", help="The sender's id.")],
    json_: show.JsonFlag = False,
) -> None:
    """Take a sender's pairing back."""
    gone = client.perform("channels.unpair", name=name, sender=sender)
    show.as_json(gone) if json_ else show.say(f"{sender} may not speak on {name} any more")


@app.command(epilog="Example: loket channels remove telegram --yes")
def remove(
    name: Name,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Remove a channel with its secrets and pairings; the module stays installed."""
    if not yes and not typer.confirm(f"Remove {name}, its secrets, its pairings and what is queued?"):
        raise typer.Exit(show.FAILED)
    gone = client.perform("channels.remove", name=name)
    show.as_json(gone) if json_ else show.say(
        f"Removed: {name} ({gone['secrets']} secrets, {gone['pairings']} pairings)"
    )
