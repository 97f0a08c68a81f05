"""Who the owner is: what tells the owner's own records from those of others. Data, never code."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loket.provenance.words import folded


@dataclass(frozen=True)
class Owner:
    """The owner's identities and those whom the owner has dealt with.

    `identities` are own addresses, accounts and names, as services write them. `established` are people and accounts
    that the owner has written to, paid or shared with, beyond those that own records show. `trusted` are values by
    type (`address`, `url`, `name`, ...) that the owner has approved for good. `doubtful` are records, as kind and id,
    that an agent made or changed from untrusted text: what is written in them is not the owner's word.
    """

    identities: frozenset[str] = frozenset()
    established: frozenset[str] = frozenset()
    trusted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    doubtful: frozenset[tuple[str, str]] = frozenset()

    def __post_init__(self) -> None:
        object.__setattr__(self, "identities", folded(self.identities))
        object.__setattr__(self, "established", folded(self.established))
        object.__setattr__(self, "trusted", {kind: folded(values) for kind, values in self.trusted.items()})
