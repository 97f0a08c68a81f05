"""`loket policy`: the rules, what they say to a call, and what others would have said."""

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput

_app = typer.Typer(
    help="Rules that allow, ask or deny: list, show, check, explain, test, replay, add, remove.",
    no_args_is_help=True,
)

_DAYS = {"h": 1 / 24, "d": 1.0, "w": 7.0, "y": 365.25}
_SHOWN = 40
_LISTED = ("file", "line", "does", "reason")

With = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="FILE", help="As if this file were among the home's; may be repeated."),
]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.add_typer(_app, name="policy")


@_app.command("show", epilog="Example: loket policy show default.ask")
def show_(
    rule: Annotated[str | None, typer.Argument(metavar="[RULE|FILE]", help="One rule, or those of a file.")] = None,
    text: Annotated[bool, typer.Option("--text", help="The rules as they are written.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Show the rules that hold: the floor, the default, and the home's own."""
    result = client.perform("policy.show", rule=rule)
    if json_:
        show.as_json(result)
    elif text or rule is not None:
        show.say("\n\n".join(f"// {one['file']}, line {one['line']}\n{one['text']}" for one in result["rules"]))
    else:
        rows = [[one["id"], one["does"], one["reason"], f"{one['file']}:{one['line']}"] for one in result["rules"]]
        show.table(["rule", "does", "because", "where"], rows, "no rules", whole=("rule",), spare=("where",))
        show.say(f"\nYour own rules go to {result['folder']}. Digest {result['digest'] or 'none'}.")
    if result["error"] and not json_:
        show.say(f"\nThey do not hold, and everything is denied: {result['error']['message']}")


@_app.command("list", epilog="Example: loket policy list")
def list_(json_: show.JsonFlag = False) -> None:
    """List the rules that hold: id, file, verdict, reason."""
    result = client.perform("policy.show")
    if json_:
        rules = [{"id": one["id"], **{name: one[name] for name in _LISTED}} for one in result["rules"]]
        show.as_json({"rules": rules, "digest": result["digest"], "error": result["error"]})
        return
    rows = [[one["id"], f"{one['file']}:{one['line']}", one["does"], one["reason"]] for one in result["rules"]]
    show.table(["id", "file", "verdict", "reason"], rows, "no rules", whole=("id", "verdict"))
    if result["error"]:
        show.say(f"\nThey do not hold, and everything is denied: {result['error']['message']}")


@_app.command(epilog="Example: loket policy check mine.cedar")
def check(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILES]", help="Beside the home's own.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Check files of rules before they are added; without one, the home's. Exit 0 only if nothing is wrong."""
    result = client.perform("policy.check", files=_read(files) or None)
    if json_:
        show.as_json(result)
    else:
        for fault in result["faults"]:
            show.say(f"{fault['message']}\n  Remedy: {fault['remedy']}")
        if result["ok"]:
            show.say(
                f"Nothing is wrong with {', '.join(result['files']) or 'the rules: the home has none of its own'}."
            )
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


def _read(files: list[Path] | None) -> dict[str, str]:
    return {path.name: _text(path) for path in files or ()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("policy.file", f"{path} cannot be read: {error}", "name a file of text") from None


@_app.command(epilog="Example: loket policy add mine.cedar")
def add(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Rules in Cedar, a name.cedar.")] = None,
    rule: Annotated[str | None, typer.Option(help="One rule, in Cedar; it is kept with the approved ones.")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="In the place of a file of this name.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Add rules, from the next call on; what is wrong with them is said, and nothing is changed then."""
    if (file is None) == (rule is None):
        raise BadInput("policy.add", "either a file or --rule says what to add", "loket policy add mine.cedar")
    given = {"name": file.name, "text": _text(file)} if file is not None else {"text": rule}
    result = client.perform("policy.add", **given, replace=replace)
    if json_:
        show.as_json(result)
        return
    for one in result["rules"]:
        show.say(f"{one['id']} ({one['does']}) holds now: {one['file']}, line {one['line']}")


@_app.command(epilog="Example: loket policy remove mine.cedar")
def remove(
    name: Annotated[str, typer.Argument(metavar="FILE|RULE", help="A file of the home's, or the id of a rule.")],
    json_: show.JsonFlag = False,
) -> None:
    """Take away a file of the home's, or one rule, from the next call on."""
    result = client.perform("policy.remove", name=name)
    show.as_json(result) if json_ else show.say(f"{name} does not hold any more.")


@_app.command(
    epilog="Example: loket policy explain net.fetch url=https://example.org/ --origin url=untrusted --seen private"
    "   loket policy explain --call 1hx7/3"
)
def explain(
    call: Annotated[
        list[str] | None, typer.Argument(metavar="[CAPABILITY NAME=VALUE ...]", help="A call with its arguments.")
    ] = None,
    journaled: Annotated[
        str | None, typer.Option("--call", metavar="RUN/ORDINAL", help="One from the journal.")
    ] = None,
    principal: Annotated[str, typer.Option(help="Who asks: agent:main, user:ana, owner.")] = "agent:main",
    module: Annotated[str | None, typer.Option(metavar="PUBLISHER/ID", help="The module; local/ and its name.")] = None,
    direct: Annotated[bool, typer.Option("--direct", help="Without a module: a call of their own.")] = False,
    origin: Annotated[
        list[str] | None, typer.Option(metavar="NAME=ORIGIN", help="named, selected, trusted, bounded, untrusted.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=LABEL", help="A label of an argument.")] = None,
    seen: Annotated[list[str] | None, typer.Option(metavar="LABEL", help="A label that the run has seen.")] = None,
    role: Annotated[list[str] | None, typer.Option(metavar="ROLE", help="A role of theirs.")] = None,
    with_: With = None,
    json_: show.JsonFlag = False,
) -> None:
    """Say which rules match a call, what follows, and the rule that would allow exactly this call."""
    if (journaled is None) == (not call):
        raise BadInput("policy.call", "either a capability or --call says which call", "loket policy explain --help")
    case = None if journaled else _case(call or [], principal, module, direct=direct, labels=label, origins=origin)
    if case is not None:
        case |= {"seen": ["owner", *(seen or [])], "roles": role or []}
    files = _read(with_) or None
    result = client.perform("policy.explain", call=journaled, case=case, files=files)
    show.as_json(result) if json_ else _show_explained(result)


def _case(
    call: list[str],
    principal: str,
    module: str | None,
    *,
    direct: bool,
    labels: list[str] | None,
    origins: list[str] | None,
) -> dict[str, Any]:
    """The call as a case of a policy test."""
    found: dict[str, list[str]] = {}
    for name, value in _pairs(labels or []):
        found.setdefault(name, []).append(value)
    return {
        "capability": call[0],
        "args": {name: _value(value) for name, value in _pairs(call[1:])},
        "principal": principal,
        "direct": direct or principal == "owner",
        "origins": dict(_pairs(origins or [])),
        "labels": found,
        **({"module": module} if module else {}),
    }


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    parts = [word.partition("=") for word in words]
    for name, equals, value in parts:
        if not equals:
            raise BadInput("policy.argument", f"{name!r} is not NAME=VALUE", f"{name or 'url'}={value or 'VALUE'}")
    return [(name, value) for name, _, value in parts]


def _value(text: str) -> Any:
    """A JSON value, or the text itself where it is none."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _show_explained(result: dict[str, Any]) -> None:
    show.say(f"{result['verdict']}: {result['reason']}")
    then = result.get("then")
    show.pairs(
        [
            ("call", f"{result['capability']} of {result['principal']}"),
            ("then", f"{then['from']['verdict']} ({', '.join(then['from']['rules'])})" if then else None),
            *((f"origin of {name}", _origin(*found)) for name, found in result["origins"].items()),
            ("obligations", result["obligations"]),
            ("remedy", result["remedy"]),
        ]
    )
    rows = [["*" if r["decided"] else "", r["id"], r["does"], f"{r['file']}:{r['line']}"] for r in result["matching"]]
    show.say()
    show.table(["", "matching rule", "does", "where"], rows, "no rule matches", whole=("matching rule",))
    if result["verdict"] != "allow":
        show.say(f"\nThis rule is about exactly this call:\n{result['allowing']}")


def _origin(origin: str, why: str) -> str:
    """Where a value comes from; of a call that was only described there is no reason."""
    return f"{origin}: {why}" if why else origin


@_app.command("test", epilog="Example: loket policy test mine.toml --with mine.cedar")
def run_tests(
    file: Annotated[
        Path | None, typer.Argument(metavar="[FILE]", help="Policy tests; Loket's own on its own rules if left out.")
    ] = None,
    with_: With = None,
    json_: show.JsonFlag = False,
) -> None:
    """Run a file of policy tests on the home's rules; exit 0 only if all come out as they say."""
    given = {"name": file.name, "text": _text(file)} if file is not None else {}
    result = client.perform("policy.test", **given, files=_read(with_) or None)
    if json_:
        show.as_json(result)
    else:
        for one in result["wrong"]:
            show.say(f"{one['name']}: {one['wrong']}")
        show.say(f"{result['cases'] - len(result['wrong'])} of {result['cases']} cases are as they should be")
    raise typer.Exit(show.DONE if result["ok"] else show.FAILED)


@_app.command(epilog="Example: loket policy replay stricter.cedar --since 7d")
def replay(
    files: Annotated[list[Path], typer.Argument(metavar="FILES", help="Rules that are to be tried.")],
    since: Annotated[str, typer.Option(metavar="AGE", help="Runs of the last 12h, 7d, 8w.")] = "7d",
    agent: Annotated[str | None, typer.Option(help="Only this agent's.")] = None,
    alone: Annotated[bool, typer.Option("--alone", help="Without the home's other files.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Decide every journaled call again under other rules, and show what would change. Nothing is saved."""
    with show.progress("Deciding again", quiet=json_) as on_event:
        result = client.perform(
            "policy.replay", on_event, files=_read(files), since_days=_age(since), agent=agent, alone=alone
        )
    if json_:
        show.as_json(result)
        return
    rows = [
        [
            f"{one['run']}/{one['ordinal']}",
            one["agent"],
            one["capability"],
            f"{one['from']['verdict']} -> {one['to']['verdict']}",
            one["to"]["rules"],
        ]
        for one in result["changes"][:_SHOWN]
    ]
    columns = ["call", "agent", "capability", "verdict", "rules"]
    show.table(columns, rows, "Nothing would change.", whole=("call", "verdict"), spare=("agent",))
    gone = f" ({result['unknown']} could not be decided again)" if result["unknown"] else ""
    show.say(f"\n{result['changed']} of {result['calls']} calls in {result['runs']} runs would change{gone}.")


def _age(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([hdwy])", text)
    if found is None:
        raise BadInput("policy.since", f"{text!r} is no age: a number and h, d, w or y", "--since 7d")
    return float(found[1]) * _DAYS[found[2]]
