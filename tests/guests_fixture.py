"""Guests for tests: built and compiled once for each checkout, kept by the digest of all that they are made of.

Several processes may ask for the same one at once: whoever comes first makes it, the others wait.
"""

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from loket.contracts import LoketError, Refusal
from loket.packages.build import build
from loket.sandbox import WasmSandbox

ROOT = Path(__file__).parents[1]
GUESTS = ROOT / "tests" / "guests"
BUILT = ROOT / "build" / "guests"
COMPILED = ROOT / "build" / "compiled"
"""A cache for `WasmSandbox`: compiling a guest takes seconds."""

NOW = 1_795_000_000.5
"""What the scripted clock shows first, in seconds since 1970: 2026-11-18T11:06:40.5Z."""


def built_guest(name: str) -> Path:
    """Return the component of a guest in `tests/guests`, or of the stock agent (`main`), built where needed."""
    return stock_agent() if name == "main" else built(GUESTS / name)


@functools.cache
def built(source: Path, make: Callable[[Path, Path], object] = build) -> Path:
    """Return the component of a module's folder, built and compiled where needed; `make(source, component)` builds."""
    made = BUILT / f"{source.name}-{_digest(source)[:16]}.wasm"
    with alone(made):
        if not made.is_file():
            make(source, made.with_suffix(".new"))
            made.with_suffix(".new").replace(made)
    return compiled(made)


@functools.cache
def stock_agent() -> Path:
    """Return the stock agent's component, as it comes with the package."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    with alone(BUILT / "main.wasm"):
        made = hook.make_stock_agent(ROOT) / "module.wasm"
    return compiled(made)


@functools.cache
def compiled(wasm: Path) -> Path:
    """Return the component, once its compiled code is in `COMPILED`: else each process that loads it compiles it."""
    digest = digest_of(wasm)
    with alone(BUILT / f"compiled-{digest[:16]}"):
        sandbox = WasmSandbox(COMPILED)
        try:
            sandbox.load(wasm, digest)
        finally:
            sandbox.close()
    return wasm


def share_compiled(folder: Path) -> None:
    """Let a home, or the place of several, use the compiled code that all tests share, the stock agent's among it."""
    stock_agent()
    (folder / "cache").symlink_to(COMPILED, target_is_directory=True)


def own_compiled(folder: Path) -> None:
    """Give a home compiled code that no other test adds to: the stock agent's, in a folder beside the home."""
    own = folder.with_name(f"{folder.name}-compiled")
    own.mkdir(mode=0o700)
    for path in COMPILED.glob(f"{digest_of(stock_agent())[:32]}-*"):
        (own / path.name).hardlink_to(path)
    (folder / "cache").unlink(missing_ok=True)
    (folder / "cache").symlink_to(own, target_is_directory=True)


@contextlib.contextmanager
def alone(made: Path) -> Iterator[None]:
    """Keep other processes away from what is made here; the lock goes with the process that has it."""
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def digest_of(wasm: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    return hashlib.sha256(wasm.read_bytes()).hexdigest()


def _digest(source: Path) -> str:
    total = hashlib.sha256(importlib.metadata.version("componentize-py").encode())
    for path in _files(source):
        total.update(path.relative_to(ROOT).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _files(source: Path) -> Iterator[Path]:
    python = any(source.glob("*.py"))
    for folder in (source, ROOT / "guests" / ("python" if python else "javascript"), ROOT / "wit"):
        found = sorted(folder.rglob("*"))
        yield from (one for one in found if one.is_file() and _is_source(one.relative_to(folder)))
    packages = ROOT / "src" / "loket" / "packages"
    names = ("build_python",) if python else ("build_javascript", "component", "binary")
    yield from (packages / f"{name}.py" for name in ("build", "sources", *names))


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.suffix != ".wasm"


def unfenced(content: str) -> str:
    """What stands between the two lines with which the stock agent fences the result of a tool."""
    first, inner, last = content.split("\n")
    assert first.startswith("<data-")
    assert last == f"</{first[1:]}"
    return inner


class Scripted:
    """A host whose answers stand in a mapping: capability id to value, error, or function of the arguments.

    Clock, randomness and log have answers already: the clock goes on by an eighth of a second at each reading.
    `calls` lists what was asked, with the decoded arguments.
    """

    def __init__(self, answers: Mapping[str, Any] | None = None) -> None:
        self.live = True
        self.stopped: LoketError | None = None
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._answers: dict[str, Any] = {
            "clock.now": lambda _args: {"seconds": NOW + len(self.asked("clock.now")) / 8},
            "random.bytes": lambda args: {"hex": self._bytes(args["n"]).hex()},
            "log.write": {},
            **(answers or {}),
        }

    def __call__(self, capability: str, args: str) -> str:
        arguments = json.loads(args)
        self.calls.append((capability, arguments))
        answer = self._answers.get(capability)
        if answer is None:
            raise Refusal("capability.unknown", f"there is no capability {capability}", "loket caps")
        value = answer(arguments) if isinstance(answer, Callable) else answer
        if isinstance(value, LoketError):
            raise value
        return json.dumps(value)

    def asked(self, capability: str) -> list[dict[str, Any]]:
        """Return the arguments of all calls of a capability."""
        return [arguments for name, arguments in self.calls if name == capability]

    def names(self) -> list[str]:
        """Return the capabilities in the order in which they were asked for."""
        return [name for name, _ in self.calls]

    def _bytes(self, size: int) -> bytes:
        return hashlib.shake_256(str(len(self.calls)).encode()).digest(size)
