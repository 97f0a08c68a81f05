"""What the kernel holds of a run while it is unfinished, and what it can be rebuilt from.

A run is its journal: everything here is either in the journal's rows or follows from running the module again on them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from loket.contracts import (
    Asked,
    Call,
    Capability,
    Damaged,
    Decision,
    Facts,
    Handler,
    Labels,
    LoketError,
    Recorded,
    Row,
    RowKind,
    RunRequest,
    RunStatus,
    Statement,
    Token,
    join_labels,
)
from loket.kernel import refs
from loket.kernel.quotas import Spent
from loket.kernel.registry import Check
from loket.kernel.text import canonical


@dataclass(slots=True)
class Sides:
    """The clock, randomness and log calls since the last row: they travel on the next one.

    `digest` runs over each of them in order, so that a replay proves that the same ones were made.
    """

    n: int = 0
    clock: float | None = None
    logs: list[list[str]] = field(default_factory=list)
    dropped: int = 0
    """Bytes of logs over the limit."""
    hasher: Any = field(default_factory=hashlib.sha256)

    def note(self, capability: str, args: str) -> None:
        self.n += 1
        self.hasher.update(f"{capability} {args}\n".encode())

    def record(self) -> dict[str, Any] | None:
        """What the next row carries; None where there was nothing."""
        if self.n == 0:
            return None
        record: dict[str, Any] = {"n": self.n, "digest": self.hasher.hexdigest()}
        if self.clock is not None:
            record["clock"] = self.clock
        if self.logs:
            record["logs"] = self.logs
        if self.dropped:
            record["dropped"] = self.dropped
        return record

    def matches(self, record: Mapping[str, Any] | None) -> bool:
        if record is None:
            return self.n == 0
        return (self.n, self.hasher.hexdigest()) == (record["n"], record["digest"])


@dataclass(slots=True)
class Pending:
    """A call that waits: steps 1 to 6 are done, 7 to 9 are to come.

    `handler` is None where the owner has to say whether an effect happened.
    """

    call: Call
    text: str
    """The arguments as canonical JSON."""
    capability: Capability
    decision: Decision
    held: int
    """Tokens that are reserved for it."""
    facts: Facts
    handler: Handler | None
    check_answer: Check
    started: float
    by_reference: bool = False


@dataclass(slots=True)
class RunState:
    """One unfinished (or replayed) run. Used by one thread at a time: its segment's or the event loop's."""

    request: RunRequest
    args: str
    """The request's arguments as canonical JSON."""
    token: Token
    seed: bytes
    exposed: Labels
    status: RunStatus = RunStatus.ACCEPTED
    spent: Spent = field(default_factory=Spent)
    history: list[Recorded] = field(default_factory=list)
    open: Recorded | None = None
    """An intent without an outcome, found after a crash."""
    end: "Recorded | None" = None
    """The end row, in a replay only."""
    replay_only: bool = False
    pending: Pending | None = None
    asking: Asked | None = None
    """What the owner has to approve before the run goes on."""
    lease: tuple[Statement, ...] = ()
    """Marks the approval of the call that is being made as used; it is written with the call's first row."""
    asking_until: float = 0.0
    """When that is refused, in seconds since 1970."""
    finishing: "Future[None] | None" = None
    """The pending call's performance, where it was begun while the instance was still there."""
    stopped: LoketError | None = None
    emit: Callable[[str, dict[str, Any]], None] = lambda _kind, _event: None
    sides: Sides = field(default_factory=Sides)
    position: int = 0
    randoms: int = 0
    logged: int = 0
    facts: Facts | None = None
    """What is known of the call that is being made, and the digest of the policy that decides on it."""
    policy: str = ""
    settled: str | None = None
    """The owner's word about an uncertain effect: `happened` or `not`."""
    memo: dict[str, Any] = field(default_factory=dict)
    """Kept for those who establish the facts of calls (see `RunView`)."""

    @property
    def live(self) -> bool:
        """Whether the next call goes to the counter rather than to the journal."""
        return self.position >= len(self.history) and not self.replay_only

    @property
    def next_ordinal(self) -> int:
        return self.position + 1

    def rewind(self) -> None:
        """Back to the start, for another segment."""
        self.position = self.randoms = self.logged = 0
        self.sides = Sides()

    def recorded_sides(self) -> Mapping[str, Any] | None:
        """The sides that the journal has for the calls since the last row, if it has any."""
        if self.position < len(self.history):
            return self.history[self.position].sides
        following = self.open or self.end
        return following.sides if following is not None else None

    def remember(self, recorded: Recorded) -> None:
        """A call was answered and is on its row: go on behind it."""
        self.history.append(recorded)
        self.see(recorded)
        self.open = self.settled = None
        self.pass_by()

    def see(self, recorded: Recorded) -> None:
        """The module got an answer, or only a reference to one."""
        if not recorded.by_reference:
            self.exposed = join_labels(self.exposed, recorded.labels)

    def pass_by(self) -> None:
        """The next call of the history was made again: its sides are done with."""
        self.position += 1
        self.sides = Sides()


def recorded_from(rows: Iterable[Row]) -> tuple[list[Recorded], Recorded | None, Recorded | None]:
    """The history, an open intent and the end of a run, from its rows in order. Raises `Damaged`."""
    history: list[Recorded] = []
    opened: Recorded | None = None
    ending: Recorded | None = None
    for row in rows:
        if row.kind is RowKind.START:
            continue
        value = json.loads(row.value)
        if row.kind is RowKind.END:
            ending = _recorded(row, value, None)
        elif row.kind is RowKind.INTENT:
            opened = _recorded(row, value, None)
        elif row.kind is RowKind.OUTCOME:
            if opened is None or opened.ordinal != row.ordinal:
                raise Damaged("journal.order", f"row {row.seq} is an outcome without its intent", "restore a backup")
            history.append(_recorded(row, value, opened))
            opened = None
        else:
            if opened is not None and opened.ordinal == row.ordinal:
                opened = None  # it was interrupted, and refused when it was tried again
            history.append(_recorded(row, value, None))
    return history, opened, ending


def _recorded(row: Row, value: Mapping[str, Any], intent: Recorded | None) -> Recorded:
    answer, meta = canonical(value["answer"]) if "answer" in value else None, row.meta
    args = intent.args if intent else canonical(value.get("args", {}))
    return Recorded(
        ordinal=row.ordinal,
        capability=intent.capability if intent else str(value.get("capability", meta.get("capability", ""))),
        args=args,
        answer=answer,
        error=value.get("error"),
        sides=intent.sides if intent else value.get("sides"),
        labels=tuple(value.get("labels", meta.get("labels", ()))),
        attempt=int(meta.get("attempt", 1)),
        held=int(meta.get("held", 0)),
        usage=meta.get("usage"),
        by_reference=answer is not None and refs.AS in args and refs.AS in json.loads(args),
    )
