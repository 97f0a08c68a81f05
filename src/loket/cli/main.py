"""The `loket` command."""

import os
import sys
from typing import Annotated

import typer

from loket import __version__
from loket.cli import (
    account,
    approvals,
    audit,
    backup,
    bench,
    brain,
    bus,
    channels,
    client,
    doctor,
    erase,
    keys,
    lessons,
    limits,
    mcp,
    models,
    modules,
    packs,
    plans,
    poison,
    policy,
    runs,
    schedules,
    server,
    show,
    skills,
    slash,
    talk,
    tools,
    users,
    vault,
)
from loket.contracts import BadInput, LoketError

app = typer.Typer(
    name="loket",
    help="A local-first operating system for AI agents. Every ability passes one counter.\n\n"
    "Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 refused, 4 the run waits for you.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

server.add_to(app)
talk.add_to(app)
modules.add_to(app)
packs.add_to(app)
keys.add_to(app)
tools.add_to(app)
slash.add_to(app)
models.add_to(app)
erase.add_to(app)
poison.add_to(app)
lessons.add_to(app)
vault.add_to(app)
policy.add_to(app)
users.add_to(app)
account.add_to(app)
backup.add_to(app)
doctor.add_to(app)
bench.add_to(app)
app.add_typer(runs.app, name="runs")
app.add_typer(mcp.app, name="mcp")
app.add_typer(limits.app, name="limits")
app.add_typer(plans.app, name="plans")
app.add_typer(schedules.app, name="schedule")
app.add_typer(channels.app, name="channels")
app.add_typer(skills.app, name="skills")
app.add_typer(audit.app, name="audit")
app.add_typer(approvals.app, name="approvals")
app.add_typer(bus.app, name="subscriptions")
app.command("brain", epilog='Example: loket brain main search "sister"')(brain.brain)

_PLACES = {"--home": ("LOKET_HOME", "a directory"), "--port": ("LOKET_PORT", "a number")}
"""Options that may stand anywhere: their variable, and what they need."""


def _version(wanted: bool) -> None:
    if wanted:
        show.say(f"loket {__version__}")
        raise typer.Exit


@app.callback()
def main(
    _home: Annotated[
        str | None,
        typer.Option("--home", help="Directory of the running system (LOKET_HOME; ~/.loket). May stand anywhere."),
    ] = None,
    _port: Annotated[
        int | None, typer.Option("--port", help="Port on loopback (LOKET_PORT; 1987). May stand anywhere.")
    ] = None,
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Options for every command; `entry` has taken them out of the arguments already."""


def _take_out(arguments: list[str]) -> list[str]:
    """Put `--home` and `--port`, wherever they stand before a bare `--`, into the environment. Raises `BadInput`."""
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        name, equals, value = word.partition("=")
        if word == "--":
            return [*rest, word, *words]
        if name in _PLACES:
            _place(name, value if equals else next(words, ""))
        else:
            rest.append(word)
    return rest


def _place(name: str, value: str) -> None:
    variable, kind = _PLACES[name]
    if not value or value.startswith("--"):
        raise BadInput(f"{name[2:]}.missing", f"{name} needs a value: {kind}", f"{name} {kind.split()[-1].upper()}")
    if name == "--port":
        client.port_of(value)
    os.environ[variable] = value


def entry() -> None:
    """Run the command line; the process's exit code says how it went."""
    try:
        app(args=_take_out(sys.argv[1:]), prog_name="loket")
    except LoketError as error:
        show.error(error, as_object="--json" in sys.argv)
        sys.exit(show.exit_code(error))
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(show.FAILED)


if __name__ == "__main__":
    entry()
