"""What is established about a call before the policy decides: labels, where critical values come from, approvals."""

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

from loket.contracts.capability import Capability
from loket.contracts.run import Decision, Json, Labels, Principal, Recorded, RunRequest, Usage


class Origin(StrEnum):
    """Where the value of a critical argument comes from, best first. All but the last are within what was asked for."""

    NAMED = "named"
    """The owner's own words say it."""
    TRUSTED = "trusted"
    """The owner granted or approved it, or it is the owner's own."""
    SELECTED = "selected"
    """A service-minted field of a record that the owner's words single out, found by a clean read."""
    BOUNDED = "bounded"
    """Its type leaves no harmful choice: absent, a boolean, one of a few words, a number in a declared range."""
    UNTRUSTED = "untrusted"
    """Anything else: somebody else's text, or what the module made up."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Where one critical value comes from, and a sentence that says why.

    `record` shows what a minted value stands for, from a clean read: `memory "Buy milk", 2026-11-02`.
    """

    origin: Origin
    why: str
    record: str = ""

    @property
    def good(self) -> bool:
        return self.origin is not Origin.UNTRUSTED


@dataclass(frozen=True, slots=True)
class Facts:
    """What step 4 knows of a call's arguments.

    `labels` has those of each top-level argument, and of `name.0`, `name.1`, ... where the items of a list differ;
    `findings` has one entry for each critical argument that is present.
    """

    labels: Mapping[str, Labels]
    findings: Mapping[str, Finding]


@dataclass(frozen=True, slots=True)
class Question:
    """What the policy is asked: one call with its facts."""

    principal: Principal
    run: RunRequest
    capability: Capability
    args: Mapping[str, Json]
    """With references resolved."""
    labels: Mapping[str, Labels]
    """As in `Facts`: where each argument's value was derived from."""
    findings: Mapping[str, Finding]
    exposed: Labels
    """All that the run has seen."""

    def labels_of(self, argument: str) -> Labels:
        """The labels of an argument; what nothing is known about carries all that the run has seen."""
        return self.labels.get(argument, self.exposed)


class RunView(Protocol):
    """What may be known of an unfinished run outside the kernel. `memo` is kept with it, and lost at a restart."""

    @property
    def request(self) -> RunRequest: ...

    @property
    def exposed(self) -> Labels: ...

    @property
    def history(self) -> Sequence[Recorded]: ...

    @property
    def memo(self) -> MutableMapping[str, Any]: ...


Statement: TypeAlias = tuple[str, tuple[object, ...]]
"""One statement of the store's own language, made by `Records`, opaque to everyone else."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A call that the owner has to approve. `fingerprint` is SHA-256 (hex) over run, ordinal, module and arguments."""

    question: Question
    ordinal: int
    fingerprint: str
    decision: Decision


@dataclass(frozen=True, slots=True)
class Lease:
    """An approval of exactly one call. `statement` marks it as used, in the transaction of the call's first row."""

    id: str
    by: str
    statement: Statement


class Approvals(Protocol):
    """Keeps what the owner was asked and said. A question that is asked again, after a restart, is the same one."""

    def claim(self, asked: Asked) -> Lease | float:
        """The lease for a call, or until when (seconds since 1970) its run waits for the owner.

        Raises `Refusal` where the owner refused, did not answer in time, or cannot be asked.
        """


class Meter(Protocol):
    """Rates and sums beyond the bounds of one run: per principal, role, agent and owner."""

    def accept(self, request: RunRequest, unfinished: Mapping[str, RunView]) -> None:
        """Look at a run before it is accepted. Raises `Refusal` where too many are unfinished."""

    def begin(self, run: RunView, capability: str, args: str) -> None:
        """Look at a call, as the module sent it, before step 1. Raises `RunEnded` where the run repeats what fails."""

    def admit(self, run: RunView, capability: Capability, args: str, size: int, tokens: int) -> None:
        """Hold what a call may use: `size` in characters, references resolved, and `tokens`; `args` is canonical JSON.

        Raises `Refusal` where a rate or a sum is used up, `RunEnded` where that is the run's own.
        """

    def settle(self, run: RunView, usage: Usage, answer: str) -> None:
        """Count what the admitted call has used, before its row is written."""

    def computed(self, run: RunView, cpu_ms: float) -> None:
        """Count what a segment of the run has computed."""

    def ended(self, run: RunView) -> Mapping[str, Json]:
        """The run is over. What its last row says of it beside the kernel's own facts."""
