"""`loket approvals`: what agents ask, and the owner's word on it. The same at the terminal of `loket ask`."""

import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.cli.arguments import agent_ids
from loket.contracts import BadInput, Failed

app = typer.Typer(
    help="What agents ask you for: list, show, approve, deny, watch. A run that asks waits, and costs nothing.",
    no_args_is_help=True,
)

WAITING = 4
"""Exit code of a message whose run waits for the owner; what was accepted stays accepted."""

_MOST = 400
"""Characters of a value that is not critical, unless all are asked for."""

_LOOK_S = 1.0
"""Seconds between two looks at what is new."""

_FILLERS = re.compile("[\u115f\u1160\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Printable by their class, and yet nobody sees them: fillers and variation selectors (Unicode 17)."""

ApprovalId = Annotated[str, typer.Argument(metavar="ID", help="An approval's id, or the start of it.")]


@app.command("list", epilog="Example: loket approvals list")
def list_(
    run: Annotated[str | None, typer.Option(help="Only of this run, and of those that came of it.")] = None,
    agent: Annotated[str | None, typer.Option(help="Only this agent's.", autocompletion=agent_ids)] = None,
    every: Annotated[bool, typer.Option("--all", help="Decided ones too, the newest first.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """List the questions that wait, those of one request together."""
    result = client.perform("approvals.list", run=run, agent=agent, every=every)
    if json_:
        show.as_json(result)
        return
    found = result["approvals"] if every else _together(result["approvals"])
    rows = [
        [
            *(one[name] for name in ("id", "status", "agent", "run")),
            _for(one),
            one["capability"],
            _brief(one),
            show.when(one["until"]),
        ]
        for one in found
    ]
    columns = ["id", "status", "agent", "run", "for", "capability", "with", "until"]
    show.table(columns, rows, "nothing waits for you", whole=("id", "status", "run"), spare=("until", "status", "for"))


def _for(one: Mapping[str, Any]) -> str:
    """The runs that wait with the one that asks: the agent that asked it first, with its run."""
    return " < ".join(f"{link['agent']} {link['run']}" for link in one["chain"][1:])


def _together(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of one request next to each other, in the order in which the first of each was asked."""
    first = {one["root"]: place for place, one in reversed(list(enumerate(found)))}
    return sorted(found, key=lambda one: first[one["root"]])


def _brief(one: Mapping[str, Any]) -> str:
    if one["args"] is None:
        return "(erased)" if one["erased"] else "(unreadable)"
    names = one["critical"] or sorted(one["args"])
    return ", ".join(f"{_plain(name)}={_cut(safe(one['args'][name]), 80)}{_record(name, one)}" for name in names)


@app.command("show", epilog="Example: loket approvals show 1hx7 --full")
def show_(
    identity: ApprovalId,
    full: Annotated[bool, typer.Option("--full", help="Values as long as they are.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Show the exact call with its values, where they come from, which rule asks, and the rule that it proposes."""
    result = client.perform("approvals.show", id=identity)
    if json_:
        show.as_json(result)
        return
    for line in described(result, full=full):
        show.say(line)


@app.command(epilog="Example: loket approvals approve 1hx7 --run")
def approve(
    identity: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="An approval's id, or the start of it.")
    ] = None,
    run: Annotated[
        bool, typer.Option("--run", help="The same values in the rest of this run need no second question.")
    ] = False,
    rule: Annotated[bool, typer.Option("--rule", help="Save a rule of the policy; it is shown first.")] = False,
    narrow: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --rule: a narrower one instead of the proposed.")
    ] = None,
    all_of: Annotated[
        str | None, typer.Option("--all-of", metavar="RUN", help="All that this run, and those of it, ask for.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether you are sure.")] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Approve a call that waits: this once, for its run, or as a rule. Its run goes on."""
    if (identity is None) == (all_of is None):
        raise BadInput("approval.arguments", "name one approval, or --all-of RUN", "loket approvals approve ID")
    if (run and rule) or (rule and all_of is not None) or (narrow is not None and not rule):
        raise BadInput(
            "approval.arguments", "--run and --rule exclude each other; --rule is for one ID, --narrow goes with it", ""
        )
    scope = "rule" if rule else "run" if run else "once"
    ids, text = [identity], None
    if all_of is not None:
        ids = [one["id"] for one in _all_of(all_of, sure=yes, json_=json_)]
    elif rule:
        text = _rule(str(identity), narrow, sure=yes, json_=json_)
    result = client.perform("approvals.decide", ids=ids, decision="allow", scope=scope, rule=text)
    _report(result, json_=json_)


def _all_of(run: str, *, sure: bool, json_: bool) -> list[dict[str, Any]]:
    """What a run waits for, shown, and approved with one word. Raises `BadInput` where there is nothing."""
    found: list[dict[str, Any]] = client.perform("approvals.list", run=run)["approvals"]
    if not found:
        raise BadInput("approval.none", f"run {run} asks for nothing", "loket approvals list")
    if not sure:
        _must_be_asked(json_=json_)
        _show_all(found, show.say)
        typer.confirm(f"Approve {'this' if len(found) == 1 else f'all {len(found)}'}?", abort=True)
    return found


def _rule(identity: str, narrow: Path | None, *, sure: bool, json_: bool) -> str:
    """The rule that will be saved, shown before. Raises `BadInput`."""
    shown = client.perform("approvals.show", id=identity)
    text = _read(narrow) if narrow is not None else shown.get("rule")
    if text is None:
        raise BadInput(
            "approval.rule", f"no rule can be made of approval {identity}", f"loket approvals approve {identity} --run"
        )
    if not sure:
        _must_be_asked(json_=json_)
        show.say(_visible(text))
        typer.confirm("Add this rule to the policy?", abort=True)
    return str(text)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput("approval.narrow", f"{path} cannot be read: {error}", "--narrow FILE, a text in UTF-8") from None


def _must_be_asked(*, json_: bool) -> None:
    if json_ or not sys.stdin.isatty():
        raise BadInput("approval.sure", "nobody can be asked here whether to go on", "look it over, then add --yes")


@app.command(epilog='Example: loket approvals deny 1hx7 --reason "not before Monday"')
def deny(
    identity: ApprovalId,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="What the agent is told.")] = "",
    json_: show.JsonFlag = False,
) -> None:
    """Deny a call that waits; the agent gets the reason, and its run goes on."""
    _report(client.perform("approvals.decide", ids=[identity], decision="deny", reason=reason), json_=json_)


@app.command(epilog="Example: loket approvals watch")
def watch(json_: show.JsonFlag = False) -> None:
    """Show each question when it comes, until Ctrl-C; at a terminal decide on it at once."""
    if client.home().running() is None:
        raise Failed("approval.server", "no server runs on this home, so nothing asks", "loket up", blame="owner")
    known: set[str] = set()
    while True:
        fresh = [one for one in client.perform("approvals.list")["approvals"] if one["id"] not in known]
        known.update(one["id"] for one in fresh)
        for one in fresh:
            if json_:
                show.say(json.dumps(one, ensure_ascii=True))
            elif sys.stdin.isatty():
                _decide_one(one)
            else:
                _show_all([one], show.say)
        time.sleep(_LOOK_S)


def _report(result: dict[str, Any], *, json_: bool) -> None:
    if json_:
        show.as_json(result)
        return
    for one in result["approvals"]:
        ruling = one["decision"]
        word = "Denied" if ruling["verdict"] == "deny" else "Approved"
        reach = {"once": "", "run": " for this run", "rule": f", as the rule approval-{one['id']}"}[ruling["scope"]]
        said = f"{word}{reach}: {one['capability']} of {one['agent']} ({_brief(one)})"
        show.say(f"{said}; run {one['run']} {_since(one['run'])}")


def _since(run: str) -> str:
    """What became of a run that was decided on: without a server it has had its time already."""
    if client.home().running() is not None:
        return "goes on"
    state = client.perform("runs.show", run=run)
    if state["ended"] is not None:
        return f"is {state['status']}"
    return "asks again: loket approvals list" if state["approvals"] else f"goes on later: loket runs show {run}"


# At the terminal of somebody who waits for an answer


class Waits(Exception):
    """A run that is watched waits for the owner: its own question, that of a run that it asked, or it is behind one."""

    def __init__(self, event: Mapping[str, Any]) -> None:
        super().__init__(_waits(event))
        self.run: str = event["run"]
        self.behind: str | None = event.get("behind")

    @property
    def about(self) -> str:
        """The run whose questions, and those of what came of it, have to be decided on."""
        return self.behind or self.run


def _waits(event: Mapping[str, Any]) -> str:
    """What a run waits for, in a sentence."""
    run, asks, identity = event["run"], event["asks"], event.get("approval")
    what = f"approval {identity}: loket approvals show {identity}"
    if identity is None:
        what = f"your word on an effect: loket runs settle {asks} --happened | --not"
    if event["type"] == "behind":
        through = f" (through run {asks})" if asks != event["behind"] else ""
        return f"Run {run} is behind run {event['behind']}, which waits{through} for {what}"
    through = f", through run {asks}," if asks != run else ""
    return f"Run {run} waits{through} for {what}"


def through(on_event: client.OnEvent, *, here: bool, **args: Any) -> Any:
    """Perform `ask`, and have the owner decide at this terminal whenever the run asks; not where `here` is False.

    `on_event` raises `Waits` at a question. Raises `Waits` where it is left for later.
    """
    name = "ask"
    while True:
        try:
            return client.perform(name, on_event, **args)
        except Waits as waits:
            if not here or not decide_here(waits):
                raise
            name, args = "approvals.follow", {"run": waits.run}


def decide_here(waits: Waits) -> bool:
    """Have the owner decide on what a run waits for, at this terminal.

    False where nobody sits at one, or the owner will decide later: what to do then stands on stderr.
    """
    found = client.perform("approvals.list", run=waits.about)["approvals"]
    if waits.behind is not None:
        _tell(f"{waits}")
    if sys.stdin.isatty() and sys.stderr.isatty():
        if all(_decide_one(one) for one in found):
            return True
    else:
        _show_all(found, _tell)
    _tell(f"Run {waits.run} waits for you, and its message stays accepted. To decide:")
    for one in found:
        _tell(f"  loket approvals approve {one['id']}    or: loket approvals deny {one['id']} --reason TEXT")
    return False


def waiting(waits: Waits) -> dict[str, Any]:
    """What a program is told of a run that waits: `run`, the `waiting` approvals, and the run that it is `behind`."""
    behind = {"behind": waits.behind} if waits.behind is not None else {}
    return {"run": waits.run, **behind, "waiting": client.perform("approvals.list", run=waits.about)["approvals"]}


_CHOICES = {"o": "once", "r": "run", "u": "rule", "d": "deny", "l": "later"}


def _decide_one(one: Mapping[str, Any]) -> bool:
    """Show a question and take the owner's word; False where that is for later, or somebody was quicker."""
    _show_all([one], _tell)
    prompt = "Approve: [o]nce, for this [r]un, as a r[u]le; [d]eny, [l]ater"
    word = ""
    while word not in _CHOICES:
        word = str(typer.prompt(prompt, default="l", show_default=False, err=True)).strip().lower()[:1]
    if word == "l":
        return False
    args: dict[str, Any] = {"decision": "deny" if word == "d" else "allow"}
    if word == "d":
        args["reason"] = str(typer.prompt("Why (the agent is told)", default="", show_default=False, err=True))
    else:
        args["scope"] = _CHOICES[word]
    if word == "u":
        args["rule"] = _rule(one["id"], None, sure=False, json_=False)
    try:
        client.perform("approvals.decide", ids=[one["id"]], **args)
    except BadInput as late:
        _tell(f"{late.message} ({late.code})")
        return late.code == "approval.closed"
    return True


def _tell(line: str) -> None:
    sys.stderr.write(show.clean(line) + "\n")


def _show_all(found: Iterable[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    for one in found:
        for line in described(one, full=False):
            say(line)
        say("")


# How a question looks


def described(one: Mapping[str, Any], *, full: bool) -> list[str]:
    """A question in lines. No value can begin a line of its own, move the cursor or hide a part of itself."""
    lines = [
        f"approval    {one['id']}  {one['status']}",
        f"agent       {one['agent']}, run {one['run']}" + _in_conversation(one),
        *(f"waits too   {link['agent']}, run {link['run']}" for link in one["chain"][1:]),
        f"call        {one['capability']}" + (f" ({one['effect']}): {one['summary']}" if one["summary"] else ""),
    ]
    if one["args"] is None:
        lines.append("values      " + ("erased with the run" if one["erased"] else f"unreadable: {one['unreadable']}"))
    else:
        lines += [line for name in _ordered(one) for line in _argument(name, one, full=full)]
        if full:
            lines.append(f"run saw     {_words(', '.join(one['seen']))}")
        lines.append(f"asked by    {_words(_asked_by(one))}")
    lines.append(f"asked       {show.when(one['asked'])}, denied by itself {show.when(one['until'])}")
    if one["decision"] is not None:
        lines.append(f"decided     {_decided(one['decision'])}, {show.when(one['decided'])}")
    if one.get("rule"):
        lines += ["as a rule", *(f"    {line}" for line in _visible(one["rule"]).splitlines())]
    return lines


def _asked_by(one: Mapping[str, Any]) -> str:
    """The rules, and what they say; a reason that names the rules itself names them once."""
    rules = ", ".join(one["rules"])
    return f"{rules}: {(one['reason'] or '').removesuffix(f' ({rules})')}"


def _in_conversation(one: Mapping[str, Any]) -> str:
    return f", conversation {_words(one['conversation'])}" if one["conversation"] else ""


def _ordered(one: Mapping[str, Any]) -> list[str]:
    """The critical arguments first."""
    return [*one["critical"], *sorted(name for name in one["args"] if name not in one["critical"])]


def _argument(name: str, one: Mapping[str, Any], *, full: bool) -> list[str]:
    """A value and, below it, where it comes from. A critical value is never cut."""
    critical, origin = name in one["critical"], one["origins"].get(name)
    text = safe(one["args"][name])
    lines = [f"    {_plain(name)} = {text if full or critical else _cut(text, _MOST)}{_record(name, one)}"]
    if critical and not text.isascii():
        lines.append(f"        not ASCII alone: {json.dumps(one['args'][name])}")
    said = [f"critical, {origin['origin']}: {_words(origin['why'])}" if origin else "critical" if critical else ""]
    labels = one["labels"].get(name, [])
    said.append(f"from {_words(', '.join(map(_source, labels)))}" if labels else "")
    lines += [f"        {line}" for line in said if line]
    return lines


def _record(name: str, one: Mapping[str, Any]) -> str:
    """What a value stands for, by what its service says of it."""
    record = one["origins"].get(name, {}).get("record")
    return f"  ({_words(record)})" if record else ""


_SOURCES = {
    "owner": "you",
    "agent": "the agent {}",
    "capability": "an answer of {}",
    "client": "the program {}",
    "host": "the web host {}",
    "mcp": "the server and tool {}",
    "model": "the model {}",
    "package": "the package {}",
    "sender": "the sender {}",
    "tool": "the tool {}",
}
"""Labels in words, by their kind; all others stand as they are."""


def _source(label: str) -> str:
    kind, _, name = label.partition(":")
    return _SOURCES[kind].format(name) if kind in _SOURCES else label


def _decided(ruling: Mapping[str, Any]) -> str:
    word = "denied" if ruling["verdict"] == "deny" else f"approved ({ruling['scope']})"
    why = f": {_words(ruling['reason'])}" if ruling["reason"] else ""
    return f"{word} by {_words(ruling['by'])}{why}"


def safe(value: Any) -> str:
    """A value as JSON on one line, in which all that is not seen as it is stands as an escape."""
    return _visible(json.dumps(value, ensure_ascii=False))


def _words(text: str | None) -> str:
    """A text on one line, in the same way."""
    return _visible(text or "").replace("\n", "\\n")


def _plain(name: str) -> str:
    return name if re.fullmatch(r"\w+", name, re.ASCII) else safe(name)


def _visible(text: str) -> str:
    """A text whose characters can all be seen; breaks of lines are left."""
    seen = "".join(char if char.isprintable() or char == "\n" else _escape(char) for char in text)
    return _FILLERS.sub(lambda found: _escape(found[0]), seen)


def _escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else f"\\U{ord(char):08x}"  # noqa: PLR2004 - the basic plane


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]} ... ({len(text):,} characters)"
