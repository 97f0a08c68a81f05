"""Ids of traces and spans: digests of a run's id and of a call's number, so the same call has the same ids for good.

A restart, a replay and another machine with the same journal all give the same ids; nothing has to be kept.
"""

import hashlib

_TRACE_BYTES, _SPAN_BYTES = 16, 8
"""As W3C Trace Context, level 1, sections 3.2.2.3 and 3.2.2.4, has them."""


def trace_id(root: str) -> str:
    """The trace of all runs that came of a run: the first 16 bytes of SHA-256 over `trace/ROOT`, hex."""
    return _digest(f"trace/{root}", _TRACE_BYTES)


def span_id(run: str, ordinal: int = 0, layer: str = "run") -> str:
    """The span of one layer of a call (0: of the run itself): the first 8 bytes of SHA-256 over all three, hex."""
    return _digest(f"span/{run}/{ordinal}/{layer}", _SPAN_BYTES)


def _digest(text: str, size: int) -> str:
    found = hashlib.sha256(text.encode()).digest()[:size]
    return (found if any(found) else found[:-1] + b"\x01").hex()  # all zeros mean that there is no id
