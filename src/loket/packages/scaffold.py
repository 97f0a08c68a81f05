"""Makes the folder of a new agent from a template."""

import shutil
from pathlib import Path

from loket.contracts import BadInput
from loket.packages.manifest import ID
from loket.packages.resources import resource

_TEMPLATE = "guests/templates/agent-python"
_NAME = "agent-name"
"""What stands for the name in the template's files."""


def new_agent(name: str, directory: Path) -> Path:
    """Make the folder `directory/name` with an agent in Python that can be built as it is.

    Raises `BadInput` for a name that no agent can have, and where the folder is there already.
    """
    if not ID.fullmatch(name):
        raise BadInput(
            "agent.name",
            f'"{name}" cannot be the name of an agent: 2 to 41 small letters, digits and hyphens, a letter first',
            "for example: loket new agent weather",
        )
    target = directory / name
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise BadInput("agent.exists", f"{target} is there already", "choose another name or folder") from None
    except OSError as error:
        raise BadInput("agent.folder", f"cannot make {target}: {error.strerror}", "choose another folder") from None
    _fill(resource(_TEMPLATE), target, name)
    return target


def _fill(template: Path, target: Path, name: str) -> None:
    for source in sorted(template.iterdir()):
        if source.is_file():
            made = target / source.name
            shutil.copyfile(source, made)
            made.write_text(made.read_text(encoding="utf-8").replace(_NAME, name), encoding="utf-8")
