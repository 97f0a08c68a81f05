"""A process with channels on a home: `channel_driver.py HOME POINT`. At the point it kills itself with SIGKILL.

Points, in the order in which a message passes them: `translated` (nothing is written of it), `received` (it is in the
ledger), `accepted` (it is a run, and the ledger does not say so yet), `followed` (the ledger says so), `answered` (the
answer is queued), `sent` (it has arrived, and the ledger does not say so yet). `none` is no point.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import loket.store.channels
import loket.stores
from channel_kit import talking
from loket.home import Home
from loket.store.channels import DELIVERED, ChannelStore


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Deadly(ChannelStore):
    """The ledger, in a process that dies before or after one of its steps."""

    point = "none"

    def take(self, name: str, messages: Any, state: Any, now: float) -> int:
        if messages and self.point == "translated":
            die()
        new = super().take(name, messages, state, now)
        if messages and self.point == "received":
            die()
        return new

    def accepted(self, identity: int, run: str) -> None:
        if self.point == "accepted":
            die()
        super().accepted(identity, run)
        if self.point == "followed":
            die()

    def ended(self, identity: int, state: str, now: float, answers: Any = (), reason: str = "") -> None:
        super().ended(identity, state, now, answers, reason)
        if self.point == "answered":
            die()

    def finish(self, identity: int, state: str, now: float, reason: str = "") -> None:
        if self.point == "sent" and state == DELIVERED:
            die()
        super().finish(identity, state, now, reason)


async def main(home: Path, point: str) -> None:
    Deadly.point = point
    for module in (loket.stores, loket.store.channels):
        if hasattr(module, "ChannelStore"):
            module.ChannelStore = Deadly  # type: ignore[misc]
    async with talking(Home(home)):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
