"""The records that stand in the answers of reads, as their capabilities declare them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loket.contracts import Capability, Rows
from loket.provenance.owner import Owner
from loket.provenance.words import fold, scalars

_NAMES, _LONGEST = 2, 60
"""Names of a record that are shown, and characters of one."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A call that was made in a run, its arguments (references resolved) and its answer; `ordinal` orders them."""

    capability: Capability
    args: Mapping[str, Any]
    answer: Mapping[str, Any]
    ordinal: int


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its declaration, its fields, and whether only the owner can have made it.

    `narrowed` are the fields and folded texts by which the read that found it was narrowed: among such records a match
    is unique only for a key that the narrowing cannot have dropped.
    """

    rows: Rows
    fields: Mapping[str, Any]
    own: bool
    narrowed: tuple[tuple[frozenset[str], str], ...] = ()

    @property
    def id(self) -> str | None:
        value = self.fields.get(self.rows.id) if self.rows.id else None
        return None if value is None else fold(str(value))

    @property
    def identity(self) -> tuple[str, str]:
        """What makes it the same record in two answers: its id as the service writes it, or all that it says."""
        written = self.fields.get(self.rows.id) if self.rows.id else None
        return (
            self.rows.kind,
            str(written) if written is not None else json.dumps(self.fields, sort_keys=True, default=str),
        )

    @property
    def shown(self) -> str:
        """The record as people know it: `memory "Buy milk", 2026-11-02`; long names are cut."""
        rows = self.rows
        names = [text for name in rows.keys or rows.text for text in scalars(self.fields.get(name))]
        said = [json.dumps(_cut(text), ensure_ascii=False) for text in names if isinstance(text, str) and text][:_NAMES]
        dated = [name for name, kind in rows.minted.items() if kind == "date"]
        days = [str(day)[:10] for name in dated for day in scalars(self.fields.get(name))]
        return ", ".join([f"{rows.kind} {said[0]}" if said else rows.kind, *said[1:], *days[:1]])

    @property
    def makers(self) -> list[str]:
        return self.texts(self.rows.maker)

    def texts(self, name: str | None) -> list[str]:
        """The folded texts of a field."""
        return [fold(str(value)) for value in scalars(self.fields.get(name))] if name else []

    def complete(self, key: str, name: str) -> bool:
        """Whether every record whose field says `key` would have been found by the read as well."""
        return all(name in fields and text in key for fields, text in self.narrowed)


def records(
    rows: Rows,
    args: Mapping[str, Any],
    answer: Any,
    owner: Owner,
    narrowed: tuple[tuple[frozenset[str], str], ...] = (),
) -> Iterator[Record]:
    """The records of one declaration in an answer. What is not there, or of another shape, is left out."""
    bound = {name: args[argument] for argument, name in rows.bind.items() if argument in args}
    for value in _at(answer, [part for part in rows.at.split(".") if part]):
        fields = {**(value if isinstance(value, Mapping) else {"value": value}), **bound}
        record = Record(rows, fields, own=False, narrowed=narrowed)
        if _own(record, owner):
            record = Record(rows, fields, own=True, narrowed=narrowed)
        yield record


def _at(value: Any, path: Sequence[str]) -> Iterator[Any]:
    """The values at a path: `emails[]` is each item of a list, `pages{}` each value of an object."""
    if not path:
        if value is not None:
            yield value
        return
    step, rest = path[0], path[1:]
    name = step.rstrip("[]{}")
    inner = value.get(name) if name and isinstance(value, Mapping) else value
    if step.endswith("[]"):
        for item in inner if isinstance(inner, (list, tuple)) else ():
            yield from _at(item, rest)
    elif step.endswith("{}"):
        for key, item in inner.items() if isinstance(inner, Mapping) else ():
            keyed = {**item, "key": key} if isinstance(item, Mapping) else {"key": key, "value": item}
            yield from _at(keyed, rest)
    else:
        yield from _at(inner, rest)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _own(record: Record, owner: Owner) -> bool:
    """Whether only the owner can have made the record."""
    if record.id is not None and (record.rows.kind, record.id) in owner.doubtful:
        return False
    if record.rows.maker is None:
        return not record.rows.insertable
    makers = record.makers
    if any(record.fields.get(name) != value for name, value in record.rows.mine.items()):
        return False
    return bool(makers) and all(maker in owner.identities for maker in makers)
