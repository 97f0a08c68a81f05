"""The tracer: spans of runs on demand, and their export in the background where that is on.

Nothing waits for it. A run that ends puts its id into a bounded queue, and a thread of its own reads the journal and
sends; what does not fit or cannot be sent is dropped and counted. The journal keeps it all the same.
"""

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from loket.contracts import Row
from loket.tracing.environment import settings_of
from loket.tracing.facts import Fact, public
from loket.tracing.links import Links
from loket.tracing.span import Span
from loket.tracing.spans import spans_of, starters

Rows: TypeAlias = Callable[[str], Iterable[Row]]
"""The journal rows of a run, in order."""

_CLOSE_S = 5.0
"""Seconds that a close gives to what is still to be sent."""


class Sink(Protocol):
    """Where spans go. `send` may wait and may fail; `close` ends its waiting."""

    def send(self, spans: Sequence[Span]) -> bool: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Counts:
    """What became of what was to be exported: spans that were taken, spans that were not, runs that found no room."""

    exported: int = 0
    failed: int = 0
    dropped: int = 0


class Tracer:
    """Traces of one home's runs. `rows` reads a run's rows, `notes` those of no run after a number.

    `environment` holds the standard variables; `connect` makes what sends, in the tracer's own thread. Everything may
    be called from any thread, and nothing raises an error of what sends.
    """

    def __init__(
        self,
        rows: Rows,
        notes: Callable[[int], Iterable[Row]],
        environment: Mapping[str, str] | None = None,
        connect: Callable[[Mapping[str, str]], Sink] | None = None,
    ) -> None:
        self._rows = rows
        self._links = Links(notes)
        self._looking = threading.Lock()
        self._environment = os.environ if environment is None else environment
        self._connect = connect or _otlp
        self.settings = settings_of(self._environment)
        self.counts = Counts()
        self.fault = self.settings.why_not
        """Why spans are not exported although they should be; empty where they are."""
        self._waiting: queue.Queue[str | None] = queue.Queue(self.settings.queue)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._sink: Sink | None = None
        self._closed = False

    def spans(self, run: str) -> list[Span]:
        """The spans of a run that is finished or not; none where there is no such run."""
        facts = list(public(self._rows(run)))
        starter = self._starter(facts)
        with self._looking:
            link = self._links.find(run) if starter is None else None
        return spans_of(facts, starter, link)

    def ended(self, run: str) -> None:
        """A run has ended, and its end is on the disk: export it, if that is on. Costs a comparison if it is off."""
        if not self.settings.on or self._closed:
            return
        try:
            self._waiting.put_nowait(run)
        except queue.Full:
            self.counts.dropped += 1
        if self._thread is None:
            self._start()

    def close(self) -> None:
        """Send what waits, for a few seconds at the most."""
        self._closed = True
        thread = self._thread
        if thread is None:
            return
        with contextlib.suppress(queue.Full):  # the thread looks whether it is closed as well
            self._waiting.put_nowait(None)
        thread.join(_CLOSE_S)
        if thread.is_alive() and self._sink is not None:
            self._sink.close()
            thread.join(1.0)

    def _starter(self, facts: Sequence[Fact]) -> str | None:
        """The span of the call that started a run."""
        first = facts[0].facts if facts else {}
        parent = first.get("parent")
        if parent is None:
            return None
        return starters(parent, public(self._rows(parent)), first["agent"]).get(facts[0].run)

    # The thread

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="loket-traces", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        try:
            self._sink = self._connect(self._environment)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, runs go on
            self.fault = f"the exporter cannot be used ({type(error).__name__}: {error})"
        open_ = True
        while open_:
            runs, open_ = self._next()
            spans = [span for run in runs for span in self._exportable(run)]
            for start in range(0, len(spans), self.settings.batch):
                self._send(spans[start : start + self.settings.batch])
        if self._sink is not None:
            self._sink.close()

    def _next(self) -> tuple[list[str], bool]:
        """Runs that have ended, gathered for a while; and whether there may be more."""
        runs: list[str] = []
        until = time.monotonic() + self.settings.delay_s
        while len(runs) < self.settings.batch:
            try:
                run = self._waiting.get(timeout=max(0.0, until - time.monotonic()) if not self._closed else 0.01)
            except queue.Empty:
                return runs, not self._closed
            if run is None:
                return runs, not self._waiting.empty()
            runs.append(run)
        return runs, True

    def _exportable(self, run: str) -> list[Span]:
        try:
            spans = self.spans(run)
        except Exception as error:  # noqa: BLE001 - a journal that cannot be read is told by others, and hinders no run
            self.counts.dropped += 1
            self.fault = f"run {run} cannot be read ({type(error).__name__})"
            return []
        return [span for span in spans if span.end is not None and self.settings.sampled(span.trace)]

    def _send(self, spans: Sequence[Span]) -> None:
        try:
            sent = self._sink is not None and self._sink.send(spans)
        except Exception as error:  # noqa: BLE001 - whatever the exporter does, runs go on
            self.fault, sent = f"{type(error).__name__}: {error}", False
        if sent:
            self.counts.exported += len(spans)
            self.fault = ""
        else:
            self.counts.failed += len(spans)
            self.fault = self.fault or "the receiver did not take the spans"


def _otlp(environment: Mapping[str, str]) -> Sink:
    from loket.tracing.otlp import Otlp

    return Otlp(environment)
