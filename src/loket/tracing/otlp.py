"""Spans for the official exporter: the only file that imports OpenTelemetry, and only where export is on."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event as SdkEvent
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from loket import __version__
from loket.tracing.span import Layer, Span

_KINDS = {Layer.GATEWAY: SpanKind.SERVER, Layer.MODEL: SpanKind.CLIENT}
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("loket", __version__)


class Otlp:
    """Sends spans by OTLP over HTTP. What it sends, and where to, the environment's standard variables say."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        _quiet()
        self._exporter = OTLPSpanExporter()
        named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own: dict[str, Any] = {"service.version": __version__} | ({} if named else {"service.name": "loket"})
        self._resource = Resource.create(own)

    def send(self, spans: Sequence[Span]) -> bool:
        """Send spans that have ended; whether they were taken. It waits, and tries again, within its time limit."""
        return self._exporter.export([self._sdk(span) for span in spans]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """Stop trying, from any thread."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _sdk(self, span: Span) -> ReadableSpan:
        status = Status(StatusCode.ERROR, span.error) if span.error else Status()
        return ReadableSpan(
            name=span.name,
            context=_context(span.trace, span.id),
            parent=_context(span.trace, span.parent) if span.parent is not None else None,
            resource=self._resource,
            attributes=dict(span.attributes),
            events=[SdkEvent(event.name, dict(event.attributes), _nanoseconds(event.at)) for event in span.events],
            links=[Link(_context(*ids, is_remote=True)) for ids in span.links],
            kind=_KINDS.get(span.layer, SpanKind.INTERNAL),
            instrumentation_scope=_SCOPE,
            status=status,
            start_time=_nanoseconds(span.start),
            end_time=_nanoseconds(span.end if span.end is not None else span.start),
        )


def _context(trace: str, span: str, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(int(trace, 16), int(span, 16), is_remote=is_remote, trace_flags=_SAMPLED)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000  # a double has no more than microseconds of the present


def _quiet() -> None:
    """Its warnings would stand between a command's own lines; what failed is counted and told by the tracer."""
    logger = logging.getLogger("opentelemetry.exporter")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
