"""Labels that an answer earns beside those of where it comes from: what is confidential, and what looks like a trap.

The filter reads what came from outside (`net.fetch` and whatever else fetches, but models): a page whose words try to
give orders gets labels such as `suspect:pattern`. They colour what the owner is asked; they never block by themselves.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from loket.confidential import Confidential
from loket.contracts import Call, Capability, Effect, Json, Labels, host_names
from loket.labelling import CONFIDENTIAL

if TYPE_CHECKING:
    from loket.filter import Filter

_SHORTEST = 20
"""Characters of a text that is worth reading."""


class Marking:
    """A marker for `Labelling`."""

    def __init__(self, confidential: Confidential) -> None:
        self._confidential = confidential
        self._filter: Filter | None = None

    def __call__(self, call: Call, capability: Capability, answer: Mapping[str, Json]) -> Labels:
        """Sorted labels; as a rule none."""
        found = {CONFIDENTIAL} if self._confidential.holds(call, capability, answer) else set()
        if capability.family == "net":  # an error that a host caused is the host's words too
            found.update(f"host:{name.partition(':')[0]}" for name in host_names(str(call.args.get("url", "")))[:1])
        if capability.effect is Effect.FETCH and capability.family != "llm":
            for text in _texts(answer):
                found.update(self._filtered(text))
        return tuple(sorted(found))

    def _filtered(self, text: str) -> Labels:
        if self._filter is None:
            from loket.filter import Filter  # patterns take a while to compile: not before there is a page to read

            self._filter = Filter()
        return self._filter.document(text).labels


def _texts(value: Json) -> Iterator[str]:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            if len(one) >= _SHORTEST:
                yield one
        elif isinstance(one, list):
            left += one
        elif isinstance(one, (dict, Mapping)):
            left += one.values()
