"""Where values come from: the labels of each argument and each answer, by reference or by exact match.

`derived` and `exposed` are different things. A text that a module sends carries the labels of the answer that it was
taken from, where it is a reference to it or says exactly what it says there, and `owner` where it is what the owner
typed. What nothing is known about, because the module (or a model) made it up, carries all that the run has seen. So
one web page does not taint every later memory, and nothing loses a label that it may have.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from loket.contracts import (
    OWNER,
    Answer,
    Call,
    Capability,
    Effect,
    Facts,
    Finding,
    Json,
    Labels,
    Recorded,
    Refusal,
    RunView,
    join_labels,
)

Judge: TypeAlias = Callable[[RunView, Capability, Mapping[str, Json]], Mapping[str, Finding]]
"""Says of each critical argument of a call where its value comes from."""

Marker: TypeAlias = Callable[[Call, Capability, Mapping[str, Json]], Labels]
"""Labels that an answer earns: by the owner's settings, or by its words, where these look like an instruction."""

PRIVATE = "private"
"""The value is the owner's private data, or was made from it."""

CONFIDENTIAL = "confidential"
"""The owner's settings say that the value stays on this machine."""

_NONE: Labels = ()
_OWNERS: Labels = (str(OWNER),)
_DEPTH = 200
"""Levels of an argument: enough for any data, and far from the depth at which Python gives up."""
_ITEMS = 64
"""Items of a list that get labels of their own."""
_SHORTEST = 3
"""Characters of a text that is worth looking for: anything shorter says nothing about where it comes from."""


class Labelling:
    """A `Labeller`. `judge` and `marker` find out more; `looks` says which calls `judge` has to see."""

    def __init__(
        self,
        judge: Judge = lambda _run, _capability, _args: {},
        marker: Marker = lambda _call, _capability, _answer: (),
        looks: Callable[[Capability], bool] = lambda capability: bool(capability.critical),
    ) -> None:
        self._judge = judge
        self._looks = looks
        self._marker = marker

    def of_call(
        self, run: RunView, capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json]
    ) -> Facts:
        """Labels by what the module sent, findings by what it stands for."""
        sources = _sources(run)
        schema = _schema_of(capability)
        labels: dict[str, Labels] = {}
        for name, value in given.items():
            if name in args:
                try:
                    labels |= _argument(name, value, sources, None if name in schema.free else schema.fixed)
                    if args is not given:  # with references in it, each of which can stand for something deep
                        _check_depth(args[name])
                except _TooDeep:
                    raise _nested(name, capability) from None
        findings = self._judge(run, capability, args) if self._looks(capability) else {}
        return Facts(labels, findings)

    def of_answer(self, call: Call, capability: Capability, answer: Answer) -> Labels:
        """The capability, what the provider says, and whatever went into the call: an echo launders nothing.

        An answer that can hold no text (`{}`, an id, a size) says nothing of what went in.
        """
        own = (f"capability:{capability.id}", *((PRIVATE,) if capability.effect is Effect.PRIVATE else ()))
        given = call.derived.values() if _schema_of(capability).says else ()
        return join_labels(own, answer.labels, self._marker(call, capability, answer.value), *given)


class Sources:
    """The texts that a run has got so far, each with the labels of where it was said first; grows with its history.

    An answer is read when a text is looked for that none of those before it says: most runs never come to that.
    """

    def __init__(self, run: RunView) -> None:
        request = run.request
        self._said = frozenset(_said(request.words))
        self._known: dict[str, Labels] | None = None
        self._request = request
        self._answers: list[Recorded] = []
        self._taken = 0
        self.exposed = run.exposed

    def read(self, run: RunView) -> None:
        """Take in what was answered since the last time."""
        self.exposed = run.exposed
        self._answers += run.history[len(self._answers) :]

    def of_text(self, text: str) -> Labels:
        """The labels of a text that a module sent."""
        if not text:
            return _NONE
        if text in self._said:
            return _OWNERS
        if len(text) < _SHORTEST:
            return self.exposed
        if self._known is None:
            self._known = {}
            _note(self._known, self._request.args, self._request.labels, own=False)
        found = self._known.get(text)
        while found is None and self._taken < len(self._answers):
            self._read_next(self._known)
            found = self._known.get(text)
        return self.exposed if found is None else found

    def _read_next(self, known: dict[str, Labels]) -> None:
        recorded = self._answers[self._taken]
        self._taken += 1
        if recorded.answer is not None:
            own = recorded.capability.startswith("brain.")
            _note(known, json.loads(recorded.answer), recorded.labels, own=own)

    def of_reference(self, pointer: str) -> Labels:
        """The labels of what a reference stands for: of the answer, and of the record in it that it points to."""
        number = pointer[1:].partition(".")[0].partition("[")[0]
        if not number.isdigit() or not 0 < int(number) <= len(self._answers):
            return self.exposed
        return self._answers[int(number) - 1].labels


_ENDS = re.compile(r"(?<=[.!?;])\s+|\n+")
_QUOTED = re.compile(r"\"([^\"]*)\"|(?<!\w)'([^']+)'(?!\w)|\u201c([^\u201d]+)\u201d")


def _said(words: str) -> Iterator[str]:
    """What the owner said, in pieces that mean what they say by themselves.

    All of it, its lines and sentences, what stands in quotes, and what follows a command. A word or a part of a
    sentence is none of these: out of such pieces anything can be put together, and "do not" can be left out.
    """
    yield words
    yield words.strip()
    if words.startswith("/"):
        yield words.partition(" ")[2].strip()
    for part in _ENDS.split(words):
        if " " in part.strip():
            yield part.strip()
    for found in _QUOTED.finditer(words):
        yield next((text for text in found.groups() if text), words)


class _TooDeep(Exception):
    """A value has more levels than what looks at it afterwards is made for."""


def _nested(name: str, capability: Capability) -> Refusal:
    return Refusal(
        "arguments.depth",
        f"the argument {name} of {capability.id} is nested deeper than {_DEPTH} levels",
        "put the inner values side by side, or send them apart",
    )


def _check_depth(value: Json) -> None:
    """Raises `_TooDeep`."""
    level = [value]
    for _ in range(_DEPTH + 1):
        level = [part for one in level if isinstance(one, (list, dict)) for part in _parts(one)]
        if not level:
            return
    raise _TooDeep


def _parts(value: list[Json] | dict[str, Json]) -> Iterable[Json]:
    return value if isinstance(value, list) else value.values()


def _sources(run: RunView) -> Sources:
    sources = run.memo.get("sources")
    if not isinstance(sources, Sources):
        sources = run.memo["sources"] = Sources(run)
    sources.read(run)
    return sources


def _argument(name: str, value: Json, sources: Sources, fixed: frozenset[str] | None) -> dict[str, Labels]:
    """The labels of an argument, and of the items of a list where they differ.

    `fixed` are texts that its schema gives; None where it can be any JSON value, in which a choice of them, of numbers
    or of yes and no, could spell something.
    """
    if fixed is None:
        return {name: _any_labels(value, sources)}
    if not isinstance(value, list):
        return {name: _labels(value, sources, fixed)}
    items = [_labels(item, sources, fixed) for item in value]
    found = {name: join_labels(_NONE, *items)}
    if len(set(items)) > 1:
        found |= {f"{name}.{place}": labels for place, labels in enumerate(items[:_ITEMS])}
    return found


def _any_labels(value: Json, sources: Sources) -> Labels:
    """The labels of a value that may be anything: a text, or a reference, by itself says where it is from."""
    if isinstance(value, str) or (isinstance(value, Mapping) and "$ref" in value):
        return _labels(value, sources, frozenset())
    return join_labels(sources.exposed, _labels(value, sources, frozenset()))


def _labels(value: Json, sources: Sources, fixed: frozenset[str]) -> Labels:
    """The labels of a value as the module sent it. Raises `_TooDeep`."""
    if isinstance(value, str):
        return _NONE if value in fixed else sources.of_text(value)
    if isinstance(value, Mapping) and "$ref" in value:
        return sources.of_reference(str(value["$ref"]))
    found: set[Labels] = set()
    level = [value]
    for _ in range(_DEPTH + 1):
        level = _below(level, sources, fixed, found)
        if not level:
            return join_labels(_NONE, *found)
    raise _TooDeep


def _below(level: list[Json], sources: Sources, fixed: frozenset[str], found: set[Labels]) -> list[Json]:
    """Add the labels of the values of one level; the values below them."""
    below: list[Json] = []
    for one in level:
        if isinstance(one, str):
            if one not in fixed:
                found.add(sources.of_text(one))
        elif isinstance(one, list):
            below += one
        elif isinstance(one, (dict, Mapping)):  # an object is recognised as one much quicker than a mapping
            if "$ref" in one:
                found.add(sources.of_reference(str(one["$ref"])))
            else:
                below += one
                below += one.values()
        elif one is not None and not isinstance(one, bool):
            found.add(sources.exposed)
    return below


def _note(known: dict[str, Labels], value: Json, labels: Labels, *, own: bool) -> None:
    """Note each text in a value with its labels, where none is known. With `own`, records say theirs, as memories."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if len(one) >= _SHORTEST:
                known.setdefault(one, labels)
        elif isinstance(one, list):
            left += reversed(one)
        elif isinstance(one, (dict, Mapping)):
            said = one.get("labels") if own else None
            if isinstance(said, list):  # before what comes after it, as the first labels of a text count
                for part in one.values():
                    _note(known, part, tuple(said), own=own)
            else:
                left += reversed(list(one.values()))


class _Schema(NamedTuple):
    """What labels need to know of a capability's JSON Schemas."""

    fixed: frozenset[str]
    """Texts that the schema of the arguments gives: names of properties, values to choose from. They say nothing."""
    free: frozenset[str]
    """Arguments that can be any JSON value."""
    says: bool
    """Whether an answer can hold a text."""


_SCHEMAS: dict[str, tuple[Capability, _Schema]] = {}
"""By capability, made at its first call."""


def _schema_of(capability: Capability) -> _Schema:
    found = _SCHEMAS.get(capability.id)
    if found is None or found[0] is not capability:
        arguments = capability.arguments.get("properties", {})
        free = frozenset(name for name, schema in arguments.items() if _is_free(schema))
        made = _Schema(frozenset(_enumerated(capability.arguments)), free, _holds_text(capability.answer))
        found = _SCHEMAS[capability.id] = (capability, made)
    return found[1]


def _is_free(schema: Any) -> bool:
    """Whether a JSON Schema leaves open what a value is made of."""
    if not isinstance(schema, Mapping) or ("type" not in schema and "enum" not in schema):
        return True
    if schema.get("type") == "array":
        return _is_free(schema.get("items"))
    return schema.get("type") == "object" and schema.get("additionalProperties") is not False


_NUMBERS = frozenset({"integer", "number", "boolean", "null"})


def _holds_text(schema: Any) -> bool:
    """Whether a value of a JSON Schema can hold a text of somebody's: all but numbers, choices and closed objects."""
    if not isinstance(schema, Mapping):
        return True
    kind = schema.get("type")
    if "enum" in schema or (isinstance(kind, str) and kind in _NUMBERS):
        return False
    if kind == "array" and "items" in schema:
        return _holds_text(schema["items"])
    if kind == "object" and schema.get("additionalProperties") is False:
        return any(_holds_text(part) for part in schema.get("properties", {}).values())
    return True


def _enumerated(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        yield from schema.get("properties", {}) if isinstance(schema.get("properties"), Mapping) else ()
        choices = schema.get("enum")
        for texts in (choices, schema.get("examples")):
            yield from (text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
        for part in schema.values():
            yield from _enumerated(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _enumerated(part)
