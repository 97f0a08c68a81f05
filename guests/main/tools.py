"""Tools for a model: granted capabilities under names that models accept."""

import json
from typing import Any

from loket_guest import Refused, call

RESULT_LENGTH = 8_000
"""Characters of a result that go back to the model."""

OWN = ("kv.", "llm.")
"""Families that the agent keeps for its own bookkeeping."""


class Toolbox:
    """Offers capabilities (`name`, `description`, `parameters` each) as tools, and uses them."""

    def __init__(self, capabilities: list[dict[str, Any]]) -> None:
        self._names = {_tool_name(one["name"]): one["name"] for one in capabilities if not one["name"].startswith(OWN)}
        self.offered = [
            {"name": _tool_name(one["name"]), "description": one["description"], "parameters": one["parameters"]}
            for one in capabilities
            if _tool_name(one["name"]) in self._names
        ]

    def use(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Do what a model asks for (`id`, `name`, `arguments`); the message that tells it what came of it.

        A refusal goes back with its remedy: the model can ask for something else, or tell the person.
        """
        result = json.dumps(self._result(wanted["name"], wanted["arguments"]), ensure_ascii=False)
        if len(result) > RESULT_LENGTH:
            result = f"{result[:RESULT_LENGTH]}… (cut: {len(result)} characters in all)"
        return {"role": "tool", "tool_call_id": wanted["id"], "content": result}

    def _result(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name not in self._names:
            known = ", ".join(sorted(self._names)) or "none"
            return {"refused": "tool.unknown", "message": f"there is no tool {name}", "remedy": f"tools: {known}"}
        try:
            return call(self._names[name], **arguments)
        except Refused as refused:
            return {"refused": refused.code, "message": refused.message, "remedy": refused.remedy}


def _tool_name(capability: str) -> str:
    return capability.replace(".", "_").replace("@", "_")[:64]
