"""The master key: one key of 32 bytes from which every other key of a home is derived.

It is in `vault/master.key` (mode 0600), or in the system's keyring where the setting `vault.keyring` says so.
`vault/master.json` says which of them, and holds a check value, so that a wrong key is known before anything is
decrypted with it. A key that is missing while something was encrypted with it is an error: a new one would hide that
the rest cannot be read any more.
"""

import contextlib
import hmac
import json
import os
import threading
import uuid
from pathlib import Path
from typing import Any, Final

from loket.contracts import BadInput, Damaged, Failed
from loket.providers.vault_files import read_private, remove_wiped, write_private

SERVICE: Final = "loket"
"""The name under which a keyring keeps our keys; the account's name is the id of `master.json`."""

_SIZE = 32
_SQLITE = b"SQLite format 3\0"
_RESTORE = "put vault/master.key and vault/master.json of this home back from a backup (`loket restore` shows how)"


def master_key(folder: Path, *, keyring: bool) -> bytes:
    """The master key (32 bytes) of the vault in `folder`, made at first use.

    With `keyring` it is in the system's keyring, and is moved there from the file; without, the other way round.
    Raises `BadInput` where others can read the key, `Failed` where no keyring can be used, `Damaged` where the key is
    missing or is another one than that with which the home was encrypted.
    """
    said = _said(folder)
    if said is None:
        return _first(folder, keyring=keyring)
    key = _from_keyring(said["id"]) if said["keyring"] else _from_file(folder)
    if key is None or not hmac.compare_digest(_check_value(key), said["check"]):
        raise _missing(folder, "is missing" if key is None else "is another one than this home was encrypted with")
    if said["keyring"] != keyring:
        _keep(folder, key, said["id"], keyring=keyring)
    elif keyring:
        remove_wiped(folder / "master.key")
    return key


def subkey(master: bytes, purpose: str) -> bytes:
    """A key of 32 bytes for one purpose (HKDF-SHA256, RFC 5869, the purpose as its `info`)."""
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=_SIZE, salt=None, info=f"loket/1/{purpose}".encode()).derive(master)


class MasterKey:
    """The master key of a folder, read when it is first needed and shown nowhere. Thread-safe."""

    __slots__ = ("_folder", "_key", "_keyring", "_lock")

    def __init__(self, folder: Path, *, keyring: bool) -> None:
        self._folder = folder
        self._keyring = keyring
        self._key: bytes | None = None
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"MasterKey({str(self._folder)!r})"

    def subkey(self, purpose: str) -> bytes:
        """A key of 32 bytes for one purpose. Raises what `master_key` raises."""
        with self._lock:
            if self._key is None:
                self._key = master_key(self._folder, keyring=self._keyring)
            return subkey(self._key, purpose)


def export_key(folder: Path, target: Path, *, keyring: bool) -> None:
    """Write the master key as files into another folder, for a backup: also where it is in the system's keyring.

    Nothing is written where this home has no master key yet. Raises what `master_key` raises.
    """
    said = _said(folder)
    if said is not None:
        _keep(target, master_key(folder, keyring=keyring), said["id"], keyring=False)


def _first(folder: Path, *, keyring: bool) -> bytes:
    """The key of a home that has not said where it is: one that a crash left without its note, or a new one."""
    key = _from_file(folder)
    if key is None:
        used = _uses(folder)
        if used is not None:
            raise _missing(folder, f"is missing, and {used} was encrypted with it")
        key = os.urandom(_SIZE)
    _keep(folder, key, uuid.uuid4().hex, keyring=keyring)
    return key


def _uses(folder: Path) -> str | None:
    """What shows that a master key was there: the encrypted vault, or what is beside it: keys of runs, brains."""
    keys = folder.parent / "keys.db"
    if keys.exists() and keys.stat().st_size:
        return keys.name
    with contextlib.suppress(ValueError):
        secrets = json.loads(read_private(folder / "secrets.json") or b"{}")
        if isinstance(secrets, dict) and isinstance(secrets.get("format"), int):
            return "secrets.json"
    brains = (path for path in sorted(folder.parent.glob("brains/*.db")) if _encrypted(path))
    return next((f"brains/{path.name}" for path in brains), None)


def _encrypted(database: Path) -> bool:
    with database.open("rb") as file:
        return file.read(len(_SQLITE)) not in (b"", _SQLITE)


def _keep(folder: Path, key: bytes, name: str, *, keyring: bool) -> None:
    """Put the key where it belongs, then say so, then take it from where it was: a crash leaves it somewhere."""
    if keyring:
        _into_keyring(name, key)
    else:
        write_private(folder / "master.key", key.hex().encode() + b"\n")
    note = {"format": 1, "id": name, "keyring": keyring, "check": _check_value(key).hex()}
    write_private(folder / "master.json", json.dumps(note, indent=1).encode() + b"\n")
    if keyring:
        remove_wiped(folder / "master.key")


def _said(folder: Path) -> dict[str, Any] | None:
    """What `master.json` says: `id`, `keyring` and `check` (bytes); None where there is none."""
    text = read_private(folder / "master.json")
    if text is None:
        return None
    try:
        said = json.loads(text)
        if said["format"] == 1 and isinstance(said["id"], str) and isinstance(said["keyring"], bool):
            return {**said, "check": bytes.fromhex(said["check"])}
    except (ValueError, KeyError, TypeError):
        pass
    raise Damaged("vault.key", f"{folder / 'master.json'} is not what was written", _RESTORE)


def _check_value(key: bytes) -> bytes:
    return subkey(key, "check")


def _from_file(folder: Path) -> bytes | None:
    text = read_private(folder / "master.key")
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        key = bytes.fromhex(text.decode("ascii"))
        if len(key) == _SIZE:
            return key
    raise _missing(folder, "is not what was written") from None


def _missing(folder: Path, how: str) -> Damaged:
    return Damaged("vault.key", f"the master key of {folder} {how}", _RESTORE)


def _from_keyring(name: str) -> bytes | None:
    backend = _backend()
    import keyring.errors

    try:
        text = backend.get_password(SERVICE, name)
    except keyring.errors.KeyringError as error:
        raise _locked(error) from None
    with contextlib.suppress(ValueError):
        return bytes.fromhex(text) if text is not None else None
    return None


def _into_keyring(name: str, key: bytes) -> None:
    backend = _backend()
    import keyring.errors

    try:
        backend.set_password(SERVICE, name, key.hex())
        kept = backend.get_password(SERVICE, name) == key.hex()
    except keyring.errors.KeyringError as error:
        raise _locked(error) from None
    if not kept:
        raise Failed("vault.keyring", "the system's keyring did not keep the master key", _FILE)


_FILE = "set vault.keyring = false in config.toml: the key is then a file that only you can read"


def _backend() -> Any:
    """The system's keyring. Raises `BadInput` where the library is missing, `Failed` where there is no real one."""
    try:
        import keyring
    except ImportError:
        raise BadInput(
            "vault.keyring",
            "vault.keyring is on, and the library for it is not installed",
            'pip install "loket[keyring]"',
        ) from None
    backend = keyring.get_keyring()
    if backend.priority < 1:
        raise Failed("vault.keyring", "this system has no keyring that can be used", _FILE, blame="machine")
    return backend


def _locked(error: Exception) -> Failed:
    """The error's name alone: its text comes from outside, and could repeat what was sent."""
    return Failed(
        "vault.keyring",
        f"the system's keyring refused ({type(error).__name__})",
        f"unlock it, or {_FILE}",
        blame="machine",
    )
