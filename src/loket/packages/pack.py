"""A pack, `NAME.loket`: a zip of one or more modules, a list with the digest of every file, and a signature over it.

`pack.json` is the list: canonical JSON with `format` 1, `name`, `version`, `publisher` (`name` and `key`, or null),
`modules` (`id`, `version`, `kind`, `entry`), and `files` (path to `size` and `sha256`). `pack.sig` holds the signature
over those bytes (64 bytes, `signature.sign`); an unsigned pack has neither publisher nor signature. Each module is a
folder of its id. Times are fixed and entries sorted, so the same modules make the same pack.
"""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loket.contracts import BadInput, Json
from loket.packages.content import Listed, content_digest
from loket.packages.install import Package, read_package
from loket.packages.manifest import ID, KINDS, VERSION
from loket.packages.names import check_id
from loket.packages.signature import fingerprint, public_key, written

SUFFIX: Final = ".loket"
LIST: Final = "pack.json"
SIGNATURE: Final = "pack.sig"
FORMAT: Final = 1
MOST_MODULES: Final = 50

PUBLISHER = re.compile(r"[a-z][a-z0-9-]{1,40}")
"""Names of publishers."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_HEX = re.compile(r"[0-9a-f]{64}")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""The first time that a zip can say."""
_UNIX: Final = 3
_PLAIN_FILE: Final = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Inside:
    """A module of a pack. `entry` is the file of its component; None where it has none of its own."""

    id: str
    version: str
    kind: str
    entry: str | None


@dataclass(frozen=True, slots=True)
class PackList:
    """What `pack.json` says. `files` have their paths in the pack; `key` is the publisher's public key, if it has one.

    `publisher` is what the publisher calls itself, which proves nothing: the key does.
    """

    name: str
    version: str
    modules: tuple[Inside, ...]
    files: tuple[Listed, ...]
    publisher: str | None = None
    key: bytes | None = None

    @property
    def digest(self) -> str:
        """One digest (hex) for all that is in it: two packs of the same content have the same."""
        return content_digest(self.files)

    @property
    def fingerprint(self) -> str | None:
        """Of the publisher's key; None for an unsigned pack."""
        return fingerprint(self.key) if self.key is not None else None


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs a pack: a name, the public key, and what signs bytes with the private one."""

    name: str
    key: bytes
    sign: Callable[[bytes], bytes]


def make_pack(
    folders: Sequence[Path],
    output: Path,
    signer: Signer | None = None,
    *,
    name: str | None = None,
    version: str | None = None,
) -> PackList:
    """Make a pack of built modules; it appears at `output` whole.

    `name` and `version` are those of the module where it is a single one, else the file's and 1.0.0.

    Raises `BadInput` for a module that is not built or is none, and where the pack cannot be written.
    """
    packages = [read_package(folder.resolve(), bare=True) for folder in folders]
    _check_modules(packages)
    single = packages[0].manifest if len(packages) == 1 else None
    listed = PackList(
        name=_named(name or (single.id if single else output.stem)),
        version=_version(version or (single.version if single else "1.0.0")),
        modules=tuple(_inside(package) for package in packages),
        files=tuple(_renamed(package.manifest.id, one) for package in packages for one in package.files),
        publisher=signer.name if signer else None,
        key=signer.key if signer else None,
    )
    data = list_bytes(listed)
    _write(output, packages, data, signer.sign(data) if signer else None)
    return listed


def _check_modules(packages: Sequence[Package]) -> None:
    if not 0 < len(packages) <= MOST_MODULES:
        raise BadInput("pack.modules", f"a pack has 1 to {MOST_MODULES} modules", "loket pack DIR -o NAME.loket")
    ids = [package.manifest.id for package in packages]
    for module in ids:
        check_id(module)
        if ids.count(module) > 1:
            raise BadInput("pack.modules", f"two of the modules have the id {module}", "pack one of them")


def _inside(package: Package) -> Inside:
    manifest, wasm = package.manifest, package.wasm
    return Inside(manifest.id, manifest.version, manifest.kind, wasm.name if wasm is not None else None)


def _renamed(module: str, one: Listed) -> Listed:
    return Listed(f"{module}/{one.path}", one.size, one.sha256)


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadInput("pack.name", f"{name!r} cannot be the name of a pack", "--name weather-tools")
    return name


def _version(version: str) -> str:
    if not VERSION.fullmatch(version):
        raise BadInput("pack.version", f"{version!r} is no version", "--version 1.0.0")
    return version


def list_bytes(listed: PackList) -> bytes:
    """The bytes of `pack.json`, which are signed: JSON with sorted keys and no blanks, in UTF-8."""
    publisher = {"name": listed.publisher, "key": written(listed.key)} if listed.key is not None else None
    return _canonical(
        {
            "format": FORMAT,
            "name": listed.name,
            "version": listed.version,
            "publisher": publisher,
            "modules": [
                {"id": one.id, "version": one.version, "kind": one.kind, "entry": one.entry} for one in listed.modules
            ],
            "files": {one.path: {"size": one.size, "sha256": one.sha256} for one in listed.files},
        }
    )


def _canonical(value: Json) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def read_list(data: bytes) -> PackList:
    """Decode `pack.json`, strictly. Raises `BadInput` for whatever is not as `list_bytes` writes it."""
    try:
        value = json.loads(data.decode())
        if _canonical(value) != data or value["format"] != FORMAT:
            raise BadInput("pack.list", f"{LIST} is of another format or not canonical", "make it with `loket pack`")
        listed = _decoded(value)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise BadInput("pack.list", f"{LIST} is not a pack's list of files", "make it with `loket pack`") from None
    if list_bytes(listed) != data:
        raise BadInput("pack.list", f"{LIST} holds keys that no list has", "make it with `loket pack`")
    return listed


def _decoded(value: Mapping[str, Any]) -> PackList:
    publisher = value["publisher"]
    files = value["files"].items()
    modules = tuple(_decoded_module(one) for one in value["modules"])
    if not 0 < len(modules) <= MOST_MODULES or len({one.id for one in modules}) != len(modules):
        raise ValueError("modules")
    return PackList(
        name=_matched(_NAME, value["name"]),
        version=_matched(VERSION, value["version"]),
        modules=modules,
        files=tuple(Listed(path, _size(one["size"]), _matched(_HEX, one["sha256"])) for path, one in files),
        publisher=_matched(PUBLISHER, publisher["name"]) if publisher is not None else None,
        key=public_key(publisher["key"]) if publisher is not None else None,
    )


def _decoded_module(one: Mapping[str, Any]) -> Inside:
    entry = one["entry"]
    if one["kind"] not in KINDS:
        raise ValueError("kind")
    inside = Inside(_matched(ID, one["id"]), _matched(VERSION, one["version"]), one["kind"], entry)
    if entry is not None and (not isinstance(entry, str) or "/" in entry or not entry.endswith(".wasm")):
        raise ValueError("entry")
    return inside


def _size(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError("size")
    return value


def _matched(pattern: re.Pattern[str], value: str) -> str:
    if not pattern.fullmatch(value):
        raise ValueError(value)
    return value


def _write(output: Path, packages: Sequence[Package], data: bytes, signature: bytes | None) -> None:
    sources = {f"{p.manifest.id}/{one.path}": (p.folder / one.path, one) for p in packages for one in p.files}
    name: str | None = None
    try:
        handle, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        with os.fdopen(handle, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(_entry(LIST), data)
                if signature is not None:
                    archive.writestr(_entry(SIGNATURE), signature)
                for path in sorted(sources):
                    archive.writestr(_entry(path), _read(*sources[path]))
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(output)
        name = None
    except OSError as error:
        raise BadInput("pack.output", f"cannot write {output}: {error.strerror}", "name another file with -o") from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _read(file: Path, listed: Listed) -> bytes:
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != listed.sha256:
        raise BadInput("package.changed", f"{listed.path} was changed while it was packed", "pack it again")
    return data


def _entry(path: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(path, _EPOCH)
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = _UNIX
    info.external_attr = _PLAIN_FILE
    return info
