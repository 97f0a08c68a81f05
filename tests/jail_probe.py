"""Tries ways out of a sandbox, and prints as JSON which of them worked. It runs inside, on the standard library alone.

Its argument is a JSON object: the places outside that `test_jail` made, and what it should leave out.
"""

# The system's own calls are what is tried here, by their own names.
# ruff: noqa: PTH101, PTH102, PTH106, PTH108, PTH109, PTH123, PTH208, PTH211, S108

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

T = json.loads(sys.argv[1])
LIBC = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == "x86_64"
BOMB_MB = 400
BOMB_PROCESSES = 400
HELD_S = 0.5
NUMBERS = {  # x86_64, aarch64
    "add_key": (248, 217),
    "bpf": (321, 280),
    "clone": (56, 220),
    "init_module": (175, 105),
    "io_uring_setup": (425, 425),
    "mount": (165, 40),
    "open_by_handle_at": (304, 265),
    "perf_event_open": (298, 241),
    "process_vm_readv": (310, 270),
    "prlimit64": (302, 261),
    "ptrace": (101, 117),
    "shmget": (29, 194),
    "truncate": (76, 45),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
    "fsopen": (430, 430),
    "inotify_init1": (294, 26),
    "inotify_add_watch": (254, 27),
}
WAYS: dict[str, Callable[[], bool]] = {}


def way(function: Callable[[], bool]) -> Callable[[], bool]:
    """Put an attempt on the list; what it answers is whether it got out, and an `OSError` that it did not."""
    WAYS[function.__name__] = function
    return function


def call(name: str, *arguments: object) -> int:
    made = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = LIBC.syscall(ctypes.c_long(NUMBERS[name][0 if X86 else 1]), *made)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(result)


def reached(name: str, *arguments: object) -> bool:
    """Whether the kernel looked at a call at all: any error but a flat refusal says so."""
    try:
        call(name, *arguments)
    except OSError as error:
        return error.errno not in (errno.EPERM, errno.ENOSYS, errno.EACCES)
    return True


def in_child(body: Callable[[], bool]) -> bool:
    """Whether the body answers true in a process of its own, which the kernel may kill."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(OSError, MemoryError, ValueError):
            status = 0 if body() else 1
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


# Files


@way
def read_shadow() -> bool:
    return bool(Path("/etc/shadow").read_bytes())


@way
def read_home() -> bool:
    return T["marker"] in Path(T["home"], "secret.txt").read_text()


@way
def list_home() -> bool:
    return bool(os.listdir(T["home"]))


@way
def read_through_link() -> bool:
    Path("link").unlink(missing_ok=True)
    os.symlink(T["home"] + "/secret.txt", "link")
    return T["marker"] in Path("link").read_text()


@way
def write_through_hard_link() -> bool:
    Path("hard").unlink(missing_ok=True)
    os.link(T["home"] + "/victim.txt", "hard")
    with open("hard", "a") as file:
        return file.write("x") == 1


@way
def write_outside() -> bool:
    return Path(T["home"], "new.txt").write_text("x") == 1


@way
def write_system() -> bool:
    file = Path("/usr/loket-probe")
    file.write_text("x")
    file.unlink()
    return True


@way
def truncate_outside() -> bool:
    return call("truncate", (T["home"] + "/victim.txt").encode(), 0) == 0


@way
def change_mode_outside() -> bool:
    os.chmod(T["home"] + "/victim.txt", 0o640)
    return True


@way
def change_readable() -> bool:
    os.chmod(T["readable"] + "/given.txt", 0o600)
    return True


@way
def write_readable() -> bool:
    return Path(T["readable"], "given.txt").write_text("x") == 1


@way
def watch_home() -> bool:
    return call("inotify_add_watch", call("inotify_init1", 0), T["home"].encode(), 0x100) > 0


@way
def open_by_handle() -> bool:
    return reached("open_by_handle_at", -100, ctypes.create_string_buffer(136), 0)


@way
def make_device() -> bool:
    os.mknod("device", 0o60600, os.makedev(7, 0))
    os.unlink("device")
    return True


@way
def inherited_descriptors() -> bool:
    for number in range(3, 64):
        with contextlib.suppress(OSError):
            if T["marker"] in os.pread(number, 1_000, 0).decode(errors="replace"):
                return True
    return False


@way
def leave_root() -> bool:
    os.mkdir("deep")
    try:
        return in_child(lambda: os.chroot("deep") is None)
    finally:
        os.rmdir("deep")


# Other processes


@way
def environment_of_another() -> bool:
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and int(name) != os.getpid() and T["marker"] in Path(f"/proc/{name}/environ").read_text():
                return True
    return False


@way
def root_of_another() -> bool:
    return bool(os.listdir(f"/proc/{T['pid']}/root/{T['home']}"))


@way
def own_environment() -> bool:
    return bool(set(os.environ) - set(T["environment"]) - {"PWD", "LC_CTYPE"})


@way
def signal_another() -> bool:
    os.kill(T["pid"], 0)
    return True


@way
def trace_another() -> bool:
    return call("ptrace", 0x4206, T["pid"], 0, 0) == 0


@way
def memory_of_another() -> bool:
    room = ctypes.create_string_buffer(8)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 8)
    remote = (ctypes.c_uint64 * 2)(T["address"], 8)
    return call("process_vm_readv", T["pid"], local, 1, remote, 1, 0) == 8


@way
def limits_of_another() -> bool:
    limits = (ctypes.c_uint64 * 2)(0, 0)
    return call("prlimit64", T["pid"], resource.RLIMIT_CORE, limits, None) == 0


@way
def shared_memory_segment() -> bool:
    return call("shmget", T["segment"], 1, 0o600) >= 0


# The network and sockets


def connected(family: int, kind: int, address: object) -> bool:
    with socket.socket(family, kind) as plug:
        plug.settimeout(2)
        plug.connect(address)  # type: ignore[arg-type] - as the family has it
        plug.send(b"out")
        return plug.recv(3) == b"yes"


@way
def tcp() -> bool:
    return connected(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", T["tcp"]))


@way
def udp() -> bool:
    return connected(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", T["udp"]))


@way
def unix_socket() -> bool:
    return connected(socket.AF_UNIX, socket.SOCK_STREAM, T["unix"])


@way
def abstract_socket() -> bool:
    return connected(socket.AF_UNIX, socket.SOCK_STREAM, "\0" + T["abstract"])


@way
def datagram_pair_to_abstract() -> bool:
    first, second = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with first, second:
        return first.sendto(b"out", "\0" + T["datagram"]) == 3


@way
def raw_socket() -> bool:
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return True


@way
def packet_socket() -> bool:
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).close()
    return True


@way
def vsock() -> bool:
    socket.socket(40, socket.SOCK_STREAM).close()
    return True


# The kernel


@way
def user_namespace() -> bool:
    return in_child(lambda: call("unshare", 0x10000000) == 0)


@way
def user_namespace_by_clone() -> bool:
    def body() -> bool:
        child = call("clone", 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
        if child == 0:
            os._exit(0)
        return child > 0

    return in_child(body)


@way
def mount_something() -> bool:
    def body() -> bool:
        with contextlib.suppress(OSError):
            call("unshare", 0x10020000)
        return call("mount", b"none", os.getcwd().encode(), b"tmpfs", 0, None) == 0

    return in_child(body)


@way
def new_mount_calls() -> bool:
    return reached("fsopen", b"no-such-file-system", 0)


@way
def change_kernel_setting() -> bool:
    Path("/proc/sys/kernel/domainname").open("r+").close()
    return True


@way
def trigger_of_the_kernel() -> bool:
    """Open alone: a character written to it would restart the machine."""
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))
    return True


@way
def keyring() -> bool:
    return call("add_key", b"user", b"loket-probe", b"x", 1, -4) > 0


@way
def load_module() -> bool:
    return reached("init_module", None, 0, b"")


@way
def program_in_kernel() -> bool:
    return reached("bpf", 9_999, None, 0)


@way
def performance_events() -> bool:
    return reached("perf_event_open", None, 0, -1, -1, 0)


@way
def fault_handler() -> bool:
    return reached("userfaultfd", 1 << 30)


@way
def io_ring() -> bool:
    return reached("io_uring_setup", 1, None)


@way
def other_convention() -> bool:
    """The system calls of 32 bits, which no filter for 64 sees: `mov eax, 20; int 0x80; ret`."""
    if not X86:
        return False

    def body() -> bool:
        page = mmap.mmap(-1, 4_096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=7)
        page.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")
        address = ctypes.addressof(ctypes.c_char.from_buffer(page))
        return ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0

    return in_child(body)


@way
def terminal_input() -> bool:
    fcntl.ioctl(0, termios.TIOCSTI, b"x")
    return True


@way
def set_user_id_program() -> bool:
    said = subprocess.run([T["setuid"], "-u"], capture_output=True, text=True, check=False).stdout.strip()
    return said == "0" and os.geteuid() != 0


@way
def capabilities() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("CapEff", "CapPrm", "CapAmb")))


# Using up the machine


@way
def raise_limits() -> bool:
    for limit in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_CPU):
        soft, hard = resource.getrlimit(limit)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (soft, hard + 1 if hard >= 0 else hard))
            return True
    return False


@way
def fork_bomb() -> bool:
    children: list[int] = []
    try:
        while len(children) < BOMB_PROCESSES:
            child = os.fork()
            if child == 0:
                signal.pause()
                os._exit(0)
            children.append(child)
    except OSError:
        return False
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return True


def filled(room: mmap.mmap) -> bool:
    piece = b"x" * (1 << 20)
    for place in range(0, len(room), len(piece)):
        room[place : place + len(piece)] = piece
    time.sleep(HELD_S)
    return True


@way
def memory_bomb() -> bool:
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return in_child(lambda: filled(mmap.mmap(-1, BOMB_MB << 20, flags=private)))


@way
def memory_bomb_of_many() -> bool:
    """Each process takes a little."""
    part = (BOMB_MB << 20) // 8

    def body() -> bool:
        return filled(mmap.mmap(-1, part, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            os._exit(0 if body() else 1)
        children.append(child)
    return all(os.waitpid(child, 0)[1] == 0 for child in children)


@way
def shared_memory_bomb() -> bool:
    return in_child(lambda: filled(mmap.mmap(-1, BOMB_MB << 20)))


@way
def zero_device_bomb() -> bool:
    def body() -> bool:
        with open("/dev/zero", "r+b", buffering=0) as device:
            return filled(mmap.mmap(device.fileno(), BOMB_MB << 20, flags=mmap.MAP_SHARED))

    return in_child(body)


def written(descriptor: int) -> bool:
    return sum(os.write(descriptor, bytes(1 << 20)) for _ in range(BOMB_MB)) == BOMB_MB << 20


@way
def memory_file_bomb() -> bool:
    return in_child(lambda: written(os.memfd_create("bomb")))


@way
def memory_disk_bomb() -> bool:
    def body() -> bool:
        with open("/dev/shm/loket-bomb", "wb", buffering=0) as file:
            os.unlink(file.name)
            return written(file.fileno())

    return in_child(body)


@way
def processor_bomb() -> bool:
    soft, _ = resource.getrlimit(resource.RLIMIT_CPU)
    return soft < 0 or soft > 30


@way
def stack_bomb() -> bool:
    return resource.getrlimit(resource.RLIMIT_STACK)[1] in (-1, resource.RLIM_INFINITY)


def main() -> None:
    found = {}
    for name, attempt in WAYS.items():
        if name not in T["without"] and (not T["only"] or name in T["only"]):
            try:
                found[name] = bool(attempt())
            except (OSError, ValueError, MemoryError, subprocess.SubprocessError):
                found[name] = False
    sys.stdout.write(json.dumps(found) + "\n")
    sys.stdout.flush()


assert struct.calcsize("P") == 8
main()
