"""Arguments that several commands share, and what the shell offers for them."""

from typing import Annotated

import typer

from loket.cli import client


def agent_ids(incomplete: str) -> list[str]:
    """The installed modules whose ids begin so, for the shell's completion; read from the folders alone."""
    packages = client.home().packages
    found = [folder.name for folder in packages.iterdir()] if packages.is_dir() else []
    return sorted(name for name in found if name.startswith(incomplete))


Agent = Annotated[str, typer.Argument(metavar="AGENT", help="The module's id.", autocompletion=agent_ids)]
AnyAgent = Annotated[
    str | None, typer.Argument(metavar="[AGENT]", help="Only this module's.", autocompletion=agent_ids)
]
