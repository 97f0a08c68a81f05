"""Builds the stock agent into the package, so that a wheel and an editable install carry it ready to run.

The result goes to `src/loket/_prebuilt/agents/main/`. It is left as it is while nothing that it is made of changed.
"""

import hashlib
import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_AGENT = "guests/main"
_INPUTS = (
    _AGENT,
    "guests/python",
    "wit",
    "src/loket/packages/build.py",
    "src/loket/packages/build_python.py",
    "src/loket/packages/sources.py",
)
_TEXTS = ("loket.toml", "persona.md", "rules.md")
_STAMP = "inputs.sha256"


class StockAgentHook(BuildHookInterface[Any]):
    """Runs before hatchling collects the files of a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatchling's signature
        """Build the stock agent where it is not up to date."""
        if self.target_name == "wheel":
            make_stock_agent(Path(self.root))


def make_stock_agent(root: Path) -> Path:
    """Build the stock agent of the checkout at `root`, unless it is up to date; its folder."""
    target = root / "src" / "loket" / "_prebuilt" / "agents" / "main"
    digest = _digest(root)
    stamp = target / _STAMP
    if (target / "module.wasm").is_file() and stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return target
    sys.path.insert(0, str(root / "src"))
    try:
        from loket.contracts import LoketError
        from loket.packages.build import build
    finally:
        sys.path.pop(0)
    target.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    try:
        build(root / _AGENT, target / "module.wasm", check_schemas=False)
    except LoketError as error:
        raise SystemExit(f"the stock agent cannot be built: {error.message}\n{error.remedy}") from None
    for name in _TEXTS:
        shutil.copyfile(root / _AGENT / name, target / name)
    stamp.write_text(digest, encoding="utf-8")
    return target


def _digest(root: Path) -> str:
    """Digest of all that the component is made of, the builder and its version included."""
    total = hashlib.sha256(importlib.metadata.version("componentize-py").encode())
    for path in _files(root):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    for name in _INPUTS:
        path = root / name
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (one for one in found if one.is_file() and _is_source(one.relative_to(root)))


def _is_source(path: Path) -> bool:
    hidden = any(part.startswith(".") or part == "__pycache__" for part in path.parts)
    return not hidden and path.suffix != ".wasm"
