"""The counter's nine steps, each by what it refuses and what it leaves in the journal."""

import asyncio
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import Handlers, Rig, Values, capability
from loket.chain import check_chain
from loket.contracts import (
    Answer,
    BadInput,
    Call,
    Decision,
    Effect,
    Failed,
    Grant,
    Limits,
    Question,
    Refusal,
    RowKind,
    RunEnded,
    Suspended,
    Token,
    Usage,
    Verdict,
)
from loket.contracts.catalogue import BY_ID, STOCK
from loket.kernel.quotas import Spent, reserve, settle
from loket.narrowing import check_constraints
from loket.policy import HomePolicy


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def refused(rig: Rig, run: Any, name: str, args: str = '{"key":"a"}') -> Refusal:
    with pytest.raises(Refusal) as caught:
        rig.counter.call(run, name, args)
    return caught.value


def test_a_granted_read_is_answered_and_makes_one_row(rig: Rig) -> None:
    """A read is one row with principal, root, rules, labels, arguments and answer."""
    run = rig.run(rig.module("tester", "kv.get"))
    assert json.loads(rig.counter.call(run, "kv.get", '{"key":"a"}')) == {"found": False, "value": None}
    (row,) = rig.rows()
    assert row.kind is RowKind.CALL
    assert row.meta["principal"] == "agent:tester"
    assert row.meta["root"] == "r1"
    assert row.meta["rules"] == ["plain.read"]
    assert json.loads(row.value) == {
        "answer": {"found": False, "value": None},
        "arg_labels": {"key": ["owner"]},
        "args": {"key": "a"},
        "labels": ["capability:kv.get", "owner"],
    }


def test_an_effect_makes_two_rows_and_the_first_is_on_the_disk_before_it_happens(tmp_path: Path) -> None:
    """Intent, then outcome; the intent is durable when the provider is called."""
    seen: list[int] = []

    def set_(_call: Call) -> Answer:
        head = rig.database.head()
        seen.append(head[0] if head else 0)
        return Answer({})

    rig = Rig(tmp_path, Handlers(kv__set=set_))
    run = rig.run(rig.module("tester", "kv.set"))
    rig.counter.call(run, "kv.set", '{"key":"a","value":1}')
    kinds = [row.kind for row in rig.rows()]
    assert kinds == [RowKind.INTENT, RowKind.OUTCOME]
    assert seen == [rig.rows()[0].seq]
    rig.close()


@given(
    name=st.sampled_from(["kv.get", "kv.set", "brain.search", "clock.now", "random.bytes", "log.write", "no.such"]),
    granted=st.sets(st.sampled_from(["kv.get", "kv.set", "clock.now", "random.bytes", "log.write"])),
    args=st.dictionaries(st.sampled_from(["key", "value", "n", "text"]), st.integers(0, 9) | st.text(max_size=4)),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_grant_no_call(
    tmp_path_factory: pytest.TempPathFactory, name: str, granted: set[str], args: dict[str, Any]
) -> None:
    """Whatever is asked with whatever arguments: without a grant the provider is never reached."""
    rig = Rig(tmp_path_factory.mktemp("g"))
    run = rig.run(rig.module("tester", *granted))
    try:
        rig.counter.call(run, name, json.dumps(args))
    except Refusal:
        assert rig.values.performed == []
        assert rig.rows()[-1].meta["decision"] == "deny"
    else:
        assert name in granted
    rig.close()


def test_a_missing_grant_is_refused_with_the_command_that_allows_it(rig: Rig) -> None:
    """The refusal names the module, the capability and the command."""
    refusal = refused(rig, rig.run(rig.module()), "kv.get")
    assert refusal.code == "grant.missing"
    assert refusal.remedy == "loket grants allow tester kv.get"


def test_a_grant_counts_only_for_accepted_bytes(rig: Rig) -> None:
    """Other bytes under the same name have no grants until the owner accepts them."""
    module = rig.module("tester", "kv.get")
    assert refused(rig, rig.run(replace(module, digest="e" * 64)), "kv.get").code == "module.unaccepted"
    rig.grants.accept("local", "tester", "e" * 64, 0.0)
    rig.counter.call(rig.run(replace(module, digest="e" * 64), "r2"), "kv.get", '{"key":"a"}')
    rig.grants.revoke_digest("e" * 64, 0.0)
    assert refused(rig, rig.run(replace(module, digest="e" * 64), "r3"), "kv.get").code == "module.revoked"


def test_a_revoked_grant_is_refused_at_the_next_call(rig: Rig) -> None:
    """Revoking takes effect at once, also for a run in flight."""
    run = rig.run(rig.module("tester", "kv.get"))
    rig.counter.call(run, "kv.get", '{"key":"a"}')
    assert rig.grants.revoke("local", "tester", "kv.get")
    assert refused(rig, run, "kv.get").code == "grant.missing"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ("{", "no valid JSON"),
        ("[]", "a JSON list"),
        ('{"key":5}', "key is the integer 5"),
        ('{"key":"a","more":1}', "more"),
        ("{}", "key"),
        ('{"key":NaN}', "NaN"),
        ('{"key":"\\ud800"}', "no valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"key":"' + "x" * 600 + '"}', "512"),
    ],
)
def test_wrong_arguments_are_refused_with_the_field(rig: Rig, args: str, says: str) -> None:
    """Step 2 names what is wrong; the provider never sees it."""
    refusal = refused(rig, rig.run(rig.module("tester", "kv.get")), "kv.get", args)
    assert refusal.code == "arguments.invalid"
    assert says in refusal.message
    assert rig.values.performed == []


def test_the_row_of_a_refused_call_has_its_effect(rig: Rig) -> None:
    """What was refused can be told by its effect; a capability that does not exist has none."""
    run = rig.run(rig.module())
    refused(rig, run, "kv.set", '{"key":"a","value":1}')
    refused(rig, run, "no.such")
    assert [row.meta.get("effect") for row in rig.rows()] == ["modify", None]


def test_the_row_of_a_model_s_answer_says_which_model_it_was(tmp_path: Path) -> None:
    """The name of the model stays where the answer is erased; other calls have none."""

    async def answers(_call: Call) -> Answer:
        value = {"text": "x", "tool_calls": [], "model": "m", "finish": "stop", "tokens": {"in": 1, "out": 1}}
        return Answer(value, (), Usage(2, 1, model="m"))

    rig = Rig(tmp_path, Handlers(llm__complete=answers))
    run = rig.run(rig.module("tester", "llm.complete"))
    asyncio.run(complete(rig, run))
    assert rig.rows()[-1].meta["usage"] == {"in": 2, "out": 1, "money": 0.0, "model": "m"}
    rig.close()


def test_an_unknown_capability_is_refused_with_the_nearest_one(rig: Rig) -> None:
    """A slip of the pen is answered with the name that was meant."""
    assert "kv.get" in str(refused(rig, rig.run(rig.module()), "kv.gte").remedy)


@pytest.mark.parametrize("what", ["forged", "expired", "revoked"])
def test_a_token_that_is_not_good_is_refused(tmp_path: Path, what: str) -> None:
    """Step 1: forged, expired and revoked tokens reach nothing."""
    time = [0.0]
    rig = Rig(tmp_path, now=lambda: time[0])
    run = rig.run(rig.module("tester", "kv.get"))
    if what == "forged":
        run.token = Token(run.token.run, "owner", run.token.expires, run.token.data)
    elif what == "expired":
        time[0] = 4000.0
    else:
        rig.tokens.revoke("r1")
    assert refused(rig, run, "kv.get").code == f"token.{what}"
    rig.close()


class Says:
    """A policy that always gives one decision, or fails."""

    def __init__(self, decision: Decision | None) -> None:
        self._decision = decision

    def decide(self, _question: Question) -> Decision:
        if self._decision is None:
            raise ZeroDivisionError("no rules")
        return self._decision


@pytest.mark.parametrize(
    ("decision", "code"),
    [
        (Decision(Verdict.DENY, ("rule.7",), "because", "p1"), "policy.denied"),
        (Decision(Verdict.ASK, ("rule.8",), "because", "p1"), "policy.ask"),
        (Decision(Verdict.ALLOW, ("rule.9",), "because", "p1", ("dance",)), "policy.obligation"),
        (None, "policy.failed"),
    ],
)
def test_whatever_is_not_an_allowance_is_a_denial(tmp_path: Path, decision: Decision | None, code: str) -> None:
    """A denial, a question, an obligation that nobody can carry out, and a policy that fails: nothing is performed."""
    rig = Rig(tmp_path, policy=Says(decision))
    refusal = refused(rig, rig.run(rig.module("tester", "kv.get")), "kv.get")
    assert refusal.code == code
    assert rig.values.performed == []
    if decision is not None:
        assert rig.rows()[0].meta["rules"] == list(decision.rules)
    rig.close()


def test_an_effect_beyond_the_agents_own_data_is_not_allowed_by_the_plain_policy(tmp_path: Path) -> None:
    """Money and the like would have to be asked; until somebody can be asked they are refused, granted or not."""
    pay = capability("bank.pay", Effect.MONEY)
    rig = Rig(tmp_path, Handlers(bank__pay=lambda _call: Answer({})), more=(pay,))
    assert refused(rig, rig.run(rig.module("tester", "bank.pay")), "bank.pay", "{}").code == "policy.ask"
    rig.close()


def test_the_call_limit_ends_the_run_and_refused_calls_count(rig: Rig) -> None:
    """A module that swallows refusals ends at its limit all the same."""
    run = rig.run(rig.module("tester", limits=Limits(calls=3)))
    for _ in range(3):
        refused(rig, run, "kv.get")
    with pytest.raises(RunEnded, match="3 calls"):
        rig.counter.call(run, "kv.get", '{"key":"a"}')


def llm(tokens: int) -> Handlers:
    answer = {"text": "x", "tool_calls": [], "model": "m", "finish": "stop", "tokens": {"in": 1, "out": 1}}

    async def complete(_call: Call) -> Answer:
        return Answer(answer, (), Usage(tokens, 0, 0.25))

    return Handlers(llm__complete=complete)


ASK_MODEL = '{"messages":[{"role":"user","content":"hi"}],"max_tokens":100}'


async def complete(rig: Rig, run: Any) -> None:
    with pytest.raises(Suspended):
        rig.counter.call(run, "llm.complete", ASK_MODEL)
    await rig.counter.finish(run)


def test_tokens_are_held_before_and_settled_after(tmp_path: Path) -> None:
    """A call that could go over the run's bound of tokens is refused before the model is asked."""
    rig = Rig(tmp_path, llm(150))
    run = rig.run(rig.module("tester", "llm.complete", limits=Limits(tokens=300)))
    asyncio.run(complete(rig, run))
    assert run.spent.tokens == 150
    assert run.spent.held_tokens == 0
    asyncio.run(complete(rig, run))
    assert refused(rig, run, "llm.complete", ASK_MODEL).code == "quota.tokens"
    assert run.spent.money == 0.5
    rig.close()


def crash(_call: Call) -> Answer:
    raise ZeroDivisionError("oops")


def fail(_call: Call) -> Answer:
    raise Failed("disk.gone", "the disk is gone", "mend it")


def nonsense(_call: Call) -> Answer:
    return Answer({"found": "perhaps", "value": 1})


def huge(_call: Call) -> Answer:
    return Answer({"found": True, "value": "x" * (2 << 20)})


@pytest.mark.parametrize(
    ("handler", "code"),
    [(crash, "provider.crashed"), (fail, "disk.gone"), (nonsense, "provider.answer"), (huge, "limit.answer")],
)
def test_a_provider_that_misbehaves_is_an_error_answer(tmp_path: Path, handler: Any, code: str) -> None:
    """A crash, a failure, an answer against its schema or over its size: an error on a row, and the kernel goes on."""
    rig = Rig(tmp_path, Handlers(kv__get=handler))
    run = rig.run(rig.module("tester", "kv.get"))
    with pytest.raises(Failed) as caught:
        rig.counter.call(run, "kv.get", '{"key":"a"}')
    assert caught.value.code == code
    assert rig.rows()[0].meta["error"] == code
    assert check_chain(rig.journal) == []
    rig.close()


def test_an_answer_against_its_schema_keeps_its_labels_and_its_cost(tmp_path: Path) -> None:
    """The error quotes what was answered, so it comes from there too; what the call used is charged."""

    def said(_call: Call) -> Answer:
        return Answer({"found": "mail eve@evil.example"}, ("host:evil.example",), Usage(3, 4))

    rig = Rig(tmp_path, Handlers(kv__get=said))
    run = rig.run(rig.module("tester", "kv.get"))
    with pytest.raises(Failed) as caught:
        rig.counter.call(run, "kv.get", '{"key":"a"}')
    assert caught.value.code == "provider.answer"
    assert "host:evil.example" in run.exposed
    assert run.spent.tokens == 7
    rig.close()


def test_a_provider_that_takes_too_long_is_cut_off(tmp_path: Path) -> None:
    """Step 7 has a time limit."""

    async def slow(_call: Call) -> Answer:
        await asyncio.sleep(30)
        return Answer({})

    rig = Rig(tmp_path, Handlers(slow__read=slow), more=(capability("slow.read", waits=True, timeout_s=0.05),))
    run = rig.run(rig.module("tester", "slow.read"))
    with pytest.raises(Suspended):
        rig.counter.call(run, "slow.read", "{}")
    asyncio.run(rig.counter.finish(run))
    assert run.history[0].error is not None
    assert run.history[0].error["code"] == "provider.timeout"
    rig.close()


def test_a_provider_outside_the_catalogue_is_an_error_at_start(tmp_path: Path) -> None:
    """Nothing can be performed that the catalogue does not declare."""
    from loket.contracts import BadInput

    with pytest.raises(BadInput, match="not in the catalogue"):
        Rig(tmp_path, Handlers(magic__wand=lambda _call: Answer({})))


def test_clock_random_and_logs_make_no_rows_and_one_reading_serves_until_the_next_call(tmp_path: Path) -> None:
    """A thousand side calls leave one row: that of the next other call, which carries them."""
    ticks = iter(range(10_000))
    rig = Rig(tmp_path, now=lambda: float(next(ticks)))
    run = rig.run(rig.module("tester", "kv.get", "clock.now", "random.bytes", "log.write"))
    readings = {rig.counter.call(run, "clock.now", "{}") for _ in range(300)}
    randoms = {rig.counter.call(run, "random.bytes", '{"n":8}') for _ in range(300)}
    for number in range(300):
        rig.counter.call(run, "log.write", f'{{"text":"line {number}"}}')
    assert len(readings) == 1
    assert len(randoms) == 300
    rig.counter.call(run, "kv.get", '{"key":"a"}')
    (row,) = rig.rows()
    side = json.loads(row.value)["sides"]
    assert side["n"] == 900
    assert side["logs"][299] == ["info", "line 299"]
    assert rig.counter.call(run, "clock.now", "{}") not in readings
    assert run.spent.calls == 1
    rig.close()


def test_logs_are_kept_up_to_their_bytes(rig: Rig) -> None:
    """What is over the limit is dropped and counted, and the run goes on."""
    run = rig.run(rig.module("tester", "log.write", "kv.get", limits=Limits(log_kb=1)))
    for _ in range(10):
        rig.counter.call(run, "log.write", '{"text":"' + "x" * 300 + '"}')
    rig.counter.call(run, "kv.get", '{"key":"a"}')
    side = json.loads(rig.rows()[0].value)["sides"]
    assert len(side["logs"]) == 3
    assert side["dropped"] == 7 * 316


def test_side_calls_need_grants_too(rig: Rig) -> None:
    """The clock is a capability like any other."""
    assert refused(rig, rig.run(rig.module()), "clock.now", "{}").code == "grant.missing"


def test_grants_survive_in_the_database_and_every_decision_is_on_a_row(tmp_path: Path) -> None:
    """A grant is an owner's decision: stored, journaled, and there again after a restart."""
    rig = Rig(tmp_path)
    rig.module("tester", "kv.get")
    rig.grants.allow(Grant("local", "tester", "kv.set", {"keys": ["a"]}, "owner", 1.0, "asked for"))
    rig.grants.revoke("local", "tester", "kv.get")
    rig.close()
    again = Rig(tmp_path, Values().provider())
    assert [grant.capability for grant in again.grants.held("local", "tester")] == ["kv.set"]
    assert [row.meta["what"] for row in again.rows("")] == [
        "module.accept",
        "grant.allow",
        "grant.allow",
        "grant.revoke",
    ]
    again.close()


def test_money_has_a_bound_per_run(tmp_path: Path) -> None:
    """A run that spent its money is refused the next model call."""
    rig = Rig(tmp_path, llm(10))
    run = rig.run(rig.module("tester", "llm.complete", limits=Limits(money=0.2)))
    asyncio.run(complete(rig, run))
    assert refused(rig, run, "llm.complete", ASK_MODEL).code == "quota.money"
    rig.close()


def test_a_grant_can_be_narrowed_and_an_unknown_narrowing_is_a_refusal(rig: Rig) -> None:
    """A constraint holds at every call; one that nobody enforces allows nothing."""
    run = rig.run(rig.module("tester"))
    rig.grants.allow(Grant("local", "tester", "kv.get", {"prefixes": ["visit/", "day/"]}, "owner", 0.0))
    rig.counter.call(run, "kv.get", '{"key":"day/1"}')
    assert refused(rig, run, "kv.get", '{"key":"secret"}').code == "grant.constraint"
    rig.grants.allow(Grant("local", "tester", "kv.get", {"hosts": ["example.org"]}, "owner", 0.0))
    assert refused(rig, run, "kv.get", '{"key":"day/1"}').code == "grant.constraint"


@pytest.mark.parametrize("constraints", [{"hosts": ["a"]}, {"prefixes": "a"}, {"prefixes": []}, {"prefixes": [1]}])
def test_a_constraint_that_means_nothing_cannot_be_granted(constraints: dict[str, Any]) -> None:
    """The owner hears at once that a constraint is unknown or malformed."""
    with pytest.raises(BadInput):
        check_constraints(BY_ID["kv.get"], constraints)


def test_sizes_are_bytes(rig: Rig) -> None:
    """Characters of several bytes count as the bytes that they take."""
    run = rig.run(rig.module("tester", "kv.set"))
    assert refused(rig, run, "kv.set", '{"key":"a","value":"' + "☃" * (100 << 10) + '"}').code == "limit.args"


def test_refused_calls_do_not_fill_the_journal(rig: Rig) -> None:
    """A megabyte that was refused is a digest on its row."""
    run = rig.run(rig.module())
    for _ in range(3):
        refused(rig, run, "no.such", '{"key":"' + "x" * (1 << 20) + '"}')
    assert sum(len(row.value) for row in rig.rows()) < 3000
    assert "sha256" in rig.rows()[0].value.decode()


def test_arguments_that_do_not_fit_do_not_fill_the_journal(rig: Rig) -> None:
    """What the schema says is cut, with the field's name kept: it quotes the value, here 200 kB of it."""
    run = rig.run(rig.module("tester", "kv.set"))
    refusal = refused(rig, run, "kv.set", '{"key":["' + "x" * 200_000 + '"],"value":1}')
    assert refusal.code == "arguments.invalid"
    assert refusal.message.startswith("kv.set: key is ")
    assert len(refusal.message) < 400
    long_name = refused(rig, run, "kv.set", '{"key":"a","value":1,"' + "y" * 200_000 + '":2}')
    assert len(long_name.message) < 400
    assert [len(row.value) < 3000 for row in rig.rows()] == [True, True]


def test_a_whole_number_may_be_written_as_a_fraction(rig: Rig) -> None:
    """JSON knows one kind of number: 16.0 is 16."""
    run = rig.run(rig.module("tester", "random.bytes"))
    assert len(json.loads(rig.counter.call(run, "random.bytes", '{"n":16.0}'))["hex"]) == 32


def test_empty_lines_count_as_logs(rig: Rig) -> None:
    """A flood of empty lines is dropped like any other."""
    run = rig.run(rig.module("tester", "log.write", "kv.get", limits=Limits(log_kb=1)))
    for _ in range(200):
        rig.counter.call(run, "log.write", '{"text":""}')
    rig.counter.call(run, "kv.get", '{"key":"a"}')
    assert len(json.loads(rig.rows()[0].value)["sides"]["logs"]) == 64


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90), st.booleans()), max_size=30))
def test_what_is_held_is_given_back_and_no_bound_is_passed(calls: list[tuple[int, int, bool]]) -> None:
    """Whatever calls hold and use, they hold nothing once they are settled; what would go over the bound is refused."""
    spent, limits = Spent(), Limits(calls=20, tokens=500)
    for need, used, elsewhere in calls:
        before = spent.tokens
        try:
            held = reserve(spent, limits, need)
        except Refusal:
            assert before + need > limits.tokens
            continue
        except RunEnded:
            assert spent.calls == limits.calls
            break
        assert spent.tokens + spent.held_tokens <= max(limits.tokens, before)
        settle(spent, held, Usage(min(used, need), counted=elsewhere))
        assert spent.held_tokens == 0
    assert spent.others_tokens <= spent.tokens <= limits.tokens


def inventory(_call: Call) -> Answer:
    return Answer({"stock": 7})


LOOKUP = capability("inventory.lookup")
REMOVE = capability("inventory.remove", Effect.DESTROY)


def home_rig(directory: Path) -> tuple[Rig, HomePolicy]:
    """A kernel that decides by Loket's own rules and those in its folder `policies`."""
    rigs: list[Rig] = []
    policy = HomePolicy(directory / "policies", lambda: rigs[0].registry.all() if rigs else STOCK)
    rigs.append(Rig(directory, policy=policy))
    return rigs[0], policy


def test_a_capability_that_comes_later_is_decided_called_and_goes_again(tmp_path: Path) -> None:
    """It is put and called like any other, by Loket's own rules; once it is dropped nobody knows it."""
    rig, _policy = home_rig(tmp_path)
    run = rig.run(rig.module("tester", "inventory.lookup", "inventory.remove"))
    assert refused(rig, run, "inventory.lookup", "{}").code == "capability.unknown"
    rig.registry.put("module:inventory", [LOOKUP, REMOVE], {LOOKUP.id: inventory, REMOVE.id: inventory})
    assert json.loads(rig.counter.call(run, "inventory.lookup", "{}")) == {"stock": 7}
    assert rig.rows()[-1].meta["rules"] == ["default.read"]
    assert refused(rig, run, "inventory.remove", "{}").code in ("policy.ask", "policy.denied")
    rig.registry.drop("module:inventory")
    assert refused(rig, run, "inventory.lookup", "{}").code == "capability.unknown"
    assert not rig.registry.get("inventory.remove")
    rig.close()


def test_a_source_is_replaced_as_a_whole(rig: Rig) -> None:
    """What it does not perform any more is gone with the same step in which the new one comes."""
    rig.registry.put("mcp:time", [capability("mcp.time.now")], {"mcp.time.now": inventory})
    rig.registry.put("mcp:time", [capability("mcp.time.then")], {"mcp.time.then": inventory})
    rig.registry.put("mcp:other", [capability("mcp.other.now")], {"mcp.other.now": inventory})
    assert not rig.registry.get("mcp.time.now")
    rig.registry.drop("mcp:time")
    rig.registry.drop("mcp:time")
    assert not rig.registry.get("mcp.time.then")
    assert rig.registry.get("mcp.other.now")


@pytest.mark.parametrize(
    ("name", "handlers", "code"),
    [
        ("kv.get", {"kv.get": inventory}, "capability.taken"),
        ("kv.new", {"kv.new": inventory}, "capability.taken"),
        ("clock.sleep", {"clock.sleep": inventory}, "capability.taken"),
        ("mcp.time.now", {"mcp.time.now": inventory}, "capability.taken"),
        ("inventory.new", {}, "capability.handler"),
        ("inventory.new", {"inventory.new": inventory, "inventory.more": inventory}, "capability.handler"),
    ],
)
def test_a_source_that_cannot_be_put_changes_nothing(rig: Rig, name: str, handlers: Any, code: str) -> None:
    """A name of the catalogue's families or of another source, or no handler of its own: all stays as it was."""
    rig.registry.put("mcp:time", [capability("mcp.time.now")], {"mcp.time.now": inventory})
    rig.registry.put("module:inventory", [LOOKUP], {LOOKUP.id: inventory})
    before = rig.registry.all()
    with pytest.raises(BadInput) as caught:
        rig.registry.put("module:inventory", [LOOKUP, capability(name)], {LOOKUP.id: inventory, **handlers})
    assert caught.value.code == code
    assert rig.registry.all() == before


def test_a_source_whose_schema_is_wrong_changes_nothing(rig: Rig) -> None:
    """A schema that comes from outside is checked before anything is called by it."""
    wrong = replace(LOOKUP, arguments={"type": "nonsense"})
    with pytest.raises(BadInput) as caught:
        rig.registry.put("module:inventory", [wrong], {LOOKUP.id: inventory})
    assert caught.value.code == "capability.schema"
    assert not rig.registry.get(LOOKUP.id)


def test_a_call_in_flight_goes_on_with_what_it_began(tmp_path: Path) -> None:
    """A capability that is dropped, or replaced, while it is performed is answered as it was."""
    rig = Rig(tmp_path)
    text = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
    slow = replace(capability("inventory.count", waits=True), answer=text)

    async def count(_call: Call) -> Answer:
        rig.registry.drop("module:inventory")
        return Answer({"text": "many"})

    rig.registry.put("module:inventory", [slow], {slow.id: count})
    run = rig.run(rig.module("tester", slow.id))
    with pytest.raises(Suspended):
        rig.counter.call(run, slow.id, "{}")
    asyncio.run(rig.counter.finish(run))
    assert run.history[-1].answer == '{"text":"many"}'
    rig.close()


def test_readers_see_all_of_a_source_or_nothing(rig: Rig) -> None:
    """Other threads look while a source changes: they never find one of its capabilities without the other."""
    pairs = [[capability(f"inventory.{name}{turn}") for name in ("a", "b")] for turn in range(2)]
    odd: list[set[str]] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            seen = {known.id for known in rig.registry.all() if known.family == "inventory"}
            if seen not in (set(), {"inventory.a0", "inventory.b0"}, {"inventory.a1", "inventory.b1"}):
                odd.append(seen)

    reader = threading.Thread(target=look)
    reader.start()
    for turn in range(100):
        mine = pairs[turn % 2]
        rig.registry.put("module:inventory", mine, {known.id: inventory for known in mine})
        if turn % 7 == 0:
            rig.registry.drop("module:inventory")
    done.set()
    reader.join()
    assert odd == []


def test_a_capability_that_is_redefined_is_decided_anew(tmp_path: Path) -> None:
    """A rule that named every critical value of its old definition does not lift the floor for the new one."""
    rig, policy = home_rig(tmp_path)
    old = replace(capability("bank.pay", Effect.MONEY), critical=("to",))
    rig.registry.put("module:bank", [old], {old.id: inventory})
    policy.save_rule(
        "approval-1",
        '@id("approved.1") permit(principal == Agent::"tester", action == Action::"bank.pay", resource)'
        ' when { context.values has "to" && context.values["to"] == "Ana" };',
    )
    run = rig.run(rig.module("tester", "bank.pay"))
    assert json.loads(rig.counter.call(run, "bank.pay", '{"to":"Ana"}')) == {"stock": 7}
    rig.registry.put("module:bank", [replace(old, critical=("to", "amount"))], {old.id: inventory})
    assert refused(rig, run, "bank.pay", '{"to":"Ana"}').code == "policy.ask"
    rig.close()


def test_rules_may_wait_for_a_capability_that_comes_later(tmp_path: Path) -> None:
    """A home's rules about a server that is not connected break nothing, and count once it is there."""
    forbids = '@id("mine.1") forbid(principal, action == Action::"mcp.time.now", resource);'
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "mine.cedar").write_text(forbids, encoding="utf-8")
    rig, _policy = home_rig(tmp_path)
    run = rig.run(rig.module("tester", "kv.get", "mcp.time.now"))
    rig.counter.call(run, "kv.get", '{"key":"a"}')
    rig.registry.put("mcp:time", [capability("mcp.time.now")], {"mcp.time.now": inventory})
    assert refused(rig, run, "mcp.time.now", "{}").code == "policy.denied"
    rig.close()


def test_a_new_rule_names_what_is_there(tmp_path: Path) -> None:
    """Whoever writes a rule now is told of a name that nobody has, as a slip of the pen would be one."""
    rig, policy = home_rig(tmp_path)
    text = '@id("mine.1") permit(principal, action == Action::"brian.search", resource);'
    with pytest.raises(BadInput, match="mine"):
        policy.put("mine.cedar", text)
    with pytest.raises(BadInput, match="mine"):
        policy.save_rule("x", text)
    assert list(policy.folder.glob("*.cedar")) == []
    rig.close()
