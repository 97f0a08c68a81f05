"""Enters the sandbox and becomes the command: a script for `python -I -S`, started by what `launch` prepares.

Nothing but the standard library is imported, and no more of it than is needed: every start of a command waits for this
file. What to do stands in the arguments, `NAME=VALUE` before `--`, the command behind it; the environment of the
command stands in one variable as hexadecimal text, so that nothing in it (`LD_PRELOAD`) means anything out here.
Whatever does not work ends the start: no command runs with half a sandbox.
"""

# Imports of pathlib, contextlib and typing would take longer than all the rest.
# ruff: noqa: PTH112, PTH116, PTH123, PTH208, SIM105

import os
import resource
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

VARIABLE = "LOKET_JAIL_ENVIRONMENT"
FAILED = 125
"""The exit status where the sandbox could not be entered."""

_READ = 1 | 1 << 2 | 1 << 3
"""Landlock: execute, read a file, read a directory."""
_FILE = 1 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
"""What a rule about a file may name: execute, write, read, truncate, control a device."""
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ACCESSES = {3: (1 << 15) - 1, 4: (1 << 15) - 1}
_ALL = (1 << 16) - 1
_KNOWS_NETWORK, _KNOWS_SCOPES = 4, 6
"""From which version on."""

_SET_DEATH_SIGNAL, _DROP_BOUND, _SET_SECURE, _ADOPT_ORPHANS, _NO_NEW, _SECCOMP = 1, 24, 28, 36, 38, 22
_LOCKED = 0b11101111
"""Securebits: uid 0 means nothing, nothing is fixed up or kept, ambient capabilities are off; each locked."""
_NEW_USER = 0x10000000
_KILL = 9
_STREAMS = 2
_LOOK_MS = 100
_PAUSE_S = 0.002


def main(arguments: list[str]) -> None:
    """Read the arguments, close everything that was inherited, and go in."""
    split = arguments.index("--")
    said, command = arguments[:split], arguments[split + 1 :]
    told: dict[str, list[str]] = {}
    for word in said:
        name, _, value = word.partition("=")
        told.setdefault(name, []).append(value)
    environment = _environment(os.environ.get(VARIABLE, ""))
    _close_inherited()
    for path in told.get("join", ()):
        with open(path, "w") as group:
            group.write("0")
    for limit in told.get("limit", ()):
        _limit(*limit.split(":"))
    try:
        os.setsid()
    except PermissionError:
        pass  # the leader of a group already
    kernel = _Kernel() if told["kind"] == ["landlock"] else None
    if "watch" in told:
        _watched(int(told["watch"][0]) << 20, kernel)
    if kernel is not None:
        _landlock(kernel, told, command, environment)
    _bubblewrap(told, command, environment)


def _close_inherited() -> None:
    """One by one: where Python does not know `close_range(2)`, a range of all numbers would take minutes."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > _STREAMS:
            try:
                os.close(int(name))
            except OSError:
                pass  # the listing's own


def _environment(text: str) -> dict[str, str]:
    pairs = bytes.fromhex(text).decode("utf-8", "surrogateescape").split("\0")
    split = (pair.partition("=") for pair in pairs if pair)
    return {name: value for name, _, value in split}


def _limit(name: str, wanted: str) -> None:
    """Set a limit for good, soft and hard; where the hard one is lower already, that one stays."""
    which = getattr(resource, "RLIMIT_" + name)
    value, hard = int(wanted), resource.getrlimit(which)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


def _bubblewrap(told: dict[str, list[str]], command: list[str], environment: dict[str, str]) -> None:
    """The command is `bwrap` with its arguments; it gets the filter, and what must not be seen, by descriptors."""
    words = ["--clearenv"]
    for name, value in environment.items():
        words += ["--setenv", name, value]
    settings = _kept("\0".join(words).encode("utf-8", "surrogateescape"))
    program = _kept(bytes.fromhex(told["filter"][0]))
    given = ["--args", str(settings), "--seccomp", str(program)]
    os.execve(command[0], [command[0], *given, *command[1:]], {})  # noqa: S606 - no shell is the point


def _kept(content: bytes) -> int:
    descriptor = os.memfd_create("jail", 0)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _landlock(kernel: "_Kernel", told: dict[str, list[str]], command: list[str], environment: dict[str, str]) -> None:
    os.chdir(told["workspace"][0])
    kernel.prctl(_SET_DEATH_SIGNAL, _KILL)
    processes = int(told["processes"][0])
    if os.geteuid() == 0:
        kernel.give_up_root()
    else:
        processes += _alone(kernel)
    kernel.prctl(_NO_NEW, 1)
    kernel.restrict(told.get("readable", []), told.get("writable", []), network="network" in told)
    _limit("NPROC", str(processes))
    kernel.install(bytes.fromhex(told["filter"][0]))
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is the point


def _watched(most: int, kernel: "_Kernel | None") -> None:
    """Without control groups: go on as a child, while the parent stays outside and looks after it.

    The parent ends the command with all its children as soon as they have more than `most` bytes of memory together
    (looked at ten times a second), when the command ends, and when its own parent is gone. It ends as the command did,
    with 128 and the signal's number where that was one.
    """
    starter = os.getppid()
    if kernel is not None:
        kernel.prctl(_ADOPT_ORPHANS, 1)
    child = os.fork()
    if child == 0:
        return
    import select  # in this process alone; the other has to be quick

    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    ended = select.poll()
    ended.register(os.pidfd_open(child), select.POLLIN)
    while not ended.poll(_LOOK_MS):
        if os.getppid() != starter or _memory(_below(os.getpid()), most) > most:
            break
    _end_all()
    status = os.waitstatus_to_exitcode(_reaped.get(child, _KILL))
    os._exit(status if status >= 0 else 128 - status)


_reaped: dict[int, int] = {}
"""How each child of the watching parent ended, by its id."""


def _end_all() -> None:
    while True:
        try:
            while True:
                child, status = os.waitpid(-1, os.WNOHANG)
                if child == 0:
                    break
                _reaped[child] = status
        except ChildProcessError:
            return
        for process in _below(os.getpid()):
            try:
                os.kill(process, _KILL)
            except ProcessLookupError:
                pass  # it was faster
        time.sleep(_PAUSE_S)


def _below(process: int) -> list[int]:
    """All processes that stem from one."""
    found: list[int] = []
    open_ones = [process]
    while open_ones:
        children = _children(open_ones.pop())
        found += children
        open_ones += children
    return found


def _children(process: int) -> list[int]:
    found: list[int] = []
    place = f"/proc/{process}/task/"
    try:
        for thread in os.listdir(place):
            with open(place + thread + "/children") as file:
                found += [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ended meanwhile
    return found


def _memory(processes: list[int], most: int) -> int:
    """Bytes that processes have for themselves and as shared memory, without the files that they map.

    A page that a child has from its parent counts in both at first; where that makes too much, each page counts once.
    """
    total = sum(_kilobytes(one, "status", ("RssAnon:", "RssShmem:")) or 0 for one in processes) << 10
    if total <= most:
        return total
    shares = [_kilobytes(one, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for one in processes]
    known = [share for share in shares if share is not None]
    return sum(known) << 10 if len(known) == len(shares) else total


def _kilobytes(process: int, name: str, fields: tuple[str, ...]) -> int | None:
    """The sum of lines of a file about a process, 0 where it has ended; None where it must not be read."""
    try:
        with open(f"/proc/{process}/{name}") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith(fields))
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        return None


def _alone(kernel: "_Kernel") -> int:
    """Count processes anew, in a user namespace of our own; where there is none, how many threads the user has."""
    user, group = os.geteuid(), os.getegid()
    mine = _threads(user)
    if not kernel.unshare(_NEW_USER):
        return mine
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open("/proc/self/" + name, "w") as file:
            file.write(text)
    kernel.drop_bounds()
    return 0


def _threads(user: int) -> int:
    found = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if os.stat("/proc/" + name).st_uid == user:
                    found += len(os.listdir("/proc/" + name + "/task"))
            except (FileNotFoundError, ProcessLookupError):
                pass  # ended meanwhile
    return found


class _Kernel:
    """The system calls that Python has no names for."""

    def __init__(self) -> None:
        import ctypes  # not needed with bubblewrap, and slow

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _call(self, function: "Callable[..., int]", *arguments: object) -> int:
        made = [self._ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
        result = function(*made)
        if result < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return result

    def prctl(self, option: int, value: int) -> None:
        self._call(self._libc.prctl, option, value, 0, 0, 0)

    def unshare(self, flags: int) -> bool:
        """Whether the kernel gave a namespace of our own."""
        try:
            self._call(self._libc.unshare, flags)
        except OSError:
            return False
        return True

    def drop_bounds(self) -> None:
        """No program that is started can get a capability."""
        with open("/proc/sys/kernel/cap_last_cap") as file:
            last = int(file.read())
        for number in range(last + 1):
            self.prctl(_DROP_BOUND, number)

    def give_up_root(self) -> None:
        """Stay uid 0, for the files that are its own, without any of its powers, and for good."""
        os.setgroups([])
        self.prctl(_SET_SECURE, _LOCKED)
        self.drop_bounds()
        header = (self._ctypes.c_uint32 * 2)(0x20080522, 0)
        none = (self._ctypes.c_uint32 * 6)()
        self._call(self._libc.capset, header, none)

    def restrict(self, readable: list[str], writable: list[str], *, network: bool) -> None:
        """Landlock: what is not named cannot be opened; signals and abstract sockets stay inside where it knows them.

        `struct landlock_ruleset_attr` is three numbers of 64 bits (files, network, scopes), and
        `landlock_path_beneath_attr` one of 64 and one of 32.
        """
        version = self._call(self._libc.syscall, _CREATE_RULESET, None, 0, 1)
        every = _ACCESSES.get(version, _ALL)
        sockets = 0 if network or version < _KNOWS_NETWORK else 0b11
        scopes = 0b11 if version >= _KNOWS_SCOPES else 0
        made = (self._ctypes.c_uint64 * 3)(every, sockets, scopes)
        size = 24 if version >= _KNOWS_SCOPES else 16 if version >= _KNOWS_NETWORK else 8
        rules = self._call(self._libc.syscall, _CREATE_RULESET, made, size, 0)
        for paths, access in ((readable, _READ), (writable, every)):
            for path in paths:
                self._allow(rules, path, access & every)
        self._call(self._libc.syscall, _RESTRICT_SELF, rules, 0)
        os.close(rules)

    def _allow(self, rules: int, path: str, access: int) -> None:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # not every system has every one of its folders
        if not os.path.isdir(path):
            access &= _FILE
        rule = access.to_bytes(8, sys.byteorder) + place.to_bytes(4, sys.byteorder)
        self._call(self._libc.syscall, _ADD_RULE, rules, 1, self._ctypes.create_string_buffer(rule), 0)
        os.close(place)

    def install(self, program: bytes) -> None:
        """From here on the filter decides; it cannot be taken off again."""
        code = self._ctypes.create_string_buffer(program)
        address = self._ctypes.addressof(code)
        holder = len(program) // 8
        packed = holder.to_bytes(8, sys.byteorder) + address.to_bytes(8, sys.byteorder)
        self._call(self._libc.prctl, _SECCOMP, 2, self._ctypes.create_string_buffer(packed), 0, 0)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError, KeyError) as error:
        os.write(2, f"loket: the sandbox could not be entered: {error}\n".encode("utf-8", "replace"))
        os._exit(FAILED)
