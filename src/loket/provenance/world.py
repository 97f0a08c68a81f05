"""What clean reads found: the records from which an owner's words may select.

A read is clean when each of its arguments is absent, or lists everything, or is the owner's own word or selected by
it. Canonical reads, which the engine makes itself, are clean by construction: nothing that a model says is in them.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loket.contracts import ArgType, Capability, Effect
from loket.provenance.answers import Record, records
from loket.provenance.owner import Owner
from loket.provenance.request import Request
from loket.provenance.words import fold, scalars

Read = Callable[[str, Mapping[str, Any]], Mapping[str, Any] | None]
"""Makes a read through a granted capability; None where it is refused or fails."""

_ROUNDS = 3
"""How often reads may build on what reads found: channels, then their members, then the members' inboxes."""
_MOST = 64
"""Canonical calls of one capability."""


class World:
    """The records that are known, by kind. Those of a full listing stand for all there are of their kind."""

    def __init__(self, owner: Owner) -> None:
        self.owner = owner
        self.kinds: dict[str, dict[tuple[str, str], Record]] = {}
        self.listed: set[str] = set()
        self.established: set[str] = set(owner.established)
        self._spelled: dict[str, set[str]] = {}

    def add(
        self,
        capability: Capability,
        args: Mapping[str, Any],
        answer: Mapping[str, Any],
        narrowed: tuple[tuple[frozenset[str], str], ...] = (),
    ) -> None:
        """Take in the records of a clean read. After a full listing of a kind, narrowed reads add nothing to it."""
        for rows in capability.data.rows:
            if narrowed and rows.kind in self.listed:
                continue
            if not narrowed and capability.data.listing is not None:
                self.listed.add(rows.kind)
            for record in records(rows, args, answer, self.owner, narrowed):
                self._put(record)

    def _put(self, record: Record) -> None:
        known = self.kinds.setdefault(record.rows.kind, {})
        before = known.get(record.identity)
        if before is None or len(before.narrowed) > len(record.narrowed):
            known[record.identity] = record
        for raw in scalars(record.fields.get(record.rows.maker or "")):
            self._spelled.setdefault(fold(str(raw)), set()).add(str(raw))
        if record.own:
            for name in record.rows.counterparties:
                self.established.update(t for t in record.texts(name) if t not in self.owner.identities)

    def by_named(self, request: Request, record: Record) -> bool:
        """Whether the service vouches that somebody made the record whom the owner named.

        Where several makers differ in capitals or spaces only, the owner must have spelled this one.
        """
        makers = [str(raw) for raw in scalars(record.fields.get(record.rows.maker or ""))]
        if len(makers) != 1:
            return False
        maker = makers[0]
        if len(self._spelled.get(fold(maker), ())) > 1 and not request.spells(maker):
            return False
        return fold(maker) in request.addresses or ("@" not in maker and request.says(maker))

    def of(self, kind: str) -> list[Record]:
        return list(self.kinds.get(kind, {}).values())

    def shown(self, kind: str, identity: Any) -> str:
        """The record of a kind with this id, as people know it: its kind, its names in quotes, and its dates."""
        for record in self.of(kind):
            if record.id is not None and record.id == fold(str(identity)):
                return record.shown
        return ""

    def ids(self, kind: str) -> list[str]:
        """The ids of a kind as the service writes them."""
        found = (record.fields.get(record.rows.id) for record in self.of(kind) if record.rows.id)
        return [str(value) for value in found if value is not None]


def canonical(world: World, request: Request, reads: Sequence[Capability], read: Read) -> None:
    """Make the reads whose arguments follow from the request and from what reads found, and take in their records."""
    asked: set[tuple[str, str]] = set()
    for _ in range(_ROUNDS):
        before = len(asked)
        for capability in reads:
            if capability.effect not in (Effect.READ, Effect.PRIVATE) or not capability.data.rows:
                continue
            for args in itertools.islice(_arguments(world, request, capability), _MOST):
                mark = (capability.id, repr(sorted(args.items())))
                if mark in asked:
                    continue
                asked.add(mark)
                answer = read(capability.id, args)
                if answer is not None:
                    world.add(capability, args, answer)
        if len(asked) == before:
            return


def _arguments(world: World, request: Request, capability: Capability) -> Iterator[dict[str, Any]]:
    """The arguments of the canonical calls of one capability: those that list, times each value that can be known."""
    data = capability.data
    listing = dict(data.listing or {})
    required = [name for name in capability.arguments.get("required", ()) if name not in listing]
    if not required and data.listing is None:
        return
    choices = [_choices(world, request, data.types.get(name)) for name in required]
    for values in itertools.product(*choices):
        yield {**listing, **dict(zip(required, values, strict=True))}


def _choices(world: World, request: Request, kind: ArgType | None) -> Sequence[str]:
    """The values that an argument of a canonical read can take."""
    if kind is None:
        return ()
    if kind.type == "path":
        return sorted(request.originals)
    return sorted(world.ids(kind.kind)) if kind.kind else ()
