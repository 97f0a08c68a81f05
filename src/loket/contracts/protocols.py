"""The narrow seams between the parts. Whoever implements one is tested by a conformance suite in `loket.testing`."""

from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

from loket.contracts.capability import Capability
from loket.contracts.errors import LoketError
from loket.contracts.facts import Facts, Question, RunView, Statement
from loket.contracts.run import (
    Answer,
    Call,
    Decision,
    Grant,
    Json,
    Labels,
    Limits,
    Row,
    RunRequest,
    RunStatus,
    Token,
)

if TYPE_CHECKING:
    import apsw

Handler: TypeAlias = Callable[[Call], Answer] | Callable[[Call], Awaitable[Answer]]
"""Performs one capability: synchronous for what is quick and local, asynchronous where `Capability.waits`."""


class Provider(Protocol):
    """A family of capabilities. `start` and `close` are called once each; `close` also after a failed `start`."""

    id: str

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler. A capability that the catalogue does not know is an error at start."""

    async def start(self) -> None: ...

    async def close(self) -> None: ...


class Policy(Protocol):
    """A pure function of the question: same question, same decision. Raising is a denial."""

    def decide(self, question: Question) -> Decision: ...


class Labeller(Protocol):
    """Establishes what a call's arguments and its answer come from."""

    def of_call(
        self, run: RunView, capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json]
    ) -> Facts:
        """The facts of a call. `given` is what the module sent, `args` the same with its references resolved."""

    def of_answer(self, call: Call, capability: Capability, answer: Answer) -> Labels:
        """The labels of the answer to a call (or of an error: an answer without a value)."""


class Tokens(Protocol):
    """Mints and checks execution tokens. `check` raises `Refusal`."""

    def mint(self, request: RunRequest, lifetime_s: float) -> Token: ...

    def check(self, token: Token, run: str | None = None) -> None:
        """`run`: the run that shows it, where that is known."""

    def rights(self, token: Token) -> Mapping[str, Mapping[str, Json]] | None:
        """Capabilities and their constraints that a checked token allows; None where it narrows nothing."""

    def revoke(self, run: str) -> None: ...

    def forget(self, run: str) -> None:
        """The run has ended."""


class Obligation(Protocol):
    """Carries out one obligation of a decision. Raises `Refusal` or `RunEnded` where the call must not be made."""

    def before(self, question: Question) -> Mapping[str, Json]:
        """The arguments with which the call is performed."""

    def after(self, answer: Answer) -> Answer:
        """The answer that the module gets."""


class Records(Protocol):
    """Makes the statements that keep the lists of runs and grants in step with the journal.

    The journal writes them in the same transaction as the row that they belong to.
    """

    def run_started(self, request: RunRequest, message: str | None) -> Statement: ...

    def run_status(self, run: str, status: RunStatus) -> Statement: ...

    def run_ended(self, run: str, ending: "Ending") -> Statement: ...

    def grant_allowed(self, grant: Grant) -> Statement: ...

    def grant_revoked(self, publisher: str, module: str, capability: str) -> Statement: ...

    def digest_accepted(self, publisher: str, module: str, digest: str, at: float) -> Statement: ...

    def digest_revoked(self, digest: str, at: float) -> Statement: ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended. `error` is that of `LoketError.as_dict`; money in US dollars."""

    status: RunStatus
    at: float
    answer: Mapping[str, Json] | None = None
    error: Mapping[str, Json] | None = None
    calls: int = 0
    tokens: int = 0
    money: float = 0.0
    labels: Labels = ()
    others_tokens: int = 0
    """Of the tokens and the money, what was used by agents that were asked: their own runs count it on the day."""
    others_money: float = 0.0


class RowStore(Protocol):
    """Where journal rows live. `write` is one transaction, synced to the disk when it returns."""

    def write(self, rows: Sequence[Row], statements: Sequence[Statement], seal: bytes) -> None: ...

    def head(self) -> tuple[int, bytes, bytes] | None:
        """Sequence number and hash of the last row, and the seal over them."""

    def rows(self, run: str | None = None) -> Iterator[Row]: ...


class AgentStore(Protocol):
    """One SQLite file an agent, opened on demand, at most so many open at once."""

    def open(self, agent: str, limit_s: float | None = None) -> AbstractContextManager["apsw.Connection"]:
        """The agent's one connection, held for this caller alone until the context ends.

        Statements are ended after a while, `limit_s` seconds where that is given.
        """


class Erasable(Protocol):
    """A provider whose store keeps what runs wrote, so that it can be erased, and found again where it was read.

    `writes` and `reads` take a journaled call with its decoded arguments and answer, and name what it wrote and what
    it showed of this store: ids of memories, keys, paths.
    """

    id: str

    def writes(self, capability: str, args: Mapping[str, Json], answer: Mapping[str, Json]) -> Sequence[str]: ...

    def reads(self, capability: str, args: Mapping[str, Json], answer: Mapping[str, Json]) -> Sequence[str]: ...

    def erase(self, agent: str, runs: Collection[str]) -> Sequence[str]:
        """Erase what these runs wrote last, for good, its traces in the write-ahead log included; what that was.

        Safe to repeat after a crash.
        """


class Secrets(Protocol):
    """The vault. Values never reach a module, a log or the journal."""

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, value: str) -> None: ...

    def names(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """How one run of a module's code came out, from start to answer, suspension or end: one of them is set."""

    answer: str | None = None
    refusal: LoketError | None = None
    """The module's own refusal (its `handle` returned the error case)."""
    ended: LoketError | None = None
    """A limit or a trap ended it."""
    suspended: bool = False
    cpu_ms: float = 0.0


class Suspended(BaseException):
    """Raised by a host call whose answer is not there yet: the instance is dropped."""


class Host(Protocol):
    """What a running module can reach: the counter, for this one run."""

    @property
    def live(self) -> bool:
        """False while answers come from the journal: CPU time is not counted then."""

    @property
    def stopped(self) -> LoketError | None:
        """Set to end the run at its next call or tick."""

    def __call__(self, capability: str, args: str) -> str:
        """Answer (JSON) to a call with these arguments (JSON).

        Raises `Refusal` or `Failed` (handed to the module), `RunEnded` (ends the run) or `Suspended`.
        """


class Guest(Protocol):
    """A loaded module, ready to be run many times."""

    digest: str

    def run(self, host: Host, operation: str, args: str, limits: Limits) -> Segment:
        """Run in a fresh instance on the calling thread."""


class Sandbox(Protocol):
    """Loads modules."""

    def load(self, wasm: Path, digest: str) -> Guest:
        """Raises `Damaged` where the bytes do not match the digest, `BadInput` where they are no module of ours."""

    def close(self) -> None: ...
