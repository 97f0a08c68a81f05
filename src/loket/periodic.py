"""Work that is done again and again beside the rest, for as long as a server runs."""

import asyncio
from collections.abc import Callable

from loket.contracts import LoketError


async def periodically(work: Callable[[], object], name: str, every_s: float, failed: Callable[[str], None]) -> None:
    """Do a work on a thread now and every so many seconds, until cancelled.

    An error of ours ends one turn: `failed` is told of it, after the work's name.
    """
    while True:
        try:
            await asyncio.to_thread(work)
        except LoketError as error:
            failed(f"{name}: {error.message}")
        await asyncio.sleep(every_s)
