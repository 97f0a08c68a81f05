"""What an owner should see before a server is started: shells, packages of no fixed version, what it gets."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

from loket.mcp.settings import SECRET, Server


class Flag(NamedTuple):
    """One remark about a server. A `grave` one needs the owner's own word before the server is used."""

    code: str
    text: str
    grave: bool


_SHELLS = frozenset(
    ["sh", "bash", "dash", "zsh", "fish", "ksh", "ash", "busybox", "cmd", "powershell", "pwsh", "wsl", "osascript"]
)
_INLINE = {"python": ("-c",), "python3": ("-c",), "node": ("-e", "--eval", "-p"), "deno": ("eval",), "bun": ("-e",),
           "perl": ("-e",), "ruby": ("-e",)}  # fmt: skip
_NPM = frozenset({"npx", "bunx", "pnpx"})
_MANAGERS = frozenset({"npm", "pnpm", "yarn", "bun"})
_PYPI = frozenset({"uvx"})
_IMAGES = frozenset({"docker", "podman"})
_NPM_VALUES = frozenset({"-p", "--package", "--registry", "--cache", "--prefix", "--node-options"})
_UV_VALUES = frozenset(
    {"--from", "--with", "--python", "-p", "--index-url", "--index", "--extra-index-url", "--cache-dir", "--directory"}
)
_EXACT = re.compile(r"v?\d+(\.\d+)*([.+-]?[0-9A-Za-z.+-]*)?")
_COMMIT = re.compile(r"[#@][0-9a-f]{40}$")


def flags(server: Server) -> list[Flag]:
    """All remarks about a server, the grave ones first."""
    found = [*_command(server), *_reach(server)]
    return sorted(found, key=lambda flag: not flag.grave)


def _command(server: Server) -> Iterator[Flag]:
    if not server.command:
        return
    words = _unwrapped(server.command)
    program = _program(words[0]) if words else ""
    if program in _SHELLS or (program in _NPM and {"-c", "--call"} & set(words)):
        yield Flag("shell", f"a shell ({program}) reads its command: whatever stands there is run", grave=True)
    if program in _INLINE and set(_INLINE[program]) & set(words[1:3]):
        yield Flag("inline", f"{program} runs code that stands in its arguments", grave=True)
    package = _package(program, words[1:])
    if package is not None and not _pinned(program, package):
        said = package or "a package that is not named"
        yield Flag("unpinned", f"{said} has no fixed version: what runs can change at each start", grave=True)
    if package and not server.network and server.sandbox and not _local(package):
        yield Flag("offline", f"{program} fetches its package: it needs --network", grave=False)
    yield from _unseen(server)
    if any(SECRET.search(word) for word in server.command):
        yield Flag("visible", "a secret stands among its arguments, where other processes can read it", grave=False)


def _unwrapped(words: Sequence[str]) -> Sequence[str]:
    """The command that `env`, `sudo` and the like would start in the end."""
    while words and _program(words[0]) in ("env", "nohup", "nice", "time", "sudo", "xargs", "timeout", "setsid"):
        words = words[1:]
        while words and (words[0].startswith("-") or "=" in words[0] or words[0].isdigit()):
            words = words[1:]
    return words


def _program(word: str) -> str:
    name = PurePosixPath(PureWindowsPath(word).name).name.lower()
    return re.sub(r"\.(exe|cmd|bat|ps1)$", "", name)


_RUNNERS: Sequence[tuple[frozenset[str], tuple[str, ...], frozenset[str], tuple[str, ...]]] = (
    *(
        (frozenset({"npm", "pnpm", "yarn", "bun"}), (word,), _NPM_VALUES, ("-p", "--package"))
        for word in ("exec", "dlx", "x")
    ),
    (_NPM, (), _NPM_VALUES, ("-p", "--package")),
    (frozenset({"uv"}), ("tool", "run"), _UV_VALUES, ("--from",)),
    (frozenset({"pipx"}), ("run",), _UV_VALUES | {"--spec"}, ("--spec",)),
    (_PYPI, (), _UV_VALUES, ("--from",)),
)
"""Programs that fetch a package and run it: the words before it, options with a value, options that name it."""


def _package(program: str, words: Sequence[str]) -> str | None:
    """The package that a runner would fetch; None where the program is no such runner, empty where none is named."""
    for programs, begin, with_value, named in _RUNNERS:
        if program in programs and tuple(words[: len(begin)]) == begin:
            return _first(words[len(begin) :], with_value, named)
    if program in _IMAGES and "run" in words:
        return _image(words[list(words).index("run") + 1 :])
    return None


def _first(words: Sequence[str], with_value: frozenset[str], named: Sequence[str]) -> str:
    """The first word that is no option, or what an option of `named` before it says."""
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name in named:
            return value if equals else next(rest, "")
        if name in with_value and not equals:
            next(rest, "")
        elif not word.startswith("-"):
            return word
    return ""


_IMAGE_FLAGS = frozenset(
    ["-i", "-t", "-it", "-d", "--rm", "--init", "--privileged", "--read-only", "--interactive", "--tty"]
)


def _image(words: Sequence[str]) -> str:
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word
        if word not in _IMAGE_FLAGS and "=" not in word:
            next(rest, "")
    return ""


def _pinned(program: str, package: str) -> bool:
    if program in _IMAGES:
        return "@sha256:" in package
    if _local(package):
        return True
    if "://" in package or package.startswith(("git+", "github:", "git:", "gist:")):
        return _COMMIT.search(package) is not None
    name, sign, version = package.partition("==")
    if not sign:
        name, sign, version = package[1:].partition("@")
    return bool(name and sign and _EXACT.fullmatch(version))


def _local(package: str) -> bool:
    """Whether a package is a place of this machine."""
    return package.startswith(("./", "../", "/", "~", "file:")) or re.match(r"[A-Za-z]:[\\/]", package) is not None


def _unseen(server: Server) -> Iterator[Flag]:
    """Arguments that are places of this machine, which a process in the sandbox would not find."""
    if not server.sandbox:
        return
    for word in server.command[1:]:
        path = Path(word)
        within = any(path.is_relative_to(folder.path) for folder in server.folders)
        if path.is_absolute() and not within and not path.is_relative_to("/usr") and path.exists():
            yield Flag("unseen", f"it does not see {word}: that takes --folder {word}", grave=False)


def _reach(server: Server) -> Iterator[Flag]:
    if server.command and not server.sandbox:
        yield Flag("no-sandbox", "it runs without a sandbox: it can do whatever you can", grave=True)
    if server.command and server.network:
        yield Flag("network", "its process reaches the network, and everything on it", grave=False)
    for folder in server.folders:
        if folder.writable:
            yield Flag("writes", f"it can write in {folder.path}", grave=False)
    if server.private:
        yield Flag("private", "its address may be in a private network", grave=False)
