"""Agents that work for each other: what `agent.ask` and `message.*` do over the running system.

A run that another one starts has an id that follows from (run, ordinal), so a call that is performed again after a
crash finds what it started. One that is asked is waited for, within what the asking run has left; one that gets a
message is on its own. Made before the engine, as providers are; `bind` gives it the rest.
"""

import asyncio
import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from loket.contracts import (
    Answer,
    Call,
    Ending,
    Failed,
    FailedAsk,
    Json,
    Labels,
    Limits,
    LoketError,
    ModuleRef,
    Principal,
    Refusal,
    RunRequest,
    RunStatus,
    Usage,
    join_labels,
)
from loket.contracts.catalogue import BY_ID
from loket.ids import derived_id
from loket.kernel.constraints import keep
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.state import RunState
from loket.store.bus import Bus
from loket.store.kernel import KernelDatabase

Address: TypeAlias = Callable[[str, str, str, Mapping[str, Json]], tuple[ModuleRef, dict[str, Json]]]
"""Agent, text, conversation and more arguments to its module and the arguments of a `message`; raises `BadInput`."""

ASKED = "ask:"
"""Begins the conversation of a run that another one waits for."""

_HEAR = BY_ID["message.subscribe"]
_LONGEST = 200
"""Characters of a conversation's name."""
_REASON = 2_000
"""Characters of a failed run's reason that whoever asked is told."""
MOST_IN_FLIGHT = 1_000
"""Unfinished runs that may come of one message of the owner, before further messages between agents are refused."""
_STOPPING_S = 5.0
"""Seconds that a stopped run gets to write its end: at its next call or tick, so usually milliseconds."""


class Delegation:
    """A `Delegate` and a `Post` over engine, database and grants. Used from the event loop.

    `address` finds an installed agent; `now` gives seconds since 1970.
    """

    _engine: Engine
    _database: KernelDatabase
    _grants: Grants

    def __init__(self, bus: Bus, address: Address, now: Callable[[], float]) -> None:
        self._bus = bus
        self._address = address
        self._now = now
        self._until: dict[str, float] = {}
        """When the time of a run that is waited for runs out, on the event loop's clock."""

    def bind(self, engine: Engine, database: KernelDatabase, grants: Grants) -> None:
        """What is there only after the providers."""
        self._engine = engine
        self._database = database
        self._grants = grants

    def stop_orphans(self) -> None:
        """After a restart: stop what was asked by a run that has ended since."""
        unfinished = self._engine.unfinished()
        for run, state in unfinished.items():
            if _asked(state.request) and state.request.parent not in unfinished:
                self._engine.stop(run, "the run that asked has ended")

    # Asking

    async def ask(self, call: Call, agent: str, text: str, timeout_s: float) -> Answer:
        """Run an agent as a child of the call's run and wait for its answer (see `Delegate`)."""
        child = derived_id(call.run, call.ordinal)
        unfinished = self._engine.unfinished()
        asker = unfinished[call.run]
        if child not in unfinished:
            found = await asyncio.to_thread(self._database.run, child)
            if found is not None:
                return _answered(agent, child, ending_of(found))
            self._refuse_cycle(asker, agent, unfinished)
            await self._engine.submit(self._child(asker, call, agent, text, child))
        return _answered(agent, child, await self._ending(asker, child, agent, timeout_s))

    def _child(self, asker: RunState, call: Call, agent: str, text: str, run: str) -> RunRequest:
        place = _bounded(f"{ASKED}{call.agent}:{call.conversation}", f"{ASKED}{call.agent}:")
        ref, args = self._found(agent, text, place, {"from": call.agent})
        ref = replace(ref, limits=_within(ref.limits, asker))
        return self._request(asker.request, call, run, ref, place, args, call.labels_of("text"))

    async def _ending(self, asker: RunState, child: str, agent: str, timeout_s: float) -> Ending:
        """How a child ended. It is stopped, and all that it asked, when its time runs out or the asker is stopped."""
        until = min(asyncio.get_running_loop().time() + timeout_s, self._until.get(asker.request.id, math.inf))
        self._until[child] = until
        state = self._engine.unfinished()[child]
        try:
            async with asyncio.timeout_at(until):
                return await self._engine.result(child, waiter=asker.request.id)
        except TimeoutError:
            await self._stopped(child, "the time to answer ran out")
            late = f"{agent} gave no answer in the time that there was (run {child})"
            spent = Usage(state.spent.tokens, 0, state.spent.money, counted=True)
            raise _failed("agent.timeout", late, f"loket runs show {child}; ask for less", spent, ()) from None
        except asyncio.CancelledError:
            if asker.stopped is not None:  # else Loket itself stops, and goes on with both at the next start
                self._engine.stop(child, "the run that asked was stopped")
            raise
        finally:
            del self._until[child]

    async def _stopped(self, run: str, reason: str) -> None:
        """Stop a run and have its end on the disk before whoever asked is told, so that no crash revives it."""
        if self._engine.stop(run, reason):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOPPING_S):
                    await self._engine.result(run)

    def _refuse_cycle(self, asker: RunState, agent: str, unfinished: Mapping[str, RunState]) -> None:
        """Raises `Refusal` (`wait.cycle`) for an agent that waits for this run, or is its own."""
        chain = [state.request.agent for state in _waiting(asker, unfinished)]
        if agent in chain:
            own = agent == asker.request.agent
            why = "it cannot ask itself" if own else f"{agent} waits for it: {' asked '.join(reversed(chain))}"
            raise Refusal(
                "wait.cycle",
                f"{asker.request.agent} may not ask {agent}: {why}",
                f"answer {agent} without asking it, or use message.send, which does not wait",
            )

    # Messages

    async def send(self, call: Call, agent: str, text: str) -> str:
        """Start a run of an agent with a text (see `Post`)."""
        run = derived_id(call.run, call.ordinal)
        if not await self._accepted(run):
            place = f"from:{call.agent}"
            ref, args = self._found(agent, text, place, {"from": call.agent})
            await self._deliver(call, run, ref, place, args)
        return run

    async def publish(self, call: Call, topic: str, text: str) -> list[str]:
        """Start a run of each agent that subscribes to a topic (see `Post`)."""
        sender = self._engine.unfinished()[call.run].request
        _refuse_deeper(sender)
        hearing = await asyncio.to_thread(self._bus.hearing, call, topic)
        got = await asyncio.gather(*(self._publish_to(agent, call, topic, text) for agent in hearing))
        return [agent for agent, delivered in zip(hearing, got, strict=True) if delivered]

    async def _publish_to(self, agent: str, call: Call, topic: str, text: str) -> bool:
        """Whether a subscriber got it: one that is gone, broken, or has no grant any more, hinders nobody."""
        run = derived_id(call.run, call.ordinal, agent)
        if await self._accepted(run):
            return True
        place = f"topic:{topic}"
        if not self.hears(agent, topic):
            return False
        ref, args = self._address(agent, text, place, {"from": call.agent, "topic": topic})
        try:
            await self._deliver(call, run, ref, place, args)
        except Refusal:  # runs of this agent may be less deep, or there are too many already
            return False
        return True

    def hears(self, agent: str, topic: str) -> bool:
        """Whether a message of a topic gets through to an agent: it is there, sound, and has the grant."""
        try:
            ref, _args = self._address(agent, "", "", {})
            grant = self._grants.find(ref.publisher, ref.id, ref.digest, _HEAR.id)
            keep(_HEAR, ref.id, grant.constraints, {"topic": topic})
        except LoketError:
            return False
        return True

    async def _deliver(self, call: Call, run: str, ref: ModuleRef, place: str, args: dict[str, Json]) -> None:
        unfinished = self._engine.unfinished()
        sender = unfinished[call.run].request
        _refuse_deeper(sender)
        _refuse_flood(sender, unfinished)
        ref = replace(ref, limits=await self._share(ref.limits, sender, unfinished))
        labels = join_labels(call.labels_of(), (f"agent:{call.agent}",))
        request = self._request(sender, call, run, ref, place, args, labels)
        await self._engine.submit(request, awaited=False)

    async def _share(self, own: Limits, sender: RunRequest, unfinished: Mapping[str, RunState]) -> Limits:
        """A module's own limits, each at most a fair share of what is left of those of the run that began it all.

        Raises `Refusal` (`limit.messages`) where nothing is left: messages that lead to messages end there.
        """
        family = [state for state in unfinished.values() if state.request.root == sender.root]
        first, tokens, money = await asyncio.to_thread(self._database.used_by_root, sender.root)
        given = next((_limits_of(state.request) for state in family if state.request.id == sender.root), first)
        tokens += sum(state.spent.tokens - state.spent.others_tokens + state.spent.held_tokens for state in family)
        money += sum(state.spent.money - state.spent.others_money for state in family)
        if tokens >= given.tokens or money >= given.money:
            raise Refusal(
                "limit.messages",
                f"the runs that came of run {sender.root} have used its {given.tokens:,} tokens, or its money",
                'send fewer messages, or raise tokens under [limits] in the first agent\'s "loket.toml"',
            )
        share = 1 + len(family)
        limits = replace(own, tokens=min(own.tokens, int(given.tokens - tokens) // share))
        return replace(limits, money=min(own.money, (given.money - money) / share))

    # Both

    async def _accepted(self, run: str) -> bool:
        if run in self._engine.unfinished():
            return True
        return await asyncio.to_thread(self._database.run, run) is not None

    def _found(self, agent: str, text: str, place: str, more: Mapping[str, Json]) -> tuple[ModuleRef, dict[str, Json]]:
        """As `address`. Raises `Refusal` that names the agents that there are."""
        try:
            return self._address(agent, text, place, more)
        except LoketError as error:
            raise Refusal(error.code, error.message, error.remedy) from None

    def _request(
        self,
        sender: RunRequest,
        call: Call,
        run: str,
        ref: ModuleRef,
        place: str,
        args: dict[str, Json],
        labels: Labels,
    ) -> RunRequest:
        return RunRequest(
            id=run,
            root=sender.root,
            agent=ref.id,
            principal=Principal("agent", call.agent),
            module=ref,
            conversation=place,
            operation="message",
            args=args,
            labels=labels,
            accepted=self._now(),
            parent=sender.id,
            depth=sender.depth + 1,
            rights=self._grants.rights(ref),
            words=sender.words,
        )


def ending_of(found: Mapping[str, Any]) -> Ending:
    """How a run ended, from the list of runs."""
    return Ending(
        RunStatus(found["status"]),
        found["ended"],
        found["answer"],
        found["error"],
        found["calls"],
        found["tokens"],
        found["money"],
        tuple(found["labels"]),
    )


def _answered(agent: str, run: str, ending: Ending) -> Answer:
    """What whoever asked gets. Raises `Failed` where there is no answer."""
    usage = Usage(ending.tokens, 0, ending.money, counted=True)
    labels = join_labels(ending.labels, (f"agent:{agent}",))
    if ending.answer is None:
        error = ending.error or {"code": "run.unanswered", "message": "it has no answer that can be read"}
        reason = f"{error['code']}: {error['message']}"[:_REASON]
        raise _failed("agent.failed", f"{agent} gave no answer (run {run}): {reason}", None, usage, labels)
    text = ending.answer.get("text")
    said = text if isinstance(text, str) else json.dumps(ending.answer, ensure_ascii=False)
    return Answer({"text": said, "run": run}, labels, usage)


def _failed(code: str, message: str, remedy: str | None, usage: Usage, labels: Labels) -> Failed:
    error = FailedAsk(code, message, remedy or "loket runs list; ask again, or go on without its answer")
    error.usage, error.labels = usage, labels
    return error


def _within(own: Limits, asker: RunState) -> Limits:
    """A module's own limits, each at most what the asking run has left."""
    given, spent = _limits_of(asker.request), asker.spent
    tokens = max(0, given.tokens - spent.tokens - spent.held_tokens)
    money = max(0.0, given.money - spent.money)
    depth = min(own.depth, given.depth)
    return replace(own, tokens=min(own.tokens, tokens), money=min(own.money, money), depth=depth)


def _limits_of(request: RunRequest) -> Limits:
    return request.module.limits if request.module is not None else Limits()


def _refuse_deeper(sender: RunRequest) -> None:
    """Raises `Refusal` (`limit.depth`) for a run that may start no others."""
    most = _limits_of(sender).depth
    if sender.depth >= most:
        raise Refusal(
            "limit.depth",
            f"runs that start each other may be {most} deep, and this one is",
            'send less deeply, or raise depth under [limits] in "loket.toml"',
        )


def _refuse_flood(sender: RunRequest, unfinished: Mapping[str, RunState]) -> None:
    """Raises `Refusal` (`limit.messages`) where one message of the owner has led to too many unfinished runs."""
    if sum(state.request.root == sender.root for state in unfinished.values()) >= MOST_IN_FLIGHT:
        raise Refusal(
            "limit.messages",
            f"{MOST_IN_FLIGHT:,} runs that came of run {sender.root} are not finished yet",
            "send it when some of them are, or to fewer agents",
        )


def _asked(request: RunRequest) -> bool:
    """Whether the parent of a run waits for it (only runs that are started here have a parent)."""
    return request.parent is not None and request.conversation.startswith(ASKED)


def _waiting(run: RunState, unfinished: Mapping[str, RunState]) -> Iterator[RunState]:
    """A run, the run that waits for it, and so on."""
    asker: RunState | None = run
    while asker is not None:
        yield asker
        asker = unfinished.get(asker.request.parent or "") if _asked(asker.request) else None


def _bounded(name: str, start: str) -> str:
    """A conversation's name, the rest of a long one by its digest."""
    return name if len(name) <= _LONGEST else start + hashlib.sha256(name.encode()).hexdigest()[:32]
