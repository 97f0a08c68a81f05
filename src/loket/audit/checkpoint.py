"""Checkpoints: what a home's journal was at a time, signed, in the text format of transparency logs.

A checkpoint is a signed note (c2sp.org/signed-note) with the body of c2sp.org/tlog-checkpoint: origin, number of rows,
root in base64, and as its one extension line the time; a blank line; and the signature line `— origin base64`, whose
bytes are the key's id (4) and an Ed25519 signature (64) of the body. So tools for transparency logs read it, and a
witness can add a signature line of its own. The public key is written as such tools do: `origin+id+base64`.
"""

import base64
import binascii
import datetime as dt
import hashlib
import re
from dataclasses import dataclass
from typing import Final

from loket.contracts import BadInput, Damaged

_ED25519: Final = b"\x01"
_ID_BYTES: Final = 4
_KEY_BYTES: Final = 32
_TIME: Final = "%Y-%m-%dT%H:%M:%SZ"
_BODY: Final = re.compile(
    r"(?P<origin>loket/[0-9a-f]{32})\n(?P<size>0|[1-9][0-9]{0,17})\n(?P<root>[A-Za-z0-9+/]{43}=)\n"
    r"time (?P<time>[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)\n"
)
_SIGNATURE: Final = re.compile(r"\u2014 ([^ +\n]+) ([A-Za-z0-9+/]+={0,2})")
_KEY: Final = re.compile(r"(loket/[0-9a-f]{32})\+([0-9a-f]{8})\+([A-Za-z0-9+/]{44})")
_KEEP: Final = "name a file that `loket audit checkpoint --out FILE` wrote"

LONGEST: Final = 1 << 16
"""Bytes of the longest text that is taken for a checkpoint; witnesses may have signed it too."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A home's public key (32 bytes, Ed25519)."""

    raw: bytes

    @property
    def origin(self) -> str:
        """The home's id: `loket/` and the first 32 hex digits of the key's SHA-256, so that the id proves the key."""
        return f"loket/{hashlib.sha256(self.raw).hexdigest()[:32]}"

    @property
    def id(self) -> bytes:
        """What a signature line starts with: 4 bytes."""
        return hashlib.sha256(self.origin.encode() + b"\n" + _ED25519 + self.raw).digest()[:_ID_BYTES]

    def __str__(self) -> str:
        return f"{self.origin}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.raw).decode()}"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The journal at a time (seconds since 1970 UTC): its number of rows, and the root of the tree over them."""

    origin: str
    size: int
    root: bytes
    at: int

    @property
    def time(self) -> str:
        """The time in UTC, ISO 8601."""
        return dt.datetime.fromtimestamp(self.at, dt.UTC).strftime(_TIME)

    @property
    def body(self) -> str:
        """The text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\ntime {self.time}\n"


def key_of(seed: bytes) -> PublicKey:
    """The public key that belongs to a seed of 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return PublicKey(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def sign(seed: bytes, size: int, root: bytes, at: float) -> tuple[Checkpoint, str]:
    """A checkpoint and its signed text."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = key_of(seed)
    made = Checkpoint(key.origin, size, root, int(at))
    signature = Ed25519PrivateKey.from_private_bytes(seed).sign(made.body.encode())
    return made, f"{made.body}\n\u2014 {key.origin} {base64.b64encode(key.id + signature).decode()}\n"


def parse_key(text: str) -> PublicKey:
    """A public key as `str` writes it. Raises `BadInput` (`audit.key`) where it is none, or its parts disagree."""
    found = _KEY.fullmatch(text.strip())
    raw = base64.b64decode(found[3]) if found is not None else b""
    key = PublicKey(raw[1:])
    if found is None or len(raw) != 1 + _KEY_BYTES or str(key) != text.strip():
        raise BadInput(
            "audit.key",
            "the public key is not `loket/ID+HASH+BASE64`, or its parts do not belong together",
            "give the line in audit/audit.pub of the home that made it: --key audit.pub",
        )
    return key


def read_note(text: str) -> Checkpoint:
    """What a checkpoint says, whoever signed it. Raises `BadInput` (`audit.checkpoint`) where it is none."""
    body, blank, signatures = text.partition("\n\n")
    found = _BODY.fullmatch(body + "\n") if blank and len(text) <= LONGEST else None
    if found is None or not signatures.endswith("\n"):
        raise _no_checkpoint()
    try:
        at = dt.datetime.strptime(found["time"], _TIME).replace(tzinfo=dt.UTC)
    except ValueError:
        raise _no_checkpoint() from None
    return Checkpoint(found["origin"], int(found["size"]), base64.b64decode(found["root"]), int(at.timestamp()))


def _no_checkpoint() -> BadInput:
    return BadInput("audit.checkpoint", "this is no checkpoint: origin, size, root, time, blank line, signature", _KEEP)


def open_note(text: str, key: PublicKey) -> Checkpoint:
    """What a checkpoint says that this key signed. Signature lines of others are passed over.

    Raises `BadInput` where it is no checkpoint, `Damaged` (`audit.foreign`, `audit.signature`) where another home
    signed it, or nobody did.
    """
    said = read_note(text)
    if said.origin != key.origin:
        raise Damaged("audit.foreign", f"it is of another home ({said.origin}), and this one is {key.origin}", _KEEP)
    if not any(_is_signed(said, line, key) for line in text.partition("\n\n")[2].splitlines()):
        raise Damaged("audit.signature", "the home's key did not sign it: it was changed or forged", _KEEP)
    return said


def _is_signed(said: Checkpoint, line: str, key: PublicKey) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    found = _SIGNATURE.fullmatch(line)
    if found is None or found[1] != key.origin:
        return False
    try:
        data = base64.b64decode(found[2], validate=True)
        if data[:_ID_BYTES] != key.id:
            return False
        Ed25519PublicKey.from_public_bytes(key.raw).verify(data[_ID_BYTES:], said.body.encode())
    except (binascii.Error, InvalidSignature):
        return False
    return True
