"""Signatures of packs: Ed25519 (RFC 8032) over the bytes of the list of files, and how keys are written."""

import base64
import binascii
import hashlib
from typing import Final

from loket.contracts import BadInput

PREFIX: Final = "ed25519:"
"""Begins a public key as text: the 32 bytes follow in Base64 (RFC 4648)."""

_KEY_BYTES = 32
_SAID: Final = b"loket pack 1\0"
"""Stands before what is signed, so that a signature means nothing elsewhere."""


def new_key() -> bytes:
    """A private key, 32 bytes of the system's randomness."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_of(private: bytes) -> bytes:
    """The public key of a private one, 32 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def sign(private: bytes, data: bytes) -> bytes:
    """The signature of a pack's list of files, 64 bytes."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes(private).sign(_SAID + data)


def is_signed(public: bytes, data: bytes, signature: bytes) -> bool:
    """Whether a signature is that of this key over this list."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _SAID + data)
    except (InvalidSignature, ValueError):
        return False
    return True


def fingerprint(public: bytes) -> str:
    """What people compare: the first 16 bytes of the SHA-256 of a public key, in hex, four digits a group."""
    digits = hashlib.sha256(public).hexdigest()[:32]
    return "-".join(digits[place : place + 4] for place in range(0, 32, 4))


def written(public: bytes) -> str:
    """A public key as text."""
    return PREFIX + base64.b64encode(public).decode()


def public_key(text: str) -> bytes:
    """The public key that a text names. Raises `BadInput`."""
    try:
        public = base64.b64decode(text.strip().removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        public = b""
    if not text.strip().startswith(PREFIX) or len(public) != _KEY_BYTES:
        raise BadInput(
            "key.invalid",
            f"{text[:80]!r} is no public key",
            f"it looks like {PREFIX}..., as `loket keys show` gives it",
        )
    return public
