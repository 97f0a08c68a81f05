"""Checks a whole plan before anything runs: names, types, grants, limits, labels and policy.

What depends on data is decided from samples of the right type and place: the counter decides again when the step is
done, on the real value, so a plan that passes here gains nothing. What is certain (no reference among the arguments)
and denied is a problem of the plan. A check that cannot be made is a denial.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from loket.contracts import Capability, Decision, Json, Refusal, Verdict
from loket.orchestrator import schema
from loket.orchestrator.condition import Condition
from loket.orchestrator.interpreter import Place
from loket.orchestrator.plan import MOST_PROBLEMS, Plan, Problem, Step, parse
from loket.orchestrator.reference import STEP, Path, Reference, is_reference, read, references


class Around(Protocol):
    """What a plan is checked against: the system as the plan's run would meet it."""

    calls: int
    """Calls that the run may make."""

    def capability(self, name: str) -> Capability:
        """A capability of the catalogue. Raises `Refusal` that names the nearest ones."""

    def fits(self, schema: schema.Schema) -> Callable[[Any], str | None]:
        """A check of values by a JSON Schema: a sentence about what is wrong, or None."""

    def granted(self, capability: Capability, args: Mapping[str, Json]) -> None:
        """Look for the module's grant, and whether these arguments keep to it; those with references are left out.

        Raises `Refusal` with the line that would allow it.
        """

    def decide(
        self, capability: Capability, given: Mapping[str, Json], args: Mapping[str, Json], *, answer: Json, seen: bool
    ) -> Decision:
        """The decision on the run's next call: `given` with references to the calls before, `args` with samples.

        The call counts as made then: with an answer like this, delivered as a value where it is `seen`.
        """


@dataclass(frozen=True, slots=True)
class Foreseen:
    """One step as it would be decided. `certain`: nothing about its arguments is left to see."""

    step: Step
    capability: Capability
    decision: Decision
    certain: bool

    def as_dict(self) -> dict[str, Json]:
        """`id`, `call`, `effect`, `as`, `most` (calls), `decision`, `certain`, `rules`, `reason`."""
        step = self.step
        return {
            "id": step.id,
            "call": step.call,
            "effect": self.capability.effect.value,
            "as": "reference" if step.by_reference else "value",
            "most": step.each.most if step.each is not None else 1,
            "decision": self.decision.verdict.value,
            "certain": self.certain,
            "rules": list(self.decision.rules),
            "reason": self.decision.reason,
        }

    def approval(self) -> dict[str, Json]:
        """What the owner would be asked: `step`, `call`, `args` (with the plan's references), `rules`, `reason`."""
        step, decision = self.step, self.decision
        asked = {"step": step.id, "call": step.call, "args": dict(step.args)}
        return {**asked, "rules": list(decision.rules), "reason": decision.reason}


@dataclass(frozen=True, slots=True)
class Report:
    """What a check found. Without problems the plan may run."""

    plan: Plan | None
    problems: tuple[Problem, ...] = ()
    steps: tuple[Foreseen, ...] = ()

    @property
    def ok(self) -> bool:
        return not self.problems

    @property
    def approvals(self) -> list[Foreseen]:
        """The steps that the owner would be asked about."""
        return [one for one in self.steps if one.decision.verdict is Verdict.ASK]

    def as_dict(self) -> dict[str, Json]:
        """`ok`, `problems`, `steps`, `approvals`, `calls` (the most that the plan makes)."""
        return {
            "ok": self.ok,
            "problems": [problem.as_dict() for problem in self.problems],
            "steps": [one.as_dict() for one in self.steps],
            "approvals": [one.approval() for one in self.approvals],
            "calls": most_calls(self.plan) if self.plan is not None else 0,
        }


def check(value: Json, around: Around) -> Report:
    """Read a plan and check it as a whole."""
    plan, problems = parse(value)
    if plan is None:
        return Report(None, tuple(problems))
    checker = _Checker(plan, around)
    checker.types()
    foreseen = checker.decisions() if not checker.problems else []
    return Report(plan, tuple(checker.problems[:MOST_PROBLEMS]), tuple(foreseen))


def most_calls(plan: Plan) -> int:
    """The most calls that a plan makes, tried again ones included."""
    return sum((step.each.most if step.each is not None else 1) * (1 + step.retry) for step in plan.steps)


@dataclass(slots=True)
class _Checker:
    """One check of one plan."""

    plan: Plan
    around: Around
    problems: list[Problem] = field(default_factory=list)
    known: dict[str, Capability] = field(default_factory=dict)
    """By step."""

    def wrong(self, path: str, message: str, remedy: str | None, *, refused: bool = False) -> None:
        remedy = remedy or "look at the plan's capabilities: loket caps"
        self.problems.append(Problem(path, message, remedy, refused))

    # Names, types, grants and limits

    def types(self) -> None:
        for step in self.plan.steps:
            self.called(step)
        if self.problems:
            return
        for step in self.plan.steps:
            self.arguments(step)
            if step.condition is not None:
                self.condition(step, step.condition)
            if step.each is not None and "array" not in schema.types(self.stood_for(step.each.source, None, _at(step))):
                self.wrong(f"{_at(step)}.each.in", f"{step.each.source} is no list", "name a list")
        for reference in references(self.plan.answer):
            self.stood_for(reference, None, "answer")
        most = most_calls(self.plan)
        if most > self.around.calls:
            said = f"the plan may make {most:,} calls, and the run {self.around.calls:,}"
            remedy = "lower `most` of a loop, or raise calls under [limits] in loket.toml"
            self.wrong("steps", said, remedy, refused=True)

    def called(self, step: Step) -> None:
        try:
            capability = self.known[step.id] = self.around.capability(step.call)
        except Refusal as refusal:
            self.wrong(f"{_at(step)}.call", refusal.message, refusal.remedy)
            return
        if capability.side:
            self.wrong(f"{_at(step)}.call", f"{step.call} is no step: it has no answer of its own", "leave it out")

    def arguments(self, step: Step) -> None:
        capability, args = self.known[step.id], dict(step.args)
        loose = schema.loosened(capability.arguments, args)
        wrong = self.around.fits(loose)(args)
        if wrong is not None:
            self.wrong(f"{_at(step)}.args", wrong, f"loket caps {step.call}")

        def compared(wanted: schema.Schema, value: Mapping[str, str], where: str) -> None:
            reference = read(value[STEP])
            if reference is None:
                return
            given = schema.types(self.stood_for(reference, step, f"{_at(step)}.args{where}"))
            if not given & schema.types(wanted):
                is_, must = _words(given), _words(schema.types(wanted))
                message = f"{reference} is {is_}, and {must} is needed"
                self.wrong(f"{_at(step)}.args{where}", message, f"loket caps {step.call}")

        schema.at(capability.arguments, args, compared, "")
        literal = {name: value for name, value in args.items() if not any(references(value))}
        unknown = {name: value for name, value in args.items() if name not in literal}
        try:
            self.around.granted(_narrowed(capability, unknown), literal)
        except Refusal as refusal:
            self.wrong(f"{_at(step)}.call", refusal.message, refusal.remedy, refused=True)

    def condition(self, step: Step, condition: Condition) -> None:
        for part in condition.parts:
            self.condition(step, part)
        if condition.reference is None:
            return
        given = schema.types(self.stood_for(condition.reference, step, f"{_at(step)}.if"))
        wanted = {"equals": schema.type_of(condition.value), "less": "number", "more": "number"}.get(condition.kind)
        if wanted is not None and wanted not in given:
            message = f"{condition.reference} is {_words(given)}, and is never {_words(frozenset({wanted}))}"
            self.wrong(f"{_at(step)}.if", message, "compare with what it can be")

    def stood_for(self, reference: Reference, step: Step | None, path: str) -> schema.Schema:
        """The schema of what a reference stands for; where there is no such part, a problem, and anything."""
        if step is not None and step.each is not None and reference.name == step.each.name:
            source = self.stood_for(step.each.source, None, path)
            found = schema.part(source, (0, *reference.path))
        else:
            found = self.of_step(reference)
        if isinstance(found, str):
            self.wrong(path, f"{reference}: {found}", f"loket caps {self.named(reference, step)}")
            return True
        return found

    def of_step(self, reference: Reference) -> schema.Schema | str:
        step, answer = self.plan.step(reference.name), self.known[reference.name].answer
        if step is None or step.each is None:
            return schema.part(answer, reference.path)
        if reference.spread or not reference.path:
            inner = schema.part(answer, reference.path)
            return inner if isinstance(inner, str) else {"type": "array", "items": inner}
        return schema.part(answer, reference.path[1:])

    def named(self, reference: Reference, step: Step | None) -> str:
        """The capability whose answer a reference points into."""
        name = step.each.source.name if step is not None and step.each is not None else ""
        return self.known[reference.name if reference.name in self.known else name].id

    # Labels and policy

    def decisions(self) -> list[Foreseen]:
        """How each step would be decided, in order; denials that are certain are problems."""
        samples = self.samples()
        order = {step.id: number for number, step in enumerate(self.plan.steps, 1)}
        foreseen = []
        for step in self.plan.steps:
            capability = self.known[step.id]
            given = {name: _given(value, step, self.plan, order) for name, value in step.args.items()}
            args = {name: _sampled(value, step, self.plan, samples) for name, value in step.args.items()}
            try:
                decision = self.around.decide(
                    capability, given, args, answer=samples[step.id], seen=not step.by_reference
                )
            except Exception as error:  # noqa: BLE001 - fail closed, whatever those who decide do
                said = f"nobody could decide on it ({type(error).__name__}: {error})"
                self.wrong(_at(step), said, "mend the policy", refused=True)
                continue
            one = Foreseen(step, capability, decision, not any(references(step.args)))
            if one.certain and decision.verdict is Verdict.DENY:
                self.wrong(_at(step), f"it would be denied: {decision.reason}", decision.remedy, refused=True)
            foreseen.append(one)
        return foreseen

    def samples(self) -> dict[str, Json]:
        """By step, an answer of the right shape that has every part that the plan refers to."""
        found = {step.id: schema.sample(self.known[step.id].answer) for step in self.plan.steps}
        for step in self.plan.steps:
            for reference in step.references():
                name, path = _target(reference, step, self.plan)
                found[name] = schema.planted(found[name], path)
        return found


def _at(step: Step) -> str:
    return f"steps[{step.place}]"


def _words(kinds: frozenset[str]) -> str:
    return " or ".join(f"a JSON {kind}" if kind != "null" else "null" for kind in sorted(kinds)) or "nothing"


def _narrowed(capability: Capability, unknown: Mapping[str, Json]) -> Capability:
    """The capability with the constraints that can be looked at already."""
    kept = tuple(rule for rule in capability.constraints if rule.argument not in unknown)
    return replace(capability, constraints=kept)


def _target(reference: Reference, step: Step, plan: Plan) -> tuple[str, Path]:
    """The step and the part of its sample that a reference stands for; every item of a list is its first."""
    path = reference.path
    if step.each is not None and reference.name == step.each.name:
        name, first = _target(step.each.source, step, plan)
        source = plan.step(step.each.source.name)
        looped = source is not None and source.each is not None and (step.each.source.spread or not first)
        return name, (*first, *(() if looped else (0,)), *_first(path))
    source = plan.step(reference.name)
    if source is not None and source.each is not None and not reference.spread:
        path = path[1:]
    return reference.name, _first(path)


def _first(path: Path) -> Path:
    return tuple(0 if isinstance(part, int) else part for part in path)


def _given(value: Any, step: Step, plan: Plan, order: Mapping[str, int]) -> Any:
    """Arguments as the plan's run would send them, if each step made one call."""

    def place(reference: Reference) -> Any:
        name, path = _target(reference, step, plan)
        return _listed(reference, plan, Place(order[name], path).reference())

    return _replaced(value, place)


def _sampled(value: Any, step: Step, plan: Plan, samples: Mapping[str, Json]) -> Any:
    """Arguments with samples in the place of references."""

    def found(reference: Reference) -> Any:
        name, path = _target(reference, step, plan)
        sample = samples[name]
        for part in path:
            sample = sample[part]
        return _listed(reference, plan, sample)

    return _replaced(value, found)


def _listed(reference: Reference, plan: Plan, value: Any) -> Any:
    """All answers of a loop are a list."""
    source = plan.step(reference.name)
    whole = source is not None and source.each is not None and (reference.spread or not reference.path)
    return [value] if whole else value


def _replaced(value: Any, found: Callable[[Reference], Any]) -> Any:
    if is_reference(value):
        reference = read(value[STEP])
        return found(reference) if reference is not None else value
    if isinstance(value, dict):
        return {name: _replaced(part, found) for name, part in value.items()}
    return [_replaced(part, found) for part in value] if isinstance(value, list) else value
