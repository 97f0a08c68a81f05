"""The one screen of an install: who made it, what each module asks for and why, and the owner's decisions."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import command

YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Grant everything that it asks for.")]
GrantOption = Annotated[
    list[str] | None, typer.Option(help="Grant just this capability (or MODULE:CAPABILITY); may be repeated.")
]
MoreFlag = Annotated[bool, typer.Option("--more", help="An upgrade may ask for more than the version before.")]
UnsignedFlag = Annotated[bool, typer.Option("--unsigned", help="Take a pack that nobody signed, this once.")]
TrustOption = Annotated[
    str | None, typer.Option(metavar="FINGERPRINT", help="Trust the unknown key of this fingerprint from now on.")
]

_FILES = "files:"
"""Begins the digest of a module without a component (`loket.packages.install.PASSIVE`)."""

_TRUST = {
    "folder": "a folder of your own",
    "trusted": "signed with a key that you trust",
    "unsigned": "NOBODY SIGNED IT: it may come from anybody (--unsigned takes it)",
    "unknown": "signed with a key that you do not know yet",
    "revoked": "signed with a key that you have REVOKED",
    "replaced": "signed with a key that was replaced by a newer one",
}


def shown(asked: dict[str, Any]) -> None:
    """Print what an offer is and asks for."""
    pack = asked["pack"]
    if pack is not None:
        show.say(f"Pack {pack['name']} {pack['version']}: {_TRUST[asked['trust']]}")
        if pack["fingerprint"] is not None:
            show.say(f"  it calls its publisher {pack['calls_itself']}, fingerprint {pack['fingerprint']}")
    for module in asked["modules"]:
        _module(module)
    scan = asked["scan"]
    show.say(f"Scan: {scan['said'] if scan['scanner'] is None else _alarms(scan)}")


def _alarms(scan: dict[str, Any]) -> str:
    if not scan["alarms"]:
        return f"{scan['scanner']} found nothing"
    lines = [
        f"  {one['severity']}: {one['module']}/{one['file']}:{one['line']} {one['said']}" for one in scan["alarms"]
    ]
    return "\n".join([f"{scan['scanner']} found {len(lines)}:", *lines])


def _module(module: dict[str, Any]) -> None:
    before = f", in the place of {module['before']}" if module["before"] is not None else ""
    show.say(
        f"{module['id']} {module['version']} ({module['kind']}) from {module['publisher']}{before}: {module['summary']}"
    )
    columns = ["", "asks for", "within", "because it"]
    rows = [[_state(want), want["name"], want["constraints"] or "", want["reason"]] for want in module["wants"]]
    if not any(row[2] for row in rows):
        columns.remove("within")
        rows = [[*row[:2], *row[3:]] for row in rows]
    show.table(columns, rows, "It asks for nothing.", whole=("asks for",))
    if module["operations"]:
        show.say("  does: " + ", ".join(f"{one['name']} ({one['effect']})" for one in module["operations"]))
    if module["own"] is not None:
        plain = {name: value for name, value in module["own"].items() if value and isinstance(value, str | int | list)}
        show.say(f"  {module['kind']}: " + ", ".join(f"{name} {_plain(value)}" for name, value in plain.items()))
    show.say(f"  {_at_most(module)}")
    if module["more"]:
        show.say("  MORE than the version that is installed:")
        for one in module["more"]:
            show.say(f"    {one['said']}")


def _at_most(module: dict[str, Any]) -> str:
    limits = module["limits"]
    if module["digest"].startswith(_FILES):
        return "has no component: nothing of it runs"
    return (
        f"at most, a run: {limits['memory_mb']} MiB, {limits['cpu_ms']:,} ms, {limits['calls']:,} calls,"
        f" {limits['tokens']:,} tokens, {limits['money']:g} US dollars"
    )


def _plain(value: Any) -> str:
    """A value of a kind's own table: of what is a table itself its name alone."""
    listed = value if isinstance(value, list) else [value]
    return " and ".join(str(one.get("name", one)) if isinstance(one, dict) else str(one) for one in listed)


def _state(want: dict[str, Any]) -> str:
    if not want["exists"]:
        return "not there"
    return "granted" if want["held"] else "new"


def decided(
    asked: dict[str, Any],
    *,
    yes: bool,
    only: Sequence[str] | None,
    nothing: bool,
    more: bool,
    unsigned: bool,
    trust: str | None,
    quiet: bool,
) -> dict[str, Any]:
    """Show an offer and take the owner's word: the arguments of `module.install`. At a terminal it is asked for."""
    if not quiet:
        shown(asked)
    ask = sys.stdin.isatty() and not quiet and not yes
    if ask and asked["trust"] == "unsigned" and not unsigned:
        unsigned = typer.confirm("Nobody signed it. Install it all the same?", default=False)
    if ask and asked["trust"] == "unknown" and trust is None:
        told = f"Is {asked['pack']['fingerprint']} what {asked['pack']['calls_itself']} says elsewhere?"
        trust = asked["pack"]["fingerprint"] if typer.confirm(f"{told} Trust it from now on?", default=False) else None
    wants_more = any(module["more"] for module in asked["modules"])
    if ask and wants_more and not more:
        more = typer.confirm("It asks for more than before. Install it?", default=False)
    granted = _granted(asked, yes=yes, only=only, ask=ask and not nothing)
    word = {"grant": granted, "more": more or yes, "unsigned": unsigned, "trust": trust, "expect": asked["digest"]}
    if not quiet and not _compiled(asked):
        sys.stderr.write("Compiling the module for this machine, about ten seconds ...\n")
    return word


def _granted(asked: dict[str, Any], *, yes: bool, only: Sequence[str] | None, ask: bool) -> list[str]:
    """What the owner grants of what is new. Without a terminal and without a flag: nothing."""
    if only:
        return list(only)
    fresh = [
        f"{module['id']}:{want['name']}"
        for module in asked["modules"]
        for want in module["wants"]
        if not want["held"] and want["exists"]
    ]
    if yes:
        return fresh
    single = len(asked["modules"]) == 1
    return [one for one in fresh if ask and typer.confirm(f"Grant {_short(one, single=single)}?", default=False)]


def _short(granted: str, *, single: bool) -> str:
    return granted.partition(":")[2] if single else granted


def _compiled(asked: dict[str, Any]) -> bool:
    """Whether the home has compiled code of these bytes already; for what is said alone."""
    runs = [module["digest"] for module in asked["modules"] if not module["digest"].startswith(_FILES)]
    return all(any(client.home().cache.glob(f"{digest[:32]}*.cwasm")) for digest in runs)


def done(asked: dict[str, Any], result: dict[str, Any]) -> None:
    """Print what was installed, and the commands that grant what was not."""
    within = {(m["id"], want["name"]): want["constraints"] for m in asked["modules"] for want in m["wants"]}
    for module in result["modules"]:
        digest = module["digest"].removeprefix(_FILES)
        show.say(f"Installed {module['id']} {module['version']} (sha256 {digest[:16]}...)")
        for name in module["asks"]:
            constraints = within.get((module["id"], name), {})
            show.say(f"  not granted: {name}    {_allowing(module['id'], name, constraints) or ''}")


def _allowing(agent: str, capability: str, constraints: dict[str, Any]) -> str | None:
    """The command that grants what a manifest asks for, and no more."""
    narrowed = [word for name, texts in constraints.items() for word in ("--constraint", f"{name}={json.dumps(texts)}")]
    return command("grants", "allow", agent, capability, *narrowed)
