"""What looks at a package before it is installed. Without one nothing is said, which is no finding of safety."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that a scanner found. `severity` is low, medium, high or critical; `line` counts from 1, 0 for none."""

    check: str
    """The id of the check that found it."""
    severity: str
    said: str
    file: str = ""
    line: int = 0


class Scannable(Protocol):
    """A package as a scanner sees it: a folder of files, and a component, of which nothing was run."""

    @property
    def folder(self) -> Path: ...

    @property
    def wasm(self) -> Path | None: ...

    @property
    def manifest(self) -> Any: ...


class Scanner(Protocol):
    """Reads a package without running it. `id` names it and its version, as the install screen shows it."""

    id: str

    def look(self, package: Scannable) -> Sequence[Alarm]:
        """What it found, the worst first; nothing is what it means: nothing was found."""
