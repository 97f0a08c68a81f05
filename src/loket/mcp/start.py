"""How a server's process is started: in a sandbox, with what was configured and nothing else."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from loket.contracts import BadInput, Confine, Failed, Launch, Launcher, Refusal, command
from loket.mcp.settings import Server, filled

_PATH = "/usr/local/bin:/usr/bin:/bin"


def launched(
    server: Server, folder: Path, choose: Callable[[], Launcher], secret: Callable[[str], str | None]
) -> tuple[Launch, Path]:
    """A start of a server, and its workspace (made where it is missing).

    Without a sandbox only where the owner switched it off for this server. Raises `Refusal` (`mcp.sandbox`,
    `mcp.secret`), `BadInput` and `Failed`.
    """
    workspace = folder / server.name
    try:
        for path in (folder, workspace):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Failed("mcp.workspace", f"{workspace} cannot be made: {error.strerror}", None) from None
    argv = tuple(filled(server, word, secret) for word in server.command)
    environment = _environment(server, workspace, secret)
    program = _program(server, argv[0], environment)
    argv = (program, *argv[1:])
    if not server.sandbox:
        return Launch(argv, environment), workspace
    try:
        launcher = choose()
    except Refusal as refusal:
        raise Refusal(
            "mcp.sandbox",
            f"the server {server.name} needs a sandbox: {refusal.message}",
            f"{refusal.remedy}; or let it do whatever you can, with `loket mcp add --replace --no-sandbox`",
            blame="machine",
        ) from None
    return launcher.command(_confined(server, argv, workspace, environment)), workspace


def _environment(server: Server, workspace: Path, secret: Callable[[str], str | None]) -> Mapping[str, str]:
    """What was configured, and a home and a path, without which most programs do not start."""
    given = {name: filled(server, text, secret) for name, text in server.env.items()}
    always = {"PATH": _PATH, "HOME": str(workspace), "TMPDIR": str(workspace / "tmp"), "LANG": "C.UTF-8"}
    (workspace / "tmp").mkdir(mode=0o700, exist_ok=True)
    return {**always, **given}


def _program(server: Server, name: str, environment: Mapping[str, str]) -> str:
    """The absolute path of the program: of the configured PATH, then of the owner's."""
    found = shutil.which(name, path=environment["PATH"]) or shutil.which(name)
    if found is None:
        raise BadInput(
            "mcp.program", f"there is no program {name!r} for the server {server.name}", "install it, or give its path"
        )
    return str(Path.cwd() / found)


def _confined(server: Server, argv: tuple[str, ...], workspace: Path, environment: Mapping[str, str]) -> Confine:
    for folder in server.folders:
        if not Path(folder.path).exists():
            raise BadInput("mcp.folder", f"there is no folder {folder.path}", command("mcp", "show", server.name))
    writable = tuple(Path(folder.path) for folder in server.folders if folder.writable)
    return Confine(
        argv=argv,
        workspace=workspace,
        environment=environment,
        readable=(
            *_installed(argv[0], (workspace, *writable)),
            *(Path(folder.path) for folder in server.folders if not folder.writable),
        ),
        writable=writable,
        network=server.network,
        memory_mb=server.memory_mb,
        processes=server.processes,
    )


def _installed(program: str, writable: tuple[Path, ...]) -> tuple[Path, ...]:
    """Where a program lies that is no part of the system: its installation, and what its links lead to.

    `/opt/tools/bin/server` is in `/opt/tools`; a virtual environment also needs the Python that it was made with. Of
    `~/.local/bin/server` the file alone is shown: beside it are other things of the owner's.

    What lies where the server may write is not asked what else it needs: it could name any folder of the owner's.
    """
    found: list[Path] = []
    for path in (Path(program), *_led(Path(program), writable)):
        folder = path.parent.parent if path.parent.name in ("bin", "Scripts") else path.parent
        if not _systems(folder):
            found.append(path if _owners(folder) else folder)
        found += _python_of(folder) if not _its_own(path, writable) else []
    return tuple(dict.fromkeys(found))


def _its_own(path: Path, writable: tuple[Path, ...]) -> bool:
    """Whether a file, or the environment of Python that it is in, is among what the server may write."""
    places = (path.parent.resolve(), path.parent.parent.resolve())
    return any(place.is_relative_to(one.resolve()) for place in places for one in writable)


def _owners(folder: Path) -> bool:
    """Whether a folder is the owner's home, what that is in, or one in it that is no environment of Python."""
    home = Path.home()
    return home.is_relative_to(folder) or (folder.parent == home and not (folder / "pyvenv.cfg").exists())


def _led(path: Path, writable: tuple[Path, ...]) -> list[Path]:
    """The places that a link leads to, one after the other; of a script, the program of its first line too."""
    found: list[Path] = []
    while not _its_own(path, writable) and path.is_symlink() and len(found) < 20:  # noqa: PLR2004 - a circle
        path = path.parent / path.readlink()
        path = Path(os.path.normpath(path))
        found.append(path)
    if _its_own(path, writable):
        return found
    with path.open("rb") as file:
        head = file.read(256)
    if head.startswith(b"#!"):
        word = head[2:].split(b"\n")[0].strip().split(b" ")[0].decode(errors="replace")
        if word.startswith("/") and Path(word).exists() and Path(word) not in found:
            found += [Path(word), *_led(Path(word), writable)]
    return found


def _python_of(folder: Path) -> list[Path]:
    """The installation that a virtual environment of Python was made of."""
    try:
        lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    homes = [line.partition("=")[2].strip() for line in lines if line.partition("=")[0].strip() == "home"]
    return [Path(home).parent for home in homes if home and not _systems(Path(home).parent)]


def _systems(folder: Path) -> bool:
    return folder == Path("/") or any(
        folder.is_relative_to(root) for root in ("/usr", "/bin", "/sbin", "/lib", "/lib64")
    )
