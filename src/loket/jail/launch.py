"""The two launchers, each turning a `Confine` into one plain command line that `enter` carries out.

`bubblewrap` gives the command mounts, processes, users and a network of its own. `landlock` is for machines without
it: the command sees where files are, and opens none but those that are named. Both put the filter of system calls
over it, and rlimits and control groups under it. Measured, and what each does not hold: `docs/process-sandbox.md`.
"""

import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from loket.contracts import BadInput, Confine, Launch, Refusal
from loket.jail import enter, groups, seccomp, system

_ENTER = str(Path(enter.__file__).resolve())
_ENVIRONMENT_BYTES = 48 << 10
"""The environment travels in one variable as twice as many digits; the kernel takes 128 KiB of one."""
_TEMPORARY_MB = 64
_DEVICE_MB = 1
_STACK_MB = 8
_RESERVED_MB = 768
"""V8 makes 512 MiB writable for compiled code at its start, and uses little of it; with the rest of Node, 583 MiB."""
_LEAST_MB = 16
_LEAST_FILES = 16

_COUNTED = 'ulimit -p "$0" 2>/dev/null || ulimit -u "$0" || exit 125; exec "$@"'
"""Inside, because the kernel counts the processes of a user in each user namespace anew: `-p` is dash's and BusyBox's
name of this limit, `-u` bash's."""


class BubblewrapLauncher:
    """Launches with `bwrap`. `nested` says whether this version can turn off user namespaces inside."""

    kind: Literal["bubblewrap"] = "bubblewrap"

    def __init__(self, program: Path, *, nested: bool = True) -> None:
        self._program = program
        self._nested = nested
        self._places = groups.find()
        groups.sweep(self._places)

    def command(self, confine: Confine) -> Launch:
        """Prepare one start; see `Launcher.command`."""
        _check(confine)
        bounds = _bounds(self._places, confine)
        filtered = seccomp.build(platform.machine(), network=confine.network, bounded=bounds is not None, mounts=True)
        inside = confine.argv
        if not _is_root():
            inside = ("/bin/sh", "-c", _COUNTED, str(confine.processes), *inside)
        words = [str(self._program), *self._world(confine, bounded=bounds is not None), "--", *inside]
        return _launch(self.kind, [], filtered, words, confine, bounds)

    def _world(self, confine: Confine, *, bounded: bool) -> Iterator[str]:
        """The arguments of `bwrap(1)`: namespaces, then the file system from its root on, in the order of mounting."""
        yield from ("--unshare-user", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL")
        yield from ("--hostname", "jail")
        if self._nested:
            yield "--disable-userns"
        if confine.network:
            yield "--share-net"
        if _is_root():
            yield from ("--uid", "1000", "--gid", "1000")
        for path, target in system.programs():
            yield from ("--symlink", target, str(path)) if target is not None else _bound("--ro-bind", path)
        for name in (*system.SETTINGS, *(system.RESOLVER if confine.network else ())):
            yield from _bound("--ro-bind-try", Path(name))
        yield from _processes()
        yield from _devices(bounded=bounded)
        yield from _memory("/tmp", _TEMPORARY_MB)  # noqa: S108 - its own, inside
        for path in confine.readable:
            yield from _bound("--ro-bind", path)
        for path in (*confine.writable, confine.workspace):
            yield from _bound("--bind", path)
        yield from ("--remount-ro", "/", "--chdir", str(confine.workspace))


def _bound(how: str, path: Path) -> tuple[str, str, str]:
    return how, str(path), str(path)


def _memory(path: str, size_mb: int) -> tuple[str, ...]:
    return "--size", str(size_mb << 20), "--tmpfs", path


def _processes() -> Iterator[str]:
    """`/proc` for reading: bubblewrap leaves `/proc/sys` and `sysrq-trigger` to whoever is root outside."""
    yield from ("--proc", "/proc")
    for name in system.MASKED if _is_root() else ():
        if Path(name).exists():
            yield from ("--ro-bind", "/dev/null", name)
    yield from ("--remount-ro", "/proc")


def _devices(*, bounded: bool) -> Iterator[str]:
    yield from _memory("/dev", _DEVICE_MB)
    for name in (*system.DEVICES, *([system.ZERO] if bounded else [])):
        yield from _bound("--dev-bind-try", Path(name))
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        yield from ("--symlink", f"/proc/self/fd/{number}", f"/dev/{name}")
    yield from ("--symlink", "/proc/self/fd", "/dev/fd")
    yield from _memory("/dev/shm", _TEMPORARY_MB)  # noqa: S108 - its own, inside
    yield from ("--remount-ro", "/dev")


class LandlockLauncher:
    """Launches with Landlock. `version` is that of the kernel's interface, at least 3.

    Before version 6 it keeps no signals inside: the filter forbids sending any.
    """

    kind: Literal["landlock"] = "landlock"

    def __init__(self, version: int) -> None:
        self._signals = version >= 6  # noqa: PLR2004 - LANDLOCK_SCOPE_SIGNAL
        self._places = groups.find()
        groups.sweep(self._places)

    def command(self, confine: Confine) -> Launch:
        """Prepare one start; see `Launcher.command`."""
        _check(confine)
        bounds = _bounds(self._places, confine)
        bounded = bounds is not None
        filtered = seccomp.build(
            platform.machine(), network=confine.network, bounded=bounded, mounts=False, signals=self._signals
        )
        told = [f"workspace={confine.workspace}", f"processes={confine.processes}"]
        told += [f"readable={path}" for path in _readable(confine, bounded=bounded)]
        told += [f"writable={path}" for path in ("/dev/null", *confine.writable, confine.workspace)]
        told += ["network=1"] if confine.network else []
        return _launch(self.kind, told, filtered, list(confine.argv), confine, bounds)


def _readable(confine: Confine, *, bounded: bool) -> Iterator[Path | str]:
    yield from (path for path, target in system.programs() if target is None)
    yield from (*system.SETTINGS, *system.PROCESS, *system.DEVICES)
    yield from (*(system.RESOLVER if confine.network else ()), *([system.ZERO] if bounded else []), *confine.readable)


def _launch(
    kind: str, told: list[str], filtered: bytes, command: list[str], confine: Confine, bounds: groups.Groups | None
) -> Launch:
    """The command line of `enter`, which starts without packages, settings or variables of Python's."""
    words = [sys.executable, "-I", "-S", _ENTER, f"kind={kind}", f"filter={filtered.hex()}", *told]
    words += [f"join={path}" for path in (bounds.joins if bounds else ())]
    words += [f"limit={name}:{value}" for name, value in _limits(confine, bounded=bounds is not None)]
    words += [f"watch={confine.memory_mb}"] if bounds is None else []
    environment = {enter.VARIABLE: _packed(confine)}
    argv = (*words, "--", *command)
    return Launch(argv, environment) if bounds is None else Launch(argv, environment, end=bounds.end)


def _limits(confine: Confine, *, bounded: bool) -> Iterator[tuple[str, int]]:
    """Limits of each process (`setrlimit(2)`).

    None of the address space, of which Node and others reserve much more than they use; and where no control group
    counts, one of data for what a process takes between two looks at it.
    """
    yield from (("CORE", 0), ("MSGQUEUE", 0), ("STACK", _STACK_MB << 20), ("NOFILE", confine.files))
    if not bounded:
        yield "DATA", (confine.memory_mb + _RESERVED_MB) << 20
    if confine.cpu_s is not None:
        yield "CPU", confine.cpu_s


def _packed(confine: Confine) -> str:
    text = "\0".join(f"{name}={value}" for name, value in confine.environment.items())
    return os.fsencode(text).hex()


def _bounds(places: tuple[Path, ...], confine: Confine) -> groups.Groups | None:
    """Control groups, or None where rlimits have to do. The kernel counts no processes for root: it needs groups."""
    made = groups.make(places, confine.memory_mb, confine.processes)
    if made is None and _is_root():
        raise Refusal(
            "jail.limits",
            "Loket runs as root and can make no control groups, so nothing would stop a command from filling this "
            "machine with processes",
            "run Loket as an ordinary user, or where /sys/fs/cgroup is writable",
            blame="machine",
        )
    return made


def _is_root() -> bool:
    return os.geteuid() == 0


def _check(confine: Confine) -> None:
    """Raise `BadInput` for what the sandbox could not be made of."""
    wrong = next(_wrong(confine), None)
    if wrong is not None:
        raise BadInput("jail.confine", wrong, "give absolute paths that exist, and text without NUL")


_KERNELS = tuple(map(Path, ("/proc", "/sys", "/dev")))


def _wrong(confine: Confine) -> Iterator[str]:
    if not confine.argv:
        yield "there is no command"
    texts = (*confine.argv, *confine.environment, *confine.environment.values())
    if any("\0" in text for text in texts):
        yield "the command or its environment has a NUL character"
    if any(not name or "=" in name for name in confine.environment):
        yield "the environment has a name that is empty or has an equals sign"
    if len(_packed(confine)) > 2 * _ENVIRONMENT_BYTES:
        yield f"the environment is larger than {_ENVIRONMENT_BYTES >> 10} KiB"
    if not confine.workspace.is_dir():
        yield f"the workspace {confine.workspace} is no folder"
    for path in (*confine.readable, *confine.writable, confine.workspace):
        if not path.is_absolute() or not path.exists():
            yield f"{path} is not absolute or does not exist"
        if path == Path("/") or any(path.is_relative_to(one) for one in _KERNELS):
            yield f"{path} cannot be given to a command"
    if confine.memory_mb < _LEAST_MB or confine.processes < 1 or confine.files < _LEAST_FILES:
        yield f"less than {_LEAST_MB} MiB of memory, 1 process or {_LEAST_FILES} files"
