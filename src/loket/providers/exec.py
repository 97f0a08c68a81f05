"""Programs of this machine for agents: `exec.run`, off until the owner lists programs in `[exec]` of the settings.

A program runs in the process sandbox, without network, in a folder that is made for the call and removed after it.
What it is to read comes with the call, and what it made goes back with the answer: a folder that lasted from one run
to the next would let a text lose where it came from, and outlive the run that is erased.
"""

import asyncio
import base64
import contextlib
import os
import re
import signal
import stat
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import Answer, BadInput, Call, Confine, Failed, Handler, Json, Launch, Launcher, Refusal

_PREFIX = ".loket-exec-"
"""How the folders begin: no path of `fs.*` can have such a part."""
_AGENT = re.compile(r"[a-z][a-z0-9-]{1,40}")
_OUT_KB = 256
_ERROR_KB = 64
_FILES_KB = 256
_TIMEOUT_S = 30.0
_BLOCK = 1 << 16
_NOT_ENTERED = 125
_SAYS = b"loket: the sandbox could not be entered"
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}
_NO_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_NUMBERS = {"memory_mb": 256, "processes": 32}
_EXAMPLE = '[exec]\nallow = ["/usr/bin/jq"]'


@dataclass(frozen=True, slots=True)
class ExecSettings:
    """`[exec]`: programs by absolute path, folders that all of them may read beside the system's, and their limits."""

    allow: tuple[Path, ...] = ()
    readable: tuple[Path, ...] = ()
    memory_mb: int = _NUMBERS["memory_mb"]
    processes: int = _NUMBERS["processes"]


def exec_settings(table: Mapping[str, Any]) -> ExecSettings:
    """Decode the table `[exec]`. Raises `BadInput` that names the key."""
    unknown = sorted(table.keys() - {"allow", "readable", *_NUMBERS})
    if unknown:
        raise BadInput(
            "config.unknown", f"there is no setting exec.{unknown[0]}", f"take it out; for example\n{_EXAMPLE}"
        )
    paths = {name: tuple(_paths(name, table.get(name, []))) for name in ("allow", "readable")}
    numbers = {name: _number(name, table.get(name, default)) for name, default in _NUMBERS.items()}
    return ExecSettings(paths["allow"], paths["readable"], **numbers)


def _paths(name: str, value: Any) -> list[Path]:
    if not isinstance(value, list) or not all(isinstance(one, str) and _is_plain(one) for one in value):
        message = f"exec.{name} is no list of absolute paths, spelled without . and .. and double slashes"
        raise BadInput("config.type", message, _EXAMPLE)
    return [Path(one) for one in value]


def _is_plain(text: str) -> bool:
    return text.startswith("/") and text != "/" and os.path.normpath(text) == text and text.isprintable()


def _number(name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise BadInput("config.type", f"exec.{name} is {value!r}, and a whole number is needed", f"{name} = 256")
    return value


class ExecProvider:
    """Performs `exec.run` in `root/<agent>/`. `launcher` gives the sandbox of this machine, or raises `Refusal`."""

    id = "exec"

    def __init__(self, root: Path, settings: ExecSettings, launcher: Callable[[], Launcher]) -> None:
        self._root = root
        self._settings = settings
        self._launcher = launcher

    def handlers(self) -> Mapping[str, Handler]:
        """`exec.run`, asynchronous."""
        return {"exec.run": self.run}

    async def start(self) -> None:
        """Remove the folders of calls that a crash has ended."""
        await asyncio.to_thread(self._sweep)

    async def close(self) -> None:
        """Nothing to close: a program ends with its call."""

    async def run(self, call: Call) -> Answer:
        """Answers `exit_code`, `timed_out`, `stdout`, `stderr` and `files`, as the catalogue has it.

        Raises `Refusal` (`exec.off`, `exec.binary`, and what the launcher refuses) and `Failed` (`exec.sandbox`).
        """
        binary = self._allowed(str(call.args["binary"]))
        launcher = await asyncio.to_thread(self._launcher)
        folder = await asyncio.to_thread(self._folder, call)
        try:
            return Answer(await self._performed(call, binary, launcher, folder))
        finally:
            await asyncio.to_thread(_removed, folder)

    def _allowed(self, text: str) -> Path:
        """The program, if the owner's settings list it and it is there."""
        if not self._settings.allow:
            raise Refusal(
                "exec.off",
                "no program may be run here",
                f"list it in config.toml, and restart:\n{_EXAMPLE}",
                blame="owner",
            )
        binary = Path(text)
        if binary not in self._settings.allow or not _is_plain(text):
            raise Refusal(
                "exec.binary",
                f"{text[:200]!a} is not among the programs that the settings list",
                "add it to exec.allow in config.toml, and restart",
                blame="owner",
            )
        if not binary.is_file() or not os.access(binary, os.X_OK):
            raise Refusal("exec.binary", f"{text[:200]!a} is no program of this machine", "install it", blame="owner")
        return binary

    def _folder(self, call: Call) -> Path:
        """A new folder with the files of the call."""
        if not _AGENT.fullmatch(call.agent):
            raise Refusal(
                "exec.agent", f"{call.agent!a} is no name of an agent", "use 2 to 41 letters, digits and hyphens"
            )
        above = self._root / call.agent
        above.mkdir(mode=0o700, parents=True, exist_ok=True)
        if above.is_symlink():
            raise Refusal(
                "exec.agent", f"the folder of {call.agent} is a link", "put a folder in its place", blame="owner"
            )
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above)).resolve()
        for name, text in dict(call.args.get("files", {})).items():
            (folder / name).write_text(text, encoding="utf-8", newline="")
        return folder

    async def _performed(self, call: Call, binary: Path, launcher: Launcher, folder: Path) -> dict[str, Json]:
        timeout_s = min(float(call.args.get("timeout_s", _TIMEOUT_S)), call.deadline_s)
        launch = await asyncio.to_thread(launcher.command, self._confined(call, binary, folder, timeout_s))
        try:
            ended = await _ended(launch, str(call.args.get("input", "")).encode(), timeout_s)
        finally:
            await asyncio.to_thread(launch.close)
        if ended.exit_code == _NOT_ENTERED and ended.stderr.startswith(_SAYS):
            said = ended.stderr.decode(errors="replace").strip()
            raise Failed("exec.sandbox", said[:500], "loket doctor", blame="machine")
        files = await asyncio.to_thread(_taken, folder, [str(name) for name in call.args.get("take", [])])
        return {
            "exit_code": None if ended.timed_out else ended.exit_code,
            "timed_out": ended.timed_out,
            "stdout": _shown(ended.stdout, _OUT_KB << 10),
            "stderr": _shown(ended.stderr, _ERROR_KB << 10),
            "files": files,
        }

    def _confined(self, call: Call, binary: Path, folder: Path, timeout_s: float) -> Confine:
        real = binary.resolve()
        outside = [path for path in (binary, real) if not path.is_relative_to("/usr") and not _is_system(path)]
        return Confine(
            argv=(str(binary), *(str(one) for one in call.args.get("arguments", []))),
            workspace=folder,
            environment={**_ENVIRONMENT, "HOME": str(folder), "TMPDIR": str(folder)},
            readable=(*self._settings.readable, *outside),
            memory_mb=self._settings.memory_mb,
            processes=self._settings.processes,
            cpu_s=int(timeout_s) + 1,
        )

    def _sweep(self) -> None:
        for left in self._root.glob(f"*/{_PREFIX}*"):
            _removed(left)


def _is_system(path: Path) -> bool:
    return path.parts[1] in ("bin", "sbin", "lib", "lib64")


@dataclass(frozen=True, slots=True)
class _Ended:
    exit_code: int
    timed_out: bool
    stdout: bytes
    stderr: bytes


async def _ended(launch: Launch, given: bytes, timeout_s: float) -> _Ended:
    """Start a program, feed it, keep the beginning of what it says (one byte more than is shown), and wait for it."""
    process = await asyncio.create_subprocess_exec(
        *launch.argv,
        env=dict(launch.environment),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        pass_fds=launch.pass_fds,
        start_new_session=True,
    )
    out, error = bytearray(), bytearray()
    reading = (
        asyncio.create_task(_kept(process.stdout, out, _OUT_KB << 10)),
        asyncio.create_task(_kept(process.stderr, error, _ERROR_KB << 10)),
    )
    timed_out = False
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.gather(_fed(process, given), *map(asyncio.shield, reading), process.wait())
    except TimeoutError:
        timed_out = True
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.to_thread(launch.close)  # whatever left the group, and holds the pipes open
        status = await process.wait()  # returns when the pipes were read to their ends, so those who read go on
        await asyncio.gather(*reading)
    return _Ended(status if status >= 0 else 128 - status, timed_out, bytes(out), bytes(error))


async def _fed(process: asyncio.subprocess.Process, given: bytes) -> None:
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may end without having read all
        process.stdin.write(given)
        await process.stdin.drain()
    process.stdin.close()


async def _kept(stream: asyncio.StreamReader | None, into: bytearray, most: int) -> None:
    assert stream is not None  # noqa: S101 - a pipe was asked for
    while block := await stream.read(_BLOCK):
        into += block[: most + 1 - len(into)]


def _shown(data: bytes, most: int) -> dict[str, Json]:
    """An output as text, or as base64 where it is none; a character that the bound cuts is left out."""
    kept = data[:most]
    text: str | None
    try:
        text = kept.decode("utf-8")
    except UnicodeDecodeError as error:
        cut = len(data) > most and error.start >= len(kept) - 3 and error.reason == "unexpected end of data"
        text = kept[: error.start].decode("utf-8") if cut else None
    if text is None or _NO_TEXT.search(text):
        return {"text": base64.b64encode(kept).decode(), "encoding": "base64", "truncated": len(data) > most}
    return {"text": text, "encoding": "utf-8", "truncated": len(data) > most}


def _taken(folder: Path, names: list[str]) -> dict[str, Json]:
    """The files that are there under these names; links and whatever is no plain file are not."""
    found: dict[str, Json] = {}
    left = _FILES_KB << 10
    for name in names:
        with contextlib.suppress(OSError):
            data = _read(folder / name, left + 1)
            found[name] = _shown(data, left)
            left -= min(len(data), left)
    return found


def _read(path: Path, most: int) -> bytes:
    """The beginning of a plain file. Raises `OSError` for what is none, `O_NONBLOCK` because a pipe would wait."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise FileNotFoundError(path)
        return file.read(most)


def _removed(folder: Path) -> None:
    """Remove a folder that a program could write in; links are not followed, and what fails is left to the next start.

    Folders that the program closed are opened, and inner ones moved to the top, so that no depth is too deep.
    """
    with contextlib.suppress(OSError):
        while entries := list(os.scandir(folder)):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    _flattened(Path(entry.path), folder)
                else:
                    os.unlink(entry.path)  # noqa: PTH108 - as the directory names it
        folder.rmdir()


def _flattened(folder: Path, top: Path) -> None:
    folder.chmod(0o700)
    for entry in list(os.scandir(folder)):
        inner = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            inner.chmod(0o700)
            inner.rename(top / uuid.uuid4().hex)
        else:
            inner.unlink()
    folder.rmdir()
