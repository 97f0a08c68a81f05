"""What tracing may know of a journal row: everything but its value.

Spans are made of these alone, so nothing that was said in a run can reach one, whatever spans come to hold.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from loket.contracts import Row, RowKind


class Fact(NamedTuple):
    """The public part of one row. `at` in seconds since 1970; `commitment` is the digest of the salted value, hex."""

    run: str
    ordinal: int
    kind: RowKind
    at: float
    facts: Mapping[str, Any]
    commitment: str


def public(rows: Iterable[Row]) -> Iterator[Fact]:
    """The public parts of rows, in their order; the same before and after their values are erased."""
    for row in rows:
        yield Fact(row.run, row.ordinal, row.kind, row.at, row.meta, row.commitment.hex())
