"""What servers say on their standard error, kept within bounds and without the secrets that they were given."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path

_LARGEST = 1 << 20
"""Bytes of a log; then it begins anew, and the one before is kept beside it."""
_LINE = 2_000
"""Characters of a line."""
_SHORTEST = 4
"""Characters of a secret that is worth replacing."""


class Log:
    """A log that only its user can read. Thread-safe; a disk that is full loses lines and nothing else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._hidden: list[str] = []

    def hide(self, secrets: Sequence[str]) -> None:
        """Replace these values from now on."""
        longest_first = sorted({text for text in secrets if len(text) >= _SHORTEST}, key=len, reverse=True)
        self._hidden = longest_first

    def shown(self, text: str) -> str:
        """A text without secrets and control characters."""
        for value in self._hidden:
            text = text.replace(value, "[secret]")
        return "".join(sign if sign.isprintable() else " " for sign in text)[:_LINE]

    def write(self, text: str) -> None:
        """Add a line."""
        try:
            with self._lock:
                self._turn()
                handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
                with os.fdopen(handle, "a", encoding="utf-8", errors="replace") as file:
                    file.write(self.shown(text) + "\n")
        except OSError:
            return

    def end(self, most: int) -> str:
        """The last bytes of the log as text; empty where there is none."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - most))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

    def _turn(self) -> None:
        if self.path.exists() and self.path.stat().st_size > _LARGEST:
            self.path.replace(self.path.with_suffix(".old.log"))
