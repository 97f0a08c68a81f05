"""The facts of a run: who asks, what was decided, what is journaled."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

Json: TypeAlias = Any
"""A value that `json` reads and writes."""

Labels: TypeAlias = tuple[str, ...]
"""Where a value comes from: sorted unique words such as `owner`, `agent:main`, `capability:llm.complete`."""


def join_labels(first: Labels, *more: Labels) -> Labels:
    """The union of several labels, sorted."""
    known = set(first)
    for labels in more:
        if labels is not first and not known.issuperset(labels):
            return tuple(sorted(known.union(*more)))
    return first


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks: `kind` is `owner`, `agent`, `host` (Loket itself), `client` or `sender`."""

    kind: str
    id: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.id}" if self.id else self.kind

    @property
    def public(self) -> str:
        """What may stay when the run is erased: of a person, that it was one."""
        return str(self) if self.kind in ("owner", "agent", "host") else self.kind


WITHDRAW = "\x00withdraw"
"""A piece that takes back the pieces of the attempt so far: a provider emits it before it starts anew."""

OWNER = Principal("owner", "")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. Enforced; a run that reaches one ends."""

    memory_mb: int = 64
    """Linear memory of the instance, MiB."""
    cpu_ms: int = 2000
    """CPU time in the module between start (or resume) and the end of the segment, milliseconds."""
    calls: int = 200
    """Calls of a run, the clock, randomness and logs left out."""
    args_kb: int = 1024
    """Arguments of one call, KiB of JSON."""
    answer_kb: int = 1024
    """The module's own answer, KiB of JSON."""
    log_kb: int = 64
    """Text logged in a run, KiB; what is over is dropped and counted."""
    tokens: int = 200_000
    """Model tokens of a run, in and out."""
    money: float = 1.0
    """Money of a run, in US dollars."""
    depth: int = 8
    """Runs that asked for each other, this one included."""


@dataclass(frozen=True, slots=True)
class Token:
    """An execution token: proves that the gateway started this run, and what it may do.

    `data` is what was signed, in the format of whoever minted it; `expires` in seconds since 1970.
    """

    run: str
    principal: str
    expires: float
    data: bytes


class RunStatus(StrEnum):
    """Where a run is. `ACCEPTED`, `RUNNING` and `WAITING` are unfinished; the others are final."""

    ACCEPTED = "accepted"
    RUNNING = "running"
    WAITING = "waiting"
    ASKING = "asking"
    """Waits for the owner (an approval, or an effect that may or may not have happened)."""
    DONE = "done"
    FAILED = "failed"
    REFUSED = "refused"
    LIMIT = "limit"
    """A limit ended it."""
    STOPPED = "stopped"
    """The owner ended it."""

    @property
    def final(self) -> bool:
        return self in (RunStatus.DONE, RunStatus.FAILED, RunStatus.REFUSED, RunStatus.LIMIT, RunStatus.STOPPED)


@dataclass(frozen=True, slots=True)
class ModuleRef:
    """One exact module: whose, which, and the digest of its bytes (`sha256` of the .wasm, hex)."""

    publisher: str
    id: str
    version: str
    digest: str
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What starts a run. `root` is the id of the run in which the owner's words came in (itself for a first run)."""

    id: str
    root: str
    agent: str
    principal: Principal
    module: ModuleRef | None
    """None for a call that the owner makes directly."""
    conversation: str
    operation: str
    args: Mapping[str, Json]
    labels: Labels
    accepted: float
    parent: str | None = None
    depth: int = 1
    words: str = ""
    """What the owner typed in the root's request; empty where it came from somebody or something else."""
    rights: Mapping[str, Mapping[str, Json]] | None = None
    """Capabilities and their constraints that the run may use at most; None: whatever is granted."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One call as the journal has it.

    `args` is canonical JSON as the module sent it, `answer` likewise; `error` as in `LoketError.as_dict`; neither of
    them for an intent whose outcome is not known. `labels` are the answer's own.
    """

    ordinal: int
    capability: str
    args: str
    answer: str | None
    error: Mapping[str, Any] | None
    sides: Mapping[str, Any] | None
    labels: Labels
    attempt: int = 1
    held: int = 0
    """Tokens that were reserved for it."""
    usage: Mapping[str, Any] | None = None
    by_reference: bool = False
    """Whether the module got a reference to the answer instead of the answer."""

    @property
    def open(self) -> bool:
        return self.answer is None and self.error is None


class Verdict(StrEnum):
    """What the policy says."""

    ALLOW = "allow"
    ASK = "ask"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision of the policy with the ids of the rules that made it and the digest of the policy's text."""

    verdict: Verdict
    rules: tuple[str, ...]
    reason: str
    policy: str
    obligations: tuple[str, ...] = ()
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """An owner's decision that a module may use a capability. `constraints` narrow it."""

    publisher: str
    module: str
    capability: str
    constraints: Mapping[str, Json]
    granted_by: str
    granted: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """What a provider gets. `ordinal` numbers the calls of a run from 1; (run, ordinal) names an effect for good.

    `emit` hands a provisional piece of the answer to whoever watches the run; it may be called from any thread.
    """

    run: str
    ordinal: int
    agent: str
    conversation: str
    principal: Principal
    capability: str
    args: Mapping[str, Json]
    labels: Labels
    """`exposed`: all that the run has seen so far."""
    constraints: Mapping[str, Json] = field(default_factory=dict)
    attempt: int = 1
    deadline_s: float = 10.0
    derived: Mapping[str, Labels] = field(default_factory=dict)
    """Where each argument's value was derived from, as in `Facts.labels`."""
    obligations: tuple[str, ...] = ()
    """What the decision obliges to, for a provider that carries one out itself."""
    emit: Callable[[str], None] = lambda _piece: None

    def labels_of(self, *arguments: str) -> Labels:
        """The labels of arguments together (of all, if none is named); `items.0` is the first of `items`.

        What nothing is known about carries all that the run has seen.
        """
        return join_labels((), *(self._labels_of(name) for name in arguments or self.args))

    def _labels_of(self, name: str) -> Labels:
        found = self.derived.get(name)
        return found if found is not None else self.derived.get(name.partition(".")[0], self.labels)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call cost."""

    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0
    """US dollars."""
    counted: bool = False
    """Whether another run has counted it on the day already: an agent that was asked."""
    model: str = ""
    """The model that answered, where one did."""

    @property
    def tokens(self) -> int:
        return self.tokens_in + self.tokens_out


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider returns: a JSON object, where it comes from beyond the capability itself, and what it cost."""

    value: Mapping[str, Json]
    labels: Labels = ()
    usage: Usage = Usage()


class RowKind(StrEnum):
    """Kinds of journal rows."""

    START = "start"
    CALL = "call"
    """A read, or a refusal: one row."""
    INTENT = "intent"
    OUTCOME = "outcome"
    END = "end"
    NOTE = "note"
    """A decision of the owner outside any run (a grant, an install)."""


@dataclass(frozen=True, slots=True)
class Row:
    """One journal row. `facts` is its public structure (canonical JSON), `value` what was said (canonical JSON, UTF-8).

    `commitment` is SHA-256(salt + value); `hash` is SHA-256(previous row's hash + JSON of [seq, run, ordinal, kind, at,
    facts] + commitment). So a value can be erased one day and the chain still verifies.
    """

    seq: int
    run: str
    ordinal: int
    kind: RowKind
    at: float
    facts: str
    value: bytes
    salt: bytes
    commitment: bytes
    hash: bytes
    erased: bool = False
    """Whether the value is gone: its key was destroyed. `value` and `salt` are empty then."""

    @property
    def meta(self) -> dict[str, Json]:
        """The facts, decoded."""
        decoded: dict[str, Json] = json.loads(self.facts)
        return decoded
