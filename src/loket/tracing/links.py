"""Links to traces of whoever sent a message: the journal has them as notes, which name runs and quote nobody."""

import re
from collections import OrderedDict
from collections.abc import Callable, Iterable

from loket.contracts import BadInput, Row, RowKind

LINKED = "trace.link"
"""What the note of a link says that it is; its facts `run` and `traceparent` are the link."""

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")
"""W3C Trace Context, level 1, section 3.2: version, trace-id, parent-id, trace-flags."""
_MOST = 10_000
"""Links that are kept in memory, the newest."""


def remote(traceparent: str) -> tuple[str, str] | None:
    """The ids of trace and span that a `traceparent` header names; None for one that names none.

    Another version than 00 is read by its first four fields, as section 4 of the recommendation has it.
    """
    known = traceparent.strip()
    if not known.startswith("00-") and known[:2] != "ff":
        known = "00" + "-".join(known.split("-")[:4])[2:]
    found = _TRACEPARENT.fullmatch(known)
    if found is None or not int(found[1], 16) or not int(found[2], 16):
        return None
    return found[1], found[2]


def link_facts(run: str, traceparent: str) -> dict[str, str]:
    """The facts of a link's note. Raises `BadInput` where the header names no trace."""
    ids = remote(traceparent)
    if ids is None:
        raise BadInput(
            "trace.traceparent",
            f"the traceparent {traceparent[:80]!r} names no trace",
            "send 00-TRACE-SPAN-01 with 32 and 16 hexadecimal digits, as W3C Trace Context has it",
        )
    return {"what": LINKED, "principal": "client", "run": run, "traceparent": f"00-{ids[0]}-{ids[1]}-01"}


class Links:
    """The newest links by run. `notes` gives the journal's rows of no run after a number, in order."""

    def __init__(self, notes: Callable[[int], Iterable[Row]]) -> None:
        self._notes = notes
        self._seq = 0
        self._known: OrderedDict[str, tuple[str, str]] = OrderedDict()

    def find(self, run: str) -> tuple[str, str] | None:
        """The trace and span that a run is linked to. Used by one thread at a time."""
        for row in self._notes(self._seq):
            self._seq = row.seq
            if row.kind is RowKind.NOTE and row.meta.get("what") == LINKED:
                self._take(row)
        return self._known.get(run)

    def _take(self, row: Row) -> None:
        ids = remote(str(row.meta["traceparent"]))
        if ids is not None:
            self._known[str(row.meta["run"])] = ids
        if len(self._known) > _MOST:
            self._known.popitem(last=False)
