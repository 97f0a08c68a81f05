"""Where critical values come from in a running system: the judge of provenance on what a run has read so far.

The judge (`loket.provenance`) is pure. Here it gets the owner's words of the run's root, the answers that the run got,
clean reads of its own through local capabilities that the run's module was granted, and what the owner has decided
before: grants that name a value exactly, and approvals for this run. Its own reads are part of deciding: no module
sees them, and the finding says in words what they found.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

from loket.contracts import (
    Answer,
    Call,
    Capability,
    Effect,
    Finding,
    Grant,
    Json,
    LoketError,
    Match,
    Origin,
    RunView,
    host_granted,
)
from loket.kernel.constraints import keep
from loket.kernel.grants import Grants
from loket.kernel.refs import resolve
from loket.kernel.registry import Registry
from loket.provenance import Judge, Owner, Reading, Request, wanted

Endorsed: TypeAlias = Callable[[str], Iterable[tuple[str, str, Json]]]
"""What the owner approved for a run: capability, argument, value."""

NEEDED = "request"
"""The name under which a finding says that the request cannot need the capability at all."""

_OWN = frozenset({"brain", "kv", "fs", "llm"})
"""Families whose effects stay in the agent's own stores, which keep labels: they need no reads of the judge's own."""


class Findings:
    """A judge for `Labelling`. `owner` says who the owner is."""

    def __init__(
        self,
        registry: Registry,
        grants: Grants,
        owner: Callable[[], Owner] = Owner,
        endorsed: Endorsed = lambda _run: (),
    ) -> None:
        self._registry = registry
        self._grants = grants
        self._owner = owner
        self._endorsed = endorsed

    def __call__(self, run: RunView, capability: Capability, args: Mapping[str, Json]) -> Mapping[str, Finding]:
        """One finding for each critical argument that is present, and one for `request` where it cannot need this."""
        if run.request.module is None:
            return {}
        judge = self._judge(run)
        found: dict[str, Finding] = judge.judge(capability, args)
        found |= {name: Finding(Origin.BOUNDED, "absent") for name in capability.critical if name not in args}
        for name, finding in list(found.items()):
            if not finding.good:
                found[name] = self._decided(run, capability, name, args[name]) or finding
        if capability.data.wanted and not wanted(judge.request, capability):
            delegated = "somebody else's words may" if judge.request.delegates else "nothing in the request does"
            origin = Origin.BOUNDED if judge.request.delegates else Origin.UNTRUSTED
            found[NEEDED] = Finding(origin, f"the owner's words do not ask for {capability.id}; {delegated}")
        return found

    def wants(self, capability: Capability) -> bool:
        """Whether a call has to be looked at: its critical arguments, or that it changes what others could read."""
        return bool(capability.critical) or (capability.effect.changes and capability.family not in _OWN)

    # The judge of a run

    def _judge(self, run: RunView) -> Judge:
        known = run.memo.get("judge")
        if not isinstance(known, _Judged):
            request = Request(run.request.words)
            judge = Judge(request, self._owner(), self._reads(run), lambda name, args: self._read(run, name, args))
            known = run.memo["judge"] = _Judged(judge)
        fresh = [self._reading(run, recorded) for recorded in run.history[known.taken :]]
        known.taken = len(run.history)
        known.judge.add([reading for reading in fresh if reading is not None])
        return known.judge

    def _reading(self, run: RunView, recorded: Any) -> Reading | None:
        if recorded.answer is None or not self._registry.knows(recorded.capability):
            return None
        capability = self._registry.find(recorded.capability).capability
        try:
            args = resolve(json.loads(recorded.args), run.history)
        except LoketError:
            return None
        return Reading(capability, args, json.loads(recorded.answer), recorded.ordinal)

    def _reads(self, run: RunView) -> list[Capability]:
        """Granted capabilities that list records and answer at once."""
        granted = {grant.capability for grant in self._held(run)}
        return [
            known
            for known in self._registry.all()
            if known.id in granted
            and known.data.rows
            and known.effect in (Effect.READ, Effect.PRIVATE)
            and not known.waits
        ]

    def _read(self, run: RunView, name: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A read of the judge's own, within the grant; None where it is not allowed or fails."""
        entry = self._registry.find(name)
        grant = next((grant for grant in self._held(run) if grant.capability == name), None)
        if grant is None or entry.handler is None or entry.check_args(dict(args)) is not None:
            return None
        request = run.request
        call = Call(
            request.id, 0, request.agent, request.conversation, request.principal, name, args, run.exposed,
            constraints=grant.constraints, deadline_s=entry.capability.timeout_s,
        )  # fmt: skip
        try:
            keep(entry.capability, grant.module, grant.constraints, args)
            answer = entry.handler(call)
        except LoketError:
            return None
        return answer.value if isinstance(answer, Answer) and entry.check_answer(answer.value) is None else None

    # What the owner has decided before

    def _held(self, run: RunView) -> list[Grant]:
        module = run.request.module
        return self._grants.held(module.publisher, module.id) if module is not None else []

    def _decided(self, run: RunView, capability: Capability, name: str, value: Json) -> Finding | None:
        for grant in self._held(run):
            if grant.capability == capability.id and _names(capability, grant, name, value):
                return Finding(Origin.TRUSTED, "the owner's grant names it")
        for what, argument, approved in self._endorsed(run.request.id):
            if (what, argument, approved) == (capability.id, name, value):
                return Finding(Origin.TRUSTED, "the owner approved it for this run")
        return None


class _Judged:
    """A run's judge, and how much of its history was taken in."""

    __slots__ = ("judge", "taken")

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.taken = 0


def _names(capability: Capability, grant: Grant, name: str, value: Json) -> bool:
    """Whether a grant's constraints name the value of an argument: itself, its host, the place that it begins with."""
    for rule in capability.constraints:
        texts = grant.constraints.get(rule.name, [])
        if rule.argument != name or rule.match is Match.PROVIDER or not isinstance(value, str):
            continue
        exact = [text for text in texts if "*" not in text]
        if rule.match is Match.HOST and host_granted(value, exact):
            return True
        if rule.match is Match.EXACT and value in exact:
            return True
        if rule.match is Match.PREFIX and value.startswith(tuple(exact)) and exact:
            return True
    return False
