"""What those outside a run see of it while it goes on: its events, each told to all who watch.

Nothing is kept of them: whoever comes late reads the journal.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from typing import Any


class Watching:
    """Hands events on from the engine to whoever watches a run. `unfinished` gives the ids of unfinished runs."""

    def __init__(self, unfinished: Callable[[], Collection[str]]) -> None:
        self._unfinished = unfinished
        self._queues: dict[str, list[asyncio.Queue[dict[str, Any]]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def tell(self, run: str, kind: str, event: dict[str, Any]) -> None:
        """From any thread: an event of a run, for those who watch it. It costs next to nothing where nobody does."""
        if run in self._queues and self._loop is not None:
            self._loop.call_soon_threadsafe(self._put, run, {"type": kind, **event})

    def _put(self, run: str, event: dict[str, Any]) -> None:
        for queue in self._queues.get(run, ()):
            queue.put_nowait(event)

    async def watch(self, run: str) -> AsyncIterator[dict[str, Any]]:
        """Events of an unfinished run from now on; the last one has the type `end`. None of a run that has ended."""
        if run not in self._unfinished():
            return
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._queues.setdefault(run, []).append(queue)
        try:
            while True:
                event = await queue.get()
                yield event
                if event["type"] == "end":
                    return
        finally:
            self._queues[run].remove(queue)
            if not self._queues[run]:
                del self._queues[run]
