"""Puts a built module into the home: its folder under `packages/<id>/`, its bytes under their digest.

Nothing is granted here, and nothing runs: a folder that was put there counts from the moment on at which the database
names it, and until then what counted before is as it was. So an install is whole or not there, whenever it is killed.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import BadInput, Damaged, command
from loket.packages.content import Listed, content_digest, file_digest, listing, paths_of
from loket.packages.files import check_regular, read_regular
from loket.packages.manifest import Manifest, load_manifest

PASSIVE = "files:"
"""Begins the digest of a module without a component: that of all its files, as there is nothing that runs."""

COMPONENT = "module.wasm"
_TEXT_LIMIT = 256 << 10
_FRESH = ".new-"
"""Begins the names of what is not whole yet."""


@dataclass(frozen=True, slots=True)
class Package:
    """A module's folder, read and checked.

    `wasm` is the file with its bytes, `digest` their SHA-256 (hex); without a component (`wasm` None) it is `files:`
    and the digest of all files. `content` is that digest in every case; empty for what is installed already.
    """

    folder: Path
    manifest: Manifest
    wasm: Path | None
    digest: str
    persona: str
    rules: str
    content: str = ""
    files: tuple[Listed, ...] = ()
    """What belongs to it, the component left out where that is the stock agent's."""

    @property
    def own_wasm(self) -> str | None:
        """The component's file in the folder; None where it lies elsewhere, or there is none."""
        return self.wasm.name if self.wasm is not None and self.wasm.parent == self.folder else None


def read_package(folder: Path, stock: Path | None = None, *, bare: bool = False) -> Package:
    """Read a module's folder. `stock` is the stock agent's module, for an agent without a module of its own.

    With `bare` that agent is read without one: to be packed, it need not run.

    Raises `BadInput` that names the file and what is wrong with it.
    """
    if not folder.is_dir():
        raise BadInput("package.missing", f"there is no folder {folder}", "name the folder that holds loket.toml")
    manifest = load_manifest(folder / "loket.toml")
    wasm = _component(folder, manifest, stock, bare=bare)
    if wasm is not None:
        check_regular(wasm)
    digest = file_digest(wasm) if wasm is not None else ""
    own = {wasm.name: digest} if wasm is not None and wasm.parent == folder else {}
    files = listing(folder, [*paths_of(folder), *own], own)
    content = content_digest(files)
    return _package(folder, manifest, wasm, digest or PASSIVE + content, content, files)


def _component(folder: Path, manifest: Manifest, stock: Path | None, *, bare: bool) -> Path | None:
    """The file with the module's bytes; None for what has none. Raises `BadInput` where it is not built."""
    if manifest.entry is None and (folder / COMPONENT).is_file():
        return folder / COMPONENT
    if manifest.passive or (manifest.entry is None and bare):
        return None
    wasm = folder / manifest.entry if manifest.entry is not None else stock
    if wasm is None or not wasm.is_file():
        raise BadInput("package.unbuilt", f"{folder} has no built module", command("build", str(folder)))
    return wasm


def read_installed(folder: Path, modules: Path, digest: str) -> Package:
    """Read a module that was put into the home; its bytes are checked against the digest when they are loaded.

    Its schemas were checked when it was installed.
    """
    manifest = load_manifest(folder / "loket.toml", check_schemas=False)
    return _package(folder, manifest, wasm_of(modules, digest), digest)


def wasm_of(modules: Path, digest: str) -> Path | None:
    """Where the bytes of a digest are kept; None for a module without a component."""
    return None if digest.startswith(PASSIVE) else modules / f"{digest}.wasm"


def _package(
    folder: Path,
    manifest: Manifest,
    wasm: Path | None,
    digest: str,
    content: str = "",
    files: tuple[Listed, ...] = (),
) -> Package:
    persona, rules = _text(folder / "persona.md"), _text(folder / "rules.md")
    return Package(folder, manifest, wasm, digest, persona, rules, content, files)


def _text(path: Path) -> str:
    try:
        return read_regular(path, _TEXT_LIMIT).decode("utf-8")
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise BadInput("package.text", f"{path} is not UTF-8: {error.reason}", "save it as UTF-8") from None


def place(package: Package, packages: Path, modules: Path, load: Callable[[Path, str], object]) -> Path:
    """Put bytes and folder into the home, each in one rename; the package's folder in the home, a new one each time.

    `load` takes the file with the bytes and their digest, and raises `BadInput` where they are no module, `Damaged`
    where they have another digest. All of it is on the disk when this returns.
    """
    with ThreadPoolExecutor(1) as beside:  # bytes are hashed while files wait for the disk
        loaded = None
        if package.wasm is not None:
            kept = modules / f"{package.digest}.wasm"
            loaded = beside.submit(_place_bytes, package.wasm, kept, package.digest, load)
        return _place_folder(package, packages / package.manifest.id, loaded)


def _place_folder(package: Package, parent: Path, loaded: "Future[None] | None") -> Path:
    """Put the folder there, once its bytes are loaded."""
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = Path(tempfile.mkdtemp(dir=parent, prefix=_FRESH))
    try:
        _fill(package, fresh)
        if loaded is not None:
            loaded.result()
        target = _free(parent, package.manifest.version)
        fresh.rename(target)
        _sync(parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


def _place_bytes(wasm: Path, kept: Path, digest: str, load: Callable[[Path, str], object]) -> None:
    """Keep a component's bytes under their digest. Those that were kept before, and are not what they were, go."""
    if kept.exists():
        try:
            load(kept, digest)
        except Damaged:
            kept.unlink()
        else:
            return
    with tempfile.NamedTemporaryFile(dir=kept.parent, prefix=_FRESH, delete=False) as file:
        temporary = Path(file.name)
    try:
        shutil.copyfile(wasm, temporary)
        load(temporary, digest)
        _sync(temporary)
        temporary.replace(kept)
        _sync(kept.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _free(parent: Path, version: str) -> Path:
    """A folder's name that nothing has: the version, and a number where the same version was there before."""
    number, target = 1, parent / version
    while os.path.lexists(target):
        number += 1
        target = parent / f"{version}+{number}"
    return target


def _fill(package: Package, folder: Path) -> None:
    for one in package.files:
        if one.path == package.own_wasm:
            continue
        target = folder / one.path
        target.parent.mkdir(parents=True, exist_ok=True)
        _private_copy(package.folder / one.path, target)
        if file_digest(target) != one.sha256:
            raise BadInput("package.changed", f"{one.path} was changed while it was installed", "install it again")
        _sync(target)
    for place, _folders, _files in os.walk(folder, topdown=False):
        Path(place).chmod(0o700)
        _sync(Path(place))


def _private_copy(source: str | Path, target: str | Path) -> None:
    """Copy a file that only its user can read."""
    check_regular(Path(source))
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copyfile(source, target)


def _sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(
    packages: Path,
    modules: Path,
    folders: Collection[Path],
    digests: Collection[str] | None,
    names: Collection[str] | None = None,
) -> None:
    """Remove what nothing needs any more: folders that are not among these, and bytes of other digests.

    `names` are the modules whose folders are looked at; without it all are.

    Without digests only what is not whole goes, and other folders of modules that have one of these: a home whose
    database was moved away for a while loses nothing.
    """
    wanted = set(folders)
    for parent in _folders(packages) if names is None else [packages / name for name in names]:
        found = _folders(parent)
        known = bool(wanted.intersection(found))
        for folder in found:
            if folder not in wanted and (known or digests is not None or folder.name.startswith(_FRESH)):
                shutil.rmtree(folder, ignore_errors=True)
        if not known and digests is not None:
            shutil.rmtree(parent, ignore_errors=True)
    for wasm in modules.iterdir():
        stale = digests is not None and wasm.suffix == ".wasm" and wasm.stem not in digests
        if stale or wasm.name.startswith(_FRESH):
            wasm.unlink(missing_ok=True)


def _folders(place: Path) -> list[Path]:
    return [one for one in place.iterdir() if one.is_dir() and not one.is_symlink()]
