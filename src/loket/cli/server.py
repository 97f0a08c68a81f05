"""`loket up`, `loket ask`, `loket chat`, `loket status`."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from typing import Annotated, Any

import typer

from loket.cli import client, show
from loket.contracts import BadInput, LoketError
from loket.home import DEFAULT_PORT, Home, write_private


def add_to(app: typer.Typer) -> None:
    """Add this file's commands."""
    app.command(epilog="Example: loket up --port 1987")(up)
    app.command(epilog='Example: loket ask main "What is my sister\'s name?" --json')(ask)
    app.command(epilog="Example: loket chat main")(chat)
    app.command()(status)


def _port() -> int:
    text = os.environ.get("LOKET_PORT")
    if text is None:
        from loket.config import load_config

        return load_config(client.home().config).port
    if not text.isdigit() or not 0 <= int(text) < 1 << 16:
        raise BadInput("port.invalid", f"the port {text!r} is no number from 0 to 65535", f"--port {DEFAULT_PORT}")
    return int(text)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise BadInput(
            "port.taken", f"port {port} on 127.0.0.1 cannot be used: {error.strerror}", "loket up --port ANOTHER"
        ) from None
    return listener


def up() -> None:
    """Start Loket on loopback and serve until it is interrupted."""
    home = client.home()
    home.prepare()
    asyncio.run(_serve(home, _port()))


async def _serve(home: Home, port: int) -> None:
    from loket.app import running
    from loket.gateway.http import Gateway, make_server
    from loket.operations import Operations

    with _listen(port) as listener:
        port = listener.getsockname()[1]
        show.say(f"Loket starts on http://127.0.0.1:{port} (home {home.root}) ...")
        client.tell_first_start(home)
        async with running(home) as system:
            gateway = Gateway(Operations(system).perform, home.secret(home.token), lambda: True)
            server = make_server(gateway, port)
            loop = asyncio.get_running_loop()
            for name in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(name, setattr, server, "should_exit", True)
            write_private(home.server, json.dumps({"port": port, "pid": os.getpid()}).encode())
            warming = asyncio.create_task(_warm(system))
            try:
                show.say(f'Loket is ready: http://127.0.0.1:{port}\n  try: loket ask main "Hello"   (stop: Ctrl-C)')
                await server.serve(sockets=[listener])
            finally:
                home.server.unlink(missing_ok=True)
                warming.cancel()
                await system.engine.drain()
    show.say("Loket has stopped.")


async def _warm(system: Any) -> None:
    """Load the model while nobody waits; a model that fails says so when it is asked."""
    warm = getattr(system.llm, "warm", None)
    if warm is not None:
        with contextlib.suppress(LoketError):
            await warm()


class _Printer:
    """Prints what a run does while it happens: pieces of the answer as they come."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self.written = ""

    def __call__(self, event: dict[str, Any]) -> None:
        if self._quiet:
            return
        if event["type"] == "piece":
            self.written += event["text"]
            sys.stdout.write(event["text"])
            sys.stdout.flush()
        elif event["type"] == "withdrawn" and self.written:
            sys.stdout.write("\n[the model was interrupted; it starts again]\n")
            self.written = ""
        elif event["type"] == "asking":
            sys.stderr.write(f"The run waits for you: loket runs settle {event['run']} --happened | --not\n")

    def finish(self, answer: str) -> None:
        if self._quiet:
            return
        if self.written.strip() == answer.strip():
            sys.stdout.write("\n")
        else:
            sys.stdout.write(("\n" if self.written else "") + answer + "\n")
        sys.stdout.flush()


def ask(
    agent: Annotated[str, typer.Argument(help="The agent's id, main for the stock one.")],
    text: Annotated[str, typer.Argument(help="What to say; - reads it from standard input.")],
    conversation: Annotated[str, typer.Option(help="Messages of one conversation are answered in order.")] = "main",
    message: Annotated[str | None, typer.Option(help="An id of your own: sent twice, it is answered once.")] = None,
    json_: show.JsonFlag = False,
) -> None:
    """Send a message to an agent and print its answer."""
    printer = _Printer(quiet=json_ or not sys.stdout.isatty())
    said = sys.stdin.read() if text == "-" else text
    result = client.perform("ask", printer, agent=agent, text=said, conversation=conversation, message=message)
    if json_:
        show.as_json(result)
    elif sys.stdout.isatty():
        printer.finish(result["answer"])
    else:
        show.say(result["answer"])


def chat(
    agent: Annotated[str, typer.Argument(help="The agent's id.")] = "main",
    conversation: Annotated[str, typer.Option(help="The conversation to go on with.")] = "main",
) -> None:
    """Talk with an agent; an empty line or Ctrl-D ends it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - line editing, where there is one
    show.say(f"Talking to {agent}. /help shows its commands; an empty line ends.")
    while True:
        try:
            text = input("you> ").strip()
        except EOFError:
            break
        if not text:
            break
        printer = _Printer(quiet=False)
        sys.stdout.write(f"{agent}> ")
        try:
            result = client.perform("ask", printer, agent=agent, text=text, conversation=conversation)
        except LoketError as error:
            sys.stdout.write("\n")
            show.error(error, as_object=False)
        else:
            printer.finish(result["answer"])


def status(json_: show.JsonFlag = False) -> None:
    """Version, home, agents and unfinished runs."""
    result = client.perform("status")
    if json_:
        show.as_json(result)
    else:
        show.table(["", ""], show.fields(result, "version", "home", "agents", "unfinished"), "nothing")
