"""A server as a process on this machine: JSON-RPC, a message a line, on its standard input and output.

The library's own transport gives a process six variables of this environment and reads lines of any length; this one
gives it what was configured and nothing else, ends a server whose line is too long, and keeps what it says on standard
error in a log of its own. The process leads a session, so that its children end with it.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from loket.contracts import Failed, Launch
from loket.mcp.log import Log

if TYPE_CHECKING:
    from mcp.shared.message import SessionMessage

Tell: TypeAlias = Callable[[str], None]

LARGEST = 8 << 20
"""Bytes of a message."""
_GARBAGE = 50
"""Lines that are no messages: more end the connection. Some servers greet on standard output."""
_GRACE_S = 1.0
"""Seconds between closing its input, asking it to end, and ending it."""


@contextlib.asynccontextmanager
async def stdio(launch: Launch, workspace: Path, log: Log, tell: Tell) -> AsyncIterator[tuple[Any, Any]]:
    """Start a process; the streams of messages from it and to it. `tell` hears why it was ended, if it was.

    Raises `Failed` (`mcp.start`).
    """
    import anyio

    process = await _started(launch, workspace)
    send_in, receive_in = anyio.create_memory_object_stream[Any](0)
    send_out, receive_out = anyio.create_memory_object_stream[Any](0)
    work = [
        asyncio.create_task(_read(process, send_in, log, tell)),
        asyncio.create_task(_write(process, receive_out)),
        asyncio.create_task(_listen(process, log)),
    ]
    try:
        yield receive_in, send_out
    finally:
        ending = asyncio.create_task(_end(process, launch, work))
        await _done(ending)
        for stream in (send_in, receive_in, send_out, receive_out):
            stream.close()


async def _started(launch: Launch, workspace: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *launch.argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=workspace,
            env=dict(launch.environment),
            start_new_session=True,
            limit=LARGEST,
            pass_fds=launch.pass_fds,
        )
    except (OSError, ValueError) as error:
        launch.close()
        said = error.strerror if isinstance(error, OSError) else "its command has a NUL character in it"
        raise Failed(
            "mcp.start", f"{launch.argv[0]} cannot be started: {said}", "check the command: loket mcp show NAME"
        ) from None


async def _done(task: "asyncio.Task[None]") -> None:
    """Wait for a task that must come to its end, however often whoever waits is cancelled; then be cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _read(process: asyncio.subprocess.Process, stream: Any, log: Log, tell: Tell) -> None:
    """Hand messages on until the output ends, or is none."""
    import anyio
    from mcp.shared.message import SessionMessage
    from mcp_types import jsonrpc_message_adapter

    assert process.stdout is not None  # noqa: S101 - it was asked for
    garbage = 0
    with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError), contextlib.closing(stream):
        while True:
            try:
                line = await process.stdout.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                tell(f"wrote a message of more than {LARGEST >> 20} MiB")
                return
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                garbage += 1
                log.write(f"[stdout] {line[:200].decode(errors='replace').rstrip()}")
                if garbage > _GARBAGE:
                    tell(f"wrote {garbage} lines that are no messages")
                    return
                continue
            await stream.send(SessionMessage(message))


async def _write(process: asyncio.subprocess.Process, stream: "Any") -> None:
    """Send messages until there are no more, or nobody reads them."""
    assert process.stdin is not None  # noqa: S101 - it was asked for
    with contextlib.suppress(ConnectionError, RuntimeError):
        async for item in stream:
            process.stdin.write(_line(item))
            await process.stdin.drain()


def _line(item: "SessionMessage") -> bytes:
    return item.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n"


async def _listen(process: asyncio.subprocess.Process, log: Log) -> None:
    """Keep what it says on standard error, by lines; a line without an end is cut."""
    assert process.stderr is not None  # noqa: S101 - it was asked for
    rest = b""
    while piece := await process.stderr.read(1 << 14):
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            log.write(line.decode(errors="replace"))
        rest = rest[:4_096]
    if rest:
        log.write(rest.decode(errors="replace"))


async def _end(process: asyncio.subprocess.Process, launch: Launch, work: "list[asyncio.Task[None]]") -> None:
    """Close its input, ask it to end, end it; then whatever is left of its session."""
    if process.stdin is not None:
        process.stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            _signal(process, number)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
                break
    _signal(process, signal.SIGKILL)
    for task in work:
        task.cancel()
    await asyncio.gather(*work, return_exceptions=True)
    await asyncio.to_thread(launch.close)
    _close_pipes(process)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    """Close what a descendant that outlived it may hold open; the library offers no other way."""
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()
