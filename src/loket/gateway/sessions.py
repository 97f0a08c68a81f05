"""Sessions of the owner in a browser, and API tokens for programs: kept as SHA-256, checked at each request."""

import asyncio
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from loket.contracts import BadInput
from loket.gateway.accounts import Accounts, digest

COOKIE = "loket_session"

IDLE_S = 12 * 3600.0
"""Seconds after which a session that nobody uses ends."""

LONGEST_S = 7 * 86_400.0
"""Seconds after which any session ends."""

TOUCH_S = 60.0
"""How exactly it is known when a session or a token was last used, in seconds: each note of it costs a sync."""

PREFIX = "loket_"
"""Begins every API token, so that scanners for leaked secrets can find one."""

TOKEN_NAME = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # noqa: S105 - a pattern
MOST_DAYS = 3650

DOORS = ("api", "chat", "a2a", "mcp")
"""What a token can be made for: the owner's HTTP API, Chat Completions, A2A, the Model Context Protocol."""

_MOST_SESSIONS = 64
_MOST_TOKENS = 256
_DAY_S = 86_400.0
_ID_BYTES = 6


class SessionStore(Protocol):
    """Where sessions and tokens are kept. Digests are SHA-256, times seconds since 1970 (UTC)."""

    def add_session(self, digest: bytes, at: float, hashed: str, most: int, oldest: float) -> bool: ...

    def session(self, digest: bytes) -> tuple[float, float] | None: ...

    def touch_session(self, digest: bytes, at: float) -> None: ...

    def end_session(self, digest: bytes) -> None: ...

    def add_token(
        self, identity: str, name: str, digest: bytes, at: float, expires: float | None, doors: tuple[str, ...] = ()
    ) -> bool: ...

    def tokens(self) -> list[dict[str, Any]]: ...

    def token(self, digest: bytes) -> dict[str, Any] | None: ...

    def touch_token(self, identity: str, at: float) -> None: ...

    def drop_token(self, identity: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Session:
    """A session: when it began, and when it ends if it is not used again (seconds since 1970, UTC)."""

    began: float
    ends: float


class Sessions:
    """Begins, finds and ends sessions."""

    def __init__(self, store: SessionStore, accounts: Accounts, now: Callable[[], float]) -> None:
        self._store = store
        self._accounts = accounts
        self._now = now

    async def begin(self, name: str, password: str) -> tuple[str, Session]:
        """A new session and its secret. Raises what `Accounts.check` raises."""
        while True:
            hashed = await self._accounts.check(name, password)
            secret, at = secrets.token_urlsafe(32), self._now()
            added = await asyncio.to_thread(
                self._store.add_session, digest(secret), at, hashed, _MOST_SESSIONS, at - LONGEST_S
            )
            if added:  # else the password was changed while it was checked: it is checked again
                return secret, Session(at, at + min(IDLE_S, LONGEST_S))

    async def find(self, secret: str, *, used: bool) -> Session | None:
        """The session of a secret, if it has not ended; `used` keeps it from ending as idle."""
        found = await asyncio.to_thread(self._store.session, digest(secret))
        now = self._now()
        if found is None or now >= found[0] + LONGEST_S or now >= found[1] + IDLE_S:
            return None
        began, last = found
        if used and now - last >= TOUCH_S:
            await asyncio.to_thread(self._store.touch_session, digest(secret), now)
            last = now
        return Session(began, min(began + LONGEST_S, last + IDLE_S))

    async def end(self, secret: str) -> None:
        await asyncio.to_thread(self._store.end_session, digest(secret))


class Tokens:
    """Makes, finds and revokes API tokens."""

    def __init__(self, store: SessionStore, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now

    async def make(self, name: str, days: float | None, doors: Sequence[str] = ()) -> dict[str, Any]:
        """A new token: `id`, `name`, `made`, `expires`, `used`, `doors`, and its `secret`, which is shown this once.

        `doors` are those that it opens (of `DOORS`); empty: all. Raises `BadInput` for a name, a time or a door that is
        not possible, and where there are too many.
        """
        _check_token(name, days, doors)
        return await asyncio.to_thread(self._make, name, days, tuple(door for door in DOORS if door in doors))

    def _make(self, name: str, days: float | None, doors: tuple[str, ...]) -> dict[str, Any]:
        if len(self._store.tokens()) >= _MOST_TOKENS:
            raise BadInput("tokens.full", f"there are {_MOST_TOKENS} tokens already", "loket token revoke NAME")
        identity, secret, now = secrets.token_hex(_ID_BYTES), PREFIX + secrets.token_urlsafe(32), self._now()
        expires = None if days is None else now + days * _DAY_S
        if not self._store.add_token(identity, name, digest(secret), now, expires, doors):
            raise BadInput("token.exists", f"there is a token {name!r} already", f"loket token revoke {name}")
        made = {"id": identity, "name": name, "made": now, "expires": expires, "used": None, "doors": list(doors)}
        return {**made, "secret": secret}

    async def all(self) -> list[dict[str, Any]]:
        """All tokens, oldest first; never their secrets."""
        return await asyncio.to_thread(self._store.tokens)

    async def find(self, secret: str, *, used: bool) -> dict[str, Any] | None:
        """The token of a secret, if it has not expired."""
        found = await asyncio.to_thread(self._store.token, digest(secret))
        now = self._now()
        if found is None or (found["expires"] is not None and now >= found["expires"]):
            return None
        if used and now - (found["used"] or 0.0) >= TOUCH_S:
            await asyncio.to_thread(self._store.touch_token, found["id"], now)
        return found

    async def revoke(self, identity: str) -> None:
        """Revoke a token by its id. Raises `BadInput` where there is none."""
        if not await asyncio.to_thread(self._store.drop_token, identity):
            raise BadInput("token.unknown", f"there is no token {identity!r}", "loket token list")


def _check_token(name: str, days: float | None, doors: Sequence[str]) -> None:
    unknown = [door for door in doors if door not in DOORS]
    if unknown:
        raise BadInput("token.doors", f"there is no door {unknown[0][:40]!r}", f"one of {', '.join(DOORS)}")
    if not re.fullmatch(TOKEN_NAME, name, re.ASCII):
        raise BadInput(
            "token.name",
            f"the name {name[:80]!r} is not made of 1 to 64 letters, digits, dots, hyphens and underscores",
            "loket token create editor",
        )
    if days is not None and not 0 < days <= MOST_DAYS:
        raise BadInput("token.days", f"a token may expire in up to {MOST_DAYS} days, not in {days:g}", "--expires 90")
