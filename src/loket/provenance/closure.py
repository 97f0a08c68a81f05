"""What an owner's words select: ids and minted values of the records that they single out.

The rules, from the strictest reader's point of view:

* A record that only the owner can have made is found by any phrase of the request, and yields what it holds.
* A record that others can insert is found by an exact, explicit name, or by a phrase in the text of an author whom the
  owner named. It yields its id, never a recipient, unless that one is established: the owner has written, paid or
  shared before.
* One match, or none: exact beats partial, ambiguity selects nothing. Of several own records only what all agree on.
* A token of the asked type may be taken from a text that the owner named exactly, if it is the only one there.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from loket.provenance import ranks
from loket.provenance.answers import Record
from loket.provenance.request import Key, Request
from loket.provenance.words import contains, fold, scalars, slug, tokens
from loket.provenance.world import World

_ASKED = {
    "address": re.compile(r"\b(e-?mails?|mail|invite|contact|write|address|send|share)\b"),
    "iban": re.compile(r"\b(pay|paid|bills?|invoice|transfer|iban|accounts?|refund|rent|payments?)\b"),
    "number": re.compile(r"\b(pay|bills?|invoice|amounts?|rent|prices?|payments?|transfer|refund)\b"),
}
"""By which words a request asks for a token of a type out of a text."""

_WHOLE = ("address", "iban", "url", "path")
"""Types of which a part names nothing."""

_LINKS = re.compile(r"\b(articles?|links?|web ?sites?|web ?pages?|pages?|posts?|posted|blogs?|urls?|sites?)\b")
_HALVES = re.compile(r"\b(half|halves|share|split|each)\b")
_CAME_IN = re.compile(r"\b(refund|return|back|sent me|sends me|paid me|owes? me|got|received?|share|difference)\b")
"""By which words a request is about what others have sent."""
_MOST_NUMBERS = 16
"""Numbers over which arithmetic is done; more are nothing that a person has in mind."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A record that a key found in one field."""

    record: Record
    name: str
    exact: bool


@dataclass(slots=True)
class Closure:
    """All that the request selects, each with the reason: ids by kind, values by type, and sums."""

    ids: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)
    values: dict[tuple[str, str], str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    numbers: dict[float, str] = field(default_factory=dict)
    sums: frozenset[float] = frozenset()

    def id_of(self, record: Record, why: str, *, safe: bool) -> None:
        """Select a record's id. `safe`: nobody whom the owner does not deal with made it."""
        if record.id is not None:
            self.ids[record.rows.kind, record.id] = (why, safe)

    def value(self, kind: str, value: Any, why: str) -> None:
        if kind == "number":
            self.numbers.setdefault(float(value), why)
        elif kind != "size":
            self.values.setdefault((kind, fold(str(value))), why)


def close(request: Request, world: World) -> Closure:
    """The closure of a request over what clean reads found. Pure: the same for the same request and records."""
    closure = Closure()
    for kind in sorted(world.kinds):
        found = world.of(kind)
        _by_words(request, world, found, closure)
        _by_start(request, found, closure)
        _links(request, world, found, closure)
    for record, why in ranks.singled(request, world):
        closure.id_of(record, why, safe=_safe(request, world, record))
    for name, value, why in ranks.counted(request, world):
        closure.value(name, value, why)
    closure.sums = _sums(request, closure)
    return closure


def _safe(request: Request, world: World, record: Record) -> bool:
    """Whether only the owner, those whom the owner has dealt with, and those whom the owner named made a record."""
    others = set(record.makers) - world.owner.identities - world.established
    return record.own or (bool(record.makers) and all(other in request.addresses for other in others))


def _by_words(request: Request, world: World, found: list[Record], closure: Closure) -> None:
    """Select the records of one kind by the request's phrases, the longest first.

    Inside a phrase that found something no shorter one is looked for.
    """
    taken: list[Key] = []
    fields = _fields(found)
    said = "\n".join(text for field in fields for text in (*field.texts, *field.slugs))
    numbers = any(field.numbers for field in fields)
    for key in request.keys:
        if any(t.first <= key.first and key.last <= t.last and t is not key for t in taken):
            continue
        if key.text not in said and slug(key.text) not in said and not (numbers and key.text[:1].isdigit()):
            continue
        hits = _hits(key, fields)
        able = [
            hit for hit in hits if hit.record.own or (hit.exact and key.explicit) or world.by_named(request, hit.record)
        ]
        if able and (key.strong or any(hit.exact for hit in able)):
            taken.append(key)
        for name in sorted({hit.name for hit in hits}):
            chosen = _choose(request, world, key, [hit for hit in hits if hit.name == name])
            if chosen:
                _yield(request, world, key, chosen, closure)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field by which a record may be named, made ready for comparing."""

    record: Record
    name: str
    kind: str
    texts: tuple[str, ...]
    slugs: tuple[str, ...]
    numbers: tuple[float, ...]


def _fields(found: Iterable[Record]) -> list[_Field]:
    return [_field(record, name) for record in found for name in record.rows.keys]


def _field(record: Record, name: str) -> _Field:
    kind = record.rows.minted.get(name, "")
    values = list(scalars(record.fields.get(name)))
    words = [value for value in values if isinstance(value, str)]
    return _Field(
        record,
        name,
        kind,
        tuple(fold(word) for word in words),
        tuple(slug(word) for word in words) if kind == "file" else (),
        tuple(float(value) for value in values if not isinstance(value, str)),
    )


def _hits(key: Key, fields: Iterable[_Field]) -> list[Hit]:
    """The fields that a key meets: exactly, or in part."""
    number = float(key.text) if re.fullmatch(r"\d+(\.\d+)?", key.text) else None
    found = ((field, _meets(key, number, field)) for field in fields)
    return [
        Hit(field.record, field.name, exact)
        for field, exact in found
        if exact is not None and field.record.complete(key.text, field.name)
    ]


def _meets(key: Key, number: float | None, field: _Field) -> bool | None:
    """How a key meets a field: True is exactly, False in part, None not at all."""
    if (number is not None and number in field.numbers) or key.text in field.texts:
        return True
    if field.kind in _WHOLE or field.kind.startswith("name:"):
        return None
    if field.kind == "file":
        slugged = slug(key.text)
        return False if any(contains(stem, key.text) or contains(stem, slugged) for stem in field.slugs) else None
    return False if any(contains(text, key.text) for text in field.texts) else None


def _choose(request: Request, world: World, key: Key, hits: list[Hit]) -> list[Hit]:
    """The hits that a key singles out in one field; none where it is ambiguous."""
    exact = [hit for hit in hits if hit.exact]
    own_exact = [hit for hit in exact if hit.record.own]
    if own_exact:
        return _narrow(request, world, own_exact)
    if exact and (key.explicit or key.text.replace(".", "", 1).isdigit()):
        narrow = _narrow(request, world, exact)
        return narrow if len(narrow) == 1 else []
    own = [hit for hit in hits if hit.record.own]
    if own:
        return _narrow(request, world, own)
    named = [hit for hit in hits if world.by_named(request, hit.record)]
    if key.strong and len(named) == 1:
        return named
    return exact if exact and len(hits) == 1 and _called(request, key, exact[0].record) else []


def _called(request: Request, key: Key, record: Record) -> bool:
    """Whether an unquoted phrase is said as a name: of a person or thing in full, or right before the kind's noun."""
    if not key.strong:
        return False
    after = request.words[key.last + 1 : key.last + 2]
    return record.rows.stands_for is not None or (bool(after) and after[0] in record.rows.nouns)


def _narrow(request: Request, world: World, hits: list[Hit]) -> list[Hit]:
    """Of several hits those on a date, or of a maker, that the owner named as well; all where that leaves none."""
    if len(hits) < 2:  # noqa: PLR2004 - one is nothing to choose from
        return hits
    named = [hit for hit in hits if _dated(request, hit.record) or world.by_named(request, hit.record)]
    return named or hits


def _dated(request: Request, record: Record) -> bool:
    dates = [name for name, kind in record.rows.minted.items() if kind == "date"]
    return bool(request.dates) and any(
        request.names_date(text.upper()) for name in dates for text in _days(record, name)
    )


def _days(record: Record, name: str) -> list[str]:
    return [text[:10] for text in record.texts(name)]


_ALL = re.compile(r"\b(all|every|each|everything)\b")


def _yield(request: Request, world: World, key: Key, chosen: list[Hit], closure: Closure) -> None:
    """Put what the chosen records hold into the closure."""
    why = f"{chosen[0].record.rows.kind} that {key.text!r} singles out by its {chosen[0].name}"
    if len(chosen) == 1:
        record = chosen[0].record
        closure.id_of(record, f"the one {why}", safe=_safe(request, world, record))
        if record.own:
            _own_values([record], closure, f"of the owner's own {why}")
        else:
            _foreign_values(request, world, key, chosen[0], closure)
        if key.explicit and chosen[0].exact:
            _tokens(request, chosen[0], closure)
    elif all(hit.record.own for hit in chosen):
        _own_values([hit.record for hit in chosen], closure, f"the same in each {why}")
        if key.strong and _ALL.search(request.bare):
            for hit in chosen:
                closure.id_of(hit.record, f"one of all that {key.text!r} finds", safe=True)


def _own_values(found: list[Record], closure: Closure, why: str) -> None:
    """The minted values on which all of some own records agree."""
    for name, kind in found[0].rows.minted.items():
        sets = [frozenset(scalars(record.fields.get(name))) for record in found]
        for value in sets[0].intersection(*sets[1:]):
            closure.value(kind, value, f"{name} {why}")


def _foreign_values(request: Request, world: World, key: Key, hit: Hit, closure: Closure) -> None:
    """What a record that others can insert yields beside its id.

    Established people, numbers of a record that is named by what the service vouches for, and where a named author's
    message stands.
    """
    record, rows = hit.record, hit.record.rows
    people = [*(record.makers if len(record.makers) == 1 else ()), *record.texts(rows.stands_for)]
    for person in people:
        if person in world.established:
            kind = rows.minted.get(rows.stands_for or rows.maker or "", "")
            closure.value(kind, person, f"the owner has dealt with {person}, to whom {key.text!r} leads")
    typed = key.text in request.addresses | request.ibans or key.text.replace(".", "", 1).isdigit()
    if hit.exact and hit.name in rows.minted and typed and _CAME_IN.search(request.bare):
        for name, kind in rows.minted.items():
            for value in scalars(record.fields.get(name)) if kind == "number" else ():
                closure.value(kind, value, f"{name} of the one {rows.kind} of {key.text!r}")
    if rows.place and world.by_named(request, record):
        for value in record.texts(rows.place):
            closure.value(rows.minted.get(rows.place, ""), value, f"where {record.makers[0]} wrote {key.text!r}")


def _tokens(request: Request, hit: Hit, closure: Closure) -> None:
    """Endorsing by type: the only token of its type in a text that the owner named exactly. Never a web address."""
    record = hit.record
    by_place = record.rows.maker is None and record.rows.minted.get(hit.name) in ("url", "path")
    if not (record.own or by_place or (record.makers and set(record.makers) <= request.addresses)):
        return
    text = "\n".join(str(record.fields.get(name, "")) for name in record.rows.text)
    for kind, asked in _ASKED.items():
        found = tokens(kind, text) if asked.search(request.bare) else set()
        if len(found) == 1:
            closure.value(kind, found.pop(), f"the only {kind} in {hit.name} {record.fields.get(hit.name)!r}")


def _links(request: Request, world: World, found: list[Record], closure: Closure) -> None:
    """The one link that an author whom the owner named posted in a place that the owner named; to be read, no more."""
    if not _LINKS.search(request.bare):
        return
    for maker in {record.makers[0] for record in found if record.rows.place and world.by_named(request, record)}:
        theirs = [r for r in found if r.makers == [maker] and any(request.says(t) for t in r.texts(r.rows.place))]
        urls = {url for r in theirs for name in r.rows.text for url in tokens("url", str(r.fields.get(name, "")))}
        if len(urls) == 1:
            closure.links[urls.pop()] = f"the only link that {maker} posted where the owner says"


def _by_start(request: Request, found: Iterable[Record], closure: Closure) -> None:
    """The one record of a directory whose name begins as the owner says."""
    listed = [record for record in found if record.own and record.rows.maker is None and record.rows.id]
    for start in re.findall(r"\b(?:start|begin)(?:s|ning|ing)? with ['\"\u201c]?([\w-]{2,})", request.folded):
        fits = [record for record in listed if (record.id or "").startswith(start)]
        nouns = [record for record in fits if any(contains(request.folded, noun) for noun in record.rows.nouns)]
        if len(nouns) == 1:
            _whole(nouns[0], closure, f"the one {nouns[0].rows.kind} that starts with {start!r}")


def _whole(record: Record, closure: Closure, why: str) -> None:
    closure.id_of(record, why, safe=record.own)
    for name, kind in record.rows.minted.items():
        for value in scalars(record.fields.get(name)):
            closure.value(kind, value, why)


_MOST_SUMMED = 1e7
"""What is larger is a number of something, and no sum of money to be reckoned with."""


def _sums(request: Request, closure: Closure) -> frozenset[float]:
    """Sums, differences and percentages over the numbers that the owner named or selected, to cents."""
    base = sorted(number for number in {*request.numbers, *closure.numbers} if abs(number) < _MOST_SUMMED)
    if len(base) > _MOST_NUMBERS:
        return frozenset()
    if _HALVES.search(request.bare):
        base += [number / 2 for number in base]
    found = {round(r, 2) for x in base for y in base for r in (abs(x - y), x + y, x * y / 100)}
    found |= {round(x * y / 100 + z, 2) for x in closure.numbers for y in request.numbers for z in request.numbers}
    return frozenset(found)
