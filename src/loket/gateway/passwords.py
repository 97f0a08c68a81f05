"""Passwords: argon2id (RFC 9106, its second recommendation: 64 MiB, 3 passes, 4 lanes), one at a time."""

import asyncio
import unicodedata
from collections.abc import Callable
from typing import Any

from loket.contracts import BadInput, Damaged
from loket.gateway.errors import Busy

LEAST = 10
"""Characters of a password. No rule says which: length is what helps."""

MOST = 1024
"""Bytes of a password."""

_WAITING = 16
"""Hashes that may wait for their turn: each one takes 64 MiB and a tenth of a second."""


def checked(password: str) -> bytes:
    """A password as it is hashed: NFC, UTF-8, so that keyboards agree. Raises `BadInput` that never shows it."""
    try:
        data = unicodedata.normalize("NFC", password).encode()
    except UnicodeEncodeError:
        raise BadInput("account.password", "the password is no text in UTF-8", "choose another one") from None
    if len(unicodedata.normalize("NFC", password)) < LEAST:
        raise BadInput("account.password", f"the password is shorter than {LEAST} characters", "choose a longer one")
    if len(data) > MOST:
        raise BadInput("account.password", f"the password is longer than {MOST} bytes", "choose a shorter one")
    return data


class Passwords:
    """Hashes and checks passwords on a thread. Raises `Busy` where too many wait."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._waiting = 0

    async def hashed(self, password: bytes) -> str:
        return str(await self._in_turn(_hash, password))

    async def fits(self, hashed: str, password: bytes) -> bool:
        """Whether it is the password. Raises `Damaged` where the hash is none."""
        return bool(await self._in_turn(_verify, hashed, password))

    async def _in_turn(self, work: Callable[..., Any], *args: Any) -> Any:
        if self._waiting >= _WAITING:
            raise Busy("gateway.busy", "too many passwords are being checked", "try again in a few seconds", wait_s=2)
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(work, *args)
        finally:
            self._waiting -= 1


def _hash(password: bytes) -> str:
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)


def _verify(hashed: str, password: bytes) -> bool:
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError, VerifyMismatchError

    try:
        return PasswordHasher().verify(hashed, password)
    except VerifyMismatchError:
        return False
    except (InvalidHashError, VerificationError) as error:
        raise Damaged(
            "account.hash", f"the account's hash cannot be used: {error}", "loket account password sets a new one"
        ) from None
