"""The filter of system calls, as a program of the kernel's packet filter (classic BPF), assembled here.

A program is a row of instructions of eight bytes (`struct sock_filter`: code, two jump distances, a value), which reads
`struct seccomp_data` (number, architecture, instruction pointer, six arguments) and returns what becomes of the call;
see `Documentation/userspace-api/seccomp_filter.rst` in the kernel. Everything is allowed that no rule forbids: a list
of what is allowed would break commands that nobody here knows, and what matters is held by mounts or Landlock too.
"""

import errno
import struct
from collections.abc import Mapping

from loket.jail.syscalls import AUDIT_ARCH, NUMBERS, UNKNOWN

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
"""Codes of instructions: `BPF_LD|W|ABS`, `JMP|JEQ|K`, `JMP|JGE|K`, `JMP|JSET|K`, `ALU|AND|K` and `RET|K`."""
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_X32 = 0x40000000
"""Set in the number of a call by the 32-bit convention of x86-64, which no list of numbers here covers."""

_NAMESPACES = 0x7E020000
"""All `CLONE_NEW*` that `clone` takes."""
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_SHARED_ANONYMOUS = 0x21
_INET, _INET6, _NETLINK = 2, 10, 16
_STREAM, _DATAGRAM, _SEQUENCED, _KIND = 1, 2, 5, 0xF


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_NEVER = _words("""
    ptrace process_vm_readv process_vm_writev process_madvise process_mrelease kcmp pidfd_getfd unshare setns
    mount umount2 pivot_root chroot open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr statmount
    listmount bpf perf_event_open userfaultfd add_key request_key keyctl io_uring_setup io_uring_enter
    io_uring_register kexec_load kexec_file_load init_module finit_module delete_module open_by_handle_at
    name_to_handle_at fanotify_init fanotify_mark reboot swapon swapoff acct quotactl quotactl_fd settimeofday
    clock_settime clock_adjtime sethostname setdomainname syslog vhangup iopl ioperm modify_ldt uselib
    lookup_dcookie memfd_secret shmget shmat shmctl
""")
"""What no tool needs, and what ways out have been made of."""

_SAME_USER = _words("""
    chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes futimesat setxattr lsetxattr
    fsetxattr removexattr lremovexattr fremovexattr inotify_add_watch semget semop semctl semtimedop msgget
    msgsnd msgrcv msgctl mq_open migrate_pages move_pages
""")
"""What reaches other files and processes of the same user, and what Landlock does not look at."""

_OWN_ALONE = {
    **dict.fromkeys(("prlimit64", "sched_setparam", "sched_setscheduler", "sched_setaffinity", "sched_setattr"), 0),
    **dict.fromkeys(("setpriority", "ioprio_set"), 1),
}
"""Calls that take a process, 0 for the caller, and which of their arguments it is."""

_SIGNALS = _words("kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal")


def build(machine: str, *, network: bool, bounded: bool, mounts: bool, signals: bool = True) -> bytes:
    """The filter's program for an architecture (`x86_64` or `aarch64`).

    `network`: sockets of the internet are allowed; those of this machine (`AF_UNIX`) are not, but as connected pairs.
    `bounded`: control groups bound the memory of all processes together, and find all of them; else the ways to memory
    that no process is charged for are closed. `mounts`: the command has mounts, processes and IPC of its own; else what
    reaches others of the same user is closed, and with it leaving the process group where nothing else finds those who
    left. `signals`: something else keeps its signals inside. Raises `KeyError` for another architecture.
    """
    numbers = NUMBERS[machine]
    denied = [*_NEVER, *([] if mounts else _SAME_USER), *([] if signals else _SIGNALS)]
    if not bounded:
        denied += ["memfd_create", *([] if mounts else ["setsid", "setpgid"])]
    rules = [_head(machine)]
    rules += [_when(numbers[name], _error(errno.EPERM)) for name in denied if name in numbers]
    rules += _looked_at(numbers, network=network)
    if not mounts:
        rules += [_when(numbers[name], _zero(argument)) for name, argument in _OWN_ALONE.items()]
        rules.append(_when(numbers["utimensat"], _no_path()))
    if not bounded:
        rules.append(_when(numbers["mmap"], _not_shared_and_anonymous()))
    return b"".join([*rules, _return(_ALLOW)])


def _looked_at(numbers: Mapping[str, int], *, network: bool) -> list[bytes]:
    """The calls whose arguments say whether they are allowed. `clone3` hides its own: libraries use `clone` then."""
    return [
        _when(numbers["clone3"], _error(errno.ENOSYS)),
        _when(numbers["clone"], _no_namespaces()),
        _when(numbers["ioctl"], _no_typing()),
        _when(numbers["socketpair"], _kind(1, (_STREAM, _SEQUENCED))),
        _when(numbers["socket"], _internet() if network else _error(errno.EAFNOSUPPORT)),
    ]


def _head(machine: str) -> bytes:
    """Kill what calls by another convention, refuse what is newer than this list; the call's number stays loaded."""
    return b"".join(
        [
            _one(_LOAD, _ARCHITECTURE),
            _one(_EQUAL, AUDIT_ARCH[machine], 1, 0),
            _return(_KILL),
            _one(_LOAD, _NUMBER),
            _one(_AT_LEAST, _X32, 0, 1),
            _return(_KILL),
            _one(_AT_LEAST, UNKNOWN, 0, 1),
            _error(errno.ENOSYS),
        ]
    )


def _no_namespaces() -> bytes:
    return _argument(0) + _one(_ANY_BIT, _NAMESPACES, 0, 1) + _error(errno.EPERM) + _return(_ALLOW)


def _no_typing() -> bytes:
    """Putting characters into a terminal's input, as if its owner had typed them."""
    return _argument(1) + _if(_TIOCSTI, _error(errno.EPERM)) + _if(_TIOCLINUX, _error(errno.EPERM)) + _return(_ALLOW)


def _zero(argument: int) -> bytes:
    return _argument(argument) + _if(0, _return(_ALLOW)) + _error(errno.EPERM)


def _no_path() -> bytes:
    """Times of a file that was opened, and that Landlock saw; not of one by its name."""
    high = _one(_LOAD, _ARGUMENTS + 8 * 1 + 4) + _if(0, _return(_ALLOW))
    return _argument(1) + _if(0, high) + _error(errno.EPERM)


def _not_shared_and_anonymous() -> bytes:
    masked = _argument(3) + _one(_AND, _SHARED_ANONYMOUS)
    return masked + _if(_SHARED_ANONYMOUS, _error(errno.ENOMEM)) + _return(_ALLOW)


def _kind(argument: int, kinds: tuple[int, ...]) -> bytes:
    """Sockets of these kinds alone. A pair of datagram sockets could send to any socket of the machine by its name."""
    allowed = b"".join(_if(kind, _return(_ALLOW)) for kind in kinds)
    return _argument(argument) + _one(_AND, _KIND) + allowed + _error(errno.EAFNOSUPPORT)


def _internet() -> bytes:
    """TCP and UDP, and asking the kernel for addresses and routes, which resolvers do."""
    usual = _kind(1, (_STREAM, _DATAGRAM))
    routes = _argument(2) + _if(0, _return(_ALLOW)) + _error(errno.EAFNOSUPPORT)
    families = _if(_INET, usual) + _if(_INET6, usual) + _if(_NETLINK, routes)
    return _argument(0) + families + _error(errno.EAFNOSUPPORT)


def _when(number: int, block: bytes) -> bytes:
    """A block for one call; every way through it returns."""
    return _if(number, block)


def _if(value: int, block: bytes) -> bytes:
    """Go through the block if the loaded value is this one, else behind it."""
    return _one(_EQUAL, value, 0, len(block) // 8) + block


def _argument(index: int) -> bytes:
    """Load the low half of an argument: both architectures keep it first, and the kernel reads no more of these."""
    return _one(_LOAD, _ARGUMENTS + 8 * index)


def _error(number: int) -> bytes:
    return _return(_ERRNO | number)


def _return(action: int) -> bytes:
    return _one(_RETURN, action)


def _one(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
