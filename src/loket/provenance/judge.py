"""Where each critical argument of a call comes from.

The answer depends on the owner's words, on who the owner is and on what clean reads found; never on what a model said.
A model that is lost from the start can only choose inside the closure of the request.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loket.contracts import ArgType, Capability, Effect, Finding, Origin
from loket.provenance.answers import Reading, records
from loket.provenance.closure import Closure, close
from loket.provenance.owner import Owner
from loket.provenance.request import Request
from loket.provenance.words import ADDRESS, IBAN, STOP, fold, fold_url
from loket.provenance.world import Read, World, canonical

_ORDER = tuple(Origin)
_TEXT = ArgType("text")
_LARGEST = 10**15
"""A larger number is no number that anybody writes as one."""


def worst(findings: Mapping[str, Finding]) -> Origin:
    """The worst origin among some findings; `bounded` where there are none."""
    return max((f.origin for f in findings.values()), key=_ORDER.index, default=Origin.BOUNDED)


class Judge:
    """Judges the calls of one run; what it learnt from one call it keeps for the next.

    `reads` are the granted capabilities with which the engine may make reads of its own through `read`. It makes them
    once, when the first write is judged and so before it happens: what the run writes can select nothing. Ask it about
    every write, those without critical arguments too.
    """

    def __init__(
        self, request: Request, owner: Owner, reads: Sequence[Capability] = (), read: Read | None = None
    ) -> None:
        self.request = request
        self.owner = owner
        self._reads = reads
        self._read = read
        self._world = World(owner)
        self._closure: Closure | None = None
        self._made: dict[tuple[str, str], int] = {}
        self._seen: set[int] = set()
        self._pending: list[Reading] = []
        self._written = False
        self._looked = False

    def add(self, readings: Sequence[Reading]) -> None:
        """Take in the calls that were made since; those whose `ordinal` is known already are passed over."""
        for reading in sorted(readings, key=lambda r: r.ordinal):
            if reading.ordinal in self._seen:
                continue
            self._seen.add(reading.ordinal)
            if writes(reading.capability):
                self._written = True
                self._remember(reading)
            elif not self._written and reading.capability.data.rows:
                self._pending.append(reading)

    def judge(self, capability: Capability, args: Mapping[str, Any]) -> dict[str, Finding]:
        """One finding for each critical argument that is present."""
        if writes(capability):
            self._look()
        types = capability.data.types
        return {
            name: self._finding(types.get(name, _TEXT), args[name], capability.effect)
            for name in capability.critical
            if name in args
        }

    def record(self, capability: Capability, name: str, value: Any) -> str:
        """What an id stands for, by the clean reads so far: the record's kind, what it says, and its dates.

        Of a list, its records in order; empty where no value is the id of a known record.
        """
        kind = capability.data.types.get(name, _TEXT)
        values = value if isinstance(value, (list, tuple)) else [value]
        shown = [self._world.shown(kind.kind, item) for item in values] if kind.type == "object" and kind.kind else []
        return "; ".join(one for one in shown if one)

    def closure(self) -> Closure:
        """All that the request selects, from what is known so far."""
        fresh, self._pending = self._pending, []
        for reading in fresh:
            self._take(reading)
        if self._closure is None:
            self._closure = close(self.request, self._world)
        return self._closure

    def _look(self) -> None:
        if self._looked or self._read is None or self._written:
            return
        self._looked = True
        canonical(self._world, self.request, self._reads, self._read)
        self._closure = None

    def _take(self, reading: Reading) -> None:
        """Take in the records of a reading if it is clean."""
        data = reading.capability.data
        listing = data.listing or {}
        given = {n: v for n, v in reading.args.items() if v is not None and not (n in listing and listing[n] == v)}
        known = self._closure if self._closure is not None else close(self.request, self._world)
        self._closure = known
        effect = reading.capability.effect
        if not all(self._origin(data.types.get(n, _TEXT), v, effect, known).good for n, v in given.items()):
            return
        narrowed = tuple(
            (frozenset(data.filters.get(n, ())), fold(str(v)))
            for n, v in given.items()
            if not self._place(data.types.get(n), v)
        )
        self._world.add(reading.capability, reading.args, reading.answer, narrowed)
        self._closure = None

    def _place(self, kind: ArgType | None, value: Any) -> bool:
        """Whether an argument says where the owner said to read (a page, a file, a channel) rather than what."""
        return (
            kind is not None and (kind.type in ("url", "path") or bool(kind.kind)) and names(self.request, kind, value)
        )

    def _remember(self, reading: Reading) -> None:
        """Keep the ids of what the run made: those objects are its own."""
        for rows in reading.capability.data.rows:
            for record in records(rows, reading.args, reading.answer, self.owner):
                if record.id is not None:
                    self._made[rows.kind, record.id] = reading.ordinal

    def _finding(self, kind: ArgType, value: Any, effect: Effect) -> Finding:
        named = self._origin(kind, value, effect, None)
        return named if named.good else self._origin(kind, value, effect, self.closure())

    def _origin(self, kind: ArgType, value: Any, effect: Effect, known: Closure | None) -> Finding:
        """The origin of a value; without a closure only what the owner named, trusts or need not care about."""
        if value is None or value in ("", [], {}):
            return Finding(Origin.BOUNDED, "absent")
        if isinstance(value, (list, tuple)):
            return _worst([self._origin(kind, item, effect, known) for item in value])
        if kind.type == "struct" or isinstance(value, Mapping):
            return self._struct(kind, value, effect, known)
        if self._twin(kind, value):
            return Finding(Origin.UNTRUSTED, f"another {kind.kind} is called the same but for capitals or spaces")
        return (
            self._named(kind, value)
            or self._harmless(kind, value)
            or (self._selected(kind, value, effect, known) if known is not None else None)
            or Finding(Origin.UNTRUSTED, f"{value!r} is neither in the owner's words nor in what they single out")
        )

    def _struct(self, kind: ArgType, value: Any, effect: Effect, known: Closure | None) -> Finding:
        if not isinstance(value, Mapping):
            return self._origin(_TEXT, value, effect, known)
        return _worst([self._origin(kind.fields.get(n, _TEXT), v, effect, known) for n, v in value.items()])

    def _named(self, kind: ArgType, value: Any) -> Finding | None:
        if not names(self.request, kind, value):
            return None
        return Finding(Origin.NAMED, f"the owner wrote {value!r}")

    def _twin(self, kind: ArgType, value: Any) -> bool:
        """Whether another name of its kind differs in capitals only, and the owner wrote that one."""
        if kind.type != "name" or not kind.kind:
            return False
        others = [name for name in self._world.ids(kind.kind) if fold(name) == fold(str(value)) and name != value]
        return bool(others) and not self.request.spells(str(value))

    def _harmless(self, kind: ArgType, value: Any) -> Finding | None:
        trusted = self.owner.trusted.get(kind.type, frozenset())
        if isinstance(value, str) and (
            fold(value) in trusted or (kind.type in ("address", "iban") and fold(value) in self.owner.identities)
        ):
            return Finding(Origin.TRUSTED, "the owner's own, or approved for good")
        if kind.type == "flag" and isinstance(value, bool):
            return Finding(Origin.BOUNDED, "a boolean")
        if kind.type == "choice" and not kind.words:
            return Finding(Origin.BOUNDED, "one of a few words")
        if kind.range and isinstance(value, (int, float)) and kind.range[0] <= value <= kind.range[1]:
            return Finding(Origin.BOUNDED, f"between {kind.range[0]:g} and {kind.range[1]:g}")
        if kind.lenient and not self.request.speaks_of(kind.type):
            return Finding(Origin.BOUNDED, f"the owner named no {kind.type}, and any will do")
        return None

    def _selected(self, kind: ArgType, value: Any, effect: Effect, known: Closure) -> Finding | None:
        why: str | None = None
        if kind.type == "object":
            return self._object(kind, value, effect, known)
        if kind.type == "number" and isinstance(value, (int, float)):
            why = known.numbers.get(float(value)) or known.values.get(("number", str(float(value))))
            if why is None and round(float(value), 2) in known.sums:
                why = "arithmetic over numbers that the owner named or selected"
        elif kind.type == "url":
            why = known.links.get(fold_url(str(value))) if effect is Effect.FETCH else None
        else:
            text = fold(str(value))
            key = f"name:{kind.kind}" if kind.type == "name" and kind.kind else kind.type
            why = known.values.get((key, text)) or (known.values.get(("file", text)) if key == "path" else None)
            if why is None and kind.kind and (kind.kind, text) in known.ids:
                why = known.ids[kind.kind, text][0]
        return None if why is None else Finding(Origin.SELECTED, why)

    def _object(self, kind: ArgType, value: Any, effect: Effect, known: Closure) -> Finding | None:
        """The origin of an id. What a stranger made may be read and removed; nothing is put into it or sent on."""
        mark = (kind.kind, fold(str(value)))
        if mark in self._made:
            return Finding(Origin.SELECTED, "made in this run")
        why, safe = known.ids.get(mark, (None, False))
        if why is None:
            return None
        if not safe and effect.changes and effect is not Effect.DESTROY:
            return Finding(Origin.UNTRUSTED, f"{why}; but somebody whom the owner has not dealt with made it")
        return Finding(Origin.SELECTED, why)


def judge(
    request: Request,
    owner: Owner,
    readings: Sequence[Reading],
    capability: Capability,
    args: Mapping[str, Any],
    read: Read | None = None,
    *,
    reads: Sequence[Capability] = (),
) -> dict[str, Finding]:
    """Judge one call after some readings. A run of several calls keeps a `Judge`, which learns only what is new."""
    fresh = Judge(request, owner, reads, read)
    fresh.add(readings)
    return fresh.judge(capability, args)


def writes(capability: Capability) -> bool:
    """Whether a call changes something that a later read could show. Fetching does not."""
    return capability.effect.changes and capability.effect is not Effect.FETCH


def names(request: Request, kind: ArgType, value: Any) -> bool:
    """Whether the owner's words name a value, by its type: a literal, whole and typed alike."""
    if isinstance(value, bool):
        return False
    if kind.type == "object":
        return _by_id(request, str(value))
    if isinstance(value, (int, float)):
        return abs(value) < _LARGEST and float(value) in request.numbers
    return _NAMES.get(kind.type, _by_words)(request, kind, str(value))


def _by_words(request: Request, kind: ArgType, text: str) -> bool:
    """Whether the owner wrote a text, whole; an address or an account in it only as such."""
    del kind
    if ADDRESS.fullmatch(text):
        return fold(text) in request.addresses
    if IBAN.fullmatch(text):
        return fold(text) in request.ibans
    return fold(text) not in STOP and len(fold(text)) > 1 and request.says(text)


_NAMES: Mapping[str, Callable[[Request, ArgType, str], bool]] = {
    "address": lambda request, _, text: fold(text) in request.addresses,
    "url": lambda request, _, text: request.names_url(text),
    "date": lambda request, kind, text: request.names_date(text, any_year=kind.lenient),
    "time": lambda request, _, text: text[:5] in request.times,
    "path": lambda request, _, text: fold(text) in request.files | request.quoted,
    "choice": lambda request, kind, text: any(request.says(word) for word in kind.words.get(text, ())),
}


def _by_id(request: Request, text: str) -> bool:
    """Whether the owner wrote an id as one: "id 13", "#13", "number 13", or right behind a command: "/forget 13"."""
    written = rf"(?:\bid|\bnumber|\bno\.|#|^/[a-z]+)\s*[:=]?\s*['\"]?{re.escape(fold(text))}(?![\w-])"
    return re.search(written, request.folded) is not None


def _worst(findings: Sequence[Finding]) -> Finding:
    return max(findings, key=lambda f: _ORDER.index(f.origin), default=Finding(Origin.BOUNDED, "absent"))
