"""The owner's account: made once, by who has the setup code or the home; its password, and who may try it how often.

Attempts are counted in a fixed number of buckets by name, known or not, so that nobody learns from them which name is
the owner's, and nobody fills the disk with names.
"""

import asyncio
import hashlib
import hmac
import secrets
import unicodedata
from collections.abc import Callable
from typing import Any, Protocol

from loket.contracts import BadInput, Refusal
from loket.gateway.errors import Busy
from loket.gateway.passwords import Passwords, checked

FREE_ATTEMPTS = 4
"""Attempts in a row before anybody has to wait."""

LONGEST_WAIT_S = 900.0
"""Seconds to wait at most; from one second on the wait doubles with each attempt."""

FORGET_S = 86_400.0
"""Seconds without an attempt after which the earlier ones are forgotten."""

_BUCKETS = 1024
_CODE_LETTERS = "23456789abcdefghjkmnpqrstvwxyz"
_CODE_GROUPS, _CODE_GROUP = 5, 5
_MOST_NAME = 64


class AccountStore(Protocol):
    """Where the account is kept. Digests are SHA-256, times seconds since 1970 (UTC)."""

    def account(self) -> dict[str, Any] | None: ...

    def create(self, name: str, hashed: str, decoy: str, at: float, code: bytes | None) -> bool: ...

    def change(self, hashed: str, at: float, before: str | None) -> bool: ...

    def set_up(self, code: bytes) -> bool: ...

    def setup(self) -> bytes | None: ...

    def attempt(self, bucket: int, at: float, delay: Callable[[int], float], forget_s: float) -> float: ...

    def forgive(self, bucket: int) -> None: ...


def digest(secret: str) -> bytes:
    """What is kept of a secret that has at least 100 random bits: no slow hash is needed for those."""
    return hashlib.sha256(secret.encode()).digest()


def delay(attempts: int) -> float:
    """Seconds to wait after so many attempts in a row."""
    return 0.0 if attempts < FREE_ATTEMPTS else min(2.0 ** min(attempts - FREE_ATTEMPTS, 20), LONGEST_WAIT_S)


class Accounts:
    """Makes the account, checks and changes its password."""

    def __init__(self, store: AccountStore, passwords: Passwords, now: Callable[[], float]) -> None:
        self._store = store
        self._passwords = passwords
        self._now = now

    async def name(self) -> str | None:
        """The owner's name; None where there is no account yet."""
        account = await asyncio.to_thread(self._store.account)
        return str(account["name"]) if account else None

    async def setup_code(self) -> str | None:
        """A new setup code, in the place of the last one; None where there is an account."""
        letters = [secrets.choice(_CODE_LETTERS) for _ in range(_CODE_GROUPS * _CODE_GROUP)]
        groups = ["".join(letters[at : at + _CODE_GROUP]) for at in range(0, len(letters), _CODE_GROUP)]
        code = "-".join(groups)
        return code if await asyncio.to_thread(self._store.set_up, digest(code)) else None

    async def set_up(self, code: str, name: str, password: str) -> None:
        """Make the account with the setup code. Raises `BadInput`, `Refusal` for a wrong code, `Busy`."""
        name, data = checked_name(name), checked(password)
        bucket = await self._attempt("\0setup")
        given = digest(code.strip().lower())
        kept = await asyncio.to_thread(self._store.setup)
        if await self.name() is not None:
            raise _exists()
        if kept is None or not hmac.compare_digest(kept, given):
            raise Refusal(
                "setup.code", "the setup code is wrong", "loket account create NAME needs none", blame="owner"
            )
        await self._make(name, data, given)
        await asyncio.to_thread(self._store.forgive, bucket)

    async def create(self, name: str, password: str) -> None:
        """Make the account, by who has the home. Raises `BadInput` where there is one."""
        if await self.name() is not None:
            raise _exists()
        await self._make(checked_name(name), checked(password), None)

    async def _make(self, name: str, password: bytes, code: bytes | None) -> None:
        hashed = await self._passwords.hashed(password)
        decoy = await self._passwords.hashed(secrets.token_bytes(32))
        if not await asyncio.to_thread(self._store.create, name, hashed, decoy, self._now(), code):
            raise _exists()

    async def check(self, name: str, password: str) -> str:
        """The account's hash, if the password fits it. Takes as long for a name that is not there.

        Raises `Refusal` (`login.wrong`), `BadInput` where there is no account, `Busy` after too many attempts.
        """
        account = await asyncio.to_thread(self._store.account)
        if account is None:
            raise BadInput("account.none", "there is no account yet", "loket account create NAME")
        given = unicodedata.normalize("NFC", name)
        bucket = await self._attempt(given)
        known = hmac.compare_digest(_bytes(given), _bytes(account["name"]))
        hashed = account["hash"] if known else account["decoy"]
        data = _bytes(unicodedata.normalize("NFC", password))
        if not (await self._passwords.fits(hashed, data) and known):
            raise Refusal("login.wrong", "the name or the password is wrong", "loket account password", blame="owner")
        await asyncio.to_thread(self._store.forgive, bucket)
        return str(hashed)

    async def change(self, password: str, old: str | None) -> None:
        """Change the password, end all sessions, and forgive the attempts so far.

        `old` is checked; None is for who has the home. Raises `BadInput`, `Refusal` for a wrong old one, `Busy`.
        """
        name, data = await self.name(), checked(password)
        if name is None:
            raise BadInput("account.none", "there is no account yet", "loket account create NAME")
        before = await self.check(name, old) if old is not None else None
        hashed = await self._passwords.hashed(data)
        if not await asyncio.to_thread(self._store.change, hashed, self._now(), before):
            raise Refusal("login.wrong", "the password was changed meanwhile", "log in with the new one", blame="owner")
        await asyncio.to_thread(self._store.forgive, _bucket(name))

    async def _attempt(self, name: str) -> int:
        """Count an attempt; its bucket. Raises `Busy` where it is too early for one."""
        bucket = _bucket(name)
        wait = await asyncio.to_thread(self._store.attempt, bucket, self._now(), delay, FORGET_S)
        if wait > 0:
            raise Busy(
                "login.wait",
                f"too many attempts: the next one may come in {wait:.0f} seconds",
                "wait; `loket account password` sets a new password at once",
                wait_s=wait,
            )
        return bucket


def checked_name(name: str) -> str:
    """A name for the account, in NFC. Raises `BadInput`."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= _MOST_NAME or not name.isprintable() or name != name.strip():
        raise BadInput(
            "account.name",
            f"the name has to have 1 to {_MOST_NAME} characters that can be seen, and no blanks around it",
            "loket account create ana",
        )
    return name


def _bucket(name: str) -> int:
    """Where the attempts with a name are counted."""
    return int.from_bytes(hashlib.sha256(_bytes(name)).digest()[:4], "big") % _BUCKETS


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _exists() -> BadInput:
    return BadInput("account.exists", "there is an account already", "loket account password sets a new password")
