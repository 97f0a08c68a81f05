"""Which files of a folder belong to a module, how large they may be, and the digests that stand for them.

The sources of a module (`agent.py`, `vendor/`) are no part of it: its component is what runs. Names are held to what
every file system can keep apart, so that a package means the same everywhere.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.files import check_regular, check_tree

FILES = ("loket.toml", "persona.md", "rules.md", "README.md", "LICENSE", "NOTICE", "CHANGELOG.md", "SKILL.md")
"""Beside the component, what a module's folder may hold at its top."""

FOLDERS = ("skills", "data", "checks", "page", "commands", "scripts", "references", "assets")
"""Folders that belong to a module with all that is in them: skills, tables of its own, checks, an app's page, and what
the format of agentskills.io names."""

MOST_FILES = 2_000
"""Of one module."""
MOST_BYTES = 256 << 20
"""Of one module, all files together."""
MOST_FILE = 128 << 20

_LONGEST = 200
_DEEPEST = 10
_DEVICES = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
"""Names that one system gives to devices, in every folder."""
_FORBIDDEN = frozenset('<>:"|?*\\')
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """One file: its path in the module with `/`, its size in bytes, and its SHA-256 (hex)."""

    path: str
    size: int
    sha256: str


def wrong_name(path: str) -> str | None:
    """Why a path cannot be that of a package's file, as the end of a sentence; None where it can."""
    if not path or len(path) > _LONGEST:
        return f"is empty or longer than {_LONGEST} characters"
    if not path.isprintable():
        return "holds control characters"
    if path.startswith("/") or _FORBIDDEN & set(path):
        return "is absolute, or holds one of the characters " + " ".join(sorted(_FORBIDDEN))
    if unicodedata.normalize("NFC", path) != path:
        return "is not in the normal form NFC"
    parts = path.split("/")
    if len(parts) > _DEEPEST:
        return f"is deeper than {_DEEPEST} folders"
    return next((found for found in map(_wrong_part, parts) if found is not None), None)


def _wrong_part(part: str) -> str | None:
    if part in ("", ".", ".."):
        return "has a part that is empty, `.` or `..`"
    if part.endswith((".", " ")) or part.startswith(" "):
        return "has a part that ends with a dot, or has a blank around it"
    return f"has the part {part}, which is a device on some systems" if _DEVICES.fullmatch(part) else None


def check_names(paths: Iterable[str]) -> None:
    """Raises `BadInput` for a path that cannot be one, twins, and names that differ in case alone."""
    seen: dict[str, str] = {}
    folders: dict[str, str] = {}
    for path in paths:
        wrong = wrong_name(path)
        if wrong is not None:
            raise BadInput("package.name", f"the path {path[:_LONGEST]!r} {wrong}", "rename the file")
        folded = _folded(path)
        if folded in seen:
            other = seen[folded]
            how = "stands there twice" if other == path else f"differs from {other} in case alone"
            raise BadInput("package.name", f"the path {path} {how}", "keep one of them, or rename it")
        seen[folded] = path
        _note_folders(path, folders)
    both = sorted(seen.keys() & folders.keys())
    if both:
        raise BadInput("package.name", f"{seen[both[0]]} is a file and a folder", "rename one of them")


def _note_folders(path: str, folders: dict[str, str]) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        folder = "/".join(parts[:depth])
        other = folders.setdefault(_folded(folder), folder)
        if other != folder:
            raise BadInput(
                "package.name", f"the folder {folder} differs from {other} in case alone", "rename one of them"
            )


def _folded(path: str) -> str:
    return unicodedata.normalize("NFC", path.casefold())


def paths_of(folder: Path) -> list[str]:
    """Paths of the files of a module's folder that belong to it, sorted, the component left out.

    Raises `BadInput` for links, devices, names that cannot be, and for too many.
    """
    found = sorted(_found(folder))
    if len(found) > MOST_FILES:
        raise BadInput("package.size", f"{folder.name} has {len(found)} files", f"keep at most {MOST_FILES:,}")
    check_names(found)
    return found


def _found(folder: Path) -> Iterator[str]:
    for name in FILES:
        if os.path.lexists(folder / name):
            check_regular(folder / name)
            yield name
    for name in FOLDERS:
        if os.path.lexists(folder / name):
            check_tree(folder / name)
            yield from _below(folder, name)


def _below(folder: Path, name: str) -> Iterator[str]:
    for place, folders, files in os.walk(folder / name):
        folders[:] = sorted(one for one in folders if not _is_left_out(one))
        for file in files:
            if not _is_left_out(file):
                yield (Path(place) / file).relative_to(folder).as_posix()


def _is_left_out(name: str) -> bool:
    return name.startswith(".") or name == "__pycache__" or name.endswith(".pyc")


def listing(folder: Path, paths: Iterable[str], known: Mapping[str, str] | None = None) -> tuple[Listed, ...]:
    """Size and digest of each file. `known` has digests (hex) that need not be computed again.

    Raises `BadInput` where they are too large, and for a file that is no plain file.
    """
    listed = tuple(_listed(folder / path, path, (known or {}).get(path)) for path in sorted(paths))
    total = sum(one.size for one in listed)
    if total > MOST_BYTES:
        raise BadInput("package.size", f"{folder.name} has {total:,} bytes", f"keep it below {MOST_BYTES:,}")
    return listed


def _listed(file: Path, path: str, known: str | None) -> Listed:
    check_regular(file)
    size = file.stat().st_size
    if size > MOST_FILE:
        raise BadInput("package.size", f"{path} has {size:,} bytes", f"keep each file below {MOST_FILE:,}")
    return Listed(path, size, known or file_digest(file))


def file_digest(file: Path) -> str:
    """SHA-256 of a file (hex), read in chunks."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(files: Iterable[Listed]) -> str:
    """One digest (hex) for all files with their paths: SHA-256 of the JSON list of [path, size, sha256], sorted."""
    rows = sorted([one.path, one.size, one.sha256] for one in files)
    return hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()
