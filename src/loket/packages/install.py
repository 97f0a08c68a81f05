"""Puts a built module into the home: its folder under `packages/<id>/<version>/`, its bytes under their digest.

Nothing is granted here; what a manifest asks for is only returned, for the owner to decide.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import BadInput, command
from loket.packages.files import check_regular, check_tree, read_regular
from loket.packages.manifest import Manifest, load_manifest

_KEPT = ("loket.toml", "persona.md", "rules.md", "README.md")
_TEXT_LIMIT = 256 << 10


@dataclass(frozen=True, slots=True)
class Package:
    """A module's folder, read and checked: `wasm` is the file with its bytes, `digest` their SHA-256 (hex)."""

    folder: Path
    manifest: Manifest
    wasm: Path
    digest: str
    persona: str
    rules: str


def read_package(folder: Path, stock: Path | None = None) -> Package:
    """Read a module's folder. `stock` is the stock agent's module, for an agent without a module of its own.

    Raises `BadInput` that names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise BadInput("package.missing", f"there is no folder {folder}", "name the folder that holds loket.toml")
    manifest = load_manifest(folder / "loket.toml")
    wasm = folder / manifest.entry if manifest.entry is not None else stock
    if manifest.entry is None and (folder / "module.wasm").is_file():
        wasm = folder / "module.wasm"
    if wasm is None or not wasm.is_file():
        raise BadInput("package.unbuilt", f"{folder} has no built module", command("build", str(folder)))
    check_regular(wasm)
    return _package(folder, manifest, wasm, hashlib.sha256(wasm.read_bytes()).hexdigest())


def read_installed(folder: Path, modules: Path, digest: str) -> Package:
    """Read a module that was put into the home; its bytes are checked against the digest when they are loaded."""
    return _package(folder, load_manifest(folder / "loket.toml"), modules / f"{digest}.wasm", digest)


def _package(folder: Path, manifest: Manifest, wasm: Path, digest: str) -> Package:
    return Package(folder, manifest, wasm, digest, _text(folder / "persona.md"), _text(folder / "rules.md"))


def _text(path: Path) -> str:
    try:
        return read_regular(path, _TEXT_LIMIT).decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise BadInput("package.text", f"{path} is not UTF-8: {error.reason}", "save it as UTF-8") from None


def place(package: Package, packages: Path, modules: Path, check: Callable[[Path], str]) -> Path:
    """Check the bytes (`check` raises `BadInput`), then put folder and bytes into the home, each in one rename.

    The package's folder in the home. A folder of the same version is replaced; other versions stay.
    """
    check(package.wasm)
    kept = modules / f"{package.digest}.wasm"
    if not kept.exists():
        _copy(package.wasm, kept)
    target = packages / package.manifest.id / package.manifest.version
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    try:
        _fill(package, fresh)
        old = target.with_name(f".old-{target.name}")
        shutil.rmtree(old, ignore_errors=True)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _fill(package: Package, folder: Path) -> None:
    for name in _KEPT:
        if os.path.lexists(package.folder / name):
            check_regular(package.folder / name)
            _private_copy(package.folder / name, folder / name)
    skills = package.folder / "skills"
    if os.path.lexists(skills):
        check_tree(skills)
        shutil.copytree(skills, folder / "skills", symlinks=True, copy_function=_private_copy)
        for path in (folder / "skills", *(folder / "skills").rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)


def _private_copy(source: str | Path, target: str | Path) -> None:
    """Copy a file that only its user can read."""
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(source, target)


def _copy(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-", delete=False) as file:
        temporary = Path(file.name)
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def discard(packages: Path, modules: Path, module: str, needed: Iterable[str]) -> None:
    """Remove a module's folders, and the bytes that nothing needs any more (`needed`: digests to keep)."""
    shutil.rmtree(packages / module, ignore_errors=True)
    keep = set(needed)
    for wasm in modules.glob("*.wasm"):
        if wasm.stem not in keep:
            wasm.unlink(missing_ok=True)
