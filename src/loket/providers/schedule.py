"""Schedules that agents make for themselves (`schedule.*`), and `clock.sleep`."""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from loket.contracts import Answer, Call, Handler, Labels, Refusal

LONGEST_S = 30 * 86_400.0
"""Seconds that one sleep may take."""
_LOOK_S = 60.0
"""Seconds between two looks at the clock on the wall, which may jump, and stand still where the machine sleeps."""
_FORGET_S = 2 * LONGEST_S


class Table(Protocol):
    """Keeps schedules; every change is made once for a call. Each raises `Refusal`."""

    def create(self, call: Call) -> dict[str, Any]: ...

    def listed(self, call: Call) -> tuple[list[dict[str, Any]], Labels]: ...

    def pause_by(self, call: Call) -> dict[str, Any]: ...

    def remove_by(self, call: Call) -> dict[str, Any]: ...


class Sleeps(Protocol):
    """Keeps until when calls sleep, and erases what runs left."""

    def wake_at(self, run: str, ordinal: int, until: float) -> float:
        """Until when a call sleeps: what it was told first."""

    def forget_sleeps(self, before: float) -> None: ...

    def erase(self, agent: str, runs: Collection[str]) -> list[str]: ...


class ScheduleProvider:
    """Performs `schedule.*` and `clock.sleep`. `now` gives seconds since 1970 UTC."""

    id = "schedule"

    def __init__(
        self,
        table: Table,
        sleeps: Sleeps,
        now: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._table = table
        self._sleeps = sleeps
        self._now = now
        self._monotonic = monotonic

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler; a sleep waits."""
        return {
            "schedule.create": self.create,
            "schedule.list": self.list,
            "schedule.pause": self.pause,
            "schedule.remove": self.remove,
            "clock.sleep": self.sleep,
        }

    async def start(self) -> None:
        """Forget the sleeps that nobody can come back to."""
        await asyncio.to_thread(self._sleeps.forget_sleeps, self._now() - _FORGET_S)

    async def close(self) -> None:
        """Nothing to close: the file belongs to whoever opened it."""

    def create(self, call: Call) -> Answer:
        """Answers `id` and `next`. Raises `Refusal` for times that mean nothing, and where there are too many."""
        return Answer(self._table.create(call))

    def list(self, call: Call) -> Answer:
        """Answers `schedules`, with the labels of their texts."""
        found, labels = self._table.listed(call)
        return Answer({"schedules": found}, labels)

    def pause(self, call: Call) -> Answer:
        """Answers `id`, `paused` and `next`. Raises `Refusal` for one that is not the agent's own."""
        return Answer(self._table.pause_by(call))

    def remove(self, call: Call) -> Answer:
        """Answers `id` and `text`. Raises `Refusal` for one that is not the agent's own."""
        return Answer(self._table.remove_by(call))

    async def sleep(self, call: Call) -> Answer:
        """Answers `until`, when that has come. Raises `Refusal` for more than 30 days.

        The time is on the disk before the wait, so whoever makes the call again waits for what is left. Seconds count
        by a clock that does not jump, too: one that is set back makes no sleep longer.
        """
        now = self._now()
        until = await asyncio.to_thread(self._sleeps.wake_at, call.run, call.ordinal, _until(call, now))
        most = self._monotonic() + until - now if "seconds" in call.args else None
        while (left := until - self._now()) > 0 and (most is None or self._monotonic() < most):  # noqa: ASYNC110 - no event
            await asyncio.sleep(min(left, _LOOK_S))
        return Answer({"until": dt.datetime.fromtimestamp(until, dt.UTC).isoformat()})

    # What a run left here

    def writes(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        """The schedule that a journaled call made."""
        return [answer["id"]] if capability == "schedule.create" else []

    def reads(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> Sequence[str]:
        """The schedules that a journaled call showed."""
        if capability == "schedule.list":
            return [one["id"] for one in answer.get("schedules", ())]
        return [answer["id"]] if capability == "schedule.remove" else []

    def erase(self, agent: str, runs: Collection[str]) -> Sequence[str]:
        """Erase the schedules that these runs of an agent made; their ids. The owner's are not made by runs."""
        return self._sleeps.erase(agent, runs)


def _until(call: Call, now: float) -> float:
    """When a sleep ends (seconds since 1970 UTC). Raises `Refusal`."""
    if "seconds" in call.args:
        return now + float(call.args["seconds"])
    until = dt.datetime.fromisoformat(call.args["until"]).timestamp()
    if until - now > LONGEST_S:
        raise Refusal(
            "clock.long", f"{call.args['until']} is more than 30 days away", 'use schedule.create with {"at": ...}'
        )
    return until
