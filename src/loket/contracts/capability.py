"""What a capability is: one entry of the catalogue, from which documents, checks and policy names are derived."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from loket.contracts.records import NO_DATA, Data


class Effect(StrEnum):
    """What a call does to the world. `read` and `private` change nothing; all others are effects."""

    READ = "read"
    """Reads what anyone may know (the clock, a public table)."""
    PRIVATE = "private"
    """Reads the owner's private data."""
    MODIFY = "modify"
    """Changes the owner's own data, here."""
    EGRESS = "egress"
    """Sends data to somebody."""
    FETCH = "fetch"
    """Reads over a network: the request itself tells the other side something."""
    MONEY = "money"
    """Spends or moves money."""
    DESTROY = "destroy"
    """Removes something for good."""
    ACCOUNT = "account"
    """Changes who may do what."""
    EXECUTE = "execute"
    """Runs a command or a program outside the sandbox."""

    @property
    def changes(self) -> bool:
        """Whether a call is an effect: its intent is written and synced before it is performed."""
        return self not in (Effect.READ, Effect.PRIVATE)


class OnUncertain(StrEnum):
    """What to do after a crash when nobody knows whether an effect happened."""

    REPEAT = "repeat"
    """Do it again; both attempts are charged."""
    DEDUPE = "dedupe"
    """Ask the store: it wrote (run, ordinal) in the same transaction as the effect."""
    ASK = "ask"
    """Ask the owner; the run waits."""


class Match(StrEnum):
    """How an argument is compared with the texts that a grant lists."""

    PREFIX = "prefix"
    """It begins with one of them."""
    EXACT = "exact"
    """It is one of them."""
    HOST = "host"
    """It is a URL, and its host (with its port, where that is not the scheme's own) is one of them; `*.example.org`
    stands for all names below."""
    PROVIDER = "provider"
    """The provider compares; it gets them with the call."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a grant can narrow: the argument must match one of the texts that the grant lists under `name`.

    `required`: a grant without it allows nothing. `owner_only`: no manifest can ask for it.
    """

    name: str
    argument: str
    match: Match = Match.PREFIX
    required: bool = False
    owner_only: bool = False


@dataclass(frozen=True, slots=True)
class Capability:
    """One ability that a module can ask for.

    `arguments` and `answer` are JSON Schemas (2020-12) of objects. `critical` names the top-level arguments that say
    who, where, which object or how much. `timeout_s` is the limit of one performance, in seconds. `waits` says that
    performing may take long, so that the module is dropped meanwhile. `side` marks the calls that are recorded on the
    run's next journal row instead of on one of their own (clock, randomness, logs).
    """

    id: str
    summary: str
    effect: Effect
    arguments: Mapping[str, Any]
    answer: Mapping[str, Any]
    critical: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    on_uncertain: OnUncertain = OnUncertain.REPEAT
    timeout_s: float = 10.0
    args_kb: int = 256
    answer_kb: int = 1024
    waits: bool = False
    side: bool = False
    data: Data = NO_DATA
    """What its critical arguments mean, and which records stand in its answers."""
    examples: tuple[Mapping[str, Any], ...] = field(default=())

    def widened(self, held: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
        """The constraints of a grant with more texts. What it does not narrow yet it goes on allowing altogether."""
        narrowing = {c.name for c in self.constraints if not c.required and c.match is not Match.PROVIDER}
        fresh = {name: texts for name, texts in more.items() if name in held or name not in narrowing}
        return {**held, **{name: list(dict.fromkeys([*held.get(name, []), *texts])) for name, texts in fresh.items()}}

    @property
    def family(self) -> str:
        """The part before the first dot: `brain` of `brain.search`."""
        return self.id.partition(".")[0]
