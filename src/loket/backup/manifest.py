"""The manifest of a backup: `backup.json`, with the SHA-256 and the size of each of its files.

Whoever can write to a backup can make those anew. So the manifest of the content carries a seal, by a key that follows
from the master key: it is in the folder with the keys, and not in this one.
"""

import contextlib
import datetime as dt
import hashlib
import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from loket.contracts import BadInput, Damaged
from loket.durable import sync_folder, write_new

NAME = "backup.json"
FORMAT = 1
PARTIAL = ".partial"
"""Ends the name of a folder that is not complete yet; `MARK` is in it."""
MARK = ".loket-partial"

CONTENT, KEYS = "content", "keys"
"""What a folder is: the home's content, or the keys to it."""

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class File:
    """One file of a backup; `size` in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a folder of a backup holds. `created` is ISO 8601 in UTC, `loket` the version that wrote it.

    `seal` is an HMAC-SHA256 (hex) of all the rest; None for a folder with keys, and what an earlier version wrote.
    """

    kind: str
    loket: str
    created: str
    files: Mapping[str, File]
    seal: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


def now() -> str:
    """The time as a manifest has it."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def write_manifest(folder: Path, kind: str, version: str, created: str, key: bytes | None = None) -> Manifest:
    """Make the manifest of all files in a folder, sealed with `key` if one is given, and write it there."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARK)
    files = {path.relative_to(folder).as_posix(): _described(path) for path in found}
    manifest = Manifest(kind, version, created, files)
    if key is not None:
        manifest = replace(manifest, seal=_seal(manifest, key))
    text = json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1)
    write_new(folder / NAME, text.encode() + b"\n")
    return manifest


def _seal(manifest: Manifest, key: bytes) -> str:
    """HMAC-SHA256 (hex) of the manifest without its seal, as JSON with sorted keys and without blanks."""
    said = {"format": FORMAT, **asdict(replace(manifest, seal=None))}
    return hmac.digest(key, json.dumps(said, sort_keys=True, separators=(",", ":")).encode(), "sha256").hex()


def check_seal(folder: Path, manifest: Manifest, key: bytes) -> None:
    """Raises `Damaged` (`backup.forged`) where a manifest was not written by who has this key."""
    if manifest.seal is None:
        raise Damaged(
            "backup.forged",
            f"{folder / NAME} carries no seal: somebody took it away, or Loket {manifest.loket} wrote none yet",
            "use another backup; one of an earlier version is restored by that version",
        )
    if not hmac.compare_digest(manifest.seal.encode(), _seal(manifest, key).encode()):
        raise Damaged(
            "backup.forged",
            f"{folder / NAME} does not carry the seal of these keys: it was changed, or they are of another home",
            "use another backup, or the keys of the home that it was taken of",
        )


def read_manifest(folder: Path, kind: str) -> Manifest:
    """Read a folder's manifest.

    Raises `BadInput` where the folder is no backup of this kind or of a newer Loket, `Damaged` where it cannot be read.
    """
    try:
        value = json.loads((folder / NAME).read_bytes())
        if value["format"] > FORMAT:
            raise BadInput(
                "backup.newer", f"{folder} was written by Loket {value['loket']}", "install that one or newer"
            )
        files = {_checked(name): File(str(one["sha256"]), int(one["size"])) for name, one in value["files"].items()}
        seal = str(value["seal"]) if value.get("seal") is not None else None
        manifest = Manifest(str(value["kind"]), str(value["loket"]), str(value["created"]), files, seal)
    except (FileNotFoundError, NotADirectoryError):
        raise BadInput(
            "backup.missing",
            f"{folder} has no {NAME}: it is no complete backup",
            "name the folder that `loket backup` made",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged("backup.manifest", f"{folder / NAME} cannot be read: {error!r}", "use another backup") from None
    if manifest.kind != kind:
        raise BadInput(
            "backup.kind",
            f"{folder} holds the {manifest.kind} of a home, and its {kind} is needed",
            "loket restore DIR --keys DIR-keys --home NEW",
        )
    return manifest


def verify_files(folder: Path, manifest: Manifest, progress: Callable[[int], None]) -> None:
    """Compare each file with the manifest. `progress` takes bytes. Raises `Damaged` with the first that differs."""
    for name, file in manifest.files.items():
        try:
            found = _described(folder / name)
        except OSError as error:
            raise _differs(folder, name, f"cannot be read ({error.strerror})") from None
        if found != file:
            raise _differs(folder, name, "is not what was backed up")
        progress(file.size)


def _differs(folder: Path, name: str, how: str) -> Damaged:
    return Damaged("backup.damaged", f"{name} of the backup {folder} {how}", "use another backup")


def _checked(name: str) -> str:
    """A path that leads nowhere but into the backup."""
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or ".." in path.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no path of a backup")
    return name


def _described(path: Path) -> File:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with os.fdopen(handle, "rb") as file:
        return File(hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size)


# Folders that come to be in one rename


@contextlib.contextmanager
def growing(target: Path) -> Iterator[Path]:
    """The folder that will become `target` with `finish`; what an earlier attempt left there is deleted first.

    It is locked until the context ends, so that nobody takes it for a leftover, and deleted if that ends with an error.
    Raises `BadInput` where `target` is there already, or something else is in the way.
    """
    partial = target.with_name(target.name + PARTIAL)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput("backup.exists", f"{target} is there already", "name a folder that is not there yet")
    if partial.exists() and not abandoned(partial):
        raise BadInput(
            "backup.exists", f"{partial} is in the way, and no unfinished backup left it", f"move {partial} away"
        )
    try:
        if partial.exists():
            shutil.rmtree(partial)
        make_folder(partial)
        mark = os.open(partial / MARK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise BadInput("backup.folder", f"{partial} cannot be made: {error.strerror}", "name another folder") from None
    try:
        _lock(mark)
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        os.close(mark)


def abandoned(partial: Path) -> bool:
    """Whether a crash left this folder: it has our mark, and nobody works on it."""
    try:
        mark = os.open(partial / MARK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return False
    try:
        _lock(mark)
    except BlockingIOError:
        return False
    finally:
        os.close(mark)
    return True


def _lock(handle: int) -> None:
    """The system's lock, which ends with the process. Raises `BlockingIOError` where another one has it."""
    import fcntl  # homes need it too, so Loket does not run where it is missing

    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def finish(partial: Path, target: Path) -> None:
    """Put a complete folder in its place, all its names on the disk."""
    for folder in [partial, *(path for path in partial.rglob("*") if path.is_dir())]:
        sync_folder(folder)
    partial.replace(target)
    (target / MARK).unlink()
    sync_folder(target)
    sync_folder(target.parent)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, all 0700."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(mode=0o700)


def copy_synced(source: Path, target: Path) -> None:
    """Copy a file's content and its time of change to a new file (0600), on the disk when this returns.

    Follows no link. The time tells whether the owner changed an agent's file since, so it has to be kept.
    """
    handle = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    with (
        os.fdopen(handle, "rb") as file,
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as copied,
    ):
        shutil.copyfileobj(file, copied, _CHUNK)
        copied.flush()
        changed = os.fstat(file.fileno()).st_mtime_ns
        os.utime(target, ns=(changed, changed))
        os.fsync(copied.fileno())
