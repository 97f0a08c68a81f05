"""Conditions of a plan: a small closed language over references, without arithmetic, functions or names of its own.

    {"exists": R}  {"empty": R}  {"equals": [R, scalar]}  {"less": [R, number]}  {"more": [R, number]}
    {"not": C}  {"all": [C, ...]}  {"any": [C, ...]}

where R is `{"$step": "..."}`. What is not there neither exists nor equals anything, and is empty.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.contracts import Json
from loket.orchestrator.reference import Reference

OF_ONE = frozenset({"exists", "empty"})
COMPARING = frozenset({"equals", "less", "more"})
JOINING = frozenset({"all", "any"})
KINDS = OF_ONE | COMPARING | JOINING | {"not"}

DEEPEST = 4
"""Conditions in conditions."""
MOST_PARTS = 16
"""Conditions that `all` or `any` join."""

Find: TypeAlias = Callable[[Reference], tuple[bool, Any]]
"""Whether what a reference stands for is there, and its value."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition, read: `reference` and `value` for what looks at an answer, `parts` for what joins conditions."""

    kind: str
    reference: Reference | None = None
    value: Json = None
    parts: tuple["Condition", ...] = ()

    def references(self) -> Iterator[Reference]:
        """All references that it looks at."""
        if self.reference is not None:
            yield self.reference
        for part in self.parts:
            yield from part.references()


def holds(condition: Condition, find: Find) -> bool:
    """Whether a condition holds."""
    if condition.reference is not None:
        return _compared(condition, *find(condition.reference))
    results = (holds(part, find) for part in condition.parts)
    if condition.kind == "not":
        return not next(results)
    return all(results) if condition.kind == "all" else any(results)


def _compared(condition: Condition, there: bool, found: Any) -> bool:
    if condition.kind == "exists":
        return there and found is not None
    if condition.kind == "empty":
        return not there or found is None or found in ("", [], {})
    if not there:
        return False
    if condition.kind == "equals":
        return _sort(found) is _sort(condition.value) and bool(found == condition.value)
    if _sort(found) is not float:
        return False
    return bool(found < condition.value if condition.kind == "less" else found > condition.value)


def _sort(value: Any) -> type:
    """The JSON type: 1 is 1.0, and neither is true."""
    return float if isinstance(value, int | float) and not isinstance(value, bool) else type(value)
