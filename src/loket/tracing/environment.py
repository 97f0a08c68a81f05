"""Whether spans are exported, from OpenTelemetry's standard environment variables.

Off unless one of them asks for it. Endpoint, headers, time limit, compression and certificates are read by the
official exporter itself. Source: OpenTelemetry specification, "Environment Variable Specification" and "OTLP Exporter
Configuration".
"""

from collections.abc import Mapping
from dataclasses import dataclass

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL = "http/protobuf"
_RATIOS = {"always_on": 1.0, "always_off": 0.0, "traceidratio": None}
_TRACE_BITS = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """How spans are exported. `on`: at all; `why_not` says why it is off although something asks for it.

    `ratio` is the share of traces, 0 to 1. `delay_s` is the longest wait for a batch of `batch` spans to fill, `queue`
    how many runs may wait.
    """

    on: bool = False
    why_not: str = ""
    ratio: float = 1.0
    queue: int = 2048
    batch: int = 512
    delay_s: float = 5.0

    def sampled(self, trace: str) -> bool:
        """Whether a trace is among those exported: by its id, as `TraceIdRatioBased` of the specification decides."""
        return int(trace, 16) % (1 << _TRACE_BITS) < round(self.ratio * (1 << _TRACE_BITS))


def settings_of(environment: Mapping[str, str]) -> Settings:
    """Settings from an environment; a variable that is empty counts as not set, as the specification wants."""
    said = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_") and value.strip()}
    exporters = [name.strip().lower() for name in said.get("OTEL_TRACES_EXPORTER", "").split(",") if name.strip()]
    wanted = "otlp" in exporters or (not exporters and any(name in said for name in _ENDPOINTS))
    if said.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (wanted or exporters) or exporters == ["none"]:
        return Settings()
    if not wanted:
        return Settings(why_not=f"OTEL_TRACES_EXPORTER is {','.join(exporters)}, and Loket exports by otlp alone")
    protocol = next((said[name] for name in _PROTOCOLS if name in said), _PROTOCOL)
    if protocol != _PROTOCOL:
        return Settings(why_not=f"the protocol {protocol} is set, and Loket speaks {_PROTOCOL} alone")
    ratio = _ratio(said)
    if ratio is None:
        return Settings(why_not="OTEL_TRACES_SAMPLER or OTEL_TRACES_SAMPLER_ARG cannot be read")
    default = Settings()
    return Settings(
        on=True,
        ratio=ratio,
        queue=_number(said, "OTEL_BSP_MAX_QUEUE_SIZE", default.queue),
        batch=_number(said, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default.batch),
        delay_s=_number(said, "OTEL_BSP_SCHEDULE_DELAY", int(default.delay_s * 1000)) / 1000,
    )


def _ratio(said: Mapping[str, str]) -> float | None:
    """The share of traces that the sampler takes; None where it cannot be read."""
    name = said.get("OTEL_TRACES_SAMPLER", "always_on").lower().removeprefix("parentbased_")
    if name not in _RATIOS:
        return None
    fixed = _RATIOS[name]
    if fixed is not None:
        return fixed
    try:
        share = float(said.get("OTEL_TRACES_SAMPLER_ARG", "1"))
    except ValueError:
        return None
    return share if 0 <= share <= 1 else None


def _number(said: Mapping[str, str], name: str, default: int) -> int:
    """A positive whole number; the default for anything else, as the specification wants."""
    text = said.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and int(text) else default
