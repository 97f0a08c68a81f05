"""Makes the folder of a new agent from a template."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.manifest import ID
from loket.packages.resources import resource
from loket.packages.table import suggestion

LANGUAGES = ("python", "javascript", "typescript")

_NAME = "agent-name"
"""What stands for the name in the template's files."""


def new_agent(name: str, directory: Path, language: str = "python") -> Path:
    """Make the folder `directory/name` with an agent in one of `LANGUAGES` that can be built as it is.

    Raises `BadInput` for a name that no agent can have, an unknown language, and where the folder is there already.
    """
    if not ID.fullmatch(name):
        raise BadInput(
            "agent.name",
            f'"{name}" cannot be the name of an agent: 2 to 41 small letters, digits and hyphens, a letter first',
            "for example: loket new agent weather",
        )
    if language not in LANGUAGES:
        raise BadInput(
            "agent.language",
            f'--language is "{language}", and there are templates in {", ".join(LANGUAGES)}',
            suggestion(language, LANGUAGES) or "docs/write-an-agent.md says what other languages need",
        )
    target = directory / name
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise BadInput("agent.exists", f"{target} is there already", "choose another name or folder") from None
    except OSError as error:
        raise BadInput("agent.folder", f"cannot make {target}: {error.strerror}", "choose another folder") from None
    for source, place in _files(language):
        _fill(source, target / place, name)
    return target


def _files(language: str) -> Iterator[tuple[Path, str]]:
    """The files of a template and their places; with TypeScript come the guest library's types, for editors."""
    for source in sorted(resource(f"guests/templates/agent-{language}").iterdir()):
        if source.is_file():
            yield source, source.name
    if language == "typescript":
        for source in sorted((resource("guests/javascript") / "loket_guest").glob("*.d.ts")):
            yield source, f"loket_guest/{source.name}"


def _fill(source: Path, made: Path, name: str) -> None:
    made.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, made)
    made.write_text(made.read_text(encoding="utf-8").replace(_NAME, name), encoding="utf-8")
