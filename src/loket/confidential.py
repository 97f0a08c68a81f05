"""What the owner's settings call confidential: `[confidential]` of `config.toml`.

    [confidential]
    diary = ["*"]                      # everything that the agent diary keeps
    main = ["files/private/", "kv/bank", "memories/health"]

A value with the label `confidential` goes to models on this machine only (see the obligation `local-model`).
"""

from collections.abc import Mapping, Sequence

from loket.contracts import BadInput, Call, Capability, Json

_STORES = ("files/", "kv/", "memories/")


class Confidential:
    """Says whether an answer is confidential. `table` gives by agent (`*`: all) what is. Raises `BadInput`."""

    def __init__(self, table: Mapping[str, Json]) -> None:
        self._places = {agent: _checked(agent, places) for agent, places in table.items()}

    def holds(self, call: Call, capability: Capability, answer: Mapping[str, Json]) -> bool:
        """Whether the answer shows something from a confidential place of the call's agent."""
        places = (*self._places.get(call.agent, ()), *self._places.get("*", ()))
        if not places or capability.family not in ("fs", "kv", "brain"):
            return False
        return "*" in places or any(name.startswith(places) for name in _shown(call, capability, answer))


def _shown(call: Call, capability: Capability, answer: Mapping[str, Json]) -> list[str]:
    """The places that an answer shows, as settings write them."""
    if capability.family == "brain":
        return [f"memories/{(memory.get('subject') or '').casefold()}" for memory in answer.get("memories", ())]
    if capability.family == "kv":
        return [f"kv/{key}" for key in [call.args.get("key", ""), *answer.get("keys", ())] if key]
    path = str(call.args.get("path", ""))
    below = f"{path}/" if path else ""
    entries = [f"files/{below}{entry['name']}" for entry in answer.get("entries", ())]
    return [f"files/{path}", *entries] if "text" in answer else entries


def _checked(agent: str, places: Json) -> tuple[str, ...]:
    if not isinstance(places, Sequence) or isinstance(places, str) or not all(_is_place(place) for place in places):
        raise BadInput(
            "config.type",
            f"confidential.{agent} is {places!r}, and a list of places is needed",
            f'{agent} = ["*"], or places such as "files/private/", "kv/bank", "memories/health"',
        )
    return tuple(place.casefold() if place.startswith("memories/") else place for place in places)


def _is_place(place: Json) -> bool:
    return isinstance(place, str) and (place == "*" or place.startswith(_STORES))
