"""The vault: secrets of the owner, encrypted at rest with a key that is derived from the home's master key.

Each value is encrypted with AES-256-GCM and its name as associated data, so that a value put under another name is
found out. Names are not secret: settings have them too. No module, log, journal or error ever sees a value, and a file
that others can read is refused instead of used.
"""

import base64
import contextlib
import json
import os
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loket.contracts import BadInput, Damaged
from loket.providers.vault_files import read_private, replace_wiped, write_private
from loket.providers.vault_key import MasterKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LONGEST = 8_192
_FORMAT = 2
"""Format 1 was a table of plain values without a format."""
_NONCE = 12


class FileVault:
    """Secrets by name, in `secrets.json` of a folder (`<home>/vault`): file mode 0600, folder mode 0700.

    Reads see what the last finished `put` wrote, also one of another process. Writes are atomic and synced. `keyring`
    says where the master key is (see `master_key`). A file of an earlier version, which was not encrypted, is encrypted
    when it is first used, and its old content overwritten.
    """

    def __init__(self, folder: Path, *, keyring: bool = False) -> None:
        self._folder = folder
        self._path = folder / "secrets.json"
        self._lock = threading.RLock()
        self.master = MasterKey(folder, keyring=keyring)
        """The home's master key, from which keys for other purposes are derived too."""
        self._cipher: AESGCM | None = None
        self._values: tuple[object, tuple[str, ...]] | None = None

    def __repr__(self) -> str:
        return f"FileVault({str(self._folder)!r})"

    def get(self, name: str) -> str | None:
        """Look a secret up; None where there is none of that name.

        Raises `BadInput` and `Damaged` as `names` does, and `Damaged` where the value or the master key is not what was
        written.
        """
        with self._lock:
            sealed = self._read().get(name)
            return None if sealed is None else self._open(name, sealed)

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
            self._write({**self._read(), name: self._seal(name, value)})

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
        with self._lock:
            return sorted(self._read())

    def values(self) -> tuple[str, ...]:
        """All secrets, for whoever takes them out of what leaves; read again when the file was written.

        Raises as `get` does.
        """
        with self._lock:
            found = self._path.stat() if self._path.exists() else None
            version = (found.st_ino, found.st_mtime_ns, found.st_size) if found is not None else None
            if self._values is None or self._values[0] != version:
                sealed = self._read()
                self._values = version, tuple(self._open(name, text) for name, text in sorted(sealed.items()))
            return self._values[1]

    def _read(self) -> dict[str, str]:
        """The encrypted values by name, those of an earlier version encrypted first."""
        text = read_private(self._path)
        if text is None:
            return {}
        found = _decode(text)
        if found is None:
            raise self._damaged("is not the file that the vault wrote")
        if found.get("format") == _FORMAT:
            return dict(found["secrets"])
        sealed = {name: self._seal(name, value) for name, value in found.items()}
        replace_wiped(self._path, _encode(sealed))
        return sealed

    def _write(self, secrets: Mapping[str, str]) -> None:
        write_private(self._path, _encode(secrets))

    def _seal(self, name: str, value: str) -> str:
        nonce = os.urandom(_NONCE)
        return base64.b64encode(nonce + self._aes().encrypt(nonce, value.encode(), _about(name))).decode()

    def _open(self, name: str, sealed: str) -> str:
        from cryptography.exceptions import InvalidTag

        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._aes().decrypt(raw[:_NONCE], raw[_NONCE:], _about(name)).decode()
        except (InvalidTag, ValueError):
            raise self._damaged(f"has a value for {name} that is not the one that was put there") from None

    def _aes(self) -> "AESGCM":
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

            self._cipher = AESGCM(self.master.subkey("vault"))
        return self._cipher

    def _damaged(self, how: str) -> Damaged:
        return Damaged(
            "vault.damaged",
            f"{self._path} {how}",
            "restore it from a backup, or move it away and enter the secrets again",
        )


def _about(name: str) -> bytes:
    return f"loket vault {name}".encode()


def _encode(secrets: Mapping[str, str]) -> bytes:
    return json.dumps({"format": _FORMAT, "secrets": secrets}, indent=1, sort_keys=True).encode() + b"\n"


def _decode(text: bytes) -> dict[str, Any] | None:
    """Decode the file; None where that fails: an exception of the decoder would carry the text along."""
    with contextlib.suppress(ValueError, AttributeError, KeyError):
        value = json.loads(text)
        secrets = value["secrets"] if value.get("format") == _FORMAT else value
        if isinstance(secrets, dict) and all(isinstance(secret, str) for secret in secrets.values()):
            return dict(value)
    return None
