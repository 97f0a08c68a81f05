"""Quick calls of one client share runs: while one run is on its way, the calls that come in gather for the next.

A run costs its first and its last row and two syncs of the disk, many times what a quick call costs. So a client that
does not wait for each answer gets many calls out of that, and one that does gets each call as soon as before.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from loket.app import Loket
from loket.calling import MANY, MOST
from loket.clients import Client, request
from loket.contracts import Capability, Effect, Ending, Json, LoketError, from_dict

_SHARED = frozenset({Effect.READ, Effect.PRIVATE})


def quick(capability: Capability) -> bool:
    """Whether calls of a capability may share a run: those that the owner is not asked about.

    Who waits for the owner must not hold up other calls. What changes something that its arguments name may be asked
    about, and so it has a run of its own.
    """
    safe = capability.effect in _SHARED or (capability.effect is Effect.MODIFY and not capability.critical)
    return safe and not capability.waits and not capability.side


class _Asked(NamedTuple):
    capability: str
    args: Mapping[str, Json]
    answer: "asyncio.Future[dict[str, Json]]"


class Batches:
    """The quick calls of one client. Used from the event loop."""

    def __init__(self, system: Loket, client: Client) -> None:
        self._system = system
        self._client = client
        self._waiting: deque[_Asked] = deque()
        self._working: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        return self._working is None

    async def answer(self, capability: str, args: Mapping[str, Json]) -> dict[str, Json]:
        """Have a call made in the next run; its answer. Raises the error that it ended with."""
        asked = _Asked(capability, args, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        await asyncio.sleep(0)  # whoever has read several requests puts them all
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))]
            batch = [asked for asked in batch if not asked.answer.done()]  # given up meanwhile
            if not batch:
                continue
            try:
                await self._run(batch)
            except LoketError as error:
                _fail(batch, error)
            except BaseException:
                for asked in (*batch, *self._waiting):
                    asked.answer.cancel()
                self._working = None
                raise
        self._working = None

    async def _run(self, batch: list[_Asked]) -> None:
        calls = [[asked.capability, dict(asked.args)] for asked in batch]
        run = request(self._system, self._client, MANY, {"calls": calls})
        ending: Ending = await self._system.perform(run)
        if ending.answer is None:
            raise from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
        answers = ending.answer["answers"]
        for asked, answer in zip(batch, answers, strict=False):
            if asked.answer.done():
                continue
            if "answer" in answer:
                asked.answer.set_result(answer["answer"])
            else:
                error = from_dict(answer["error"])
                error.run = run.id
                asked.answer.set_exception(error)
        self._waiting.extendleft(reversed(batch[len(answers) :]))


def _fail(batch: list[_Asked], error: LoketError) -> None:
    for asked in batch:
        if not asked.answer.done():
            asked.answer.set_exception(error)
