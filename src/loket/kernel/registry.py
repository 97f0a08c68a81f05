"""The registry: which capabilities exist, who performs them, and how their arguments and answers are checked.

In the kernel because step 2 of every call rests on it. It opens with nothing: the composition root adds the catalogue's
entries and the providers; a capability without a provider, or a provider without a catalogue entry, is an error at
start and not at the first call.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from loket.contracts import BadInput, Capability, Handler, Provider, Refusal

Check: TypeAlias = Callable[[Any], str | None]
"""Checks a JSON value; a sentence that names the field and what is wrong with it, or None."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A capability, ready to be called."""

    capability: Capability
    handler: Handler | None
    """None for the side capabilities, which the kernel performs itself."""
    check_args: Check
    check_answer: Check


class Registry:
    """Capabilities by id. `compile_check` turns a JSON Schema into a `Check`."""

    def __init__(
        self,
        catalogue: Iterable[Capability],
        providers: Iterable[Provider],
        compile_check: Callable[[Mapping[str, Any]], Check],
    ) -> None:
        known = {capability.id: capability for capability in catalogue}
        handlers: dict[str, Handler] = {}
        for provider in providers:
            for name, handler in provider.handlers().items():
                if name not in known or name in handlers:
                    raise BadInput(
                        "provider.capability",
                        f"provider {provider.id} performs {name}, which is "
                        + ("performed twice" if name in handlers else "not in the catalogue"),
                        "declare each capability once in the catalogue and perform it in one provider",
                    )
                handlers[name] = handler
        self._entries = {
            name: Entry(
                capability, handlers.get(name), compile_check(capability.arguments), compile_check(capability.answer)
            )
            for name, capability in known.items()
            if capability.side or name in handlers
        }

    def knows(self, name: str) -> bool:
        return name in self._entries

    def find(self, name: str) -> Entry:
        """The entry of a capability. Raises `Refusal` that names the nearest ones."""
        entry = self._entries.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, self._entries, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`loket caps` lists those that exist"
            raise Refusal("capability.unknown", f"there is no capability {name[:80]!r}", hint)
        return entry

    def all(self) -> list[Capability]:
        return [entry.capability for entry in self._entries.values()]
