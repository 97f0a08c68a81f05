"""Runs a plan: a deterministic function of the plan and of what the counter answers, like any module.

It makes its calls through the same host as a sealed module, so journal, resumption, replay, suspension and approvals
are those of every run. An answer that no condition, loop or end result reads is delivered by reference: the plan's run
never sees it, and takes none of its labels on.

The plan's version of this language is part of the operation's name (`plan:run`): what changes becomes a new operation
beside it, so that a run of today replays in years.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from loket.contracts import Capability, Failed, Host, Json, LoketError, OnUncertain, Refusal
from loket.orchestrator.condition import holds
from loket.orchestrator.plan import Each, Plan, Step, plan_of
from loket.orchestrator.reference import STEP, Path, Reference, is_reference, read, walk, written

RUN = "plan:run"
"""The reserved operation. No module's own operation can have a colon in its name."""


class Retry(StrEnum):
    """Which failures of a capability may be tried again."""

    ANY = "any"
    """It changes nothing, or may be done twice."""
    CERTAIN = "certain"
    """Only where it is certain that nothing happened: a new attempt is a new call, which its store cannot tell."""
    NEVER = "never"


UNCERTAIN = frozenset({"provider.timeout", "provider.crashed", "effect.uncertain", "limit.answer", "provider.answer"})
"""Failures after which the effect may have happened all the same."""


def retry_of(capability: Capability) -> Retry:
    """Which failures of a capability a plan may try again, from what it declares."""
    if not capability.effect.changes or capability.on_uncertain is OnUncertain.REPEAT:
        return Retry.ANY
    return Retry.CERTAIN if capability.on_uncertain is OnUncertain.DEDUPE else Retry.NEVER


class Place(NamedTuple):
    """A part of the answer to a call of this run."""

    ordinal: int
    path: Path = ()

    def reference(self) -> dict[str, str]:
        """As the counter resolves it."""
        return {"$ref": f"r{self.ordinal}{written(self.path)}"}


class Item(NamedTuple):
    """What a loop is at: the item's name, and where it is."""

    name: str
    place: Place


@dataclass(slots=True)
class Done:
    """What became of one step. `ordinals` are the numbers of its answered calls, in order."""

    id: str
    call: str
    status: str = "not reached"
    attempts: int = 0
    reason: str = ""
    loops: bool = False
    ordinals: list[int] = field(default_factory=list)
    errors: list[dict[str, Json]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Json]:
        """For the strict history: `id`, `call`, `status`, `attempts`, `calls` and, where they say something, more."""
        shown = {"id": self.id, "call": self.call, "status": self.status, "attempts": self.attempts}
        more = {"reason": self.reason, "errors": self.errors}
        return {**shown, "calls": self.ordinals, **{name: value for name, value in more.items() if value}}


class _Skipped(Exception):
    """A step is not done, for this reason."""


class _Stopped(Exception):
    """A step failed, and with it the plan."""


def run_plan(host: Host, args: Mapping[str, Json]) -> dict[str, Json]:
    """Run `plan`; `retries` has, by capability, which failures may be tried again (see `Retry`).

    Answers `status` (done, failed), `steps` (see `Done`), `answer`, and `error` where a step failed. Raises `Refusal`
    for a plan that is none, `RunEnded` at a limit, and `Suspended`.
    """
    return _Running(host, plan_of(args["plan"]), args.get("retries", {})).run()


class _Running:
    """One run of a plan."""

    def __init__(self, host: Host, plan: Plan, retries: Mapping[str, str]) -> None:
        self._host = host
        self._plan = plan
        self._retries = retries
        self._done = {step.id: Done(step.id, step.call, loops=step.each is not None) for step in plan.steps}
        self._calls = 0
        self._answers: dict[int, Any] = {}
        """By the number of the call, those that were delivered as values."""

    def run(self) -> dict[str, Json]:
        error: dict[str, Json] | None = None
        try:
            for step in self._plan.steps:
                self._step(step, self._done[step.id])
        except _Stopped:
            failed = next(done for done in self._done.values() if done.status == "failed")
            error = {**failed.errors[-1], "step": failed.id}
        answer = self._shown(self._plan.answer) if error is None else {}
        history = [done.as_dict() for done in self._done.values()]
        ended = {"status": "done" if error is None else "failed", "steps": history, "answer": answer}
        return ended if error is None else {**ended, "error": error}

    # Steps

    def _step(self, step: Step, done: Done) -> None:
        try:
            if step.each is None:
                self._once(step, done, None)
            else:
                self._loop(step, step.each, done)
        except _Skipped as reason:
            done.status, done.reason = "skipped", str(reason)
        else:
            done.status = "done"

    def _loop(self, step: Step, each: Each, done: Done) -> None:
        items = self._items(each.source)
        notes = []
        if len(items) > each.most:
            notes.append(f"{len(items) - each.most} of {len(items)} items are over the bound and left out")
        left: list[str] = []
        for place in items[: each.most]:
            try:
                self._once(step, done, Item(each.name, place))
            except _Skipped as reason:
                left.append(str(reason))
        if left:
            notes.append(f"{len(left)} items skipped: {left[0]}")
        done.reason = "; ".join(notes)

    def _items(self, source: Reference) -> list[Place]:
        """Where the items of a list are. Raises `_Skipped` where there is none."""
        places = self._places(source, None)
        if isinstance(places, list):
            return places
        there, value = self._value(places)
        if not isinstance(value, list):
            raise _Skipped(f"{source} is no list" if there else f"there is no {source}")
        return [Place(places.ordinal, (*places.path, number)) for number in range(len(value))]

    def _once(self, step: Step, done: Done, item: Item | None) -> None:
        """Do a step, or one round of its loop. Raises `_Skipped`, and `_Stopped` where it failed."""
        if step.condition is not None and not holds(step.condition, lambda reference: self._find(reference, item)):
            raise _Skipped("its condition does not hold")
        args: dict[str, Json] = self._filled(step.args, item)
        if step.by_reference:
            args["$as"] = "reference"
        answer = self._answered(step, done, json.dumps(args))
        done.ordinals.append(self._calls)
        if not step.by_reference:
            self._answers[self._calls] = json.loads(answer)

    def _answered(self, step: Step, done: Done, args: str) -> str:
        """Make a step's call, again where that is allowed and may help."""
        tries = 0
        while True:
            if self._host.stopped is not None:
                raise self._host.stopped
            tries += 1
            self._calls += 1  # a refused call has a number too
            done.attempts += 1
            try:
                return self._host(step.call, args)
            except (Refusal, Failed) as error:
                again, why = self._again(step, error, tries)
                done.errors.append({"call": self._calls, "code": error.code, "message": error.message})
                done.errors[-1] |= {"again": again, "why": why}
                if not again:
                    self._fail(done, error)

    def _again(self, step: Step, error: LoketError, tries: int) -> tuple[bool, str]:
        """Whether a failed call is made again, and why."""
        rule = self._retries.get(step.call, Retry.NEVER)
        if isinstance(error, Refusal):
            return False, "it was refused"
        if tries > step.retry:
            return False, f"the plan tries it again {step.retry} times"
        if rule == Retry.NEVER:
            return False, "nobody knows if it happened, and it must not happen twice"
        if rule == Retry.CERTAIN:
            return (False, "it may have happened") if error.code in UNCERTAIN else (True, "it did not happen")
        return True, "it changes nothing, or may be done twice"

    @staticmethod
    def _fail(done: Done, error: LoketError) -> None:
        done.status, done.reason = "failed", error.message
        done.errors[-1]["remedy"] = error.remedy
        raise _Stopped

    # What references stand for

    def _places(self, reference: Reference, item: Item | None) -> Place | list[Place]:
        """Where what a reference stands for is. Raises `_Skipped` where its step has no answer."""
        if item is not None and reference.name == item.name:
            return Place(item.place.ordinal, (*item.place.path, *reference.path))
        done = self._done[reference.name]
        if done.status != "done":
            raise _Skipped(f"{done.id} was skipped")
        if not done.loops:
            return Place(done.ordinals[0], reference.path)
        if reference.spread or not reference.path:
            return [Place(ordinal, reference.path) for ordinal in done.ordinals]
        first, rest = reference.path[0], reference.path[1:]
        if not isinstance(first, int) or first >= len(done.ordinals):
            raise _Skipped(f"there is no {reference}")
        return Place(done.ordinals[first], rest)

    def _filled(self, value: Any, item: Item | None) -> Any:
        """Arguments with references as the counter resolves them."""
        if is_reference(value):
            places = self._places(_read(value), item)
            return [one.reference() for one in places] if isinstance(places, list) else places.reference()
        if isinstance(value, dict):
            return {name: self._filled(part, item) for name, part in value.items()}
        return [self._filled(part, item) for part in value] if isinstance(value, list) else value

    def _find(self, reference: Reference, item: Item | None) -> tuple[bool, Any]:
        """Whether what a reference stands for is there, and its value."""
        try:
            places = self._places(reference, item)
        except _Skipped:
            return False, None
        if isinstance(places, list):
            return True, [self._value(place)[1] for place in places]
        return self._value(places)

    def _value(self, place: Place) -> tuple[bool, Any]:
        return walk(self._answers.get(place.ordinal), place.path)

    def _shown(self, value: Any) -> Any:
        """The plan's answer: what is not there is null."""
        if is_reference(value):
            return self._find(_read(value), None)[1]
        if isinstance(value, dict):
            return {name: self._shown(part) for name, part in value.items()}
        return [self._shown(part) for part in value] if isinstance(value, list) else value


def _read(value: Mapping[str, str]) -> Reference:
    found = read(value[STEP])
    if found is None:
        raise Refusal("plan.invalid", f"{value[STEP]!r} is no reference", 'write {"$step": "find"}')
    return found
