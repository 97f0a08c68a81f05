"""Agents that work for each other: what `agent.ask` and `message.*` do over the running system.

A run that another one starts has an id that follows from (run, ordinal), so a call that is performed again after a
crash finds what it started. One that is asked is waited for, within what the asking run has left; one that gets a
message is on its own. Made before the engine, as providers are; `bind` gives it the rest.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

from loket.children import (
    ASKED,
    Children,
    askers,
    awaited,
    ending_of,
    failed_ask,
    limits_of,
    reason_of,
    used,
    within,
)
from loket.contracts import (
    Answer,
    Call,
    Ending,
    Json,
    Labels,
    Limits,
    LoketError,
    ModuleRef,
    Principal,
    Refusal,
    RunRequest,
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

__all__ = ["Address", "Delegation", "ending_of"]

_HEAR = BY_ID["message.subscribe"]
_LONGEST = 200
"""Characters of a conversation's name."""
MOST_IN_FLIGHT = 1_000
"""Unfinished runs that may come of one message of the owner, before further messages between agents are refused."""


class Delegation:
    """A `Delegate` and a `Post` over engine, database and grants. Used from the event loop.

    `address` finds an installed agent; `now` gives seconds since 1970.
    """

    _engine: Engine
    _database: KernelDatabase
    _grants: Grants
    _children: Children

    def __init__(self, bus: Bus, address: Address, now: Callable[[], float]) -> None:
        self._bus = bus
        self._address = address
        self._now = now

    def bind(self, engine: Engine, database: KernelDatabase, grants: Grants) -> None:
        """What is there only after the providers."""
        self._engine = engine
        self._database = database
        self._grants = grants
        self._children = Children(engine, database)

    def stop_orphans(self) -> None:
        """After a restart: stop what was asked by a run that has ended since."""
        unfinished = self._engine.unfinished()
        for run, state in unfinished.items():
            if awaited(state.request) and state.request.parent not in unfinished:
                self._engine.stop(run, "the run that asked has ended")

    # Asking

    async def ask(self, call: Call, agent: str, text: str, timeout_s: float) -> Answer:
        """Run an agent as a child of the call's run and wait for its answer (see `Delegate`)."""
        child = derived_id(call.run, call.ordinal)
        unfinished = self._engine.unfinished()
        asker = unfinished[call.run]
        if child not in unfinished:
            ended = await self._children.over(child)
            if ended is not None:
                return _answered(agent, child, ended)
            self._refuse_cycle(asker, agent, unfinished)
            await self._children.start(asker, self._child(asker, call, agent, text, child))
        return _answered(agent, child, await self._children.ending(asker, child, timeout_s))

    def _child(self, asker: RunState, call: Call, agent: str, text: str, run: str) -> RunRequest:
        place = _bounded(f"{ASKED}{call.agent}:{call.conversation}", f"{ASKED}{call.agent}:")
        ref, args = self._found(agent, text, place, {"from": call.agent})
        ref = replace(ref, limits=within(ref.limits, asker))
        return self._request(asker.request, call, run, ref, place, args, call.labels_of("text"))

    def _refuse_cycle(self, asker: RunState, agent: str, unfinished: Mapping[str, RunState]) -> None:
        """Raises `Refusal` (`wait.cycle`) for an agent that waits for this run, or is its own."""
        chain = [state.request.agent for state in askers(unfinished, asker.request.id)]
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
        given = next((limits_of(state.request) for state in family if state.request.id == sender.root), first)
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


def _answered(agent: str, run: str, ending: Ending | Usage) -> Answer:
    """What whoever asked gets. Raises `Failed` where there is no answer."""
    if isinstance(ending, Usage):
        late = f"{agent} gave no answer in the time that there was (run {run})"
        raise failed_ask("agent.timeout", late, f"loket runs show {run}; ask for less", ending, ())
    labels = join_labels(ending.labels, (f"agent:{agent}",))
    if ending.answer is None:
        said = f"{agent} gave no answer (run {run}): {reason_of(ending)}"
        remedy = "loket runs list; ask again, or go on without its answer"
        raise failed_ask("agent.failed", said, remedy, used(ending), labels)
    text = ending.answer.get("text")
    said = text if isinstance(text, str) else json.dumps(ending.answer, ensure_ascii=False)
    return Answer({"text": said, "run": run}, labels, used(ending))


def _refuse_deeper(sender: RunRequest) -> None:
    """Raises `Refusal` (`limit.depth`) for a run that may start no others."""
    most = limits_of(sender).depth
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


def _bounded(name: str, start: str) -> str:
    """A conversation's name, the rest of a long one by its digest."""
    return name if len(name) <= _LONGEST else start + hashlib.sha256(name.encode()).hexdigest()[:32]
