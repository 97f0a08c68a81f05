"""Makes the folder of a new agent or channel from a template."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.manifest import ID
from loket.packages.resources import resource
from loket.packages.table import suggestion

LANGUAGES = ("python", "javascript", "typescript")

_NAME, _CHANNEL_NAME = "agent-name", "channel-name"
"""What stands for the name in the templates' files."""
_ARTICLES = {"agent": "an", "channel": "a"}


def new_agent(name: str, directory: Path, language: str = "python") -> Path:
    """Make the folder `directory/name` with an agent in one of `LANGUAGES` that can be built as it is.

    Raises `BadInput` for a name that no agent can have, an unknown language, and where the folder is there already.
    """
    _check_name("agent", name)
    if language not in LANGUAGES:
        raise BadInput(
            "agent.language",
            f'--language is "{language}", and there are templates in {", ".join(LANGUAGES)}',
            suggestion(language, LANGUAGES) or "docs/write-an-agent.md says what other languages need",
        )
    return _make("agent", name, directory / name, _NAME, _files(language))


def new_channel(name: str, directory: Path) -> Path:
    """Make the folder `directory/name` with a channel in Python that can be built as it is. Raises `BadInput`."""
    _check_name("channel", name)
    files = sorted(resource("guests/templates/channel-python").iterdir())
    named = ((source, source.name) for source in files if source.is_file())
    return _make("channel", name, directory / name, _CHANNEL_NAME, named)


def _check_name(what: str, name: str) -> None:
    if not ID.fullmatch(name):
        raise BadInput(
            f"{what}.name",
            f'"{name}" cannot be the name of {_ARTICLES[what]} {what}: 2 to 41 small letters, digits and hyphens,'
            " a letter first",
            f"for example: loket new {what} weather",
        )


def _make(what: str, name: str, target: Path, placeholder: str, files: Iterable[tuple[Path, str]]) -> Path:
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise BadInput(f"{what}.exists", f"{target} is there already", "choose another name or folder") from None
    except OSError as error:
        raise BadInput(f"{what}.folder", f"cannot make {target}: {error.strerror}", "choose another folder") from None
    for source, place in files:
        _fill(source, target / place, placeholder, name)
    return target


def _files(language: str) -> Iterator[tuple[Path, str]]:
    """The files of a template and their places; with TypeScript come the guest library's types, for editors."""
    for source in sorted(resource(f"guests/templates/agent-{language}").iterdir()):
        if source.is_file():
            yield source, source.name
    if language == "typescript":
        for source in sorted((resource("guests/javascript") / "loket_guest").glob("*.d.ts")):
            yield source, f"loket_guest/{source.name}"


def _fill(source: Path, made: Path, placeholder: str, name: str) -> None:
    made.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, made)
    made.write_text(made.read_text(encoding="utf-8").replace(placeholder, name), encoding="utf-8")
