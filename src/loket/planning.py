"""Plans over the running system: what `plan.make`, `plan.check` and `plan.run` do with engine, grants and policy.

A plan runs as a child of the run that asks, of the same module at the same digest, under a reserved operation (see
`loket.orchestrator`): with that module's grants, within what the asking run has left, for whoever it runs for, and with
the owner's words that it has. Its id follows from (run, ordinal), so a call that is performed again after a crash finds
the run that it started. Made before the engine, as providers are; `bind` gives it the rest.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from loket.children import ASKED, Children, failed_ask, limits_of, reason_of, used, within
from loket.contracts import (
    Answer,
    Approvals,
    Asked,
    Call,
    Capability,
    Decision,
    Ending,
    Json,
    Labeller,
    Labels,
    ModuleRef,
    Policy,
    Principal,
    Question,
    Recorded,
    Refusal,
    RunRequest,
    Usage,
    Verdict,
    join_labels,
)
from loket.ids import derived_id
from loket.kernel.arguments import fingerprint
from loket.kernel.constraints import keep
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.registry import Check, Registry
from loket.kernel.state import RunState
from loket.kernel.text import canonical
from loket.orchestrator import MAKE, RUN, Report, check, messages, parse, refusal, retry_of
from loket.orchestrator.reference import is_reference
from loket.orchestrator.schema import Schema
from loket.store.kernel import KernelDatabase

_BOOKKEEPING = ("kv", "llm")
"""Families that a model plans with only where they are named: the agent keeps them for itself."""
_MOST_CHECKS = 512
"""Schemas of arguments with references whose checks are kept."""


class Planning:
    """A `Planner` over engine, database, grants, labels and policy. `module` gives an installed agent's module."""

    _engine: Engine
    _database: KernelDatabase
    _grants: Grants
    _registry: Registry
    _labeller: Labeller
    _policy: Policy
    _children: Children

    def __init__(
        self,
        module: Callable[[str], ModuleRef],
        compile_check: Callable[[Mapping[str, Any]], Check],
        now: Callable[[], float],
    ) -> None:
        self._module = module
        self._compile = compile_check
        self._now = now
        self._checks: dict[str, Check] = {}

    def bind(
        self,
        engine: Engine,
        database: KernelDatabase,
        grants: Grants,
        registry: Registry,
        labeller: Labeller,
        policy: Policy,
        approvals: Approvals | None = None,
    ) -> None:
        """What is there only after the providers. With `approvals` the owner is asked about a whole plan at once."""
        self._engine = engine
        self._database = database
        self._grants = grants
        self._registry = registry
        self._labeller = labeller
        self._policy = policy
        self._approvals = approvals
        self._children = Children(engine, database)

    # What the provider asks for

    async def run(self, call: Call, given: Callable[[], tuple[Json, Labels, bool]], timeout_s: float) -> Answer:
        """Run a plan and wait for its end (see `Planner`).

        Raises `Refusal` (`plan.invalid`) before anything runs where the check finds a problem, and `Failed` where the
        plan's run itself did not end well. A plan whose step failed is an answer, with the step's error.
        """
        asker = self._engine.unfinished()[call.run]
        ahead: list[Asked] = []

        def request() -> RunRequest:
            plan, labels, own = given()
            request = self._child(asker, call, RUN, {"plan": plan, "retries": self._retries(plan)}, labels)
            if own and asker.request.module is None:
                request = replace(request, words="\n".join(_said(plan)))
            foresight = _Foresight(self, request)
            report = check(plan, foresight)
            if not report.ok:
                raise refusal(report.problems)
            ahead.extend(_ahead(report, foresight.questions))
            return request

        return await self._performed(asker, call, request, timeout_s, ahead)

    async def make(self, call: Call, request: str, tools: Sequence[str] | None, timeout_s: float) -> Answer:
        """Have the model make a plan (see `Planner`)."""
        asker = self._engine.unfinished()[call.run]

        def asked() -> RunRequest:
            said = messages(request, self._tools(self._ref(asker, call), tools))
            return self._child(asker, call, MAKE, {"messages": said}, call.labels_of("request"))

        return await self._performed(asker, call, asked, timeout_s)

    async def check(self, call: Call, plan: Json) -> Mapping[str, Json]:
        """Check a plan as `run` would (see `Planner`)."""
        asker = self._engine.unfinished()[call.run]

        def checked() -> Mapping[str, Json]:
            request = self._child(asker, call, RUN, {}, call.labels_of("plan"))
            return check(plan, _Foresight(self, request)).as_dict()

        return await asyncio.to_thread(checked)

    # The run of a plan

    async def _performed(
        self,
        asker: RunState,
        call: Call,
        request: Callable[[], RunRequest],
        timeout_s: float,
        ahead: Sequence[Asked] = (),
    ) -> Answer:
        """Start the run that a call stands for, unless that was done before, and wait for it.

        What `request` leaves in `ahead` the owner is asked as soon as the run is on the disk.
        """
        child = derived_id(call.run, call.ordinal)
        ending: Ending | Usage | None = await self._children.over(child)
        if ending is None and child not in self._engine.unfinished():
            await self._children.start(asker, await asyncio.to_thread(request))
            await asyncio.to_thread(self._ask, ahead)
            ending = await self._children.over(child)  # perhaps while the owner was asked
        return _answered(child, ending or await self._children.ending(asker, child, timeout_s))

    def _ask(self, ahead: Sequence[Asked]) -> None:
        """Ask the owner about calls that are still to come: each finds its answer when it is made."""
        for asked in ahead:
            if self._approvals is not None:
                with contextlib.suppress(Refusal):  # the call itself is refused, where it comes to that
                    self._approvals.claim(asked)

    def _ref(self, asker: RunState, call: Call) -> ModuleRef:
        """The module that asks; for the owner, that of the agent."""
        return asker.request.module or self._module(call.agent)

    def _child(
        self, asker: RunState, call: Call, operation: str, args: Mapping[str, Json], labels: Labels
    ) -> RunRequest:
        """The run of a plan: what the asking run has seen it may have put into the plan."""
        ref, sender = self._ref(asker, call), asker.request
        child = derived_id(call.run, call.ordinal)
        limits = within(ref.limits, asker, calls=True) if sender.module is not None else ref.limits
        return RunRequest(
            id=child,
            root=sender.root,
            agent=ref.id,
            principal=sender.principal if sender.module is not None else Principal("agent", ref.id),
            module=replace(ref, limits=limits),
            conversation=f"{ASKED}plan:{child}",
            operation=operation,
            args=args,
            labels=join_labels(call.labels, labels),
            accepted=self._now(),
            parent=sender.id,
            depth=sender.depth + 1,
            words=sender.words,
            rights=sender.rights,
        )

    def _retries(self, plan: Json) -> dict[str, str]:
        """By capability of a plan, which failures may be tried again: it goes with the run, for replay."""
        read, _problems = parse(plan)
        names = sorted({step.call for step in read.steps}) if read is not None else []
        return {name: retry_of(self._registry.find(name).capability) for name in names if self._registry.get(name)}

    def _tools(self, ref: ModuleRef, wanted: Sequence[str] | None) -> list[dict[str, Json]]:
        """What a model may plan with: what was granted, or those of it that are named. Raises `Refusal`."""
        granted = {grant.capability for grant in self._grants.held(ref.publisher, ref.id)}
        for name in wanted or ():
            self._grants.find(ref.publisher, ref.id, ref.digest, self._registry.find(name).capability.id)
        return [
            {"name": one.id, "description": one.summary, "parameters": one.arguments, "answer": one.answer}
            for one in self._registry.all()
            if one.id in granted
            and not one.side
            and one.family != "plan"
            and (one.id in wanted if wanted is not None else one.family not in _BOOKKEEPING)
        ]

    # Checking

    def fits(self, schema: Schema) -> Check:
        """The check of a JSON Schema, kept."""
        text = canonical(schema)
        known = self._checks.get(text)
        if known is None:
            if len(self._checks) >= _MOST_CHECKS:
                self._checks.clear()
            known = self._checks[text] = self._compile({"allOf": [schema]} if isinstance(schema, bool) else schema)
        return known

    def find(self, name: str) -> Capability:
        """A capability. Raises `Refusal` that names the nearest ones."""
        return self._registry.find(name).capability

    def keeps(self, request: RunRequest, capability: Capability, args: Mapping[str, Json]) -> None:
        """Check arguments against the grant of a run's module, and against its rights. Raises `Refusal`."""
        module = request.module
        if module is None:
            return
        grant = self._grants.find(module.publisher, module.id, module.digest, capability.id)
        rules = {rule.name for rule in capability.constraints}
        allowed = [grant.constraints]
        if request.rights is not None:
            if capability.id not in request.rights:
                said = f"the run's execution token does not allow {capability.id}"
                raise Refusal("token.rights", said, "run the plan from where that is allowed")
            allowed.append(request.rights[capability.id])
        for constraints in allowed:
            known = {name: texts for name, texts in constraints.items() if name in rules}
            keep(capability, module.id, known, args)

    def foresee(
        self, view: "View", capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json], answer: Json
    ) -> tuple[Question, Decision, Labels]:
        """A call that is foreseen, the policy's decision on it, and the labels that an answer like this would get."""
        facts = self._labeller.of_call(view, capability, given, args)
        request = view.request
        question = Question(request.principal, request, capability, args, facts.labels, facts.findings, view.exposed)
        decision = self._policy.decide(question)
        call = Call(
            run=request.id,
            ordinal=len(view.history) + 1,
            agent=request.agent,
            conversation=request.conversation,
            principal=request.principal,
            capability=capability.id,
            args=args,
            labels=view.exposed,
            derived=facts.labels,
        )
        return question, decision, self._labeller.of_answer(call, capability, Answer(answer))


@dataclass(slots=True)
class View:
    """A run that was not started, as labels and policy see one."""

    request: RunRequest
    exposed: Labels
    history: list[Recorded] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)


class _Foresight:
    """What a plan is checked against (see `loket.orchestrator.Around`): a run of it that makes no call."""

    def __init__(self, planning: Planning, request: RunRequest) -> None:
        self._planning = planning
        self._view = View(request, request.labels)
        self.calls = limits_of(request).calls
        self.questions: list[tuple[Question, Decision]] = []
        """One for each step, in the order of doing."""

    def capability(self, name: str) -> Capability:
        return self._planning.find(name)

    def fits(self, schema: Schema) -> Check:
        return self._planning.fits(schema)

    def granted(self, capability: Capability, args: Mapping[str, Json]) -> None:
        self._planning.keeps(self._view.request, capability, args)

    def decide(
        self, capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json], *, answer: Json, seen: bool
    ) -> Decision:
        view = self._view
        question, decision, labels = self._planning.foresee(view, capability, given, args, answer)
        self.questions.append((question, decision))
        number, text = len(view.history) + 1, canonical(given)
        view.history.append(
            Recorded(number, capability.id, text, canonical(answer), None, None, labels, by_reference=not seen)
        )
        if seen:
            view.exposed = join_labels(view.exposed, labels)
        return decision


def _ahead(report: Report, questions: Sequence[tuple[Question, Decision]]) -> Iterator[Asked]:
    """What the owner will surely be asked: the number of the call is known, and nothing of its arguments is open."""
    for number, (one, (question, decision)) in enumerate(zip(report.steps, questions, strict=True), 1):
        if one.step.each is not None or one.step.condition is not None:
            return
        if one.certain and decision.verdict is Verdict.ASK:
            yield Asked(question, number, fingerprint(question, number), decision)


def _said(plan: Mapping[str, Any]) -> Iterator[str]:
    """What a plan that the owner wrote says in words of its own: the literal values among its arguments."""
    for step in plan.get("steps", ()):
        yield from _literals(step.get("args", {}))


def _literals(value: Any) -> Iterator[str]:
    if is_reference(value):
        return
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _literals(part)
    elif value is not None and not isinstance(value, bool):
        yield value if isinstance(value, str) else json.dumps(value)


def _answered(run: str, ending: Ending | Usage) -> Answer:
    """What whoever asked gets. Raises `Failed` where there is no answer."""
    remedy = f"loket runs show {run}"
    if isinstance(ending, Usage):
        said = f"the plan was not done in the time that there was (run {run})"
        raise failed_ask("plan.timeout", said, remedy, ending, ())
    if ending.answer is not None:
        return Answer({**ending.answer, "run": run}, ending.labels, used(ending))
    said = f"run {run} of the plan ended: {reason_of(ending)}"
    raise failed_ask("plan.failed", said, remedy, used(ending), ending.labels)
