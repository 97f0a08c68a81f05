"""Superlatives and quantifiers: what an owner describes by "largest", "most" or "all" is computed, not chosen."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from loket.provenance.answers import Record
from loket.provenance.request import Request
from loket.provenance.world import World

_HIGH = ("largest", "biggest", "highest", "greatest", "longest", "most expensive")
_LOW = ("smallest", "lowest", "shortest", "cheapest", "least expensive")
_NEW = ("newest", "latest", "most recent")
_OLD = ("oldest", "earliest")
_WORDS = {word: (kinds, high) for words, kinds, high in (
    (_HIGH, ("size", "number"), True), (_LOW, ("size", "number"), False),
    (_NEW, ("date",), True), (_OLD, ("date",), False),
) for word in words}  # fmt: skip
_COUNTS = re.compile(
    r"\b(?P<high>(?:the )?most|(?:largest|highest|greatest|biggest) number of)"
    r"|\b(?P<low>(?:the )?fewest|(?:the )?least|(?:smallest|lowest) number of)"
)
_RESTRICTS = frozenset(
    [
        "from",
        "by",
        "in",
        "with",
        "about",
        "older",
        "newer",
        "that",
        "which",
        "who",
        "whose",
        "of",
        "than",
        "containing",
        "named",
        "called",
        "shared",
        "before",
        "after",
        "since",
        "except",
        "but",
        "other",
        "without",
        "sent",
        "received",
        "on",
        "at",
        "for",
        "to",
    ]
)
"""Words after "all messages" that make it some of them. They are not computed, so they select nothing."""
_NOT_YET = re.compile(r"(?:who|that|which) (?:are|is|were) not (?:already|yet) ")
_NEAR = 4
"""Words between a superlative and the noun that it belongs to."""


def singled(request: Request, world: World) -> Iterator[tuple[Record, str]]:
    """The records that an attribute's superlative singles out: "the largest file". A tie singles out none."""
    for word, (kinds, high) in _WORDS.items():
        for match in re.finditer(rf"\b{word} ((?:[\w'-]+ ?){{1,{_NEAR}}})", request.folded):
            found = _of_noun(world, match.group(1).split())
            for name in _ranked(found, kinds)[:1]:
                best = _best(found, name, high=high)
                if best is not None:
                    yield best, f"the {word} {best.rows.kind} by its {name}"


def counted(request: Request, world: World) -> Iterator[tuple[str, str, str]]:
    """Names that counting singles out, and all names of a kind: type of the value, value, reason.

    "The channel with the most users", "the user who wrote the most messages", "each user".
    """
    for match in _COUNTS.finditer(request.folded):
        before, after = request.folded[: match.start()].split(), request.folded[match.end() :].split()
        group, counts = _noun(world, before, last=True), _noun(world, after[:_NEAR], last=True)
        if group and counts and group != counts:
            for name in _extreme(world, group, counts, high=match.group("high") is not None):
                yield f"name:{group}", name, f"counted: the {group} with the {match.group().strip()} {counts}s"
    for kind in _whole_kinds(request, world):
        for name in world.ids(kind):
            yield f"name:{kind}", name, f"all {kind}s"


def _extreme(world: World, group: str, counts: str, *, high: bool) -> list[str]:
    """The one name of `group` that stands in the most, or the fewest, records of the kind `counts`."""
    totals: Counter[str] = Counter(dict.fromkeys(world.ids(group), 0))
    for record in _counting(world, counts, group):
        for name, kind in record.rows.minted.items():
            if kind == f"name:{group}" and record.fields.get(name) in totals:
                totals[str(record.fields[name])] += 1
    if not totals:
        return []
    extreme = (max if high else min)(totals.values())
    found = [name for name, total in totals.items() if total == extreme]
    return found if len(found) == 1 else []


def _counting(world: World, counts: str, group: str) -> list[Record]:
    """The records to count: of the kind itself, or the memberships that link it with the group."""
    typed = (f"name:{group}", f"name:{counts}")
    links = [r for kind in sorted(world.kinds) for r in world.of(kind) if set(typed) <= set(r.rows.minted.values())]
    members = [r for r in links if not r.rows.text]
    return members or [r for r in world.of(counts) if typed[0] in r.rows.minted.values()]


def _noun(world: World, words: Sequence[str], *, last: bool) -> str | None:
    """The kind that the last (or first) kind-noun among some words stands for."""
    nouns = {noun: kind for kind in sorted(world.kinds) for r in world.of(kind)[:1] for noun in r.rows.nouns}
    found = [nouns[word] for word in (w.strip(".,!?;:'\"()") for w in words) if word in nouns]
    return (found[-1] if last else found[0]) if found else None


def _of_noun(world: World, words: Sequence[str]) -> list[Record]:
    kind = _noun(world, words, last=False)
    return world.of(kind) if kind else []


def _ranked(found: list[Record], kinds: Sequence[str]) -> list[str]:
    return [name for kind in kinds for r in found[:1] for name, of in r.rows.minted.items() if of == kind]


def _best(found: list[Record], name: str, *, high: bool) -> Record | None:
    ranked = sorted(
        (r for r in found if isinstance(r.fields.get(name), (int, float, str)) and not r.narrowed),
        key=lambda r: r.fields[name],
        reverse=high,
    )
    tie = len(ranked) > 1 and ranked[0].fields[name] == ranked[1].fields[name]
    return ranked[0] if ranked and not tie else None


def _whole_kinds(request: Request, world: World) -> Iterator[str]:
    """The kinds of which the owner means all names: "to each user", not "all messages from Bob"."""
    for kind in sorted(world.kinds):
        nouns = {noun for record in world.of(kind)[:1] for noun in record.rows.nouns}
        if not nouns or not all(record.own for record in world.of(kind)):
            continue
        alternatives = "|".join(sorted(nouns))
        for match in re.finditer(rf"\b(?:all|each|every) (?:of )?(?:the )?(?:{alternatives})\b", request.folded):
            rest = request.folded[match.end() :].strip()
            if _NOT_YET.match(rest) or not rest or rest.split()[0].strip(".,!?;:") not in _RESTRICTS:
                yield kind
