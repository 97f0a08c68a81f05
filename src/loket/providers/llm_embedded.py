"""The embedded model: a GGUF file that answers in a worker process of its own (`llm_worker.py`).

A process, because llama.cpp is native code: when it crashes on a file or a prompt, one answer is lost and nothing else.
One answer at a time: a second one would only halve the speed of the first.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from loket.contracts import Json
from loket.providers.llm_chat import AttemptFailed, Completion, Emit, to_openai, tool_call, tools_to_openai

_WORKER = Path(__file__).with_name("llm_worker.py")
_START_S = 120.0
_CANCEL_S = 2.0
_BACKOFF_S = 0.25
_BACKOFF_MOST_S = 10.0
_LINE_BYTES = 1 << 22
_MAX_TOKENS = 512
_PASSED_ON = (
    *("PATH", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"),
    *("TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "USERPROFILE", "APPDATA"),
)
_PULL = "`loket model pull` installs a good one"


def usable_threads() -> int:
    """Threads for the model: one core stays free for everything else, and more than 4 rarely help a small model.

    A thread that waits for a preempted one is worse than none: on a busy machine with 2 cores, 2 threads were measured
    at 28 tokens a second and 1 thread at 73.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(4, cores - 1))


class EmbeddedModel:
    """A GGUF file, its worker started at the first question and stopped after `idle_s` seconds without one.

    `context` in tokens, `threads` of the worker (`usable_threads()` if left out); `log` is a file that takes the
    worker's stderr (dropped if left out). `sleep` waits between a crash and the next start; it is for tests.
    """

    def __init__(
        self,
        path: Path,
        *,
        context: int = 4_096,
        threads: int | None = None,
        idle_s: float = 600.0,
        log: Path | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.path = path
        self.name = path.stem
        self._command = (str(path), str(context), str(threads or usable_threads()))
        self._context = context
        self._idle_s = idle_s
        self._log = log
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._process: Process | None = None
        self._crashes = 0
        self._idents = itertools.count(1)
        self._idle: asyncio.TimerHandle | None = None
        self._unloading: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the worker; None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    async def warm(self) -> None:
        """Start the worker and load the model, if that is not done yet. Raises `AttemptFailed` as `complete` does."""
        async with self._turn:
            await self._ready()

    async def complete(self, args: Mapping[str, Json], emit: Emit | None) -> Completion:
        """Answer. `args` are those of `llm.complete` (temperature 0 and at most 512 tokens if left out).

        Raises `AttemptFailed`: `model.context` (too long), `model.crashed` (the worker died; a further attempt starts
        a new one), `model.error` (the file or the conversation cannot be used), `model.bad_tool_call`. When it is
        cancelled, the generation is stopped, if need be by ending the worker.
        """
        messages = to_openai(args["messages"])
        async with self._turn:
            self._stop_idling()
            process = await self._ready()
            ident = next(self._idents)
            job = {**self._job(args), "id": ident, "messages": messages}
            try:
                return await self._converse(process, job, emit)
            except asyncio.CancelledError:
                await self._abandon(process, ident)
                raise
            finally:
                self._start_idling()

    def _job(self, args: Mapping[str, Json]) -> dict[str, Any]:
        job: dict[str, Any] = {
            "max_tokens": min(args.get("max_tokens", _MAX_TOKENS), self._context),
            "temperature": args.get("temperature", 0.0),
        }
        if args.get("tools"):
            job["tools"] = tools_to_openai(args["tools"])
        return job

    async def close(self) -> None:
        """End the worker. The model can be asked again afterwards: that starts a new one."""
        self._stop_idling()
        process, self._process = self._process, None
        if process is not None:
            await _end(process)

    async def _ready(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        if self._process is not None:
            await self._note_crash()
        if self._crashes > 1:
            await self._sleep(min(_BACKOFF_MOST_S, _BACKOFF_S * 2.0 ** (self._crashes - 2)))
        process = await self._spawn()
        try:
            async with asyncio.timeout(_START_S):
                first = await _read(process)
        except BaseException:
            await _end(process)
            raise
        if first is None:
            self._process = process
            raise await self._crashed()
        if "broken" in first:
            await _end(process)
            raise AttemptFailed(
                "model.error", f"the embedded model {self.path} cannot be loaded ({first['broken']})", _PULL
            )
        self._process = process
        return process

    async def _spawn(self) -> Process:
        # passive waiting: threads of the library that spin starve each other, and us, on a busy machine
        env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"OMP_WAIT_POLICY": "passive"}
        with contextlib.ExitStack() as stack:
            log = stack.enter_context(_private_log(self._log)) if self._log is not None else DEVNULL
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", str(_WORKER), *self._command),
                stdin=PIPE,
                stdout=PIPE,
                stderr=log,
                env=env,
                limit=_LINE_BYTES,
                start_new_session=True,
            )

    async def _converse(self, process: Process, job: Mapping[str, Any], emit: Emit | None) -> Completion:
        if not await _write(process, job):
            raise await self._crashed()
        text: list[str] = []
        while True:
            message = await _read(process)
            if message is None:
                raise await self._crashed()
            if message["id"] != job["id"]:
                continue
            if "piece" not in message:
                break
            text.append(message["piece"])
            if emit is not None:
                emit(message["piece"])
        self._crashes = 0
        return self._completion("".join(text), message)

    def _completion(self, text: str, message: Mapping[str, Any]) -> Completion:
        if "error" in message:
            raise self._refused(message["error"])
        calls = [tool_call(place, *call) for place, call in enumerate(message["calls"], 1)]
        tokens = (message["in"], message["out"])
        if None in calls:
            raise AttemptFailed(
                "model.bad_tool_call",
                f"the embedded model {self.name} called a tool with arguments that are no JSON object",
                "set `tools = false` for this route, or use a larger model",
                again=True,
                spent=(tokens[0] or 0, tokens[1] or 0),
            )
        kept = tuple(call for call in calls if call is not None)
        finish = "length" if message["finish"] == "length" else "stop"
        return Completion(text, kept, "tool_calls" if kept else finish, *tokens)

    def _refused(self, error: Mapping[str, str]) -> AttemptFailed:
        if error["type"] == "exceed_context_size_error":
            return AttemptFailed(
                "model.context",
                f"the conversation is longer than the {self._context} tokens that fit the embedded model {self.name}",
                "send fewer or shorter messages, or raise `context` of its route",
            )
        return AttemptFailed(
            "model.error", f"the embedded model {self.name} cannot answer this: {error['message'][:200]}", _PULL
        )

    async def _crashed(self) -> AttemptFailed:
        await self._note_crash()
        return AttemptFailed(
            "model.crashed",
            f"the process of the embedded model {self.name} ended in the middle of its work",
            f"try again; if it goes on, the file may be damaged: {_PULL}",
            again=True,
        )

    async def _note_crash(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            self._crashes += 1
            await _end(process)

    async def _abandon(self, process: Process, ident: int) -> None:
        """Stop an answer that nobody waits for; end the worker where it does not stop in time."""
        stopped = False
        try:
            async with asyncio.timeout(_CANCEL_S):
                stopped = await _write(process, {"cancel": ident}) and await _drained(process, ident)
        except TimeoutError:
            pass
        finally:
            if not stopped:
                self._process = None
                await _end(process)

    def _start_idling(self) -> None:
        self._stop_idling()
        self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._unload)

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _unload(self) -> None:
        self._idle = None
        self._unloading = asyncio.create_task(self._retire())

    async def _retire(self) -> None:
        async with self._turn:
            if self._idle is None:
                await self.close()


async def _write(process: Process, message: Mapping[str, Any]) -> bool:
    """Whether the worker took the message."""
    if process.stdin is None:
        return False
    try:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def _private_log(path: Path) -> BinaryIO:
    """A file to add to, which only its user can read: also one that an earlier version made."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "ab")


async def _read(process: Process) -> dict[str, Any] | None:
    """Wait for the worker's next message; None where it has ended."""
    line = await process.stdout.readline() if process.stdout is not None else b""
    return json.loads(line) if line.endswith(b"\n") else None


async def _drained(process: Process, ident: int) -> bool:
    """Read on until the end of one answer; false where the worker ended first."""
    while (message := await _read(process)) is not None:
        if message["id"] == ident and "piece" not in message:
            return True
    return False


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.stdin is not None:
        process.stdin.close()
    await process.wait()
