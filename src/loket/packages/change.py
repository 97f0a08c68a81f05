"""What has changed among the installed modules, for those parts that follow them: operations, channels, schedules."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from loket.contracts import ModuleRef
from loket.packages.install import Package


class What(StrEnum):
    """How a module changed."""

    INSTALLED = "installed"
    """It was not there before, or it is there at the start."""
    UPGRADED = "upgraded"
    """Another version, or other files, took its place; a rollback too."""
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One module's change. `ref` and `package` are those that are there now; of a removed one, those that were."""

    what: What
    ref: ModuleRef
    package: Package
    before: tuple[ModuleRef, Package] | None = None
    """What an upgrade took the place of."""


OnChange: TypeAlias = Callable[[str, Change], None]
"""Takes a module's id and its change."""
