"""`loket schedule add|list|show|pause|resume|remove|run|approve|secret|backup`."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import Agent, AnyAgent
from loket.contracts import BadInput

app = typer.Typer(
    help="Schedules: what agents are told, or what is done, at times and when something happens.", no_args_is_help=True
)

Id = Annotated[str, typer.Argument(metavar="ID", help="The schedule's id, or the beginning of it.")]
Cron = Annotated[str | None, typer.Option("--cron", help='At times: "30 8 * * mon-fri".')]
Interval = Annotated[str | None, typer.Option("--every", help="Again and again: 90s, 15m, 2h, 1d, 1w.")]
At = Annotated[str | None, typer.Option("--at", help="Once: 2026-11-22T08:00.")]
Zone = Annotated[str | None, typer.Option("--timezone", help="Of --cron and --at; this machine's if left out.")]
Missed = Annotated[
    str, typer.Option("--missed", help="After Loket was off: once (one run for all), skip, or all (the last hundred).")
]

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SHOWN = 60
"""Characters of a text in a list."""


@app.command(epilog='Example: loket schedule add main "What is new?" --cron "0 8 * * *" --timezone Europe/Berlin')
def add(
    agent: Agent,
    text: Annotated[str | None, typer.Argument(metavar="[TEXT]", help="What is said; these are your words.")] = None,
    cron: Cron = None,
    every: Interval = None,
    at: At = None,
    webhook: Annotated[bool, typer.Option("--webhook", help="When a signed request comes.")] = False,
    on_file: Annotated[str | None, typer.Option("--on-file", help="When a file changed: inbox/*.pdf.")] = None,
    idle: Annotated[str | None, typer.Option("--idle", help="When the agent did nothing for 30m.")] = None,
    timezone: Zone = None,
    plan: Annotated[str | None, typer.Option("--plan", help="Run this saved plan instead.")] = None,
    call: Annotated[str | None, typer.Option("--call", help="Call this capability in your name instead.")] = None,
    args: Annotated[str, typer.Option("--args", help="The arguments of --call, as a JSON object.")] = "{}",
    conversation: Annotated[str, typer.Option("--conversation", help="In which conversation.")] = "main",
    missed: Missed = "once",
    most: Annotated[int, typer.Option("--most", help="Unfinished runs of it at a time.")] = 1,
    json_: show.JsonFlag = False,
) -> None:
    """Have something said to an agent, or done, later."""
    when = _when(cron, every, at, timezone, webhook=webhook, on_file=on_file, idle=idle)
    made = client.perform(
        "schedules.add",
        agent=agent,
        when=when,
        conversation=conversation,
        missed=missed,
        most=most,
        **_what(text, plan, call, args),
    )
    if json_:
        show.as_json(made)
        return
    _made(made)
    if "secret" in made:
        show.say(f"POST {made['path']} with the header Loket-Signature (docs/schedules.md).")
        show.say(f"The secret, shown this once: {made['secret']}")


@app.command("list", epilog="Example: loket schedule list main")
def list_(agent: AnyAgent = None, json_: show.JsonFlag = False) -> None:
    """All schedules, or an agent's."""
    found = client.perform("schedules.list", agent=agent)
    if json_:
        show.as_json(found)
        return
    columns = ["id", "agent", "what", "when", "next", "last", "by"]
    rows = [_row(one) for one in found["schedules"]]
    show.table(columns, rows, "no schedules yet", whole=("id",), spare=("by", "last"))


@app.command("show", epilog="Example: loket schedule show 0a1b2c3d4e")
def show_(identity: Id, json_: show.JsonFlag = False) -> None:
    """A schedule, and how it went the last times."""
    one = client.perform("schedules.show", id=identity)
    if json_:
        show.as_json(one)
        return
    plain = ("id", "agent", "by", "conversation", "missed", "most", "labels", "approved", "paused")
    what = [("what", one["what"].get("text") or _what_of(one["what"]))]
    show.pairs([*((name, one[name]) for name in plain), *what, ("when", _when_of(one["when"])), ("next", _next(one))])
    show.say()
    rows = [
        [show.when(fired["due"]), fired["status"], fired["run"], fired["result"].get("message")]
        for fired in one["firings"]
    ]
    show.table(["due", "status", "run", "reason"], rows, "it has not come due yet", whole=("run",))


@app.command(epilog="Example: loket schedule pause 0a1b2c3d4e")
def pause(identity: Id, json_: show.JsonFlag = False) -> None:
    """Pause a schedule; what comes due meanwhile is not made up for."""
    one = client.perform("schedules.pause", id=identity, paused=True)
    show.as_json(one) if json_ else show.say(f"Paused: {one['id']}")


@app.command(epilog="Example: loket schedule resume 0a1b2c3d4e")
def resume(identity: Id, json_: show.JsonFlag = False) -> None:
    """Let a paused schedule go on from its next time on."""
    one = client.perform("schedules.pause", id=identity, paused=False)
    show.as_json(one) if json_ else _made(one)


@app.command(epilog="Example: loket schedule remove 0a1b2c3d4e")
def remove(identity: Id, json_: show.JsonFlag = False) -> None:
    """Remove a schedule; runs that it started go on."""
    gone = client.perform("schedules.remove", id=identity)
    show.as_json(gone) if json_ else show.say(f"Removed: {gone['id']}")


@app.command(epilog="Example: loket schedule run 0a1b2c3d4e")
def run(identity: Id, json_: show.JsonFlag = False) -> None:
    """Perform a schedule now, whatever its times are, and wait for the answer."""
    done = client.perform("schedules.run", id=identity)
    if json_:
        show.as_json(done)
    else:
        answer = done.get("answer") or {}
        show.say(str(answer.get("text", show.word(answer or done["result"]))))
    if done["status"] != "done":
        raise typer.Exit(show.FAILED)


@app.command(epilog="Example: loket schedule approve 0a1b2c3d4e")
def approve(identity: Id, json_: show.JsonFlag = False) -> None:
    """Have an agent's schedule speak for you: its text counts as your words in its next runs."""
    one = client.perform("schedules.approve", id=identity)
    show.as_json(one) if json_ else show.say(f"These are your words now: {one['what'].get('text', '')}")


@app.command(epilog="Example: loket schedule secret 0a1b2c3d4e")
def secret(identity: Id, json_: show.JsonFlag = False) -> None:
    """Make a new secret for a webhook; the one before counts no more."""
    made = client.perform("schedules.secret", id=identity)
    show.as_json(made) if json_ else show.say(f"The secret of {made['path']}, shown this once: {made['secret']}")


@app.command(epilog="Example: loket schedule backup --every 1d --keep 7 /media/disk/loket")
def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Backups go into folders of their own below it.")],
    cron: Cron = None,
    every: Interval = None,
    at: At = None,
    timezone: Zone = None,
    keep: Annotated[int, typer.Option("--keep", help="Backups that are kept, this schedule's own.")] = 7,
    models: Annotated[bool, typer.Option("--models", help="Model files too.")] = False,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="Leave the keys out.")] = False,
    missed: Missed = "once",
    json_: show.JsonFlag = False,
) -> None:
    """Back the home up again and again: each backup is verified, and only then older ones are removed."""
    made = client.perform(
        "schedules.backup",
        folder=str(folder.expanduser().absolute()),
        when=_when(cron, every, at, timezone),
        keep=keep,
        models=models,
        keys=not no_keys,
        missed=missed,
    )
    show.as_json(made) if json_ else _made(made)


def _when(
    cron: str | None,
    every: str | None,
    at: str | None,
    timezone: str | None,
    *,
    webhook: bool = False,
    on_file: str | None = None,
    idle: str | None = None,
) -> dict[str, Any]:
    """The trigger that the options say. Raises `BadInput` unless it is one."""
    given: dict[str, Any] = {"cron": cron, "at": at, "file": on_file, "webhook": webhook or None}
    given["every_s"] = seconds_of(every) if every is not None else None
    given["idle_s"] = seconds_of(idle) if idle is not None else None
    when = {name: value for name, value in given.items() if value is not None}
    if len(when) != 1:
        raise BadInput(
            "schedule.when",
            "say when: one of --cron, --every, --at, --webhook, --on-file and --idle",
            'loket schedule add main "What is new?" --every 1h',
        )
    return {**when, "timezone": timezone} if timezone is not None else when


def seconds_of(text: str) -> int:
    """A length of time such as `90s`, `15m`, `2h`, `1d` or `1w`, in seconds. Raises `BadInput`."""
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip(), re.ASCII)
    if found is None:
        raise BadInput("schedule.seconds", f"{text!r} is no length of time", "90s, 15m, 2h, 1d or 1w")
    return int(found[1]) * _UNITS[found[2]]


def _what(text: str | None, plan: str | None, call: str | None, args: str) -> dict[str, Any]:
    if sum(one is not None for one in (text, plan, call)) != 1:
        raise BadInput("schedule.what", "give a text, --plan or --call", 'loket schedule add main "..." --every 1h')
    if text is not None:
        return {"text": text}
    try:
        given = {"name": plan} if plan is not None else json.loads(args)
    except ValueError as error:
        raise BadInput("schedule.args", f"--args is no JSON: {error}", """--args '{"key": "value"}'""") from None
    if not isinstance(given, dict):
        raise BadInput("schedule.args", "--args is no JSON object", """--args '{"key": "value"}'""")
    return {"call": "plan.run" if plan is not None else call, "args": given}


def _made(one: dict[str, Any]) -> None:
    following = f", next {_next(one)}" if one["next"] is not None else ""
    show.say(f"Schedule {one['id']}: {_when_of(one['when'])}{following}")
    if client.home().running() is None:
        show.say("Schedules come due while Loket runs: loket up")


def _row(one: dict[str, Any]) -> list[Any]:
    last = one["last"]
    said = f"{last['status']} {show.when(last['at'])}" if last is not None else None
    return [one["id"], one["agent"], _what_of(one["what"]), _when_of(one["when"]), _next(one), said, one["by"]]


def _next(one: dict[str, Any]) -> str:
    return "paused" if one["paused"] else show.when(one["next"])


def _what_of(what: dict[str, Any]) -> str:
    if "backup" in what:
        return f"backup to {what['backup']['folder']}, {what['backup']['keep']} kept"
    if "call" in what:
        return f"{what['call']} {show.word(what['args'])}"
    text = " ".join(what["text"].split())
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def _when_of(when: dict[str, Any]) -> str:
    if "cron" in when:
        return f"{when['cron']} ({when['timezone']})"
    if "at" in when:
        return f"once, {show.when(when['at_s'])}"
    if "every_s" in when:
        return f"every {_length(when['every_s'])}"
    if "idle_s" in when:
        return f"after {_length(when['idle_s'])} of quiet"
    return f"when {when['file']} changes" if "file" in when else "webhook"


def _length(seconds: int) -> str:
    """A length of time in its largest whole unit."""
    unit = next(name for name, size in reversed(_UNITS.items()) if seconds % size == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
