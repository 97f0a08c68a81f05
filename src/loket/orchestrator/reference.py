"""References of a plan: `{"$step": "find.memories[0].text"}` stands for a part of what a step answered.

    reference = name [ "[*]" ] { "." field | "[" number "]" | '["' any field '"]' }

The name is a step's, or that of a loop's item. Of a step that loops, `[2]` is its third answer, the name alone is the
list of all, and `[*]` takes the same part of each.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.contracts import Json

STEP = "$step"

NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
"""What steps and items may be called."""

Path: TypeAlias = tuple[str | int, ...]

_ALL = "[*]"
_FIELD = re.compile(r"[A-Za-z_$][\w$-]*")
_PART = re.compile(r'\.([A-Za-z_$][\w$-]*)|\[(0|[1-9][0-9]{0,8})\]|\[("(?:[^"\\]|\\.)*")\]')


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference, read: the name, the way into the answer, and whether it takes that part of each answer of a loop."""

    name: str
    path: Path = ()
    spread: bool = False

    def __str__(self) -> str:
        return self.name + (_ALL if self.spread else "") + written(self.path)


def read(text: str) -> Reference | None:
    """Read a reference's text; None where it is none."""
    name = NAME.match(text)
    if name is None:
        return None
    at = name.end()
    spread = text.startswith(_ALL, at)
    at += len(_ALL) if spread else 0
    path: list[str | int] = []
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            return None
        field, index, quoted = part.groups()
        try:
            path.append(field if field is not None else int(index) if index is not None else json.loads(quoted))
        except ValueError:  # a wrong escape in the quoted field
            return None
        at = part.end()
    return Reference(name[0], tuple(path), spread)


def written(path: Path) -> str:
    """A path as the counter and plans write it: `.items[0]["first name"]`."""
    return "".join(_written(part) for part in path)


def _written(part: str | int) -> str:
    if isinstance(part, int):
        return f"[{part}]"
    return f".{part}" if _FIELD.fullmatch(part) else f"[{json.dumps(part, ensure_ascii=False)}]"


def is_reference(value: Json) -> bool:
    """Whether a JSON value stands for a part of an answer; only for values of a plan that was read."""
    return isinstance(value, dict) and STEP in value


def references(value: Json) -> Iterator[Reference]:
    """All references in a value of a plan that was read, in order."""
    if is_reference(value):
        found = read(value[STEP])
        if found is not None:
            yield found
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from references(part)


def walk(value: Any, path: Path) -> tuple[bool, Any]:
    """Whether a JSON value has this part, and the part."""
    for part in path:
        if isinstance(part, int):
            if not isinstance(value, list) or part >= len(value):
                return False, None
        elif not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value
