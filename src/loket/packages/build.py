"""Builds a module's component from its sources. The language follows from the suffix of the manifest's `source`.

Each language has a file of its own, which is imported only for a module in that language: `build_python`,
`build_javascript` (and TypeScript). What it makes is moved into its place in one rename.
"""

import hashlib
import importlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.manifest import FILE, Manifest, load_manifest

_BUILDERS = {
    ".py": "loket.packages.build_python",
    ".js": "loket.packages.build_javascript",
    ".mjs": "loket.packages.build_javascript",
    ".ts": "loket.packages.build_javascript",
}
"""Suffix of the source to the module whose `component(directory, manifest, work, tell)` builds it."""


@dataclass(frozen=True, slots=True)
class Built:
    """A built component: where it is, the SHA-256 of its bytes (hex), its manifest, and how long it took."""

    path: Path
    digest: str
    manifest: Manifest
    seconds: float


def build(
    directory: Path,
    output: Path | None = None,
    progress: Callable[[str], None] | None = None,
    *,
    check_schemas: bool = True,
) -> Built:
    """Build the module in a directory; the component goes to `output`, or to the manifest's `entry` beside it.

    `progress` is told each step in a few words. `check_schemas` is `load_manifest`'s.

    Raises `BadInput`: for an error in the manifest or the sources (with file, line and the language's own message),
    and where the tools are missing or cannot be
    fetched.
    """
    started = time.monotonic()
    tell = progress or (lambda _step: None)
    tell("reading the manifest")
    manifest = load_manifest(directory, check_schemas=check_schemas)
    target = output or directory / _entry(manifest)
    tell("checking the sources")
    source = _source(directory, manifest)
    builder = importlib.import_module(_BUILDERS[source.suffix])
    with tempfile.TemporaryDirectory(prefix="loket-build-") as work:
        made = builder.component(directory, manifest, Path(work), tell)
        digest = _move(made, target)
    return Built(target, digest, manifest, time.monotonic() - started)


def _entry(manifest: Manifest) -> str:
    if manifest.entry is None:
        raise BadInput(
            "build.nothing",
            f'"{manifest.id}" runs on the stock agent\'s component: there is nothing to build',
            f'install it as it is, or add entry = "module.wasm" to {FILE} and write {manifest.source}',
        )
    return manifest.entry


def _source(directory: Path, manifest: Manifest) -> Path:
    source = directory / manifest.source
    if source.is_file():
        return source
    others = sorted(path.name for path in directory.glob("agent.*") if path.suffix in _BUILDERS)
    raise BadInput(
        "build.source",
        f"{directory} has no {manifest.source}",
        f'write it, or name the file in {FILE}: source = "{others[0] if others else "..."}"',
    )


def _move(made: Path, target: Path) -> str:
    """Put the component in its place in one rename; its digest."""
    digest = hashlib.sha256(made.read_bytes()).hexdigest()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".building-")
        os.close(handle)
        try:
            shutil.copyfile(made, name)
            Path(name).chmod(0o644)
            Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError as error:
        raise BadInput("build.output", f"cannot write {target}: {error.strerror}", "name another --output") from None
    return digest
