"""`loket mcp add|import|list|show|tools|approve|refuse|diff|test|login|logout|log|enable|disable|remove`."""

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, mcp_stdio, show
from loket.contracts import BadInput

app = typer.Typer(
    help="Servers of the Model Context Protocol: their tools are capabilities `mcp.<server>.<tool>`.",
    invoke_without_command=True,
)

Name = Annotated[str, typer.Argument(metavar="SERVER", help="The server's name.")]
Tool = Annotated[str, typer.Argument(metavar="TOOL", help="The tool's name, or its capability.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.callback()
def mcp(
    context: typer.Context,
    name: Annotated[
        str, typer.Option("--client", metavar="NAME", help="Without a command: which client it is, for its grants.")
    ] = mcp_stdio.NAME,
) -> None:
    """Servers of the Model Context Protocol, whose tools agents use; alone, it serves agents to a client itself."""
    if context.invoked_subcommand is not None:
        return
    if sys.stdin.isatty():
        show.say(context.get_help())
        return
    mcp_stdio.serve(name)


@app.command(epilog="Example: loket mcp add time -- uvx mcp-server-time==2026.10.1")
def add(
    name: Name,
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[-- COMMAND ARGUMENTS]", help="The program, and its arguments.")
    ] = None,
    url: Annotated[str | None, typer.Option(help="The address of a server elsewhere, instead of a program.")] = None,
    env: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; a secret moves to the vault. Repeatable.")] = None,
    header: Annotated[list[str] | None, typer.Option(help='"Name: value", likewise. Repeatable.')] = None,
    client_id: Annotated[str | None, typer.Option(help="Of OAuth, where the server's owner gave you one.")] = None,
    client_secret: Annotated[str | None, typer.Option(help="A secret of the vault: {{secret:NAME}}.")] = None,
    network: Annotated[bool, typer.Option("--network", help="Let its process reach the network.")] = False,
    folder: Annotated[list[str] | None, typer.Option(help="A folder that it sees: PATH, or PATH:rw to write.")] = None,
    no_sandbox: Annotated[bool, typer.Option("--no-sandbox", help="Let its process do all that you can.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Its address may be in a private network.")] = False,
    memory: Annotated[int | None, typer.Option(help="MiB of memory for its process.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds for a call.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of one of the same name.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Add a server: a program of this machine, which runs in a sandbox, or an address."""
    entry: dict[str, Any] = {}
    if words:
        entry = {"command": _program(words[0]), "args": words[1:], "env": _pairs(env or [], "=", "--env")}
    if url is not None:
        entry |= {"url": url, "headers": _pairs(header or [], ":", "--header")}
    if client_id is not None:
        entry["oauth"] = {"client_id": client_id, **({"client_secret": client_secret} if client_secret else {})}
    given = {"network": network, "folders": folder or [], "private": private}
    entry |= {key: value for key, value in given.items() if value} | ({"sandbox": False} if no_sandbox else {})
    entry |= {key: value for key, value in (("memory_mb", memory), ("timeout_s", timeout)) if value is not None}
    result = client.perform("mcp.add", name=name, entry=entry, replace=replace)
    if json_:
        show.as_json(result)
        return
    _tell(result)


def _program(program: str) -> str:
    """The path of a program, as it is found here: where Loket runs, another one may be found, or none."""
    own = str(Path(sys.executable).parent)  # where pip puts programs, also where nobody activated that
    found = shutil.which(program) or shutil.which(program, path=own)
    return str(Path(found).absolute()) if found is not None else program


def _pairs(texts: list[str], sign: str, option: str) -> dict[str, str]:
    found = {}
    for text in texts:
        name, equals, value = text.partition(sign)
        if not equals:
            raise BadInput("mcp.option", f"{option} {name[:40]!r} has no {sign!r}", f'{option} "NAME{sign}VALUE"')
        found[name.strip()] = value.strip() if sign == ":" else value
    return found


def _tell(result: dict[str, Any]) -> None:
    """What was kept, and what to do next."""
    for secret in result.get("moved", []):
        show.say(f"The vault keeps {secret}.")
    _flags(result["flags"])
    if result["approved"]:
        show.say(f"The server {result['name']} is added. Look at its tools: loket mcp test {result['name']}")
    else:
        show.say(f"The server {result['name']} is added, and not approved: loket mcp approve {result['name']}")


def _flags(flags: list[dict[str, Any]]) -> None:
    for flag in flags:
        show.say(f"{'!' if flag['grave'] else '-'} {flag['text']}")


@app.command("import", epilog="Example: loket mcp import ~/.cursor/mcp.json --apply")
def import_(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A file with mcpServers; else the usual ones.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Look at the files of all usual programs.")] = False,
    name: Annotated[list[str] | None, typer.Option(help="Only this server. Repeatable.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Keep them; without it they are only shown.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of those of the same names.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Take over servers of Claude Desktop, Claude Code, Cursor, VS Code, Gemini or Codex; shown first."""
    if file is not None and all_:
        raise BadInput("mcp.import", "a file and --all do not go together", "loket mcp import --all")
    result = client.perform("mcp.import", path=file, names=name, apply=apply, replace=replace)
    if json_:
        show.as_json(result)
        return
    for one in result["found"]:
        _found(one)
    if not result["found"]:
        show.say("No servers were found there.")
    elif not apply:
        show.say("\nNothing was kept. To keep them: the same line with --apply (--name NAME for some of them)")


def _found(one: dict[str, Any]) -> None:
    kept = " (kept, not approved)" if one.get("kept") else " (is here already)" if one["exists"] else ""
    show.say(f"\n{one['name']}{kept}   {one['program'] or ''} {one['file']}")
    if one["skipped"]:
        show.say(f"  left out: {one['skipped']}")
        return
    show.say(f"  {_target(one['entry'])}")
    for flag in one["flags"]:
        show.say(f"  {'!' if flag['grave'] else '-'} {flag['text']}")
    for line in one["notes"]:
        show.say(f"  - {line}")
    for secret in one["secrets"]:
        show.say(f"  - a secret moves to the vault: {secret}")
    for secret in one["missing"]:
        show.say(f"  ! a secret is missing: loket vault put {secret}")


def _target(entry: dict[str, Any]) -> str:
    return entry.get("url") or shlex.join([entry["command"], *entry["args"]])


@app.command("list", epilog="Example: loket mcp list --json")
def list_(json_: show.JsonFlag = False) -> None:
    """All servers, with how they are."""
    result = client.perform("mcp.list")
    if json_:
        show.as_json(result)
        return
    rows = [
        [one["name"], _standing(one), _counts(one["tools"]), one["sandbox"] or "elsewhere", one["target"][:80]]
        for one in result["servers"]
    ]
    empty = "no servers: loket mcp add NAME -- PROGRAM ARGUMENTS"
    show.table(["server", "", "tools", "sandbox", "what"], rows, empty, whole=("server",), spare=("what",))


def _standing(one: dict[str, Any]) -> str:
    if not one["enabled"]:
        return "off"
    if not one["approved"]:
        return "not approved"
    if one["connected"]:
        return "connected"
    return "failed" if one["error"] else "ready"


def _counts(tools: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in tools.items())


@app.command("show", epilog="Example: loket mcp show time")
def show_(name: Name, json_: show.JsonFlag = False) -> None:
    """A server: how it is started or reached, what it gets, how it is."""
    result = client.perform("mcp.show", name=name)
    if json_:
        show.as_json(result)
        return
    keys = ("name", "origin", "digest", "sandbox", "workspace", "server", "protocol", "calls", "failures", "error")
    show.pairs([("", _standing(result)), *((key, result[key]) for key in keys)])
    show.say(json.dumps(result["entry"], indent=1, ensure_ascii=False))
    _flags(result["flags"])
    for secret in (one["name"] for one in result["secrets"] if not one["there"]):
        show.say(f"! a secret is missing: loket vault put {secret}")
    _table(result["list"])


@app.command(epilog="Example: loket mcp tools time get_current_time")
def tools(
    name: Name,
    tool: Annotated[str | None, typer.Argument(metavar="[TOOL]", help="Only this tool, with all that it says.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """The tools of a server, as it described them last."""
    result = client.perform("mcp.tools", name=name, tool=tool)
    if json_:
        show.as_json(result)
    elif tool is None:
        _table(result["tools"])
        for one in result["tools"]:
            _suspicious(one)
    else:
        _whole(result["tools"][0])


def _table(listed: list[dict[str, Any]]) -> None:
    rows = [[one["name"], one["state"], one["effect"], one["critical"], one["summary"][:80]] for one in listed]
    empty = "no tools were seen yet: loket mcp test SERVER"
    show.table(["tool", "", "effect", "critical", "says"], rows, empty, whole=("tool",), spare=("says",))


def _suspicious(tool: dict[str, Any]) -> None:
    for flag in tool["flags"]:
        show.say(
            f"! {tool['name']}: {flag['place']} looks like an instruction ({flag['name']}): {flag['text'][:120]!r}"
        )


def _whole(tool: dict[str, Any]) -> None:
    keys = ("name", "capability", "state", "effect", "critical", "digest", "unusable")
    show.pairs((key, tool[key]) for key in keys)
    show.say("Its server says of it (none of this is checked):")
    show.say(json.dumps(tool["definition"], indent=1, ensure_ascii=False))
    _suspicious(tool)


@app.command(epilog="Example: loket mcp approve time get_current_time --effect read")
def approve(
    name: Name,
    tool: Annotated[
        str | None, typer.Argument(metavar="[TOOL]", help="A tool; without it, how the server starts.")
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="All tools that are new or changed.")] = False,
    effect: Annotated[
        str | None, typer.Option(help="read, private, modify, egress (as it is), destroy, money ...")
    ] = None,
    critical: Annotated[
        str | None, typer.Option(help="The arguments that say whom or what: a,b; empty for none.")
    ] = None,
    repeatable: Annotated[bool | None, typer.Option(help="Whether doing it twice does no harm.")] = None,
    yes: Yes = False,
    json_: show.JsonFlag = False,
) -> None:
    """Approve how a server is started, or what a tool is now. It holds until either of them changes."""
    if tool is None and not all_:
        _approve_server(name, yes=yes, json_=json_)
        return
    listed = client.perform("mcp.tools", name=name, tool=tool)["tools"]
    chosen = listed if tool is not None else [one for one in listed if one["state"] in ("new", "changed")]
    if not json_:
        for one in chosen:
            _whole(one) if tool is not None else _suspicious(one)
        if tool is None:
            _table(chosen)
    if chosen:
        _sure(f"Approve {', '.join(one['name'] for one in chosen)}?", yes=yes)
    words = [word for word in critical.split(",") if word] if critical is not None else None
    given = {"effect": effect, "critical": words, "repeatable": repeatable}
    done = [client.perform("mcp.approve", name=name, tool=one["name"], digest=one["digest"], **given) for one in chosen]
    if json_:
        show.as_json({"approved": done})
        return
    for one in done:
        show.say(f"Approved. An agent may use it with: loket grants allow AGENT {one['capability']}")


def _approve_server(name: str, *, yes: bool, json_: bool) -> None:
    known = client.perform("mcp.show", name=name)
    if not json_:
        show.say(json.dumps(known["entry"], indent=1, ensure_ascii=False))
        _flags(known["flags"])
    _sure(f"Approve that {name} is started or reached like this?", yes=yes)
    result = client.perform("mcp.approve", name=name, digest=known["digest"])
    show.as_json(result) if json_ else show.say(f"Approved. Look at its tools: loket mcp test {name}")


def _sure(question: str, *, yes: bool) -> None:
    """Ask, where somebody is there to answer. Raises `BadInput`."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise BadInput("mcp.confirm", "nobody is there to confirm it", "the same line with --yes")
    typer.confirm(question, abort=True)


@app.command(epilog="Example: loket mcp refuse files delete_file")
def refuse(name: Name, tool: Tool, json_: show.JsonFlag = False) -> None:
    """Refuse a tool, or take its approval back; it counts from the next call on."""
    result = client.perform("mcp.refuse", name=name, tool=tool)
    show.as_json(result) if json_ else show.say(f"No agent can use {result['capability']}.")


@app.command(epilog="Example: loket mcp diff time get_current_time")
def diff(name: Name, tool: Tool, json_: show.JsonFlag = False) -> None:
    """How a tool differs from what you approved."""
    result = client.perform("mcp.diff", name=name, tool=tool)
    if json_:
        show.as_json(result)
        return
    show.say(result["diff"] or "It describes itself as you approved it.")
    if result["configuration"]:
        show.say(f"Its server is started or reached otherwise than when you approved it: loket mcp show {name}")
    _suspicious({**result, "name": result["tool"]})
    if result["state"] == "changed":
        show.say(f"It is withdrawn. To approve it as it is now: loket mcp approve {name} {shlex.quote(result['tool'])}")


@app.command("test", epilog="Example: loket mcp test time")
def reach(name: Name, json_: show.JsonFlag = False) -> None:
    """Connect a server now, and list its tools."""
    result = client.perform("mcp.test", name=name)
    if json_:
        show.as_json(result)
        return
    show.say(f"{name} answers: {result['server'] or 'it does not say what it is'}, protocol {result['protocol']}")
    _table(result["list"])


@app.command(epilog="Example: loket mcp login tracker")
def login(name: Name, json_: show.JsonFlag = False) -> None:
    """Log in to a server elsewhere: open the address that is shown, and wait."""

    def on_event(event: dict[str, Any]) -> None:
        if event["type"] == "login":
            sys.stderr.write(f"Open this address in a browser of this machine:\n{show.clean(event['url'])}\n")

    result = client.perform("mcp.login", on_event, name=name)
    show.as_json(result) if json_ else show.say(f"You are logged in to {name}.")


@app.command(epilog="Example: loket mcp logout tracker")
def logout(name: Name, json_: show.JsonFlag = False) -> None:
    """Forget the tokens of a server."""
    result = client.perform("mcp.logout", name=name)
    show.as_json(result) if json_ else show.say(f"The tokens of {name} are gone." if result["forgotten"] else "None.")


@app.command(epilog="Example: loket mcp log time")
def log(name: Name, json_: show.JsonFlag = False) -> None:
    """What a server's process said on its standard error, the last of it."""
    result = client.perform("mcp.log", name=name)
    show.as_json(result) if json_ else show.say(result["text"] or f"{result['file']} is empty.")


@app.command(epilog="Example: loket mcp enable time")
def enable(name: Name, json_: show.JsonFlag = False) -> None:
    """Switch a server on."""
    result = client.perform("mcp.enable", name=name, enabled=True)
    show.as_json(result) if json_ else show.say(f"{name} is on.")


@app.command(epilog="Example: loket mcp disable time")
def disable(name: Name, json_: show.JsonFlag = False) -> None:
    """Switch a server off: its tools are withdrawn, its process ends."""
    result = client.perform("mcp.enable", name=name, enabled=False)
    show.as_json(result) if json_ else show.say(f"{name} is off.")


@app.command(epilog="Example: loket mcp remove time")
def remove(name: Name, json_: show.JsonFlag = False) -> None:
    """Forget a server with its tools, approvals and tokens."""
    result = client.perform("mcp.remove", name=name)
    if json_:
        show.as_json(result)
        return
    show.say(f"The server {name} is gone.")
    if result["workspace"]:
        show.say(f"Its folder stays: {result['workspace']}")
    for secret in result["secrets"]:
        show.say(f"Its secret stays: loket vault remove {secret}")
