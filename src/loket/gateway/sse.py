"""Events of an operation for one reader: as server-sent events (WHATWG HTML, section 9.2), or as lines of JSON.

A reader that is slow costs a bounded amount of memory: pieces are dropped and counted, the end never is.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from loket.contracts import Failed, LoketError

HEARTBEAT_S = 15.0
"""Seconds between comments that keep a silent stream open, and between looks whether its reader may still read."""

MOST_BYTES = 1 << 20
"""Bytes of events that wait for one reader; the last one may be larger."""

_LASTING = frozenset({"accepted", "end", "result", "error"})
"""Events that are never dropped: each comes once."""

_LAST = frozenset({"end", "error"})
_RUNNING: set[asyncio.Task[None]] = set()
_HEARTBEAT = b": waiting\n\n"

Perform: TypeAlias = Callable[[str, dict[str, Any], Callable[[dict[str, Any]], None]], Awaitable[Any]]
"""Does an operation: name, arguments, and a taker of events."""

Event: TypeAlias = tuple[int, str, bytes]
"""Number (0 for what was made here), type, JSON."""


class Mailbox:
    """Events of one operation that wait for one reader."""

    def __init__(self, after: int = 0) -> None:
        self._events: deque[Event] = deque()
        self._size = 0
        self._dropped = 0
        self._number = after
        self._closed = False
        self._news = asyncio.Event()

    def put(self, event: dict[str, Any]) -> None:
        """Take an event; what does not fit is dropped, but for the events that come once."""
        self._number += 1
        if self._closed:
            return
        kind, data = str(event["type"]), json.dumps(event, ensure_ascii=False).encode("utf-8", "replace")
        if kind not in _LASTING and self._size + len(data) > MOST_BYTES:
            self._dropped += 1
            return
        if self._dropped:
            told = json.dumps({"type": "dropped", "count": self._dropped}).encode()
            self._events.append((0, "dropped", told))
            self._dropped = 0
        self._events.append((self._number, kind, data))
        self._size += len(data)
        self._news.set()

    def close(self) -> None:
        """Nothing more is taken; who waits gets None once all is read."""
        self._closed = True
        self._news.set()

    @property
    def over(self) -> bool:
        """Whether nothing more comes."""
        return self._closed and not self._events

    async def get(self) -> Event | None:
        """The next event; None at the end."""
        while not self._events:
            if self._closed:
                return None
            self._news.clear()
            await self._news.wait()
        event = self._events.popleft()
        self._size -= len(event[2]) if event[0] else 0
        return event

    async def within(self, wait_s: float) -> Event | None:
        """The next event, if one comes in time."""
        try:
            return await asyncio.wait_for(self.get(), max(wait_s, 0.01))
        except TimeoutError:
            return None


class Work:
    """An operation on its way, with its mailbox. `value` or `error` says how it came out."""

    def __init__(self, perform: Perform, name: str, args: dict[str, Any], after: int = 0) -> None:
        self.mailbox = Mailbox(after)
        self.error: LoketError | None = None
        self._task = asyncio.create_task(self._run(perform, name, args))
        _RUNNING.add(self._task)  # the loop itself holds tasks weakly, and the reader may leave
        self._task.add_done_callback(_RUNNING.discard)

    async def _run(self, perform: Perform, name: str, args: dict[str, Any]) -> None:
        try:
            value = await perform(name, args, self.mailbox.put)
            self.mailbox.put({"type": "result", "value": value})
        except LoketError as error:
            self._failed(error)
        except Exception as error:  # noqa: BLE001 - the reader hears of a fault too
            said = f"the server failed: {type(error).__name__}: {error}"
            self._failed(Failed("server.error", said, "look at its log"))
        finally:
            self.mailbox.close()

    def _failed(self, error: LoketError) -> None:
        self.error = error
        self.mailbox.put({"type": "error", **error.as_dict(), "run": error.run})

    def leave(self, *, stop: bool) -> None:
        """The reader has gone. `stop` ends an operation that only looks; all others go on to their end."""
        self.mailbox.close()
        if stop:
            self._task.cancel()


async def lines(work: Work) -> AsyncIterator[bytes]:
    """All events, a line of JSON each; the last one has the type `result` or `error`."""
    while (event := await work.mailbox.get()) is not None:
        yield event[2] + b"\n"


class EventStream(StreamingResponse):
    """The events of an operation until the run's end. `alive` says whether the reader may still read."""

    def __init__(self, work: Work, first: Event, alive: Callable[[], Awaitable[bool]], *, looks: bool) -> None:
        self._work = work
        self._looks = looks
        super().__init__(_stream(work.mailbox, first, alive), media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._work.leave(stop=self._looks)


async def _stream(mailbox: Mailbox, first: Event, alive: Callable[[], Awaitable[bool]]) -> AsyncIterator[bytes]:
    loop = asyncio.get_running_loop()
    event: Event | None = first
    looked = loop.time()
    while True:
        yield _HEARTBEAT if event is None else _written(event)
        if event is not None and event[1] in _LAST:
            return
        event = await mailbox.within(looked + HEARTBEAT_S - loop.time())
        if loop.time() - looked >= HEARTBEAT_S:
            if not await alive():
                return
            looked = loop.time()
        if event[1] == "result" if event is not None else mailbox.over:
            return


def _written(event: Event) -> bytes:
    number, kind, data = event
    name = f"id: {number}\n".encode() if number else b""
    return name + f"event: {kind}\n".encode() + b"data: " + data + b"\n\n"
