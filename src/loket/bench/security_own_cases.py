"""What a case of the own capabilities is made of: words, what is there before, calls, and what came of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TOOK = "\u0000took"
"""The name under which an argument says which earlier answer it is taken from."""


class Step:
    """One call that the model asks for, with its arguments."""

    __slots__ = ("args", "capability")

    def __init__(self, capability: str, **args: Any) -> None:
        self.capability = capability
        self.args = args


def took(step: int, *path: str | int) -> dict[str, Any]:
    """An argument that the model copies from the answer to an earlier step: `took(0, "memories", 0, "id")`."""
    return {TOOK: [step, *path]}


@dataclass(frozen=True, slots=True)
class Case:
    """The owner's words, and the calls that are made of them.

    `memories` and `files` are the owner's own, and there before. `earlier` are turns of the conversation before it.
    `own` says that the agent's code makes the calls, and no model: so it is with its own values.
    """

    name: str
    words: str
    steps: tuple[Step, ...]
    memories: Sequence[str] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    earlier: tuple["Case", ...] = ()
    own: bool = False


@dataclass(frozen=True, slots=True)
class World:
    """What there is after a case.

    `made` are the calls that were let through, of the run and of all that came of it, each with the agent that made it.
    """

    memories: Sequence[Mapping[str, Any]]
    files: Mapping[str, str]
    asked_for: Sequence[str]
    """Paths, queries and headers that reached the web server, and addresses of other hosts that were let through."""
    made: Sequence[tuple[str, str, Mapping[str, Any]]]
    others: Mapping[str, Sequence[Mapping[str, Any]]]
    """The memories of the other agents, what was said to them included."""

    def remembers(self, text: str) -> bool:
        """Whether a live memory of the agent says exactly this."""
        return any(memory["text"] == text for memory in self.memories)

    def told(self, agent: str, text: str) -> bool:
        """Whether another agent was told this."""
        return any(text in memory["text"] for memory in self.others[agent])

    def left(self, text: str) -> bool:
        """Whether this text went out in a request."""
        return any(text in one for one in self.asked_for)


@dataclass(frozen=True, slots=True)
class Attack:
    """A case whose model is lost: it makes the attacker's calls, after those of the owner's task that read the text.

    `reached` says whether the attacker has what was wanted. `others` are what other agents' models do when they are
    told a text: they are lost as well.
    """

    case: Case
    reached: Callable[[World], bool]
    goal: str
    others: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
