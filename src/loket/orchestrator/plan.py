"""Plans as data: read strictly from JSON, with everything that is wrong named by its path.

    {"title": "...", "steps": [{"id": "find", "call": "brain.search", "args": {"query": "sister"}}, ...],
     "answer": {"text": {"$step": "find.memories[0].text"}}}

A step may have `as` (how its answer is delivered), `if` (see `condition`), `each` (a loop with a bound), `retry` and
`after`. What is read keeps the plan's JSON beside it, so that it can be shown, edited and run again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from loket.contracts import Json, Refusal
from loket.orchestrator.condition import COMPARING, DEEPEST, KINDS, MOST_PARTS, OF_ONE, Condition
from loket.orchestrator.reference import NAME, STEP, Reference, is_reference, read, references

MOST_STEPS = 100
MOST_ITEMS = 100
"""Largest bound of a loop."""
MOST_RETRIES = 3
LONGEST_TITLE = 200
DEEPEST_VALUE = 16
"""Lists and objects in each other, in arguments and in the answer."""
MOST_PROBLEMS = 20
"""Problems that are named at once."""
_SAID = 5
"""Of them, those that a refusal says."""

OWN = "plan"
"""The family that no step calls: plans do not run plans, so that a plan's size is what can be read in it."""

_KERNELS = ("$ref", "$as")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a plan, where (`steps[2].args.to`), and what would be right.

    `refused`: the plan itself is sound, and a grant, a limit or the policy does not allow it.
    """

    path: str
    message: str
    remedy: str
    refused: bool = False

    def as_dict(self) -> dict[str, Json]:
        """`path`, `message`, `remedy`, `refused`."""
        return {"path": self.path, "message": self.message, "remedy": self.remedy, "refused": self.refused}


@dataclass(frozen=True, slots=True)
class Each:
    """A loop: the step is done for each item of a list, for the first `most` of them."""

    source: Reference
    most: int
    name: str


@dataclass(frozen=True, slots=True)
class Step:
    """One step. `place` is its index in the plan's list; `by_reference` says that the run never sees its answer."""

    id: str
    call: str
    args: Mapping[str, Json]
    place: int
    by_reference: bool | None = None
    condition: Condition | None = None
    each: Each | None = None
    retry: int = 0
    after: tuple[str, ...] = ()

    def references(self) -> Iterator[Reference]:
        """All references of the step, those to its own item included."""
        yield from references(self.args)
        yield from self.reads()

    def reads(self) -> Iterator[Reference]:
        """The references whose values decide what is done: these answers have to be seen."""
        if self.condition is not None:
            yield from self.condition.references()
        if self.each is not None:
            yield self.each.source

    def needs(self) -> set[str]:
        """Ids of the steps that have to be done before."""
        own = {self.each.name} if self.each is not None else set()
        return {reference.name for reference in self.references()} - own | set(self.after)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan, read. `steps` are in the order in which they are done."""

    title: str
    steps: tuple[Step, ...]
    answer: Mapping[str, Json]

    def step(self, name: str) -> Step | None:
        """The step with this id."""
        return next((step for step in self.steps if step.id == name), None)


def plan_of(value: Json) -> Plan:
    """Read a plan. Raises `Refusal` (`plan.invalid`) that names what is wrong."""
    plan, problems = parse(value)
    if plan is None:
        raise refusal(problems)
    return plan


def refusal(problems: Sequence[Problem]) -> Refusal:
    """The refusal of a plan with these problems: the first ones by path, and the remedy of the first."""
    said = "; ".join(f"{problem.path}: {problem.message}" for problem in problems[:_SAID])
    more = f"; and {len(problems) - _SAID} more" if len(problems) > _SAID else ""
    return Refusal("plan.invalid", f"the plan cannot be run: {said}{more}", problems[0].remedy)


def parse(value: Json) -> tuple[Plan | None, list[Problem]]:
    """Read a plan: the plan, or None and all that is wrong with it (at most 20 problems)."""
    reader = _Reader()
    plan = reader.plan(value)
    if reader.problems:
        return None, reader.problems[:MOST_PROBLEMS]
    return plan, []


class _Reader:
    """Reads a plan, and notes what is wrong instead of stopping at the first thing."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, path: str, message: str, remedy: str) -> None:
        self.problems.append(Problem(path, message, remedy))

    def keys(self, path: str, value: Json, known: str, needed: str) -> bool:
        """Whether a value is an object with these keys and no others."""
        if not isinstance(value, dict):
            self.wrong(path, f"it is a JSON {_kind(value)}, and an object is needed", f"write an object with {needed}")
            return False
        before = len(self.problems)
        for key in value:
            if key not in known.split():
                self.wrong(_below(path, key), "there is no such key", f"{path} takes {known.replace(' ', ', ')}")
        for key in needed.split():
            if key not in value:
                self.wrong(path, f"{key} is missing", f"add {key}")
        return len(self.problems) == before

    def plan(self, value: Json) -> Plan | None:
        if not self.keys("plan", value, "title steps answer", "title steps"):
            return None
        title, given, answer = value["title"], value["steps"], value.get("answer", {})
        if not isinstance(title, str) or not 0 < len(title) <= LONGEST_TITLE:
            self.wrong("title", "it is no text of 1 to 200 characters", "say in a few words what the plan does")
        if not isinstance(given, list) or not 0 < len(given) <= MOST_STEPS:
            self.wrong("steps", f"it is no list of 1 to {MOST_STEPS} steps", "list the steps, each an object")
            return None
        steps = [self.step(place, one) for place, one in enumerate(given)]
        if not isinstance(answer, dict):
            self.wrong("answer", "it is no object", 'write {"text": {"$step": "find.memories[0].text"}}')
        else:
            self.value("answer", answer, 0)
        if self.problems:
            return None
        return self.joined(title, [step for step in steps if step is not None], answer)

    def step(self, place: int, value: Json) -> Step | None:
        path = f"steps[{place}]"
        if not self.keys(path, value, "id call args as if each retry after", "id call"):
            return None
        args = value.get("args", {})
        if not isinstance(args, dict):
            self.wrong(f"{path}.args", "it is no object", 'write the arguments as {"query": "sister"}')
            args = {}
        self.value(f"{path}.args", args, 0)
        return Step(
            id=self.name(f"{path}.id", value["id"]),
            call=self.call(f"{path}.call", value["call"]),
            args=args,
            place=place,
            by_reference=self.delivery(f"{path}.as", value.get("as")),
            condition=self.condition(f"{path}.if", value["if"], 1) if "if" in value else None,
            each=self.each(f"{path}.each", value["each"]) if "each" in value else None,
            retry=self.number(f"{path}.retry", value.get("retry", 0), 0, MOST_RETRIES),
            after=self.after(f"{path}.after", value.get("after", [])),
        )

    def name(self, path: str, value: Json) -> str:
        if isinstance(value, str) and NAME.fullmatch(value):
            return value
        self.wrong(path, f"{_shown(value)} is no name", "use small letters, digits and _, such as find_sister")
        return ""

    def call(self, path: str, value: Json) -> str:
        if not isinstance(value, str):
            self.wrong(path, f"{_shown(value)} is no capability", "name one, such as brain.search")
            return ""
        if value.partition(".")[0] == OWN:
            self.wrong(path, f"a plan does not call {value[:40]}", "write the steps of that plan into this one")
        return value

    def delivery(self, path: str, value: Json) -> bool | None:
        if value not in (None, "reference", "value"):
            self.wrong(path, f"it is {_shown(value)}", 'write "reference" or "value", or leave it out')
        return None if value is None else value == "reference"

    def number(self, path: str, value: Json, least: int, most: int) -> int:
        if type(value) is int and least <= value <= most:
            return value
        self.wrong(path, f"it is {_shown(value)}, and no whole number from {least} to {most}", f"write {most}")
        return least

    def after(self, path: str, value: Json) -> tuple[str, ...]:
        if isinstance(value, list) and all(isinstance(one, str) for one in value):
            return tuple(value)
        self.wrong(path, "it is no list of ids of steps", 'write ["find"]')
        return ()

    def each(self, path: str, value: Json) -> Each | None:
        if not self.keys(path, value, "in most as", "in most"):
            return None
        source = self.reference(f"{path}.in", value["in"])
        most = self.number(f"{path}.most", value["most"], 1, MOST_ITEMS)
        name = self.name(f"{path}.as", value.get("as", "item"))
        return Each(source, most, name) if source is not None else None

    def condition(self, path: str, value: Json, depth: int) -> Condition | None:
        if not isinstance(value, dict) or len(value) != 1 or not KINDS.issuperset(value):
            self.wrong(
                path, f"{_shown(value)} is no condition", f"write an object with one of {', '.join(sorted(KINDS))}"
            )
            return None
        if depth > DEEPEST:
            self.wrong(path, f"conditions may be {DEEPEST} deep", "make a simpler one")
            return None
        ((kind, inner),) = value.items()
        here = f"{path}.{kind}"
        if kind in OF_ONE:
            return Condition(kind, self.reference(here, inner))
        if kind in COMPARING:
            return self.comparison(here, kind, inner)
        if kind == "not":
            part = self.condition(here, inner, depth + 1)
            return Condition(kind, parts=(part,)) if part is not None else None
        return self.joining(here, kind, inner, depth)

    def comparison(self, path: str, kind: str, value: Json) -> Condition | None:
        if not isinstance(value, list) or len(value) != 2:  # noqa: PLR2004 - what is compared, and with what
            self.wrong(path, "it is no list of a reference and a value", '{"equals": [{"$step": "find.count"}, 1]}')
            return None
        number = isinstance(value[1], int | float) and not isinstance(value[1], bool)
        if not number and (kind != "equals" or isinstance(value[1], dict | list)):
            self.wrong(f"{path}[1]", f"{_shown(value[1])} cannot be compared so", "compare with a number or a text")
        return Condition(kind, self.reference(f"{path}[0]", value[0]), value[1])

    def joining(self, path: str, kind: str, value: Json, depth: int) -> Condition | None:
        if not isinstance(value, list) or not 0 < len(value) <= MOST_PARTS:
            self.wrong(path, f"it is no list of 1 to {MOST_PARTS} conditions", "list conditions")
            return None
        parts = [self.condition(f"{path}[{place}]", part, depth + 1) for place, part in enumerate(value)]
        return Condition(kind, parts=tuple(part for part in parts if part is not None))

    def reference(self, path: str, value: Json) -> Reference | None:
        if isinstance(value, dict) and len(value) == 1 and isinstance(value.get(STEP), str):
            found = read(value[STEP])
            if found is not None:
                return found
        self.wrong(path, f"{_shown(value)} is no reference", 'write {"$step": "find.memories[0].text"}')
        return None

    def value(self, path: str, value: Json, depth: int) -> None:
        """Look through a value that may have references in it."""
        if depth > DEEPEST_VALUE:
            self.wrong(path, f"it is nested deeper than {DEEPEST_VALUE}", "make it flatter")
        elif is_reference(value):
            self.reference(path, value)
        elif isinstance(value, dict):
            for name, part in value.items():
                if name in _KERNELS:
                    self.wrong(_below(path, name), "a plan names its steps, not calls", 'write {"$step": "find"}')
                self.value(_below(path, name), part, depth + 1)
        elif isinstance(value, list):
            for place, part in enumerate(value):
                self.value(f"{path}[{place}]", part, depth + 1)

    # All steps together

    def joined(self, title: str, steps: list[Step], answer: Mapping[str, Json]) -> Plan | None:
        """The plan of these steps, in an order in which each comes after those that it needs."""
        known: dict[str, Step] = {}
        for step in steps:
            if step.id in known:
                self.wrong(f"steps[{step.place}].id", f"{step.id} is there twice", "give each step a name of its own")
            known[step.id] = step
        for step in steps:
            self.names(step, known)
        self.answers(answer, known)
        if self.problems:
            return None
        ordered = self.ordered(steps)
        return Plan(title, self.delivered(ordered, answer), answer) if not self.problems else None

    def names(self, step: Step, known: Mapping[str, Step]) -> None:
        """Each name that a step uses is that of another step, or of its own item."""
        path, own = f"steps[{step.place}]", step.each.name if step.each is not None else None
        if own in known:
            self.wrong(f"{path}.each.as", f"{own} is the name of a step", "give the item another name")
        for reference in step.references():
            self.used(path, reference, known, own)
        for name in step.after:
            if name not in known:
                self.wrong(f"{path}.after", f"there is no step {name[:40]!r}", _has(known))
        if step.each is not None and step.each.source.name == own:
            self.wrong(f"{path}.each.in", "a loop does not go over its own item", "name a list of another step")

    def used(self, path: str, reference: Reference, known: Mapping[str, Step], own: str | None) -> None:
        if reference.name == own and not reference.spread:
            return
        step = known.get(reference.name)
        if step is None:
            self.wrong(path, f"there is no step {reference.name}", _has(known))
        elif step.each is None and reference.spread:
            self.wrong(path, f"{reference.name} does not loop, so it has no [*]", f"write {reference.name}")
        elif step.each is not None and not reference.spread and reference.path and isinstance(reference.path[0], str):
            remedy = f"write {reference.name}[0].{reference.path[0]} or {reference.name}[*].{reference.path[0]}"
            self.wrong(path, f"{reference.name} loops, so its answer is a list", remedy)

    def answers(self, answer: Mapping[str, Json], known: Mapping[str, Step]) -> None:
        for reference in references(answer):
            self.used("answer", reference, known, None)

    def ordered(self, steps: list[Step]) -> list[Step]:
        """Steps in the order of the list, each moved behind those that it needs."""
        done: set[str] = set()
        ordered: list[Step] = []
        while len(ordered) < len(steps):
            ready = next((step for step in steps if step.id not in done and step.needs() <= done), None)
            if ready is None:
                left = [step for step in steps if step.id not in done]
                names = ", ".join(step.id for step in left)
                self.wrong(f"steps[{left[0].place}]", f"steps wait for each other: {names}", "break the circle")
                break
            done.add(ready.id)
            ordered.append(ready)
        return ordered

    def delivered(self, steps: list[Step], answer: Mapping[str, Json]) -> tuple[Step, ...]:
        """Steps with their delivery: by reference, but where a condition, a loop or the answer reads the value."""
        read_by = {reference.name: "the answer" for reference in references(answer)}
        for step in steps:
            read_by |= {reference.name: f"step {step.id}" for reference in step.reads()}
        for step in steps:
            if step.by_reference and step.id in read_by:
                message = f"{read_by[step.id]} reads the value of {step.id}"
                self.wrong(f"steps[{step.place}].as", message, 'write "value", or leave it out')
        return tuple(
            replace(step, by_reference=step.id not in read_by) if step.by_reference is None else step for step in steps
        )


def _below(path: str, key: str) -> str:
    return f"{path}.{key[:60]}" if path != "plan" else key[:60]


def _has(known: Mapping[str, Step]) -> str:
    return f"the plan has {', '.join(list(known)[:12])}"


def _kind(value: Json) -> str:
    return {dict: "object", list: "list", str: "text", bool: "boolean", type(None): "null"}.get(type(value), "number")


def _shown(value: Json) -> str:
    if isinstance(value, dict | list):
        return f"this {_kind(value)}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."  # noqa: PLR2004 - a line of a terminal
