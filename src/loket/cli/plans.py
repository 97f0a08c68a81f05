"""`loket plans list|show|make|check|run|save|edit|remove`."""

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import Agent
from loket.contracts import BadInput, command

app = typer.Typer(
    help="Plans: requests of several steps as data, checked as a whole before they run.", no_args_is_help=True
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The saved plan's name.")]
What = Annotated[str, typer.Argument(metavar="FILE|NAME", help="A file with a plan (- is standard input), or a name.")]

_MOST_KB = 1_024


@app.command("list", epilog="Example: loket plans list main")
def list_(agent: Agent, json_: show.JsonFlag = False) -> None:
    """The saved plans of an agent."""
    found = client.perform("plans.list", agent=agent)
    if json_:
        show.as_json(found)
        return
    rows = [[one["name"], one["title"], one["by"], show.when(one["saved"])] for one in found["plans"]]
    show.table(["name", "title", "by", "saved"], rows, "no plans yet", whole=("name",), spare=("saved", "by"))


@app.command("show", epilog="Example: loket plans show main morning --json")
def show_(agent: Agent, name: Name, json_: show.JsonFlag = False) -> None:
    """A saved plan; with --json in the form that `save` reads."""
    found = client.perform("plans.show", agent=agent, name=name)
    if json_:
        show.as_json(found)
        return
    show.pairs((key, found[key]) for key in ("name", "title", "by", "labels"))
    show.say()
    _steps(found["plan"]["steps"])


@app.command(epilog='Example: loket plans make main "note what you know about my sister" --save sister')
def make(
    agent: Agent,
    request: Annotated[str, typer.Argument(help="What is wanted.")],
    save: Annotated[str | None, typer.Option("--save", help="Save it under this name.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Have the model make a plan; nothing runs."""
    made = client.perform("plans.make", agent=agent, request=request)
    if save is not None:
        client.perform("plans.save", agent=agent, name=save, plan=made["plan"])
    if json_:
        show.as_json(made)
        return
    _steps(made["plan"]["steps"])
    _report(made["check"])
    if save is not None:
        show.say(f"Saved: {command('plans', 'run', agent, save)}")


@app.command(epilog="Example: loket plans check main morning.json")
def check(agent: Agent, what: What, json_: show.JsonFlag = False) -> None:
    """What a plan would do, what is wrong with it, and what you would be asked; nothing runs."""
    report = client.perform("plans.check", agent=agent, **_given(what))
    if json_:
        show.as_json(report)
    else:
        _report(report)
    if not report["ok"]:
        raise typer.Exit(_code(report))


@app.command(epilog="Example: loket plans run main morning.json --yes")
def run(
    agent: Agent,
    what: What,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; what the plan says counts as your words.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Run a plan, after showing what it does. What its steps name literally counts as your words."""
    given = _given(what)
    if not yes:
        _confirm(client.perform("plans.check", agent=agent, **given))
    result = client.perform("plans.run", agent=agent, **given)
    if json_:
        show.as_json(result)
    else:
        _result(result)
    if result["status"] != "done":
        raise typer.Exit(show.FAILED)


@app.command(epilog="Example: loket plans save main morning morning.json")
def save(
    agent: Agent,
    name: Name,
    file: Annotated[str, typer.Argument(help="A file with the plan, or - for standard input.")],
    json_: show.JsonFlag = False,
) -> None:
    """Save a plan for an agent, in the place of any of this name."""
    saved = client.perform("plans.save", agent=agent, name=name, plan=_read(file))
    show.as_json(saved) if json_ else show.say(f"Saved: {command('plans', 'run', agent, saved['name'])}")


@app.command(epilog="Example: loket plans edit main morning")
def edit(agent: Agent, name: Name, json_: show.JsonFlag = False) -> None:
    """Change a saved plan in an editor (VISUAL, EDITOR); it is checked before it is saved."""
    plan = client.perform("plans.show", agent=agent, name=name)["plan"]
    changed = _edited(plan)
    saved = client.perform("plans.save", agent=agent, name=name, plan=changed)
    if json_:
        show.as_json(saved)
    else:
        show.say("Saved." if changed != plan else "Nothing was changed.")


@app.command(epilog="Example: loket plans remove main morning")
def remove(agent: Agent, name: Name, json_: show.JsonFlag = False) -> None:
    """Remove a saved plan."""
    gone = client.perform("plans.remove", agent=agent, name=name)
    if json_:
        show.as_json(gone)
    else:
        show.say("Removed." if gone["existed"] else f"{agent} has no plan {name}.")


def _given(what: str) -> dict[str, Any]:
    """A plan in a file, or the name of a saved one: what is a file, or is called like one, is a file."""
    is_file = what == "-" or what.endswith(".json") or Path(what).is_file()
    return {"plan": _read(what)} if is_file else {"name": what}


def _read(file: str) -> dict[str, Any]:
    """A plan from a file: the plan itself, or what `show --json` printed. Raises `BadInput`."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
        value = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise BadInput("plans.file", f"{file} holds no plan: {reason}", "docs/plans.md shows one") from None
    if isinstance(value, dict) and isinstance(value.get("plan"), dict):
        value = value["plan"]
    if not isinstance(value, dict):
        raise BadInput("plans.file", f"{file} holds no plan: a JSON object is needed", "docs/plans.md shows one")
    return value


def _edited(plan: dict[str, Any]) -> dict[str, Any]:
    """The plan after an editor. Raises `BadInput` where it is no plan any more; the file stays then."""
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    handle, path = tempfile.mkstemp(prefix="plan-", suffix=".json")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(plan, file, indent=2, ensure_ascii=False)
    try:
        ended = subprocess.run([*editor, path], check=False).returncode
    except OSError as error:
        raise BadInput("plans.editor", f"{editor[0]} cannot be started: {error.strerror}", "set EDITOR") from None
    if ended:
        raise BadInput("plans.editor", f"{editor[0]} ended with {ended}; your text is in {path}", "set EDITOR")
    changed = _read(path)
    Path(path).unlink()
    return changed


def _confirm(report: dict[str, Any]) -> None:
    """Show what a plan does, and ask. Raises `BadInput` where nobody can answer."""
    _report(report)
    if not report["ok"]:
        raise typer.Exit(_code(report))
    if not sys.stdin.isatty():
        raise BadInput("plans.unconfirmed", "nobody can be asked whether to run it", "add --yes")
    if not typer.confirm("Run it?", err=True):
        raise typer.Exit(show.FAILED)


def _code(report: dict[str, Any]) -> int:
    """How a command ends with a plan that may not run: 2 where the plan itself is wrong, 3 where it is refused."""
    return show.REFUSED if all(problem["refused"] for problem in report["problems"]) else show.USAGE


def _steps(steps: list[dict[str, Any]]) -> None:
    rows = [[step["id"], step["call"], step.get("args", {}), _when(step)] for step in steps]
    show.table(["step", "calls", "with", "when"], rows, "no steps", whole=("step",))


def _when(step: dict[str, Any]) -> str:
    loop = f"for each of {step['each']['in']['$step']}, at most {step['each']['most']}" if "each" in step else ""
    condition = f"if {show.word(step['if'])}" if "if" in step else ""
    return "; ".join(part for part in (loop, condition) if part)


def _report(report: dict[str, Any]) -> None:
    for problem in report["problems"]:
        show.say(f"{problem['path']}: {problem['message']}\n  Remedy: {problem['remedy']}")
    if report["ok"]:
        columns = ["step", "calls", "effect", "decision", "reason"]
        rows = [[one["id"], one["call"], one["effect"], _decided(one), one["reason"]] for one in report["steps"]]
        show.table(columns, rows, "no steps", whole=("step",), spare=("reason", "effect"))
        asked = len(report["approvals"])
        show.say(f"At most {report['calls']} calls; you will be asked about {asked or 'none'} of the steps.")


def _decided(step: dict[str, Any]) -> str:
    return str(step["decision"]) if step["certain"] else f"{step['decision']} (by what is found)"


def _result(result: dict[str, Any]) -> None:
    rows = [[one["id"], one["call"], one["status"], one["attempts"], one.get("reason")] for one in result["steps"]]
    show.table(["step", "calls", "status", "attempts", "reason"], rows, "no steps", whole=("step",))
    if result["answer"]:
        show.say()
        show.pairs(result["answer"].items())
    if result["status"] != "done":
        error = result["error"]
        show.say(f"Failed at {error['step']}: {error['message']} ({error['code']})")
        if error.get("remedy"):
            show.say(f"Remedy: {error['remedy']}")
    show.say(f"Run: loket runs show {result['run']}")
