"""Execution tokens: proof that the gateway started a run. A keyed hash over run, principal and expiry.

In the kernel because step 1 of every call rests on it. The key lives only in this process: a token does not survive a
restart, a resumed run gets a new one.
"""

import hmac
import os
from collections.abc import Callable, Mapping

from loket.contracts import Json, Refusal, RunRequest, Token


class HmacTokens:
    """Mints and checks tokens; `now` in seconds since the epoch."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._key = os.urandom(32)
        self._revoked: set[str] = set()
        self._rights: dict[str, Mapping[str, Mapping[str, Json]] | None] = {}
        self._known: dict[str, Token] = {}
        """Tokens (they are frozen) whose MAC was found right once."""

    def _mac(self, run: str, principal: str, expires: float) -> bytes:
        return hmac.digest(self._key, f"{run}\n{principal}\n{expires!r}".encode(), "sha256")

    def mint(self, request: RunRequest, lifetime_s: float) -> Token:
        expires, who = self._now() + lifetime_s, str(request.principal)
        self._rights[request.id] = request.rights
        return Token(request.id, who, expires, self._mac(request.id, who, expires))

    def check(self, token: Token) -> None:
        """Raises `Refusal`: forged, expired or revoked."""
        if self._known.get(token.run) is not token:
            if not hmac.compare_digest(token.mac, self._mac(token.run, token.principal, token.expires)):
                raise Refusal("token.forged", "the run's execution token is not one of ours", "start the run again")
            self._known[token.run] = token
        if token.run in self._revoked:
            raise Refusal("token.revoked", "the run was stopped", "start a new run")
        if self._now() >= token.expires:
            raise Refusal("token.expired", "the run's execution token has expired", "start a new run")

    def rights(self, token: Token) -> Mapping[str, Mapping[str, Json]] | None:
        return self._rights.get(token.run)

    def revoke(self, run: str) -> None:
        self._revoked.add(run)

    def forget(self, run: str) -> None:
        """The run has ended: its token is worth nothing any more."""
        self._known.pop(run, None)
        self._rights.pop(run, None)
        self._revoked.discard(run)
