"""The registry: which capabilities exist, who performs them, and how their arguments and answers are checked.

In the kernel because step 2 of every call rests on it. It opens with nothing: the composition root adds the catalogue's
entries and the providers; a capability without a provider, or a provider without a catalogue entry, is an error at
start and not at the first call. What is installed or connected later comes and goes by source, as a whole.
"""

import difflib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
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
    """Capabilities by id. `compile_check` turns a JSON Schema into a `Check`.

    Thread-safe: each change makes a new table and puts it in the old one's place, so a reader sees all of a source or
    nothing of it, and a call that has found its `Entry` goes on with it.
    """

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
                    wrong = "performed twice" if name in handlers else "not in the catalogue"
                    what = f"provider {provider.id} performs {name}, which is {wrong}"
                    raise BadInput("provider.capability", what, "perform each entry of the catalogue in one provider")
                handlers[name] = handler
        self._compile = compile_check
        self._families = {capability.family for capability in known.values()}
        self._sources: dict[str, frozenset[str]] = {}
        self._changing = threading.Lock()
        self._entries: Mapping[str, Entry] = {
            name: self._entry(capability, handlers.get(name))
            for name, capability in known.items()
            if capability.side or name in handlers
        }

    def put(self, source: str, capabilities: Sequence[Capability], handlers: Mapping[str, Handler]) -> None:
        """Have a source (`module:inventory`, `mcp:time`) perform exactly these capabilities from the next call on.

        Raises `BadInput`, where nothing is changed: `capability.taken` for a name of another source or in a family of
        the catalogue, whose names have meanings to the policy; `capability.handler` where capabilities and handlers do
        not agree; `capability.schema` for a schema that is none.
        """
        names = [capability.id for capability in capabilities]
        odd = {name for name in names if names.count(name) > 1} | handlers.keys() ^ set(names)
        odd |= {capability.id for capability in capabilities if capability.side}
        if odd:
            raise BadInput(
                "capability.handler",
                f"{source} does not have one handler for each of its capabilities: {', '.join(sorted(odd))}",
                "declare each capability once, and give it its handler",
            )
        fresh = {known.id: self._checked(source, known, handlers[known.id]) for known in capabilities}
        with self._changing:
            others = self._without(source)
            for name in names:
                if name in others or fresh[name].capability.family in self._families:
                    raise BadInput(
                        "capability.taken",
                        f"{source} cannot perform {name}: another source does, or its family is Loket's own",
                        "give it another name: its family is the part before the first dot",
                    )
            self._entries, self._sources[source] = {**others, **fresh}, frozenset(names)

    def drop(self, source: str) -> None:
        """Take away what a source performs, if it performs anything."""
        with self._changing:
            self._entries = self._without(source)
            self._sources.pop(source, None)

    def _without(self, source: str) -> dict[str, Entry]:
        dropped = self._sources.get(source, frozenset())
        return {name: entry for name, entry in self._entries.items() if name not in dropped}

    def _entry(self, capability: Capability, handler: Handler | None) -> Entry:
        return Entry(capability, handler, self._compile(capability.arguments), self._compile(capability.answer))

    def _checked(self, source: str, capability: Capability, handler: Handler) -> Entry:
        try:
            return self._entry(capability, handler)
        except ValueError as error:
            raise BadInput(
                "capability.schema", f"a schema of {capability.id} ({source}) is none: {error}", "mend the schema"
            ) from None

    def get(self, name: str) -> Entry | None:
        """The entry of a capability, where there is one."""
        return self._entries.get(name)

    def find(self, name: str) -> Entry:
        """The entry of a capability. Raises `Refusal` that names the nearest ones."""
        entries = self._entries
        entry = entries.get(name)
        if entry is None:
            near = difflib.get_close_matches(name, entries, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`loket caps` lists those that exist"
            raise Refusal("capability.unknown", f"there is no capability {name[:80]!r}", hint)
        return entry

    def all(self) -> list[Capability]:
        return [entry.capability for entry in self._entries.values()]
