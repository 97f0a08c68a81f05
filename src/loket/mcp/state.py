"""How tools and servers stand."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from loket.contracts import Failed, LoketError, command
from loket.store.mcp import KeptTool


class State(StrEnum):
    """How a tool stands."""

    NEW = "new"
    """The owner has not decided."""
    APPROVED = "approved"
    CHANGED = "changed"
    """Quarantined: it says something else than what the owner approved, or its server is started otherwise."""
    REFUSED = "refused"
    GONE = "gone"
    """Its server does not list it any more."""
    UNUSABLE = "unusable"
    """Its schemas are none, or its name cannot be one."""


def state_of(tool: KeptTool, config: str, *, unusable: bool) -> State:
    """How a tool stands, where `config` is the digest of its server's configuration now."""
    if tool.gone:
        return State.GONE
    if tool.approved_digest is not None:
        same = tool.approved_digest == tool.digest and tool.approved_config == config
        return State.CHANGED if not same else State.UNUSABLE if unusable else State.APPROVED
    return State.REFUSED if tool.refused == tool.digest else State.NEW


@dataclass(slots=True)
class Health:
    """How a server's connection is, and was."""

    connected: bool = False
    protocol: str = ""
    server: str = ""
    since: float | None = None
    calls: int = 0
    failures: int = 0
    """Of connecting, one after the other."""
    error: LoketError | None = None
    until: float = field(default=0.0)
    """Of the monotonic clock: before it nothing is tried again."""

    def must_wait(self, name: str) -> None:
        """Raise `Failed` (`mcp.waiting`) while it is too early to try again."""
        left = self.until - time.monotonic()
        if left > 0 and self.error is not None:
            raise Failed(
                "mcp.waiting",
                f"the server {name} is tried again in {left:.0f} s: {self.error.message}",
                command("mcp", "test", name),
            )

    def failed(self, error: LoketError, waits: Sequence[float]) -> None:
        """Count a failure of connecting."""
        self.error = error
        self.until = time.monotonic() + waits[min(self.failures, len(waits) - 1)]
        self.failures += 1

    def opened(self, protocol: str, server: str, at: float) -> None:
        """Count a connection."""
        self.protocol, self.server, self.since = protocol, server, at
        self.failures, self.error, self.until = 0, None, 0.0
