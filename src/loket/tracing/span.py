"""A span: what was done between two moments, in the terms of OpenTelemetry and without importing it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Attribute: TypeAlias = str | int | float | bool | tuple[str, ...]


class Layer(StrEnum):
    """Which part of Loket a span stands for; the attribute `loket.layer`."""

    GATEWAY = "gateway"
    RUN = "run"
    ORCHESTRATOR = "orchestrator"
    COUNTER = "counter"
    PROVIDER = "provider"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Event:
    """What happened at one moment (seconds since 1970) of a span."""

    name: str
    at: float
    attributes: Mapping[str, Attribute]


@dataclass(frozen=True, slots=True)
class Span:
    """One span of a trace; ids in hex, times in seconds since 1970.

    `end` is None while it goes on. `error` is a code such as `grant.missing`; empty where nothing went wrong. `links`
    are pairs of a trace's and a span's id outside of Loket.
    """

    trace: str
    id: str
    parent: str | None
    run: str
    layer: Layer
    name: str
    start: float
    end: float | None
    attributes: Mapping[str, Attribute]
    events: tuple[Event, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    error: str = field(default="")

    def as_dict(self) -> dict[str, Any]:
        """The span as a JSON object; what is empty is left out."""
        shown: dict[str, Any] = {
            "trace": self.trace,
            "id": self.id,
            "parent": self.parent,
            "run": self.run,
            "layer": self.layer.value,
            "name": self.name,
            "start": self.start,
            "end": self.end,
            "attributes": {name: _json(value) for name, value in self.attributes.items()},
            "error": self.error,
            "links": [{"trace": trace, "span": span} for trace, span in self.links],
            "events": [
                {"name": event.name, "at": event.at, "attributes": {n: _json(v) for n, v in event.attributes.items()}}
                for event in self.events
            ],
        }
        return {name: value for name, value in shown.items() if value not in (None, "", [])}


def _json(value: Attribute) -> Any:
    return list(value) if isinstance(value, tuple) else value
