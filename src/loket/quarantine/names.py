"""What journaled calls wrote and showed in each store, by the names of things."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import AgentStore
from loket.poison import Store
from loket.providers.brain import BrainProvider
from loket.providers.fs import FsProvider
from loket.providers.kv import KvProvider


@dataclass(frozen=True, slots=True)
class _Named:
    """A store whose things are named by an argument: of the call that makes one, and of those that show one."""

    id: str
    argument: str
    made_by: str
    shown_by: frozenset[str]

    def writes(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        return [args[self.argument]] if capability == self.made_by else []

    def reads(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> Sequence[str]:
        return [args[self.argument]] if capability in self.shown_by and self.argument in args else []


class _Scheduled:
    """Schedules, which their answers name."""

    id = "schedule"

    def writes(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        return [answer["id"]] if capability == "schedule.create" else []

    def reads(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        return [one["id"] for one in answer["schedules"]] if capability == "schedule.list" else []


def writers(store: AgentStore, files: Path) -> dict[str, Store]:
    """The stores by family; nothing is opened for it."""
    found: tuple[Store, ...] = (
        BrainProvider(store, time.time),
        KvProvider(store),
        FsProvider(files, store),
        _Named("plan", "name", "plan.save", frozenset({"plan.show", "plan.run"})),
        _Named("message", "topic", "message.subscribe", frozenset()),
        _Scheduled(),
    )
    return {one.id: one for one in found}
