"""Compiled code: made in a process of its own, kept in the cache, mapped only where its digest is right.

A process of its own, because compiling a guest in Python takes 400 MB that the process would keep, and because nobody
knows what a module may do to a compiler: it can end that process, and nothing else.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from wasmtime import Config, Engine, WasmtimeError
from wasmtime.component import Component

from loket.contracts import BadInput, Failed
from loket.sandbox.pool import use_pool

_FORMAT = "3"
"""Changes whenever `engine_config` does: compiled code of another format is never loaded."""


_COMPILE_S = 600
"""Seconds that compiling a module may take."""

NOT_OURS = 3
"""Exit code of the compiling process: the bytes are no component."""


def engine_config() -> Config:
    """The settings of the one engine; code that was compiled under others is never loaded."""
    config = Config()
    config.wasm_component_model = True
    config.epoch_interruption = True
    config.cranelift_nan_canonicalization = True
    config.wasm_relaxed_simd_deterministic = True
    config.wasm_threads = False
    config.shared_memory = False
    config.max_wasm_stack = 1 << 20
    use_pool(config)
    return config


def from_cache(engine: Engine, cached: Path) -> Component | None:
    """Map compiled code; None where there is none, or where it is not what was written: it is machine code."""
    try:
        wanted = json.loads(cached.with_suffix(".json").read_text())["sha256"]
        with cached.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                return None
        return Component.deserialize_file(engine, str(cached))
    except (OSError, ValueError, KeyError, TypeError, WasmtimeError):
        return None


def compile_apart(data: bytes, cached: Path, name: str) -> None:
    """Compile a module's bytes into the cache, in a process of its own.

    Raises `BadInput` where they are no component that this engine can load, `Failed` where the process fails.
    """
    command = [sys.executable, "-m", "loket.sandbox.compiler", str(cached)]
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_COMPILE_S, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(
            "module.endless", f"compiling {name} did not end within {_COMPILE_S} s", "build a smaller module"
        ) from None
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode == NOT_OURS:
        raise BadInput(
            "module.invalid",
            f"{name} is no WebAssembly component that this engine can load: {said}",
            "build it with `loket build`; a core module has to be made a component first",
        )
    if done.returncode != 0:
        last = said.splitlines()[-1] if said else "it said nothing"
        raise Failed("module.compiler", f"the compiler ended with {done.returncode} on {name}: {last}", "try again")


def engine_key() -> str:
    """What compiled code depends on beyond the module: engine, settings, processor and system."""
    parts = (version("wasmtime"), _FORMAT, platform.machine(), sys.platform, _cpu_features())
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]


def _cpu_features() -> str:
    """The processor's flags where the system tells them: code compiled for another processor could fault."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    except OSError:
        pass
    return platform.processor()


def write_cache(cached: Path, code: bytes) -> None:
    """Write the compiled code and its digest, each in one rename; a full disk only costs the cache."""
    digest = json.dumps({"sha256": hashlib.sha256(code).hexdigest()}).encode()
    with contextlib.suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path, data in ((cached, code), (cached.with_suffix(".json"), digest)):
            handle, name = tempfile.mkstemp(dir=cached.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(path)
