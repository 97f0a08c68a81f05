"""The home as files: rights, the lock, leftovers, room."""

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from loket.backup.manifest import PARTIAL, abandoned
from loket.doctor.check import FAILED, WARNING, Check, Patient, failed, mendable, mended, sound, warning
from loket.store.cipher import LEFT

_OTHERS = 0o077
_LOW, _LITTLE = 100 << 20, 1 << 30
"""Bytes of free space below which Loket may fail soon, and below which it is worth saying so."""
_TEMPORARY = (".secrets.json-", ".secrets-", ".master.", ".config.toml.", ".token.", ".server.json.", ".journal.key.")
"""How the names of half-written files begin."""


def home(patient: Patient) -> Iterator[Check]:
    """The directory is there, and it is ours."""
    root = patient.home.root
    if not root.is_dir():
        yield failed("home", f"there is no home at {root}", "loket up makes one; --home names another one")
    elif os.name == "posix" and root.stat().st_uid != os.geteuid():
        yield failed("home", f"{root} belongs to another user", f"sudo chown -R $(id -un) {quote(str(root))}")
    else:
        yield sound("home", str(root))


def permissions(patient: Patient) -> Iterator[Check]:
    """Nobody else can read what is private: 0700 for directories, 0600 for files."""
    if os.name != "posix":
        yield sound("permissions", "the user's profile protects the home on this system")
        return
    count = 0
    for path in _private(patient.home.root):
        mode = stat.S_IMODE(path.stat().st_mode)
        if not mode & _OTHERS:
            continue
        count += 1
        wanted = 0o700 if path.is_dir() else 0o600
        detail = f"{path} has the mode {mode:04o}, and others could use it"
        if patient.fix:
            path.chmod(wanted)
            yield mended("permissions", detail, f"set to {wanted:04o}")
        else:
            yield mendable("permissions", FAILED, detail, f"chmod {wanted:o} {quote(str(path))}, or loket doctor --fix")
    if not count:
        yield sound("permissions", "only you can read what is private")


def _private(root: Path) -> Iterator[Path]:
    """The home, its directories, and the files with secrets or with what was said."""
    yield root
    for path in sorted(root.iterdir()):
        if path.is_symlink():
            continue
        if path.is_dir():
            yield path
        if path.is_file() and (path.name in {"token", "server.json", "lock", "chat_history"} or ".db" in path.name):
            yield path
    for folder in (root / "vault", root / "brains"):
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink())


def server(patient: Patient) -> Iterator[Check]:
    """`server.json` names a server that is there."""
    path = patient.home.server
    said = patient.home.running()
    if not path.exists():
        yield sound("server", "no server says that it runs")
    elif said is not None and (patient.running is not None or _answers(said["port"])):
        yield sound("server", f"a server runs on port {said['port']} (pid {said.get('pid')})")
    elif patient.fix:
        path.unlink()
        yield mended("server", "server.json named a server that is not there", "deleted server.json")
    else:
        yield mendable("server", WARNING, "server.json names a server that is not there")


def port(patient: Patient) -> Iterator[Check]:
    """The port is free, or ours."""
    said = patient.home.running()
    wanted = patient.port
    if said is not None and said["port"] == wanted and _answers(wanted):
        yield sound("port", f"port {wanted} is ours")
    elif _answers(wanted):
        yield warning("port", f"another program has port {wanted}", "loket up --port ANOTHER, or set server.port")
    else:
        yield sound("port", f"port {wanted} is free")


def _answers(number: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", number), 1.0).close()
    except OSError:
        return False
    return True


def disk(patient: Patient) -> Iterator[Check]:
    """There is room to write."""
    free = shutil.disk_usage(patient.home.root).free
    detail, remedy = f"{free / 1e9:.1f} GB are free", "free disk space; cache/ may be deleted"
    if free < _LOW:
        yield failed("disk", detail, remedy)
    else:
        yield warning("disk", detail, remedy) if free < _LITTLE else sound("disk", detail)


def leftovers(patient: Patient) -> Iterator[Check]:
    """What a crash left behind: half-written files, backups that were not finished."""
    found = list(_left(patient.home.root, running=patient.running is not None))
    for path in found:
        detail = f"{path} was left behind by a crash"
        if patient.fix:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield mended("leftovers", detail, "deleted")
        else:
            yield mendable("leftovers", WARNING, detail)
    if not found:
        yield sound("leftovers", "nothing was left behind")


def _left(root: Path, *, running: bool) -> Iterator[Path]:
    """In a running system such a file may be in use: then only what is nobody's is named."""
    if running:
        return
    for folder in (root, root / "vault"):
        if folder.is_dir():
            yield from (path for path in sorted(folder.iterdir()) if path.name.startswith(_TEMPORARY))
    yield from sorted(root.glob(f"brains/*{LEFT}"))
    yield from (path for path in sorted(root.parent.glob(f"*{PARTIAL}")) if _our_leftover(path))


def _our_leftover(path: Path) -> bool:
    """A link is not ours, and what it leads to even less."""
    return not path.is_symlink() and abandoned(path)
