"""The checkpoints that a home keeps, a file each, and its public key: `audit/checkpoints/`, `audit/audit.pub`.

Nothing here is ever written twice. Whoever has the home can delete them, though: a checkpoint proves most where the
home's owner cannot reach it.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from loket.audit.checkpoint import LONGEST, Checkpoint, PublicKey
from loket.contracts import Damaged, Failed
from loket.durable import write_new

PUBLIC: Final = "audit.pub"


class Kept:
    """The folder `audit` of a home."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checkpoints = folder / "checkpoints"

    def texts(self) -> Mapping[str, str]:
        """All kept checkpoints by their names, oldest first; bytes that are no text are replaced. Raises `Failed`."""
        found = sorted(self._checkpoints.glob("*.txt")) if self._checkpoints.is_dir() else []
        return {path.name: read_text(path) for path in found}

    def has_day(self, day: str) -> bool:
        """Whether there is a checkpoint of a day (`2026-11-21`, UTC)."""
        return any(self._checkpoints.glob(f"{day}T*.txt"))

    def key_fault(self, key: PublicKey) -> str | None:
        """What is wrong with the public key that is kept; None also where none is kept yet."""
        path = self._folder / PUBLIC
        if not path.exists() or read_text(path).strip() == str(key):
            return None
        return f"{PUBLIC} holds another key than the vault gives ({key.origin})"

    def keep(self, checkpoint: Checkpoint, text: str, key: PublicKey) -> None:
        """Keep a checkpoint, and with the first one the key. Raises `Damaged` for another key, `Failed` of the disk."""
        fault = self.key_fault(key)
        if fault is not None:
            raise Damaged("audit.key", fault, "put vault/master.key of this home back from a backup")
        name = f"{checkpoint.time.replace(':', '')}-{checkpoint.size}.txt"
        try:
            for folder in (self._folder, self._checkpoints):
                folder.mkdir(mode=0o700, exist_ok=True)
            for path, said in ((self._folder / PUBLIC, f"{key}\n"), (self._checkpoints / name, text)):
                with contextlib.suppress(FileExistsError):
                    write_new(path, said.encode())
        except OSError as error:
            raise Failed(
                "audit.keep",
                f"the checkpoint could not be written: {error.strerror}",
                "free disk space",
                blame="machine",
            ) from error


def read_text(path: Path) -> str:
    """The beginning of a file as text, long enough for what can be a checkpoint. Raises `Failed` (`audit.kept`)."""
    try:
        with path.open("rb") as file:
            return file.read(LONGEST + 1).decode("utf-8", "replace")
    except OSError as error:
        raise Failed(
            "audit.kept", f"{path} cannot be read: {error.strerror}", "give its rights back", blame="machine"
        ) from None
