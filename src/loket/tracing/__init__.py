"""Tracing: spans that follow from the journal's public facts, shown locally and exported by OTLP where that is on."""

from loket.tracing.environment import Settings, settings_of
from loket.tracing.facts import Fact, public
from loket.tracing.identity import span_id, trace_id
from loket.tracing.links import Links, remote
from loket.tracing.span import Event, Layer, Span
from loket.tracing.spans import spans_of, starters
from loket.tracing.tracer import Tracer

__all__ = [
    "Event",
    "Fact",
    "Layer",
    "Links",
    "Settings",
    "Span",
    "Tracer",
    "public",
    "remote",
    "settings_of",
    "span_id",
    "spans_of",
    "starters",
    "trace_id",
]
