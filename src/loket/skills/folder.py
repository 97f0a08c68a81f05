"""Reads a skill's folder: `SKILL.md` with its front matter, and whatever lies beside it.

The format is that of https://agentskills.io/specification; what it allows is checked by its reference library,
`skills-ref`, which is imported at the first skill. Links, devices and too large files are refused beyond that.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import BadInput
from loket.packages.content import Listed, check_names, content_digest, listing
from loket.packages.files import check_tree, read_regular

FILE = "SKILL.md"
MOST_TEXT = 256 << 10
"""Bytes of `SKILL.md`, and of a file that is read."""
_MOST_FILES = 500
_MOST_BYTES = 32 << 20
_UNREADABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""What stands in no YAML 1.2 (section 5.1), and the byte order mark."""
_SPECIFICATION = "see https://agentskills.io/specification"


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill's folder, read and checked.

    `body` is the text behind the front matter. `wants` are the tools that it asks for (`allowed-tools`), which are
    shown and never granted. `digest` (SHA-256, hex) stands for all its files with their paths.
    """

    folder: Path
    name: str
    description: str
    body: str
    wants: str
    license: str
    compatibility: str
    metadata: Mapping[str, str]
    files: tuple[Listed, ...]
    digest: str

    def text_of(self, path: str) -> str:
        """The text of one of its files. Raises `BadInput` for another path, no text, and what has just changed."""
        digests = {one.path: one.sha256 for one in self.files}
        if path not in digests:
            have = ", ".join(list(digests)[:20])
            raise BadInput("skill.file", f"the skill {self.name} has no file {path[:200]!r}", f"it has: {have}")
        text = _text(self.folder / path)
        if hashlib.sha256(text.encode()).hexdigest() != digests[path]:
            raise BadInput("skill.changed", f"{path} of {self.name} has just changed", f"loket skills show {self.name}")
        return text


def read_skill(folder: Path, *, module: str | None = None) -> Skill:
    """Read a skill's folder; of a `module`, whose name the skill has to have, `SKILL.md` alone.

    Raises `BadInput` that says all that is wrong with it.
    """
    if not folder.is_dir():
        raise BadInput("skill.missing", f"there is no folder {folder}", f"name a folder with a {FILE}")
    paths = [FILE] if module is not None else _paths(folder)
    if FILE not in paths or not (folder / FILE).is_file():
        raise BadInput("skill.missing", f"{folder} has no {FILE}", _SPECIFICATION)
    files = listing(folder, paths)
    if sum(one.size for one in files) > _MOST_BYTES:
        raise BadInput("skill.size", f"{folder.name} is larger than {_MOST_BYTES >> 20} MiB", "shorten it")
    front, body = _front(folder, None if module is not None else folder)
    if module is not None and front["name"] != module:
        raise BadInput("skill.invalid", f"{FILE} of {module} is named {front['name']!r}", f"name: {module}")
    return Skill(
        folder,
        front["name"],
        " ".join(front["description"].split()),
        body,
        str(front.get("allowed-tools") or ""),
        str(front.get("license") or ""),
        str(front.get("compatibility") or ""),
        dict(front.get("metadata") or {}),
        files,
        content_digest(files),
    )


def _paths(folder: Path) -> list[str]:
    check_tree(folder)
    found = sorted(_found(folder))
    if len(found) > _MOST_FILES:
        raise BadInput("skill.size", f"{folder.name} has {len(found)} files", f"keep at most {_MOST_FILES}")
    check_names(found)
    return found


def _found(folder: Path) -> Iterator[str]:
    for place, folders, files in os.walk(folder):
        folders[:] = [one for one in folders if not one.startswith(".")]
        yield from ((Path(place) / one).relative_to(folder).as_posix() for one in files if not one.startswith("."))


def _front(folder: Path, named: Path | None) -> tuple[dict[str, Any], str]:
    """The front matter, checked, and the body. `named` is the folder whose name has to be the skill's."""
    from skills_ref.errors import ParseError
    from skills_ref.parser import parse_frontmatter
    from skills_ref.validator import validate_metadata

    text = _text(folder / FILE)
    odd = _UNREADABLE.search(text)
    if odd is not None:
        said = f"{FILE} of {folder.name} holds the character U+{ord(odd[0]):04X}, which YAML cannot hold"
        raise BadInput("skill.invalid", said, "take it out")
    try:
        front, body = parse_frontmatter(text)
    except ParseError as error:
        raise BadInput("skill.invalid", f"{FILE} of {folder.name}: {error}", _SPECIFICATION) from None
    wrong = validate_metadata(front, named)
    if wrong:
        raise BadInput("skill.invalid", f"{FILE} of {folder.name}: {'; '.join(wrong)}", _SPECIFICATION)
    return front, body


def _text(path: Path) -> str:
    try:
        return read_regular(path, MOST_TEXT).decode("utf-8")
    except OSError as error:
        raise BadInput("skill.file", f"cannot read {path.name}: {error.strerror}", "add the skill again") from None
    except UnicodeDecodeError:
        raise BadInput("skill.text", f"{path.name} is no text in UTF-8", "only texts are read") from None
