"""How a capability declares its data: what its critical arguments mean, and which records stand in its answers.

The counter reads these declarations to establish where a critical value came from (`loket.provenance`); a capability
without them works, and its critical arguments are owner-named or untrusted. Nothing here depends on a request.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TYPES = frozenset(
    ("address", "iban", "url", "date", "time", "number", "name", "text", "path", "object", "choice", "flag", "struct")
)
"""What a critical argument can be. `date` is ISO 8601 with or without a time of day, `time` a time of day, `name` a
word or words that a person would write (a user, a channel, an agent), `object` the opaque id of a record, `choice` one
of a few words, `flag` a boolean, `struct` an object with critical fields of its own."""


@dataclass(frozen=True, slots=True)
class ArgType:
    """What a critical argument means. Lists hold values of this type.

    `kind` is the kind of record that an `object` or a `name` stands for. `words` says by which words an owner asks for
    each value of a `choice`. `fields` are the critical fields of a `struct`. `range` bounds a number from both sides:
    a number inside needs no origin. `lenient` says that any value will do
    unless the owner's words name another one of this type.
    """

    type: str
    kind: str = ""
    words: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fields: Mapping[str, "ArgType"] = field(default_factory=dict)
    range: tuple[float, float] | None = None
    lenient: bool = False

    def __post_init__(self) -> None:
        if self.type not in TYPES:
            raise ValueError(f"there is no argument type {self.type!r}; there are {', '.join(sorted(TYPES))}")


@dataclass(frozen=True, slots=True)
class Rows:
    """Records of one kind in an answer.

    `at` is where they stand: `emails[]` is each item of a list, `` the answer itself, `pages{}` each value of an
    object, its key as the field `key`. A record that is no object has its value in the field `value`. `bind` copies
    arguments of the read into fields of every record (argument to field).
    """

    kind: str
    at: str = ""
    id: str | None = None
    """The field with the id that the service gave it."""
    minted: Mapping[str, str] = field(default_factory=dict)
    """Fields that the service vouches for, with their types as in `TYPES`; `size` for magnitudes that only rank, and
    `name:KIND` for a name that stands for a record of another kind."""
    text: Mapping[str, str] = field(default_factory=dict)
    """Free-text fields, each with the field that says who wrote it; empty where nobody does."""
    keys: tuple[str, ...] = ()
    """Fields by which an owner may name the record."""
    maker: str | None = None
    """The field that says who made it. Of a list, all must be the owner for the record to be the owner's own."""
    mine: Mapping[str, Any] = field(default_factory=dict)
    """Values that fields of an owner's own record have beside its maker: a mail from one's own address is one's own
    only among the sent ones, as anybody can write a sender."""
    counterparties: tuple[str, ...] = ()
    """Fields with those whom a record of the owner's own reaches: they are established by it."""
    stands_for: str | None = None
    """The field for which the record as a whole is a name (the address of a contact)."""
    place: str | None = None
    """The field that says where the record stands (the channel of a message)."""
    insertable: bool = True
    """Whether anybody but the owner can make such a record."""
    nouns: tuple[str, ...] = ()
    """Words for the kind, in the singular and the plural."""
    bind: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Data:
    """All that a capability declares about its data.

    `types` covers the critical arguments, and the arguments that select in a read. `listing` are the arguments with
    which a read answers all records that there are; None where it cannot. `filters` says for arguments of a read in
    which fields they are searched; an argument that is in neither narrows in an unknown way. `wanted` says by which
    words a request asks for the capability: one word of every group (`pay*` stands for all that begin so); without
    groups every request may need it.
    """

    types: Mapping[str, ArgType] = field(default_factory=dict)
    rows: tuple[Rows, ...] = ()
    listing: Mapping[str, Any] | None = None
    filters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wanted: tuple[tuple[str, ...], ...] = ()


NO_DATA = Data()
