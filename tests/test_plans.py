"""Plans: read strictly, checked as a whole, run step by step through the counter, the same over every interruption."""

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from kit import DIGEST, EngineRig, Handlers, capability
from loket import children
from loket.contracts import (
    OWNER,
    Answer,
    Approvals,
    Asked,
    Call,
    Capability,
    Decision,
    Effect,
    Ending,
    Failed,
    Grant,
    Host,
    Lease,
    Limits,
    LoketError,
    ModuleRef,
    OnUncertain,
    Question,
    Refusal,
    RunRequest,
    RunStatus,
    Segment,
    Suspended,
    Verdict,
)
from loket.contracts.catalogue_plan import PLAN, PLANS
from loket.orchestrator import NATIVE, PlanGuest, parse
from loket.packages.manifest import _OPERATION
from loket.planning import Planning
from loket.policy import PlainPolicy
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.providers.kv import KV_MIGRATIONS, KvProvider
from loket.providers.plan import PLAN_MIGRATIONS, PlanProvider
from loket.schemas import compile_check
from loket.store.agents import AgentDatabases
from loket.store.kernel import request_of

ASKED = capability("post.send", Effect.EGRESS, on_uncertain=OnUncertain.ASK)
FLAKY = capability("flaky.read")
FLAKY_WRITE = capability("flaky.write", Effect.MODIFY, on_uncertain=OnUncertain.DEDUPE)


class Rules:
    """The plain policy, plans allowed; denies and asks for what a test names."""

    def __init__(self, **verdicts: Verdict) -> None:
        self._plain = PlainPolicy()
        self._verdicts = {name.replace("__", "."): verdict for name, verdict in verdicts.items()}
        self.asked: list[Question] = []

    def decide(self, question: Question) -> Decision:
        self.asked.append(question)
        name = question.capability.id
        if name in self._verdicts:
            return Decision(self._verdicts[name], ("test.rule",), "the test says so", "t", (), "ask for less")
        if question.capability.family in ("plan", "flaky", "post", "pause"):
            return Decision(Verdict.ALLOW, ("test.all",), "a test", "t")
        return self._plain.decide(question)


class Asking:
    """A module that asks for one capability, and answers what it got."""

    digest = DIGEST

    def run(self, host: Host, _operation: str, args: str, _limits: Limits) -> Segment:
        wanted = json.loads(args)
        try:
            return Segment(answer=host(wanted["call"], json.dumps(wanted["args"])))
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)


class PlanRig(EngineRig):
    """A kernel with plans, over real databases. The agent is `ana`."""

    kv = KvProvider

    def __init__(
        self,
        directory: Path,
        *providers: Any,
        more: tuple[Capability, ...] = (),
        policy: Any = None,
        limits: Limits | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        self.limits = limits or Limits()
        schema = (*BRAIN_MIGRATIONS, *KV_MIGRATIONS, *PLAN_MIGRATIONS)
        self.store = AgentDatabases(directory / "brains", schema, limit=8, key=lambda _agent: b"b" * 32)
        self.planning = Planning(self.ref, compile_check, time.time)
        self.plans = PlanProvider(self.planning, self.store, time.time)
        self.values_provider = self.kv(self.store)
        self.rules = policy or Rules()
        super().__init__(
            directory,
            BrainProvider(self.store, time.time),
            self.values_provider,
            self.plans,
            *providers,
            scripts={"ana": PlanGuest(Asking())},  # type: ignore[dict-item] - a guest like any other
            more=(*PLANS, *more),
            policy=self.rules,
        )
        counter = self.counter
        counter._approvals = approvals
        self.planning.bind(
            self.engine, self.database, self.grants, self.registry, counter._labeller, counter._policy, approvals
        )
        self.request("ana", "setup")  # accepts the module's bytes and grants it everything

    def ref(self, agent: str) -> ModuleRef:
        return ModuleRef("local", agent, "1", DIGEST, self.limits)

    async def call(self, run: str, name: str, /, **args: Any) -> Ending:
        """A call of `ana`'s module, in a run of its own."""
        return await self.ask("ana", run, args={"call": name, "args": args}, limits=self.limits)

    async def owner(self, run: str, name: str, /, **args: Any) -> Ending:
        """A call that the owner makes as `ana`."""
        request = RunRequest(run, run, "ana", OWNER, None, run, name, args, ("owner",), time.time())
        await self.engine.submit(request)
        return await self.engine.result(run)

    def start(self, run: str) -> RunRequest:
        """What a run was started with, as the journal has it."""
        return request_of(self.rows(run)[0])[0]

    async def shut(self) -> None:
        await self.engine.close()
        self.store.close()
        self.close()


def on_rig(directory: Path, story: Callable[[PlanRig], Any], *providers: Any, **more: Any) -> Any:
    """Run a story on a rig."""

    async def main() -> Any:
        rig = PlanRig(directory, *providers, **more)
        try:
            async with asyncio.timeout(60):
                return await story(rig)
        finally:
            await rig.shut()

    return asyncio.run(main())


def ran(ending: Ending) -> Mapping[str, Any]:
    """The answer of `plan.run`."""
    assert ending.status is RunStatus.DONE, ending.error
    assert ending.answer is not None
    return ending.answer


def kv(name: str, key: str, value: Any = None, **more: Any) -> dict[str, Any]:
    """A step that sets a key, or reads it where there is no value."""
    if value is None:
        return {"id": name, "call": "kv.get", "args": {"key": key}, **more}
    return {"id": name, "call": "kv.set", "args": {"key": key, "value": value}, **more}


def at(reference: str) -> dict[str, str]:
    return {"$step": reference}


def plan(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"title": "A test", "steps": list(steps), **more}


NOTE = plan(
    {"id": "keep", "call": "brain.add", "args": {"items": [{"text": "Ana lives in Utrecht"}]}},
    {"id": "find", "call": "brain.search", "args": {"query": "Utrecht", "limit": 1}, "after": ["keep"]},
    kv("note", "notes/ana", at("find.memories[0].text"), **{"if": {"exists": at("find.memories[0]")}}),
    kv("look", "notes/ana", after=["note"]),
    answer={"text": at("look.value")},
)


def test_a_plan_runs_step_by_step_and_data_travels_by_reference(tmp_path: Path) -> None:
    """A memory's text is noted under a key; the calls carry references, and the run that did it verifies."""

    async def story(rig: PlanRig) -> None:
        answer = ran(await rig.call("r1", "plan.run", plan=NOTE))
        assert answer["status"] == "done"
        assert answer["answer"] == {"text": "Ana lives in Utrecht"}
        assert [(s["id"], s["status"], s["calls"]) for s in answer["steps"]] == [
            ("keep", "done", [1]),
            ("find", "done", [2]),
            ("note", "done", [3]),
            ("look", "done", [4]),
        ]
        rows = [json.loads(row.value) for row in rig.rows(answer["run"]) if row.kind.value == "intent"]
        assert rows[1]["args"] == {"key": "notes/ana", "value": {"$ref": "r2.memories[0].text"}, "$as": "reference"}
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, ["r1", answer["run"]])
        assert [verdict.reason for verdict in verdicts] == ["", ""]
        assert faults == []

    on_rig(tmp_path, story)


def test_what_no_condition_reads_is_never_seen_by_the_run(tmp_path: Path) -> None:
    """A memory that is passed on leaves no label on the plan's run; one that the answer shows does."""
    passing = plan(
        {"id": "find", "call": "brain.search", "args": {"query": ""}},
        kv("note", "n", at("find.memories")),
    )

    async def story(rig: PlanRig) -> None:
        quiet = ran(await rig.call("r1", "plan.run", plan=passing))
        shown = ran(await rig.call("r2", "plan.run", plan={**passing, "answer": {"all": at("find.memories")}}))
        labels = [rig.database.run(answer["run"])["labels"] for answer in (quiet, shown)]
        assert ["capability:brain.search" in one for one in labels] == [False, True]

    on_rig(tmp_path, story)


def test_conditions_loops_and_their_bounds(tmp_path: Path) -> None:
    """A loop does what its bound and its condition allow, the history says what was left out, answers are lists."""
    looping = plan(
        kv("put", "list", [1, 5, 2, 9, 7]),
        kv("got", "list", after=["put"]),
        kv("big", "big", at("item"), each={"in": at("got.value"), "most": 4}, **{"if": {"more": [at("item"), 4]}}),
        kv("never", "never", 1, **{"if": {"all": [{"exists": at("got")}, {"empty": at("got.value")}]}}),
        kv("behind", "behind", {"was": at("never")}),
        kv("each", "big", each={"in": at("big"), "most": 9}),
        answer={"numbers": at("each[*].value"), "first": at("each[0].value"), "none": at("never")},
    )

    async def story(rig: PlanRig) -> None:
        answer = ran(await rig.call("r1", "plan.run", plan=looping))
        done = {step["id"]: step for step in answer["steps"]}
        assert done["big"]["reason"].startswith("1 of 5 items are over the bound and left out; 2 items skipped")
        assert done["big"]["calls"] == [3, 4]
        assert (done["never"]["status"], done["never"]["reason"]) == ("skipped", "its condition does not hold")
        assert (done["behind"]["status"], done["behind"]["reason"]) == ("skipped", "never was skipped")
        assert answer["answer"] == {"numbers": [9, 9], "first": 9, "none": None}

    on_rig(tmp_path, story)


CONDITIONS = [
    ({"exists": at("got.value.n")}, True),
    ({"exists": at("got.value.none")}, False),
    ({"exists": at("got.value.nothing")}, False),
    ({"empty": at("got.value.nothing")}, True),
    ({"empty": at("got.value.list")}, True),
    ({"empty": at("got.value.n")}, False),
    ({"equals": [at("got.value.n"), 1]}, True),
    ({"equals": [at("got.value.n"), 1.0]}, True),
    ({"equals": [at("got.value.yes"), 1]}, False),
    ({"equals": [at("got.value.text"), "a b"]}, True),
    ({"equals": [at("got.value.nothing"), None]}, False),
    ({"less": [at("got.value.n"), 1]}, False),
    ({"less": [at("got.value.n"), 1.5]}, True),
    ({"more": [at("got.value.text"), 0]}, False),
    ({"more": [at("got.value.yes"), 0]}, False),
    ({"not": {"exists": at("got.value.n")}}, False),
    ({"any": [{"empty": at("got.value.n")}, {"not": {"empty": at("got.value.text")}}]}, True),
    ({"all": [{"exists": at("got.value.n")}, {"exists": at("got.value.nothing")}]}, False),
]


def test_each_condition_means_what_it_says(tmp_path: Path) -> None:
    """The whole language of conditions, on values of every type."""
    value = {"n": 1, "none": None, "list": [], "yes": True, "text": "a b"}
    steps = [kv(f"c{n}", f"c{n}", n, **{"if": condition}) for n, (condition, _) in enumerate(CONDITIONS)]

    async def story(rig: PlanRig) -> None:
        await rig.call("r0", "kv.set", key="k", value=value)
        answer = ran(await rig.call("r1", "plan.run", plan=plan(kv("got", "k"), *steps)))
        held = [step["status"] == "done" for step in answer["steps"][1:]]
        assert held == [expected for _, expected in CONDITIONS]

    on_rig(tmp_path, story)


class Flaky:
    """Fails so many times, with this code, before it works."""

    declared = (FLAKY, FLAKY_WRITE, ASKED)

    def __init__(self, times: int, code: str = "web.down") -> None:
        self.left = times
        self.code = code
        self.calls = 0

    def handle(self, _call: Call) -> Answer:
        self.calls += 1
        if self.left:
            self.left -= 1
            raise Failed(self.code, "it did not work", "try again")
        return Answer({"ok": True})

    def provider(self) -> Handlers:
        return Handlers(flaky__read=self.handle, flaky__write=self.handle, post__send=self.handle)


@pytest.mark.parametrize(
    ("call", "code", "retry", "times", "attempts", "status", "why"),
    [
        ("flaky.read", "web.down", 3, 2, 3, "done", "it changes nothing, or may be done twice"),
        ("flaky.read", "provider.timeout", 1, 1, 2, "done", "it changes nothing, or may be done twice"),
        ("flaky.read", "web.down", 1, 9, 2, "failed", "the plan tries it again 1 times"),
        ("flaky.read", "web.down", 0, 1, 1, "failed", "the plan tries it again 0 times"),
        ("flaky.write", "disk.busy", 2, 1, 2, "done", "it did not happen"),
        ("flaky.write", "provider.timeout", 2, 1, 1, "failed", "it may have happened"),
        ("post.send", "post.down", 3, 1, 1, "failed", "nobody knows if it happened, and it must not happen twice"),
    ],
)
def test_what_is_tried_again_follows_from_what_the_capability_declares(
    tmp_path: Path, call: str, code: str, retry: int, times: int, attempts: int, status: str, why: str
) -> None:
    """Reads are; effects that the store can tell only where they surely did not happen; those to ask about never."""
    flaky = Flaky(times, code)

    async def story(rig: PlanRig) -> None:
        steps = plan({"id": "go", "call": call, "retry": retry}, kv("behind", "k", 1, after=["go"]))
        answer = ran(await rig.call("r1", "plan.run", plan=steps))
        first, behind = answer["steps"]
        assert (answer["status"], first["attempts"], flaky.calls) == (status, attempts, attempts)
        assert first["errors"][-1]["why"] == why
        assert behind["status"] == ("done" if status == "done" else "not reached")
        if status == "failed":
            assert (answer["error"]["step"], answer["error"]["code"], answer["answer"]) == ("go", code, {})
        assert (await asyncio.to_thread(rig.replayer.replay, answer["run"])).ok

    on_rig(tmp_path, story, flaky.provider(), more=Flaky.declared)


def test_a_refused_step_ends_the_plan_and_is_not_tried_again(tmp_path: Path) -> None:
    """What the policy refuses on the real values fails, with the remedy; nothing behind it runs."""

    async def story(rig: PlanRig) -> None:
        steps = plan(
            kv("put", "k", {"a": 1}),
            kv("got", "k", after=["put"]),
            kv("bad", "x", at("got.value.b"), retry=3),
            kv("last", "y", 1, after=["bad"]),
        )
        answer = ran(await rig.call("r1", "plan.run", plan=steps))
        assert [(step["status"], step["attempts"]) for step in answer["steps"]][2:] == [
            ("failed", 1),
            ("not reached", 0),
        ]
        assert answer["error"]["code"] == "reference.invalid"
        assert "it has a" in answer["error"]["message"]

    on_rig(tmp_path, story)


# Reading

HOSTILE = [
    ("a circle", plan(kv("a", "k", at("b")), kv("b", "k", at("a"))), "wait for each other: a, b"),
    ("a circle of after", plan(kv("a", "k", after=["b"]), kv("b", "k", after=["a"])), "wait for each other"),
    ("itself", plan(kv("a", "k", at("a.value"))), "wait for each other: a"),
    ("a huge loop", plan(kv("a", "k"), kv("b", "k", each={"in": at("a.value"), "most": 10**9})), "from 1 to 100"),
    ("no bound", plan(kv("a", "k"), kv("b", "k", each={"in": at("a.value")})), "most is missing"),
    ("a bound that is true", plan(kv("a", "k"), kv("b", "k", each={"in": at("a"), "most": True})), "it is True"),
    ("an unknown step", plan(kv("a", "k", at("nobody.value"))), "there is no step nobody"),
    ("an unknown step after", plan(kv("a", "k", after=["nobody"])), "there is no step 'nobody'"),
    ("another run's call", plan(kv("a", "k", {"$ref": "r1.value"})), "a plan names its steps, not calls"),
    ("another run's call, deep", plan(kv("a", "k", [{"x": {"$ref": "r1"}}])), "steps[0].args.value[0].x.$ref"),
    ("a delivery of its own", plan({"id": "a", "call": "kv.get", "args": {"key": "k", "$as": "value"}}), "$as"),
    ("a dunder", plan(kv("__class__", "k")), "is no name"),
    ("a way out", plan(kv("a", "k"), kv("b", "k", at("a.__class__.__init__[*]"))), "is no reference"),
    ("a wrong escape", plan(kv("a", "k"), kv("b", "k", at('a["\\x"]'))), "is no reference"),
    ("a reference and more", plan(kv("a", "k"), kv("b", "k", {"$step": "a", "x": 1})), "is no reference"),
    ("a reference to nothing", plan(kv("a", "k", {"$step": 7})), "is no reference"),
    ("two of one name", plan(kv("a", "k"), kv("a", "k")), "a is there twice"),
    ("a plan in a plan", plan({"id": "a", "call": "plan.run", "args": {"name": "x"}}), "does not call plan.run"),
    ("an unknown key", plan({**kv("a", "k"), "eval": "1"}), "steps[0].eval"),
    ("an unknown key above", plan(kv("a", "k"), loop=True), "loop: there is no such key"),
    ("an unknown condition", plan(kv("a", "k", **{"if": {"python": "1"}})), "is no condition"),
    ("two conditions at once", plan(kv("a", "k", **{"if": {"exists": at("a"), "empty": at("a")}})), "no condition"),
    (
        "a deep condition",
        plan(kv("a", "k"), kv("b", "k", **{"if": {"not": {"not": {"not": {"not": {"exists": at("a")}}}}}})),
        "4 deep",
    ),
    ("comparing lists", plan(kv("a", "k"), kv("b", "k", **{"if": {"equals": [at("a"), []]}})), "cannot be compared"),
    ("more than a text", plan(kv("a", "k"), kv("b", "k", **{"if": {"more": [at("a"), "x"]}})), "cannot be compared"),
    ("no steps", plan(), "no list of 1 to 100 steps"),
    ("too many steps", plan(*(kv(f"s{n}", "k") for n in range(101))), "no list of 1 to 100 steps"),
    ("retries without end", plan(kv("a", "k", retry=10**6)), "from 0 to 3"),
    (
        "an item called like a step",
        plan(kv("a", "k"), kv("b", "k", each={"in": at("a.value"), "most": 1, "as": "a"})),
        "the name of a step",
    ),
    ("a loop over its item", plan(kv("a", "k", each={"in": at("item.x"), "most": 1})), "over its own item"),
    (
        "a list as one",
        plan(kv("a", "k"), kv("b", "k", each={"in": at("a.value"), "most": 1}), kv("c", "k", at("b.value"))),
        "write b[0].value or b[*].value",
    ),
    ("one as a list", plan(kv("a", "k"), kv("b", "k", at("a[*].value"))), "a does not loop"),
    (
        "seen and not seen",
        plan(kv("a", "k", **{"as": "reference"}), kv("b", "k", **{"if": {"exists": at("a")}})),
        "step b reads the value of a",
    ),
    ("not an object", [1], "an object is needed"),
]


@pytest.mark.parametrize(("hostile", "says"), [row[1:] for row in HOSTILE], ids=[row[0] for row in HOSTILE])
def test_a_hostile_plan_is_refused_by_path_before_anything_runs(hostile: Any, says: str) -> None:
    """Each is an error that names where and why; none is run, or takes long to refuse."""
    read, problems = parse(hostile)
    assert read is None
    assert says in "\n".join(f"{problem.path}: {problem.message} {problem.remedy}" for problem in problems)


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_a_deeply_nested_plan_is_refused(tmp_path: Path) -> None:
    """Whatever is nested, and however deeply: no recursion error, no crash."""

    async def story(rig: PlanRig) -> None:
        for number, hostile in enumerate(
            [plan(kv("a", "k", deep(17))), plan(kv("a", "k", deep(900))), plan(kv("a", "k", **{"if": deep(900)}))]
        ):
            ending = await rig.call(f"r{number}", "plan.check", plan=hostile)
            assert ending.error is not None or not ran(ending)["ok"]
        ending = await rig.owner("r9", "plan.run", plan=plan(kv("a", "k", deep(17))))
        assert ending.error is not None
        assert "nested deeper than 16" in ending.error["message"]

    on_rig(tmp_path, story)


def test_the_schema_of_the_catalogue_and_the_reader_agree() -> None:
    """What the reader takes the schema takes; what only the reader sees is about names, paths and circles."""
    fits = compile_check(PLAN)
    assert fits(NOTE) is None
    structural = ("an unknown key", "no steps", "too many steps", "a huge loop", "no bound", "a dunder", "retries")
    for name, hostile, _says in HOSTILE:
        if name.startswith(structural):
            assert fits(hostile) is not None, name


# Checking

WRONG = [
    (plan({"id": "a", "call": "kv.gett", "args": {"key": "k"}}), "steps[0].call", "no capability 'kv.gett'"),
    (plan({"id": "a", "call": "clock.now"}), "steps[0].call", "is no step"),
    (plan({"id": "a", "call": "kv.get"}), "steps[0].args", "key"),
    (plan(kv("a", "k"), kv("b", "k", at("a.valu"))), "steps[1].args.value", "it has no 'valu'; it has found, value"),
    (
        plan(kv("a", "k"), {"id": "b", "call": "kv.get", "args": {"key": at("a.found")}}),
        "steps[1].args.key",
        "a.found is a JSON boolean, and a JSON string is needed",
    ),
    (plan(kv("a", "k"), {"id": "b", "call": "kv.get", "args": {"key": "k", "x": at("a.value")}}), "steps[1].args", "x"),
    (plan({"id": "a", "call": "brain.search", "args": {"query": "", "limit": 10**6}}), "steps[0].args", "1000000"),
    (
        plan(
            {"id": "a", "call": "brain.search", "args": {"query": ""}},
            kv("b", "k", at("item.txt"), each={"in": at("a.memories"), "most": 2}),
        ),
        "steps[1].args.value",
        "no 'txt'",
    ),
    (
        plan(kv("a", "k"), kv("b", "k", 1, each={"in": at("a.found"), "most": 2})),
        "steps[1].each.in",
        "a.found is no list",
    ),
    (plan(kv("a", "k"), kv("b", "k", **{"if": {"less": [at("a.found"), 2]}})), "steps[1].if", "is never a JSON number"),
    (plan(kv("a", "k"), answer={"x": at("a.text")}), "answer", "has no 'text'"),
    (
        plan(
            {"id": "a", "call": "brain.search", "args": {"query": ""}},
            *(kv(f"b{n}", "k", each={"in": at("a.memories"), "most": 100}) for n in range(3)),
        ),
        "steps",
        "301 calls, and the run",
    ),
    (plan({"id": "a", "call": "brain.forget", "args": {"id": 7}}), "steps[0]", "it would be denied: the test says so"),
]


@pytest.mark.parametrize(("wrong", "path", "says"), WRONG, ids=[row[2] for row in WRONG])
def test_a_check_names_what_is_wrong_with_types_grants_limits_and_policy(
    tmp_path: Path, wrong: dict[str, Any], path: str, says: str
) -> None:
    """And `plan.run` refuses the same plan before its first step."""

    async def story(rig: PlanRig) -> None:
        report = ran(await rig.call("r1", "plan.check", plan=wrong))
        assert not report["ok"]
        found = [problem for problem in report["problems"] if problem["path"] == path and says in problem["message"]]
        assert found, report["problems"]
        ending = await rig.call("r2", "plan.run", plan=wrong)
        assert ending.error is not None
        assert ending.error["code"] == "plan.invalid"
        assert len(rig.database.runs(None, 100, None)) == 2

    on_rig(tmp_path, story, policy=Rules(brain__forget=Verdict.DENY))


def test_a_check_says_what_each_step_does_and_what_the_owner_will_be_asked(tmp_path: Path) -> None:
    """Decisions in the order of doing, with their rules; certain where nothing about the arguments is open."""

    async def story(rig: PlanRig) -> None:
        report = ran(await rig.call("r1", "plan.check", plan=NOTE))
        assert [(one["id"], one["decision"], one["certain"], one["as"]) for one in report["steps"]] == [
            ("keep", "allow", True, "reference"),
            ("find", "allow", True, "value"),
            ("note", "ask", False, "reference"),
            ("look", "allow", True, "value"),
        ]
        assert report["calls"] == 4
        (approval,) = report["approvals"]
        assert (approval["step"], approval["rules"]) == ("note", ["test.rule"])
        assert approval["args"] == {"key": "notes/ana", "value": at("find.memories[0].text")}
        foreseen = [q for q in rig.rules.asked if q.capability.id == "kv.set"]
        assert foreseen[-1].args["value"] == "?"

    on_rig(tmp_path, story, policy=Rules(kv__set=Verdict.ASK))


def test_a_missing_grant_is_found_before_anything_runs(tmp_path: Path) -> None:
    """With the line that would allow it; constraints count where the argument is known."""

    async def story(rig: PlanRig) -> None:
        request = rig.request("ana", "r1", args={"call": "plan.run", "args": {"plan": plan(kv("a", "k", 1))}})
        rig.grants.revoke("local", "ana", "kv.set")
        await rig.engine.submit(request)
        error = (await rig.engine.result("r1")).error
        assert error is not None
        assert (error["code"], error["remedy"]) == ("plan.invalid", "loket grants allow ana kv.set")
        rig.grants.allow(Grant("local", "ana", "kv.set", {"prefixes": ["mine/"]}, "owner", 0.0))
        for number, (key, ok) in enumerate([("k", False), ("mine/k", True)]):
            ending = await rig.owner(f"o{number}", "plan.check", plan=plan(kv("a", key, 1)))
            assert ran(ending)["ok"] is ok

    on_rig(tmp_path, story)


def test_a_policy_that_fails_is_a_denial(tmp_path: Path) -> None:
    """A check that cannot be made lets nothing run."""

    class Broken(Rules):
        def decide(self, question: Question) -> Decision:
            if question.capability.family == "kv":
                raise ZeroDivisionError("no rules")
            return super().decide(question)

    async def story(rig: PlanRig) -> None:
        report = ran(await rig.call("r1", "plan.check", plan=plan(kv("a", "k"))))
        assert not report["ok"]
        assert "ZeroDivisionError" in report["problems"][0]["message"]

    on_rig(tmp_path, story, policy=Broken())


# The run of a plan


def test_a_plan_runs_for_whom_it_runs_with_the_owners_words_and_what_is_left(tmp_path: Path) -> None:
    """Module, root and words are the asking run's, limits what it has left; an owner's plan is the owner's words."""

    async def story(rig: PlanRig) -> None:
        request = rig.request("ana", "r1", args={"call": "plan.run", "args": {"plan": plan(kv("a", "k", "v"))}})
        await rig.engine.submit(replace(request, words="set k to v", rights=None))
        answer = ran(await rig.engine.result("r1"))
        child = rig.start(answer["run"])
        assert (child.root, child.parent, child.depth, child.words) == ("r1", "r1", 2, "set k to v")
        assert (child.operation, child.module and child.module.digest) == ("plan:run", DIGEST)
        assert child.module is not None
        assert child.module.limits.calls == rig.limits.calls - 1
        own = ran(await rig.owner("o1", "plan.run", plan=plan(kv("a", "k", {"to": "x@example.org", "n": 7}))))
        assert rig.start(own["run"]).words == "k\n7\nx@example.org"

    on_rig(tmp_path, story)


def test_a_plan_that_reaches_a_limit_or_its_time_is_an_error_with_its_run(tmp_path: Path) -> None:
    """The limit ends the plan's run, its time stops it; whoever asked is told which, and goes on."""
    gate = asyncio.Event()

    async def wait(_call: Call) -> Answer:
        await gate.wait()
        return Answer({})

    waiting = capability("pause.wait", waits=True, timeout_s=60)

    async def story(rig: PlanRig) -> None:
        late = await rig.call("r1", "plan.run", plan=plan({"id": "a", "call": "pause.wait"}), timeout_s=1)
        assert late.error is not None
        assert late.error["code"] == "plan.timeout"
        run = late.error["remedy"].split()[-1]
        assert rig.database.run(run)["status"] == "stopped"
        big = plan(kv("a", "k", "x" * 700), kv("b", "k", after=["a"]), answer={"all": [at("b.value")] * 2})
        over = await rig.call("r2", "plan.run", plan=big)
        assert over.error is not None
        assert (over.error["code"], "limit.answer" in over.error["message"]) == ("plan.failed", True)

    on_rig(tmp_path, story, Handlers(pause__wait=wait), more=(waiting,), limits=Limits(answer_kb=1))


def test_stopping_the_asking_run_stops_its_plan(tmp_path: Path) -> None:
    """And nothing of the plan is done afterwards."""
    gate = asyncio.Event()
    entered = asyncio.Event()

    async def wait(_call: Call) -> Answer:
        entered.set()
        await gate.wait()
        return Answer({})

    async def story(rig: PlanRig) -> None:
        steps = plan({"id": "a", "call": "pause.wait"}, kv("b", "k", 1, after=["a"]))
        asking = asyncio.create_task(rig.call("r1", "plan.run", plan=steps))
        await entered.wait()
        (child,) = [run for run in rig.engine.unfinished() if run != "r1"]
        rig.engine.stop("r1")
        assert (await asking).status is RunStatus.STOPPED
        if child in rig.engine.unfinished():
            await rig.engine.result(child)
        assert rig.database.run(child)["status"] == "stopped"
        gate.set()
        assert ran(await rig.call("r2", "kv.get", key="k"))["found"] is False

    on_rig(tmp_path, story, Handlers(pause__wait=wait), more=(capability("pause.wait", waits=True, timeout_s=60),))


def test_no_module_can_have_an_operation_of_the_orchestrators_name() -> None:
    """Reserved names have a colon, and a manifest's operations have none."""
    assert not [name for name in NATIVE if _OPERATION.fullmatch(name)]


# Approvals


class Leases:
    """Approvals that the test gives: by capability, `yes` or `no`; until then the run waits."""

    def __init__(self) -> None:
        self.asked: dict[str, Asked] = {}
        self.said: dict[str, bool] = {}

    def claim(self, asked: Asked) -> Lease | float:
        self.asked[asked.fingerprint] = asked
        said = self.said.get(asked.question.capability.id)
        if said is None:
            return time.time() + 60
        if not said:
            raise Refusal("approval.refused", "the owner said no", "ask for something else")
        return Lease("lease-1", "the owner", ("SELECT 1", ()))


async def asks(rig: PlanRig, leases: Leases) -> str:
    """The plan's run, once it waits for the owner."""
    while True:
        for run, state in rig.engine.unfinished().items():
            if state.status is RunStatus.ASKING and leases.asked:
                return run
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("said", [True, False])
def test_a_step_that_needs_approval_waits_for_it_and_then_goes_on(tmp_path: Path, said: bool) -> None:
    """The plan's run waits with nothing held; a yes goes on with exactly this call, a no ends the plan."""
    leases = Leases()

    async def story(rig: PlanRig) -> None:
        steps = plan(
            kv("a", "k", 1), {"id": "send", "call": "post.send", "after": ["a"]}, kv("c", "k", 2, after=["send"])
        )
        asking = asyncio.create_task(rig.call("r1", "plan.run", plan=steps))
        child = await asks(rig, leases)
        leases.said["post.send"] = said
        rig.engine.answered(child)
        answer = ran(await asking)
        assert answer["status"] == ("done" if said else "failed")
        assert [step["status"] for step in answer["steps"]][1:] == (["done"] * 2 if said else ["failed", "not reached"])

    flaky = Flaky(0)
    on_rig(
        tmp_path, story, flaky.provider(), more=Flaky.declared, policy=Rules(post__send=Verdict.ASK), approvals=leases
    )
    assert flaky.calls == int(said)
    (asked,) = leases.asked.values()
    assert asked.ordinal == 2


def test_a_plan_that_waits_for_the_owner_is_not_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan with a second to run waits longer for its approval, and is done after it."""
    monkeypatch.setattr(children, "LOOK_S", 0.02)
    leases = Leases()

    async def story(rig: PlanRig) -> None:
        steps = plan({"id": "send", "call": "post.send"}, kv("a", "k", 1, after=["send"]))
        asking = asyncio.create_task(rig.call("r1", "plan.run", plan=steps, timeout_s=1))
        child = await asks(rig, leases)
        await asyncio.sleep(1.5)
        leases.said["post.send"] = True
        rig.engine.answered(child)
        assert ran(await asking)["status"] == "done"

    flaky = Flaky(0)
    policy = Rules(post__send=Verdict.ASK)
    on_rig(tmp_path, story, flaky.provider(), more=Flaky.declared, policy=policy, approvals=leases)


def test_the_owner_is_asked_about_a_whole_plan_at_once(tmp_path: Path) -> None:
    """What is certain is asked before the plan is there, and is the very question that each call asks then."""
    leases = Leases()

    async def story(rig: PlanRig) -> None:
        sends = [{"id": f"send{n}", "call": "post.send", "args": {"to": n}} for n in range(3)]
        last = {"id": "last", "call": "post.send", "args": {"to": at("got.value")}}
        steps = plan(*sends, kv("put", "k", 9), kv("got", "k", after=["put"]), last)
        asking = asyncio.create_task(rig.call("r1", "plan.run", plan=steps))
        child = await asks(rig, leases)
        while len(leases.asked) < 3:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)
        assert sorted((asked.ordinal, asked.question.args["to"]) for asked in leases.asked.values()) == [
            (1, 0),
            (2, 1),
            (3, 2),
        ]
        leases.said["post.send"] = True
        rig.engine.answered(child)
        assert ran(await asking)["status"] == "done"
        assert [(asked.ordinal, asked.question.args["to"]) for asked in leases.asked.values()][3:] == [(6, 9)]

    flaky = Flaky(0)
    policy = Rules(post__send=Verdict.ASK)
    on_rig(tmp_path, story, flaky.provider(), more=Flaky.declared, policy=policy, approvals=leases)
    assert flaky.calls == 4


# Interruptions


class Cuts:
    """Takes a copy of the home as a kill would leave it: before a plan's call of this number, or after its effect."""

    def __init__(self, home: Path, copy: Path) -> None:
        self._home = home
        self._copy = copy
        self.at: tuple[str, int] | None = None

    def take(self, when: str, run: str, ordinal: int) -> None:
        if self.at == (when, ordinal) and run != "r1" and not self._copy.exists():
            shutil.copytree(self._home, self._copy, ignore=shutil.ignore_patterns("*-shm"))


class CutKv(KvProvider):
    """`kv.set`, and a cut before anyone hears that it was done."""

    cuts: Cuts

    def set(self, call: Call) -> Answer:
        answer = super().set(call)
        self.cuts.take("after", call.run, call.ordinal)
        return answer


class CutRules(Rules):
    """A cut before a call is decided on."""

    def __init__(self, cuts: Cuts) -> None:
        super().__init__()
        self._cuts = cuts

    def decide(self, question: Question) -> Decision:
        run = self.rig.engine.unfinished().get(question.run.id)  # None while the plan is checked
        if run is not None:
            self._cuts.take("before", question.run.id, len(run.history) + 1)
        return super().decide(question)

    rig: PlanRig


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 3), st.integers(0, 9)),
        st.tuples(st.just("get"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("copy"), st.integers(0, 3), st.integers(0, 3)),
        st.tuples(st.just("count"), st.integers(0, 3), st.integers(1, 4)),
        st.tuples(st.just("keep"), st.integers(0, 3), st.just(0)),
        st.tuples(st.just("if"), st.integers(0, 3), st.integers(0, 9)),
    ),
    min_size=1,
    max_size=6,
)


def made_of(parts: list[tuple[str, int, int]]) -> dict[str, Any]:
    """A plan of these parts, one after the other."""
    steps: list[dict[str, Any]] = [kv("start", "k0", [1, 2, 3])]
    for number, (kind, key, value) in enumerate(parts):
        name, after, read = f"s{number}", [steps[-1]["id"]], f"read{number}"
        if kind == "set":
            steps.append(kv(name, f"k{key}", value, after=after))
            continue
        if kind in ("copy", "count", "if"):
            steps.append(kv(read, f"k{key}", after=after))
        if kind == "get":
            steps.append(kv(name, f"k{key}", after=after))
        elif kind == "copy":
            steps.append(kv(name, f"k{value}", at(f"{read}.value")))
        elif kind == "count":
            steps.append(kv(name, "k1", at("item"), each={"in": at(f"{read}.value"), "most": value}))
        elif kind == "keep":
            steps.append({"id": name, "call": "brain.add", "args": {"items": [{"text": name}]}, "after": after})
        else:
            steps.append(kv(name, "k2", "held", **{"if": {"equals": [at(f"{read}.value"), value]}}))
    steps.append(kv("end", "k1", after=[steps[-1]["id"]]))
    return plan(*steps, answer={"end": at("end.value")})


async def state_of(rig: PlanRig) -> tuple[Any, ...]:
    """All keys with their values, and all memories, in order."""
    with rig.store.open("ana") as connection:
        keys = list(connection.execute("SELECT key, value FROM kv ORDER BY key"))
        return keys, list(connection.execute("SELECT id, text FROM memory ORDER BY id"))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(STEPS, st.sampled_from(["before", "after"]), st.integers(1, 14))
def test_a_plan_interrupted_at_any_step_ends_as_if_it_had_not_been(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[str, int, int]], when: str, ordinal: int
) -> None:
    """The same answer, history and effects, whether a kill came before a call, after its effect, or never."""
    root = tmp_path_factory.mktemp("cut")
    (root / "home").mkdir()
    cuts = Cuts(root / "home", root / "copy")
    cuts.at = (when, ordinal)

    async def whole() -> tuple[Any, Any]:
        rules = CutRules(cuts)
        values = PlanRig.kv
        try:
            PlanRig.kv = CutKv
            rules.rig = rig = PlanRig(root / "home", policy=rules)
        finally:
            PlanRig.kv = values
        rig.values_provider.cuts = cuts  # type: ignore[attr-defined] - it is a `CutKv`
        answer = ran(await rig.call("r1", "plan.run", plan=made_of(parts)))
        found = await state_of(rig)
        await rig.shut()
        return answer, found

    async def resumed() -> tuple[Any, Any]:
        rig = PlanRig(root / "copy")
        assert rig.engine.resume(rig.database.unfinished()) == 2
        answer = ran(await rig.engine.result("r1"))
        found = await state_of(rig)
        runs = ["r1", str(answer["run"])]
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, runs)
        assert ([verdict.reason for verdict in verdicts], faults) == (["", ""], [])
        await rig.shut()
        return answer, found

    once = asyncio.run(whole())
    event(f"interrupted: {(root / 'copy').exists()}")
    if (root / "copy").exists():
        assert asyncio.run(resumed()) == once


# Having a model make one


class Model:
    """A model that gives these answers, one after the other, and keeps what it was told."""

    def __init__(self, *answers: Any) -> None:
        self._answers = [answer if isinstance(answer, str) else json.dumps(answer) for answer in answers]
        self.told: list[list[dict[str, Any]]] = []

    async def complete(self, call: Call) -> Answer:
        self.told.append(call.args["messages"])
        tokens = {"in": 1, "out": 1}
        text = self._answers.pop(0)
        return Answer({"text": text, "tool_calls": [], "model": "scripted", "finish": "stop", "tokens": tokens})

    def provider(self) -> Handlers:
        return Handlers(llm__complete=self.complete)


def test_a_model_makes_a_plan_from_the_request_and_the_schemas_alone(tmp_path: Path) -> None:
    """It sees what was granted and no data; its mistakes go back to it; what comes is checked and can be run."""
    nowhere = {**NOTE, "answer": {"text": at("look.valeu")}}
    model = Model("I think that you should ...", nowhere, f"Here it is:\n```json\n{json.dumps(NOTE)}\n```")

    async def story(rig: PlanRig) -> None:
        await rig.call("r0", "brain.add", items=[{"text": "the secret is 4711"}])
        made = ran(await rig.call("r1", "plan.make", request="note where Ana lives", tools=["brain.search", "kv.set"]))
        assert (made["plan"], made["attempts"], made["check"]["ok"]) == (NOTE, 3, True)
        told = json.dumps(model.told)
        assert "note where Ana lives" in told
        assert '\\"name\\": \\"kv.set\\"' in told
        assert '\\"name\\": \\"kv.delete\\"' not in told
        assert "4711" not in told
        assert [len(messages) for messages in model.told] == [2, 4, 6]
        assert "it has no 'valeu'" in model.told[2][-1]["content"]
        verdict = await asyncio.to_thread(rig.replayer.replay, made["run"])
        assert verdict.ok, verdict.reason
        assert ran(await rig.call("r2", "plan.run", plan=made["plan"]))["status"] == "done"

    on_rig(tmp_path, story, model.provider())


def test_three_wrong_plans_are_a_refusal_that_says_what_was_wrong(tmp_path: Path) -> None:
    """The errors go back at most twice."""
    model = Model(*[plan(kv("a", "k", {"$ref": "r1.text"}))] * 3)

    async def story(rig: PlanRig) -> None:
        ending = await rig.call("r1", "plan.make", request="anything")
        assert ending.error is not None
        assert ending.error["code"] == "plan.failed"
        assert "a plan names its steps, not calls" in ending.error["message"]
        assert len(model.told) == 3

    on_rig(tmp_path, story, model.provider())


# Saved plans


def test_a_plan_is_saved_shown_run_by_name_and_removed(tmp_path: Path) -> None:
    """What the owner saved is the owner's words when the owner runs it; what the agent saved is not."""

    async def story(rig: PlanRig) -> None:
        steps = plan(kv("a", "k", "v"))
        ran(await rig.owner("o1", "plan.save", name="mine", plan=steps))
        ran(await rig.call("r1", "plan.save", name="its", plan=steps))
        listed = ran(await rig.owner("o2", "plan.list"))["plans"]
        assert [(one["name"], one["by"]) for one in listed] == [("its", "agent:ana"), ("mine", "owner")]
        shown = ran(await rig.call("r2", "plan.show", name="mine"))
        assert (shown["plan"], shown["labels"]) == (steps, ["owner"])
        runs = [ran(await rig.owner(f"p{name}", "plan.run", name=name))["run"] for name in ("mine", "its")]
        assert [rig.start(run).words for run in runs] == ["k\nv", ""]
        by_agent = ran(await rig.call("r3", "plan.run", name="mine"))
        assert rig.start(by_agent["run"]).words == ""
        assert ran(await rig.owner("o3", "plan.remove", name="mine"))["existed"] is True
        gone = await rig.owner("o4", "plan.run", name="mine")
        assert gone.error is not None
        assert gone.error["code"] == "plan.unknown"

    on_rig(tmp_path, story)


def test_what_an_erased_run_saved_is_gone(tmp_path: Path) -> None:
    """A saved plan belongs to the run that saved it last, and its bytes leave the file."""

    async def story(rig: PlanRig) -> None:
        marked = plan(kv("a", "k", "veryspecialword"))
        ran(await rig.call("r1", "plan.save", name="its", plan=marked))
        ran(await rig.call("r2", "plan.save", name="other", plan=plan(kv("a", "k"))))
        assert list(rig.plans.erase("ana", ["r1"])) == ["its"]
        assert [one["name"] for one in ran(await rig.owner("o1", "plan.list"))["plans"]] == ["other"]
        files = [path.read_bytes() for path in (tmp_path / "brains").iterdir()]
        assert not [held for held in files if b"veryspecialword" in held]

    on_rig(tmp_path, story)


def test_saving_the_same_call_again_changes_nothing(tmp_path: Path) -> None:
    """(run, ordinal) is written with the plan, so a call that is performed again finds that it was done."""

    async def story(rig: PlanRig) -> None:
        call = Call("r1", 1, "ana", "c", OWNER, "plan.save", {"name": "a", "plan": NOTE}, ("owner",))
        rig.plans.save(call)
        rig.plans.remove(replace(call, ordinal=2, capability="plan.remove", args={"name": "a"}))
        rig.plans.save(call)
        assert ran(await rig.owner("o1", "plan.list"))["plans"] == []

    on_rig(tmp_path, story)
