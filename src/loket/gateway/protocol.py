"""HTTP/1.1 with deadlines: uvicorn times out what is idle between two requests, and nothing else.

Whoever opens a connection and says nothing, or half of a request, or reads no answer, would hold it for ever.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from loket.contracts import BadInput, Failed, LoketError
from loket.gateway.checks import SECURITY_HEADERS
from loket.gateway.errors import body, status_of

HEAD_S = 10.0
"""Seconds from a connection, or from the first byte of a later request, to the end of the request's headers."""

BODY_S = 30.0
"""Seconds from there to the end of its body."""

STALLED_S = 120.0
"""Seconds in which a reader has to take something, once the connection's buffers are full."""

MOST_CONNECTIONS = 512
"""Connections at a time; one more is answered with 503 and closed."""

_PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}


class TimedProtocol(H11Protocol):
    """One connection. A request has to come in within its time, and an answer has to be read."""

    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _in_head = False
    """Whether the deadline that runs is that of the head."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= MOST_CONNECTIONS:
            self.transport = transport
            self._say(
                Failed("gateway.connections", "too many connections are open", "close some", blame="owner"),
            )
            return
        super().connection_made(transport)
        self._watch(head=True)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._look()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._look()

    def _look(self) -> None:
        """Set the deadline by what is still to come of the request."""
        if self.transport.is_closing():
            self._stop_watching()
        elif self.conn.their_state is h11.SEND_BODY:
            self._watch(head=False)
        elif self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
            self._watch(head=True)
        else:
            self._stop_watching()

    def _watch(self, *, head: bool) -> None:
        """Begin this deadline, if it is not the one that runs: more bytes give no more time."""
        if self._deadline is not None and self._in_head == head:
            return
        self._stop_watching()
        self._in_head = head
        self._deadline = self.loop.call_later(HEAD_S if head else BODY_S, self._late)

    def _stop_watching(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._say(BadInput("gateway.timeout", "the request did not come in time", "send it whole, at once"))

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP, or has a head that is too long."""
        self._say(BadInput("gateway.http", msg, "send HTTP/1.1 with at most 16 KiB of headers"))

    def _say(self, error: LoketError) -> None:
        """Answer before the application does, unless it has begun to, and close."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(_raw(error))
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_S, self.transport.abort)

    def resume_writing(self) -> None:
        self._stop_stalled()
        super().resume_writing()

    def _stop_stalled(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_watching()
        self._stop_stalled()
        super().connection_lost(exc)


def _raw(error: LoketError) -> bytes:
    """A whole answer in bytes."""
    status, said = status_of(error), body(error)
    lines: list[Any] = [
        f"HTTP/1.1 {status} {_PHRASES[status]}".encode(),
        b"content-type: application/json",
        b"connection: close",
        f"content-length: {len(said)}".encode(),
        *(name + b": " + value for name, value in SECURITY_HEADERS.items()),
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n" + said
