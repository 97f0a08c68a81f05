"""Keys of runs: one for each run, in a file of their own, so that what a run said can be destroyed for good.

Values in the journal are encrypted with the key of their run. Erasing a run destroys its key: the rows stay, the chain
over them still verifies, and nobody can read them any more, in old copies of the journal neither. That is why the keys
are in another file (`keys.db`) than the journal, and are backed up apart from it.

Keys are made in blocks ahead of their use, so that accepting a message costs no second write to the disk. Each is
wrapped with a key of the vault's (AES-256-GCM, the slot's number as associated data).
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apsw

from loket.contracts import Damaged
from loket.store.database import open_database

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MIGRATIONS = ("CREATE TABLE run_keys (slot INTEGER PRIMARY KEY, key BLOB) STRICT;",)
"""`key` is NULL where it was destroyed."""

_BLOCK = 256
"""Keys that are made at a time."""

_KEPT = 1024
"""Ciphers that are kept ready."""

_NONCE = 12
_KEY = 32


class RunKeys:
    """The keys of runs, by slot. Thread-safe.

    `secret` (32 bytes) wraps them; `used` is the highest slot that a run has.
    """

    def __init__(self, path: Path, secret: bytes, used: int, vfs: str | None = None) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._path = path
        self._aes = AESGCM
        self._wrap = AESGCM(secret)
        self._connection = open_database(path, migrations=MIGRATIONS, vfs=vfs)
        self._lock = threading.RLock()
        self._ready: OrderedDict[int, AESGCM] = OrderedDict()
        self._next = used + 1
        made: list[Any] = self._connection.execute("SELECT coalesce(max(slot), 0) FROM run_keys").fetchall()
        self._made: int = made[0][0]

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def take(self) -> int:
        """A slot that no run has, its key on the disk."""
        with self._lock:
            while True:
                slot = self._next
                if slot > self._made:
                    self._make(slot)
                self._next += 1
                if self._cipher(slot) is not None:  # destroyed already: the journal is older than its keys
                    return slot

    def seal(self, slot: int, text: bytes, about: bytes) -> bytes:
        """Encrypt with a slot's key: nonce and ciphertext. `about` has to be given again to open it.

        Raises `Damaged` where the key is destroyed or missing.
        """
        cipher = self._cipher(slot)
        if cipher is None:
            raise Damaged("keys.destroyed", f"the key of slot {slot} was destroyed", "nothing more can be written here")
        nonce = os.urandom(_NONCE)
        return nonce + cipher.encrypt(nonce, text, about)

    def open(self, slot: int, sealed: bytes, about: bytes) -> bytes | None:
        """Decrypt what `seal` made; None where the key was destroyed. Raises `Damaged` where it was changed."""
        from cryptography.exceptions import InvalidTag

        cipher = self._cipher(slot)
        if cipher is None:
            return None
        try:
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], about)
        except (InvalidTag, ValueError):
            raise Damaged(
                "keys.value", f"a value under the key of slot {slot} was changed", "restore a backup of kernel.db"
            ) from None

    def destroy(self, slots: Collection[int]) -> None:
        """Destroy keys: they are nowhere in the file when this returns, its write-ahead log included."""
        with self._lock:
            for slot in slots:
                self._ready.pop(slot, None)
            with self._connection:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO run_keys VALUES (?, NULL)", ((slot,) for slot in slots)
                )
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def is_gone(self, slot: int) -> bool:
        """Whether a slot's key was destroyed."""
        with self._lock:
            return bool(self._connection.execute("SELECT 1 FROM run_keys WHERE slot = ? AND key IS NULL", (slot,)).get)

    def gone(self) -> frozenset[int]:
        """The slots whose keys were destroyed."""
        with self._lock:
            found: list[Any] = self._connection.execute("SELECT slot FROM run_keys WHERE key IS NULL").fetchall()
        return frozenset(slot for (slot,) in found)

    def _make(self, first: int) -> None:
        slots = range(first, first + _BLOCK)
        with self._connection:
            self._connection.executemany(
                "INSERT INTO run_keys VALUES (?, ?)", ((slot, self._wrapped(slot, os.urandom(_KEY))) for slot in slots)
            )
        self._made = slots[-1]

    def _wrapped(self, slot: int, key: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._wrap.encrypt(nonce, key, b"%d" % slot)

    def _cipher(self, slot: int) -> "AESGCM | None":
        with self._lock:
            cipher = self._ready.get(slot)
            if cipher is None:
                key = self._read(slot)
                if key is None:
                    return None
                cipher = self._ready[slot] = self._aes(key)
                if len(self._ready) > _KEPT:
                    self._ready.popitem(last=False)
            return cipher

    def _read(self, slot: int) -> bytes | None:
        from cryptography.exceptions import InvalidTag

        found: list[Any] = self._connection.execute("SELECT key FROM run_keys WHERE slot = ?", (slot,)).fetchall()
        if not found:
            raise Damaged(
                "keys.missing",
                f"{self._path.name} has no key for slot {slot}",
                f"restore {self._path.name} from the backup of the keys that belongs to this home",
            )
        wrapped: bytes | None = found[0][0]
        if wrapped is None:
            return None
        try:
            return self._wrap.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], b"%d" % slot)
        except (InvalidTag, ValueError):
            raise Damaged(
                "keys.wrapped",
                f"the key of slot {slot} cannot be read with the vault's key",
                "restore vault/ and keys.db from the same backup",
            ) from None
