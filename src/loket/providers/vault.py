"""The vault: secrets of the owner in one file that only the owner's user can read.

The file is not encrypted: whoever can read the user's files can read it (encryption at rest is planned with the
gateway). What is kept today: no module, log, journal or error ever sees a value, and a file that others can read is
refused instead of used.
"""

import contextlib
import json
import os
import re
import stat
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from loket.contracts import BadInput, Damaged

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST = 8_192
_OTHERS = 0o077


class FileVault:
    """Secrets by name, in `secrets.json` of a folder (`<home>/vault`): file mode 0600, folder mode 0700.

    Reads see what the last finished `put` wrote, also one of another process. Writes are atomic and synced.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "secrets.json"
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"FileVault({str(self._folder)!r})"

    def get(self, name: str) -> str | None:
        """Look a secret up; None where there is none of that name. Raises `BadInput` and `Damaged` as `names` does."""
        return self._read().get(name)

    def put(self, name: str, value: str) -> None:
        """Store a secret. Raises `BadInput` for a name or a value that cannot be one."""
        if not _NAME.fullmatch(name):
            raise BadInput(
                "vault.name", f"{name!r} cannot name a secret", "use letters, digits, `.`, `_` and `-`, at most 100"
            )
        if not 0 < len(value) <= _LONGEST or not value.isprintable() or value != value.strip():
            raise BadInput(
                "vault.value",
                f"the value for {name} is empty, too long, or has line breaks or blanks around it",
                f"give one line of at most {_LONGEST} characters",
            )
        with self._lock:
            self._write({**self._read(), name: value})

    def delete(self, name: str) -> bool:
        """Remove a secret; whether there was one."""
        with self._lock:
            secrets = self._read()
            if name not in secrets:
                return False
            del secrets[name]
            self._write(secrets)
            return True

    def names(self) -> Sequence[str]:
        """List the names of all secrets, sorted.

        Raises `BadInput` where others than the owner's user can read the folder or the file, `Damaged` where the file
        is not what was written.
        """
        return sorted(self._read())

    def _read(self) -> dict[str, str]:
        try:
            self._check(self._folder, "700")
            self._check(self._path, "600")
            text = self._path.read_bytes()
        except FileNotFoundError:
            return {}
        secrets = _decode(text)
        if secrets is None:
            raise Damaged(
                "vault.damaged",
                f"{self._path} is not the file that the vault wrote",
                "restore it from a backup, or move it away and enter the secrets again",
            )
        return secrets

    def _check(self, path: Path, mode: str) -> None:
        """Refuse what others can read. Without POSIX permissions (Windows) the user's profile protects it."""
        if os.name != "posix":
            return
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
            raise BadInput(
                "vault.owner",
                f"{path} is a link or belongs to another user",
                f"replace it by your own: rm {path}, then enter the secrets again",
            )
        if found.st_mode & _OTHERS:
            raise BadInput(
                "vault.open", f"{path} can be read or changed by other users of this machine", f"chmod {mode} {path}"
            )

    def _write(self, secrets: dict[str, str]) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".secrets-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(secrets, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(self._path)
            _sync_folder(self._folder)
        finally:
            Path(name).unlink(missing_ok=True)


def _decode(text: bytes) -> dict[str, str] | None:
    """Decode the secrets; None where that fails: an exception of the decoder would carry the text along."""
    with contextlib.suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, dict) and all(isinstance(secret, str) for secret in value.values()):
            return value
    return None


def _sync_folder(folder: Path) -> None:
    """Make a rename last (a folder cannot be opened for this on Windows, and need not be)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
