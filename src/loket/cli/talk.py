"""`loket ask` and `loket chat`."""

import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from loket import __version__
from loket.cli import approvals, client, show
from loket.cli.arguments import Agent, agent_ids
from loket.contracts import BadInput, LoketError
from loket.home import Home

_HISTORY_LINES = 1_000
"""Lines of earlier chats that can be had back while typing."""

_Keep: TypeAlias = Callable[[str], None]


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog='Example: loket ask main "What is my sister\'s name?" --json')(ask)
    app.command(epilog="Example: loket chat main")(chat)


class _Printer:
    """Prints what a run does while it happens: pieces of the answer as they come. Keeps the run's id.

    Raises `approvals.Waits` where the run waits for the owner, unless it is to `wait` until somebody has decided.
    """

    def __init__(self, *, quiet: bool, wait: bool = False) -> None:
        self._quiet = quiet
        self._wait = wait
        self.written = ""
        self.run: str | None = None

    def __call__(self, event: dict[str, Any]) -> None:
        if event["type"] == "accepted":
            self.run = event["run"]
        elif event["type"] in ("asking", "behind"):
            waits = approvals.Waits(event)
            if "approval" in event and not self._wait:
                raise waits
            sys.stderr.write(f"{waits}\n")
        elif not self._quiet:
            self._show(event)

    def _show(self, event: dict[str, Any]) -> None:
        if event["type"] == "piece":
            self.written += event["text"]
            sys.stdout.write(show.clean(event["text"]))
            sys.stdout.flush()
        elif event["type"] == "withdrawn" and self.written:
            sys.stdout.write("\n[the model was interrupted; it starts again]\n")
            self.written = ""

    def finish(self, answer: str) -> None:
        """End the line where the answer has been written already, else write it."""
        if self.written.strip() == answer.strip():
            show.say()
        else:
            show.say(("\n" if self.written else "") + answer)


def ask(
    agent: Agent,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say; - reads it from standard input.")],
    conversation: Annotated[str, typer.Option(help="Messages of one conversation are answered in order.")] = "main",
    message: Annotated[str | None, typer.Option(help="An id of your own: sent twice, it is answered once.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Where it waits for you, go on waiting: you decide from elsewhere.")
    ] = False,
    json_: show.JsonFlag = False,
) -> None:
    """Send a message to an agent and print its answer; exit code 4 where it waits for your word."""
    if wait and client.home().running() is None:
        raise BadInput("ask.wait", "without a server nobody could decide elsewhere while this waits", "loket up")
    printer = _Printer(quiet=json_ or not sys.stdout.isatty(), wait=wait)
    said = sys.stdin.read() if text == "-" else text
    args = {"agent": agent, "text": said, "conversation": conversation, "message": message}
    try:
        result = approvals.through(printer, here=not json_, **args)
    except approvals.Waits as waits:
        if json_:
            show.as_json(approvals.waiting(waits))
        raise typer.Exit(approvals.WAITING) from None
    if json_:
        show.as_json(result)
    else:
        printer.finish(result["answer"])


def chat(
    agent: Annotated[
        str, typer.Argument(metavar="[AGENT]", help="The module's id.", autocompletion=agent_ids)
    ] = "main",
    conversation: Annotated[str, typer.Option(help="The conversation to go on with.")] = "main",
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON object a line, and no prompts.")] = False,
) -> None:
    """Talk with an agent. Ctrl-C stops waiting for an answer; an empty line or Ctrl-D ends."""
    # A shell that starts a program in the background has it ignore Ctrl-C; here it always means: stop waiting.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not json_:
        show.say(f"Loket {__version__}. You talk to {agent}; /help shows what it can do.")
        show.say("Ctrl-C stops waiting for an answer; an empty line or Ctrl-D ends.")
    with _history(client.home()) as keep:
        while text := _line("" if json_ else "you> "):
            keep(text)
            _answer(agent, text, conversation, as_object=json_)


def _line(prompt: str) -> str:
    """What is typed; nothing at the end of the input and at Ctrl-C."""
    try:
        return input(prompt).strip()
    except (EOFError, KeyboardInterrupt):
        sys.stderr.write("\n")
        return ""


def _answer(agent: str, text: str, conversation: str, *, as_object: bool) -> None:
    """One message and its answer, or why there is none."""
    printer = _Printer(quiet=as_object)
    if not as_object:
        sys.stdout.write(f"{agent}> ")
        sys.stdout.flush()
    try:
        result = approvals.through(printer, here=not as_object, agent=agent, text=text, conversation=conversation)
    except approvals.Waits as waits:
        if as_object:
            show.say(json.dumps(approvals.waiting(waits), ensure_ascii=False))
    except KeyboardInterrupt:
        _stopped_waiting(printer.run)
    except LoketError as error:
        if as_object:
            show.say(json.dumps({"error": {**error.as_dict(), "run": error.run}}, ensure_ascii=False))
        else:
            show.say()
        show.error(error, as_object=False)
    else:
        show.say(json.dumps(result, ensure_ascii=False)) if as_object else printer.finish(result["answer"])


def _stopped_waiting(run: str | None) -> None:
    if run is None:
        sys.stderr.write("\nStopped before the message was accepted.\n")
    else:
        sys.stderr.write(
            f"\nStopped waiting. The message stays accepted: loket runs show {run} has its answer later,"
            f" and loket runs stop {run} ends it.\n"
        )


@contextlib.contextmanager
def _history(home: Home) -> Iterator[_Keep]:
    """Line editing where somebody types and the system has it; gives what keeps a line that was typed.

    Each line is added to the file when it is typed, and the file is never written whole: what is erased meanwhile
    stays erased.
    """
    if not sys.stdin.isatty() or importlib.util.find_spec("readline") is None:
        yield lambda _line: None
        return
    import readline

    home.prepare()
    path = home.chat_history
    with contextlib.suppress(OSError):
        for line in path.read_text("utf-8", "replace").splitlines()[-_HISTORY_LINES:]:
            readline.add_history(line)
    yield lambda line: _append(path, line)


def _append(path: Path, line: str) -> None:
    """Add a line to a file that its user alone may read, made where there is none."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
        file.write(f"{line}\n")
