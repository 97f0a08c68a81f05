"""Tests of quotas and limits: no bound is exceeded, nothing that is held is lost, and every end says why."""

import asyncio
import json
import random
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import EngineRig, Handlers, Rig, Script, begin, capability
from loket.config import Config, load_config
from loket.contracts import (
    OWNER,
    Answer,
    BadInput,
    Call,
    Effect,
    Ending,
    Failed,
    FailedAsk,
    Host,
    LoketError,
    ModuleRef,
    Principal,
    Recorded,
    Refusal,
    RowKind,
    RunEnded,
    RunRequest,
    RunStatus,
    Segment,
    Usage,
)
from loket.limits import Bounds, Holder, HomeMeter, Table, WallTime, home_meter, table_of
from loket.limits.loops import refuse_loop
from loket.limits.sums import Sums
from loket.limits.wall import waiting_for_owner
from loket.limits.window import Window
from loket.store.usage import DAY_S, RunUse

NOON = 1_795_176_000.0
"""2026-11-20T12:00:00Z."""

MODULE = ModuleRef("local", "tester", "1", "d" * 64)
SMALL = replace(capability("t.small"), answer_kb=1)
ANA = Principal("sender", "mail:ana")


@dataclass
class Clock:
    """A wall clock and one that never goes back, both set by the test."""

    at: float = NOON
    ran: float = 1000.0

    def pass_by(self, seconds: float) -> None:
        self.at += seconds
        self.ran += seconds


@dataclass
class View:
    """An unfinished run as the meter sees it."""

    request: RunRequest
    exposed: tuple[str, ...] = ()
    history: list[Recorded] = field(default_factory=list)
    memo: dict[str, Any] = field(default_factory=dict)


def view(name: str = "r1", agent: str = "tester", principal: Principal | None = None, root: str = "") -> View:
    """A run of an agent, asked for by somebody."""
    request = replace(begin(name, MODULE), agent=agent, principal=principal or Principal("agent", agent))
    return View(replace(request, root=root or name))


def meter(table: Table, clock: Clock | None = None, **more: Any) -> HomeMeter:
    """A meter with an empty journal behind it."""
    clock = clock or Clock()
    parts: dict[str, Any] = {"used_on": lambda _day: [], "principal_of": lambda _root: None}
    return HomeMeter(table, now=lambda: clock.at, monotonic=lambda: clock.ran, **{**parts, **more})


def used(one: HomeMeter, kind: str, name: str = "") -> Sums:
    """What a holder has used, its calls in flight apart."""
    return one._used.get(Holder(kind, name), Sums())


# Rates


@given(
    st.lists(st.floats(0, 30, allow_nan=False), min_size=1, max_size=120),
    st.integers(1, 9),
    st.sampled_from([60.0, 3600.0]),
)
def test_a_moving_window_never_lets_more_through_than_its_bound(gaps: list[float], bound: int, seconds: float) -> None:
    """In no stretch of that length there are more calls; and what waits as long as it is told gets through."""
    window, now, admitted = Window(seconds), 12345.6, []
    for gap in gaps:
        now += gap * seconds / 60
        if window.count(now) >= bound:
            free = now + window.free_in(now, bound)
            assert free - now <= seconds * 62 / 60
            probe = Window(seconds, list(window._counts), window._total, window._slot)
            assert probe.count(free + 1e-6) < bound
            continue
        window.add()
        admitted.append(now)
    for place, first in enumerate(admitted):
        assert sum(first <= later < first + seconds for later in admitted[place:]) <= bound


def test_a_rate_is_refused_with_bound_owner_use_time_and_line() -> None:
    """Whoever is refused reads which bound it is, whose, how much is used, when there is room, and what raises it."""
    clock = Clock()
    one = meter(Table(agents={"*": Bounds(calls_per_minute=2)}), clock)
    run = view()
    for _ in range(2):
        one.admit(run, SMALL, "{}", 2, 0)
        one.settle(run, Usage(), "{}")
    with pytest.raises(Refusal) as caught:
        one.admit(run, SMALL, "{}", 2, 0)
    assert caught.value.code == "limit.rate"
    assert caught.value.message == (
        "the bound of agent tester is 2 calls a minute: 2 are used, and this needs 1; "
        "there is room again at 2026-11-20 12:01:01 UTC"
    )
    assert caught.value.remedy == 'raise calls_per_minute under [limits.agents."*"] in config.toml and restart, or wait'
    clock.pass_by(61)
    one.admit(run, SMALL, "{}", 2, 0)


def test_a_star_bounds_everyone_by_itself() -> None:
    """One agent's calls leave the others theirs."""
    one = meter(Table(agents={"*": Bounds(calls_per_hour=1), "free": Bounds()}))
    for agent in ("a", "b", "free", "free"):
        one.admit(view(agent=agent), SMALL, "{}", 2, 0)
    with pytest.raises(Refusal, match="agent a"):
        one.admit(view("r2", agent="a"), SMALL, "{}", 2, 0)


def test_a_call_that_one_bound_refuses_counts_for_no_other() -> None:
    """It is admitted for all whose bounds hold, or for none."""
    one = meter(Table(owner=Bounds(calls_per_minute=5), agents={"a": Bounds(calls_per_minute=1)}))
    one.admit(view("r1", "a"), SMALL, "{}", 2, 0)
    for _ in range(20):
        with pytest.raises(Refusal):
            one.admit(view("r2", "a"), SMALL, "{}", 2, 0)
    for number in range(4):
        one.admit(view(f"b{number}", "b"), SMALL, "{}", 2, 0)
    with pytest.raises(Refusal, match="all agents together"):
        one.admit(view("b5", "b"), SMALL, "{}", 2, 0)


def test_a_role_s_bounds_are_for_all_who_have_it_together() -> None:
    """Two guests share what guests may do."""
    table = Table(roles={"guest": Bounds(calls_per_minute=1)})
    one = meter(table, roles_of=lambda principal: ["guest"] if principal.kind == "sender" else [])
    one.admit(view("r1", principal=ANA), SMALL, "{}", 2, 0)
    one.admit(view("r2"), SMALL, "{}", 2, 0)
    with pytest.raises(Refusal, match="role guest"):
        one.admit(view("r3", principal=Principal("sender", "mail:bo")), SMALL, "{}", 2, 0)


def test_what_agents_ask_of_each_other_counts_for_whoever_asked_first() -> None:
    """A sender's bound holds for the runs that its run starts, whose principal is an agent."""
    table = Table(principals={"sender:*": Bounds(calls_per_minute=1)})
    one = meter(table, principal_of={"root": ANA}.get)
    one.admit(view("root", principal=ANA), SMALL, "{}", 2, 0)
    child = view("child", "helper", Principal("agent", "tester"), root="root")
    with pytest.raises(Refusal, match="principal sender:mail:ana"):
        one.admit(child, SMALL, "{}", 2, 0)


# Sums: reserve, perform, settle

EVERYONE = Table(
    Bounds(calls_per_day=40, tokens_per_day=3000, money_per_day=0.02, mb_per_day=0.05),
    agents={"a": Bounds(tokens_per_day=1000, mb_per_day=0.02), "*": Bounds(money_per_day=0.01)},
    principals={"sender:*": Bounds(tokens_per_day=700, calls_per_day=9)},
    roles={"guest": Bounds(money_per_day=0.006, tokens_per_day=900)},
)
RUNS = [("r1", "a", ANA), ("r2", "b", None), ("r3", "a", Principal("sender", "x:bo")), ("r4", "c", None)]
ROLES: Callable[[Principal], list[str]] = lambda principal: ["guest"] if principal.kind == "sender" else []  # noqa: E731
PRICE = 0.00001
"""Dollars of a token."""


def _within(one: HomeMeter) -> None:
    """Nobody uses more than the bounds allow, calls in flight included, and nothing is held below zero."""
    for account in one._accounts.values():
        sums = one._used.get(account.held.holder, Sums()).by_name()
        flying = account.in_flight.by_name()
        assert min(flying.values()) >= 0
        for name, most in account.daily:
            assert sums[name] + flying[name] <= most, (account.held.holder, name)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["call", "call", "call", "refused", "end", "restart", "day", "back"]),
        st.integers(0, 400),
        st.floats(0, 1),
    ),
    max_size=80,
)


@settings(deadline=None, max_examples=150)
@given(STEPS)
def test_no_bound_is_ever_exceeded_and_what_is_held_is_given_back(steps: list[tuple[int, str, int, float]]) -> None:
    """Random calls that come out cheaper, are refused behind the meter, or end; restarts, and days that change.

    Where the clock is set back to a day that is used up, calls in flight come on top of that day's sum.
    """
    clock, rows = Clock(), list[tuple[int, RunUse]]()
    parts: dict[str, Any] = {
        "roles_of": ROLES,
        "cost_of": lambda _name, tokens: tokens * PRICE,
        "used_on": lambda day: [row for on, row in rows if on == day],
        "principal_of": {name: who for name, _agent, who in RUNS if who}.get,
    }
    one = meter(EVERYONE, clock, **parts)
    runs = [view(*each) for each in RUNS]
    for place, what, tokens, share in steps:
        run = runs[place]
        if what in ("call", "refused"):
            args = json.dumps({"text": "x" * tokens})
            try:
                one.admit(run, SMALL, args, len(args), tokens)
            except Refusal:
                continue
            _within(one)
            if what == "refused":
                continue  # the kernel's own bounds refused it
            spent, answer = int(tokens * share), "y" * int(1000 * share)
            one.settle(run, Usage(spent, 0, spent * PRICE), answer)
            size, request = len(args) + len(answer), run.request
            day = int(clock.at // DAY_S)
            rows.append((day, RunUse(request.id, request.agent, request.root, 1, spent, spent * PRICE, size, 0.0)))
        elif what == "end":
            one.ended(run)
            runs[place] = view(*RUNS[place])
        elif what == "restart":
            one = meter(EVERYONE, clock, **parts)
            runs = [view(*each) for each in RUNS]
        else:
            clock.at += 30_000 if what == "day" else -30_000
            clock.ran += 1
            if int(clock.at // DAY_S) in {on for on, _row in rows}:  # set back: nothing is in flight then
                for idle in runs:
                    one.ended(idle)
        _within(one)
    for run in runs:
        one.ended(run)
    assert all(account.in_flight == Sums() for account in one._accounts.values())


def test_the_bounds_hold_between_threads() -> None:
    """Eight threads that call at the same time get what there is, to the last token, and not one more."""
    one = meter(Table(Bounds(tokens_per_day=10_000), agents={"a": Bounds(calls_per_day=700)}))
    spent: list[int] = []
    together = threading.Barrier(8)

    def work(number: int) -> None:
        run, chance = view(f"r{number}", "a" if number % 2 else "b"), random.Random(number)  # noqa: S311 - a test's
        together.wait()
        for _ in range(400):
            tokens = chance.randrange(1, 9)
            try:
                one.admit(run, SMALL, "{}", 2, tokens)
            except Refusal:
                continue
            settled = chance.randrange(tokens + 1)
            one.settle(run, Usage(settled), "")
            spent.append(settled)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    _within(one)
    assert used(one, "owner").tokens == sum(spent) <= 10_000
    assert used(one, "agent", "a").calls + used(one, "agent", "b").calls == len(spent)
    assert all(account.in_flight == Sums() for account in one._accounts.values())


def test_a_call_that_is_under_way_at_midnight_counts_once_and_holds_nothing_after() -> None:
    """It was held yesterday, is counted today, and its hold is not taken from today's sums."""
    clock = Clock(at=NOON + 43_190)
    one = meter(Table(Bounds(tokens_per_day=100)), clock)
    first, second = view("r1"), view("r2")
    one.admit(first, SMALL, "{}", 2, 80)
    clock.pass_by(20)
    with pytest.raises(Refusal, match="0 are used, 80 are held by calls in flight, and this needs 30"):
        one.admit(second, SMALL, "{}", 2, 30)
    one.settle(first, Usage(80), "{}")
    one.admit(second, SMALL, "{}", 2, 20)
    with pytest.raises(Refusal, match="80 are used, 20 are held"):
        one.admit(view("r3"), SMALL, "{}", 2, 1)


def test_a_clock_that_is_set_back_gives_nobody_more() -> None:
    """What the journal has for the day counts again, and a window of minutes goes on."""
    rows: dict[int, list[RunUse]] = {}
    clock = Clock()
    table = Table(Bounds(tokens_per_day=100, calls_per_minute=3))
    one = meter(table, clock, used_on=lambda day: rows.get(day, []))
    run = view()
    one.admit(run, SMALL, "{}", 2, 90)
    one.settle(run, Usage(90), "{}")
    rows[int(clock.at // DAY_S)] = [RunUse("r1", "tester", "r1", 1, 90, 0.0, 4, 0.0)]
    clock.at += 86_400
    one.admit(run, SMALL, "{}", 2, 90)
    clock.at -= 86_400
    with pytest.raises(Refusal, match="90 are used, and this needs 20"):
        one.admit(run, SMALL, "{}", 2, 20)
    one.admit(run, SMALL, "{}", 2, 10)
    with pytest.raises(Refusal, match="calls a minute"):
        one.admit(run, SMALL, "{}", 2, 0)


def test_a_call_that_may_cost_nothing_is_not_refused_for_money() -> None:
    """A model on this machine goes on when the day's money is used up; one with a price does not."""
    prices = {"t.small": 0.0, "t.dear": 0.5}
    one = meter(Table(Bounds(money_per_day=1.0)), cost_of=lambda name, _tokens: prices[name])
    dear, run = replace(SMALL, id="t.dear"), view()
    for _ in range(2):
        one.admit(run, dear, "{}", 2, 10)
        one.settle(run, Usage(10, 0, 0.5), "{}")
    one.admit(run, SMALL, "{}", 2, 10)
    with pytest.raises(Refusal) as caught:
        one.admit(run, dear, "{}", 2, 10)
    assert caught.value.code == "limit.money"


def test_what_an_agent_that_was_asked_used_is_counted_in_its_own_run_alone() -> None:
    """The sums of a day have it once."""
    one = meter(Table())
    run = view()
    one.admit(run, SMALL, "{}", 2, 0)
    one.settle(run, Usage(500, 0, 1.0, counted=True), "{}")
    assert (used(one, "owner").tokens, used(one, "owner").money) == (0, 0)


def test_a_run_that_moves_too_much_or_computes_too_long_ends() -> None:
    """The bounds of a single run end it, with the line that raises them."""
    one = meter(Table(Bounds(run_mb=1, run_cpu_s=60), agents={"tester": Bounds(run_cpu_s=0.5)}))
    run = view()
    large = replace(SMALL, answer_kb=900)
    one.admit(run, large, "{}", 2, 0)
    one.settle(run, Usage(), "é" * 200_000)
    with pytest.raises(RunEnded, match="MiB of arguments and answers of a run") as caught:
        one.admit(run, large, "{}", 2, 0)
    assert caught.value.code == "limit.bytes"
    one.computed(run, 300)
    one.begin(run, "t.small", "{}")
    one.computed(run, 300.2)
    with pytest.raises(
        RunEnded, match=r"agent tester is 0\.5 seconds of CPU time of a run, and this one is at 0\.6002"
    ):
        one.begin(run, "t.small", "{}")
    assert one.ended(run) == {"cpu_ms": 600.2}
    assert used(one, "owner").cpu_ms == 601


def test_the_owner_s_own_calls_are_bounded_in_tokens_and_money_alone() -> None:
    """Whoever looks at what agents did is not locked out by what they do."""
    one = meter(Table(Bounds(calls_per_day=1, calls_per_minute=1, mb_per_day=0.001, tokens_per_day=10, runs=1)))
    run = View(replace(begin("r1"), principal=OWNER, module=None))
    for _ in range(5):
        one.admit(run, SMALL, "{}", 2, 0)
        one.settle(run, Usage(2), "{}" * 5000)
    with pytest.raises(Refusal) as caught:
        one.admit(run, SMALL, "{}", 2, 1)
    assert caught.value.code == "limit.tokens"
    one.accept(run.request, {"r2": view("r2")})


# Loops


def failing(name: str, args: str = "{}") -> Recorded:
    error = Failed("provider.timeout", "it gave no answer", "try again").as_dict()
    return Recorded(1, name, args, None, error, None, ())


def test_the_same_failing_call_ends_the_run_when_it_comes_again() -> None:
    """The reason names the call, how often it failed, and how."""
    history = [failing("net.fetch")] * 5
    refuse_loop(history[:4], "net.fetch", "{}", 5)
    refuse_loop(history, "net.fetch", '{"url":"other"}', 5)
    refuse_loop(history, "kv.get", "{}", 5)
    with pytest.raises(RunEnded) as caught:
        refuse_loop(history, "net.fetch", "{ }", 5)
    assert caught.value.code == "limit.loop"
    assert caught.value.message == (
        "the run asked for net.fetch with the same arguments 5 times in a row, and each time it failed; "
        "the last time: it gave no answer (provider.timeout)"
    )
    assert caught.value.remedy == "try again"


CALLS = st.tuples(st.sampled_from(["a.x", "b.y", "c.z"]), st.sampled_from(["{}", '{"n":1}']), st.booleans())


@settings(max_examples=300)
@given(st.lists(CALLS, max_size=14), CALLS, st.integers(2, 4))
def test_a_loop_is_a_cycle_of_up_to_three_failing_calls_and_nothing_else(
    calls: list[tuple[str, str, bool]], following: tuple[str, str, bool], repeats: int
) -> None:
    """Compared with the definition, written out: the last calls all failed and are one word repeated."""
    history = [
        failing(name, args) if failed else replace(failing(name, args), answer="{}", error=None)
        for name, args, failed in calls
    ]

    def loop(period: int) -> bool:
        word, tail = calls[-period:], calls[-period * repeats :]
        return len(calls) >= period * repeats and tail == word * repeats and all(failed for *_call, failed in word)

    expected = any(loop(period) and calls[-period][:2] == following[:2] for period in (1, 2, 3))
    try:
        refuse_loop(history, following[0], following[1], repeats)
    except RunEnded:
        assert expected
    else:
        assert not expected


# The engine


def _own(bounds: Bounds) -> dict[str, Any]:
    """The bounds of all together as `Config` has them."""
    given = bounds.given()
    fixed = {name: given.pop(name) for name in ("tokens_per_day", "money_per_day") if name in given}
    return {**fixed, "bounds": given}


def attached(rig: Rig, table: Table, now: Callable[[], float]) -> HomeMeter:
    """The meter of a home over a kernel's own journal, with these bounds."""
    of = {"agents": table.agents, "principals": table.principals, "roles": table.roles}
    inner = {kind: {name: one.given() for name, one in each.items()} for kind, each in of.items()}
    config = replace(Config(bounds_of=inner), **_own(table.owner))
    return home_meter(
        config, rig.database, rig.journal, now=now, roles_of=lambda _who: (), cost_of=lambda _name, _tokens: None
    )


class Attached(EngineRig):
    """An engine with a meter over its own journal."""

    def __init__(self, directory: Path, table: Table, *providers: Any, now: Any = time.time, **more: Any) -> None:
        super().__init__(directory, *providers, **more)
        self.meter = attached(self, table, now)
        self.counter._meter = self.meter
        self.engine._meter = self.meter


def in_time(scenario: Coroutine[Any, Any, Any]) -> Any:
    """Run a scenario; one that would wait for ever fails instead."""
    return asyncio.run(asyncio.wait_for(scenario, 60))


def broken(_call: Call) -> Answer:
    raise Failed("test.broken", "it is broken", "mend it")


def stubborn(call: Callable[..., Any], _args: Mapping[str, Any]) -> Any:
    """A module that does not take no for an answer."""
    while True:
        try:
            return call("t.broken", x=1)
        except (Refusal, Failed):
            continue


def test_a_module_that_repeats_a_failing_call_ends_with_the_reason_in_the_journal(tmp_path: Path) -> None:
    """Five failures are journaled; at the sixth attempt the run ends, its last row and its answer say why."""

    async def scenario(rig: Attached) -> Ending:
        return await rig.ask("stubborn", "r1")

    rig = Attached(
        tmp_path,
        Table(),
        Handlers(t__broken=broken),
        more=(capability("t.broken"),),
        scripts={"stubborn": Script(stubborn)},
    )
    ending = in_time(scenario(rig))
    assert (ending.status, ending.error["code"]) == (RunStatus.LIMIT, "limit.loop")  # type: ignore[index]
    rows = rig.rows()
    assert [row.kind.value for row in rows] == ["start", *["call"] * 5, "end"]
    assert json.loads(rows[-1].value)["error"]["message"].startswith("the run asked for t.broken")
    rig.close()


def test_a_module_that_repeats_a_refused_call_ends_as_well(tmp_path: Path) -> None:
    """A call that never came as far as the meter counts too: here one of a capability that does not exist."""

    def body(call: Callable[..., Any], _args: Mapping[str, Any]) -> Any:
        while True:
            for name in ("no.such", "no.other"):
                try:
                    call(name, x=1)
                except (Refusal, Failed):
                    continue

    async def scenario(rig: Attached) -> Ending:
        return await rig.ask("body", "r1")

    rig = Attached(tmp_path, Table(), scripts={"body": Script(body)})
    ending = in_time(scenario(rig))
    assert ending.error is not None
    assert (ending.error["code"], ending.calls) == ("limit.loop", 10)
    assert "no.such and no.other" in ending.error["message"]
    rig.close()


def test_a_provider_that_retries_with_growing_pauses_makes_no_loop(tmp_path: Path) -> None:
    """Attempts of a waiting call are one call, however many there are."""
    attempts: list[float] = []

    async def model(_call: Call) -> Answer:
        for pause in (0, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032):
            await asyncio.sleep(pause)
            attempts.append(pause)
        return Answer({"text": "at last"})

    async def scenario(rig: Attached) -> Ending:
        return await rig.ask("asks", "r1")

    rig = Attached(
        tmp_path,
        Table(),
        Handlers(t__model=model),
        more=(capability("t.model", waits=True),),
        scripts={"asks": Script(lambda call, _args: call("t.model"))},
    )
    ending = in_time(scenario(rig))
    assert (ending.status, len(attempts)) == (RunStatus.DONE, 7)
    rig.close()


def test_the_sums_of_the_day_survive_a_restart(tmp_path: Path) -> None:
    """Calls, tokens, money and CPU time are those of before, bytes at least those; of the root's principal too."""
    table = Table(principals={"sender:*": Bounds(tokens_per_day=100)}, agents={"spend": Bounds(tokens_per_day=300)})

    def spend(_call: Call) -> Answer:
        return Answer({"text": "x" * 1000}, usage=Usage(30, 10, 0.25))

    def spend_badly(_call: Call) -> Answer:
        error = FailedAsk("test.late", "too late", "try again")
        error.usage = Usage(5, 0, 0.125)
        raise error

    def body(call: Callable[..., Any], args: Mapping[str, Any]) -> Any:
        for number in range(args["n"]):
            call("t.spend", number=number)
        call("kv.set", key="a", value=1)
        try:
            call("t.bad")
        except Failed:
            return {"text": "done"}

    def rig_at(directory: Path) -> Attached:
        return Attached(
            directory,
            table,
            Handlers(t__spend=spend, t__bad=spend_badly, kv__set=lambda _call: Answer({})),
            more=(capability("t.spend", Effect.PRIVATE), capability("t.bad")),
            scripts={"spend": Script(body), "other": Script(body)},
        )

    async def scenario(rig: Attached) -> None:
        for run, count, who in (("r1", 1, ANA), ("r2", 2, Principal("agent", "spend"))):
            request = rig.request("spend", run, args={"n": count})
            await rig.engine.submit(replace(request, principal=who))
            await rig.engine.result(run)
        await rig.ask("other", "r3", args={"n": 1})
        own = replace(rig.request("spend", "r4"), principal=OWNER, module=None, operation="t.spend")
        await rig.engine.submit(own)
        await rig.engine.result("r4")

    rig = rig_at(tmp_path)
    in_time(scenario(rig))
    before = dict(rig.meter._used)
    rig.close()
    rig = rig_at(tmp_path)
    rig.meter.shown(None, {})
    after = rig.meter._used
    assert before.keys() == after.keys()
    assert before[Holder("owner")].by_name() | {"size": 0} == {
        "calls": 10,
        "tokens": 215,
        "money": 1_625_000_000,
        "size": 0,
        "cpu_ms": 0,
    }
    for holder, sums in before.items():
        assert {**after[holder].by_name(), "size": 0} == {**sums.by_name(), "size": 0}
        assert sums.size <= after[holder].size <= sums.size + 300 * sums.calls
    assert after[Holder("principal", "sender:mail:ana")].tokens == 45
    rig.close()


@dataclass
class Busy:
    """A module that computes between two calls, and says how long it did."""

    milliseconds: float
    digest: str = "d" * 64

    def run(self, host: Host, _operation: str, _args: str, _limits: Any) -> Segment:
        start = time.thread_time()
        try:
            for number in range(100):
                until = time.thread_time() + self.milliseconds / 1000
                while time.thread_time() < until:
                    pass
                host("t.wait", json.dumps({"n": number}))
        except LoketError as error:
            return Segment(ended=error, cpu_ms=(time.thread_time() - start) * 1000)
        except BaseException:  # noqa: BLE001 - suspended: a segment that is over
            return Segment(suspended=True, cpu_ms=(time.thread_time() - start) * 1000)
        return Segment(answer="{}")


def test_the_cpu_time_of_all_segments_together_ends_a_run(tmp_path: Path) -> None:
    """Each segment keeps to its own limit, and the run still ends; its last row has the time."""

    async def slow(_call: Call) -> Answer:
        await asyncio.sleep(0.02)
        return Answer({})

    async def scenario(rig: Attached) -> Ending:
        return await rig.ask("busy", "r1")

    rig = Attached(
        tmp_path,
        Table(Bounds(run_cpu_s=0.05)),
        Handlers(t__wait=slow),
        more=(capability("t.wait", waits=True),),
        scripts={"busy": Busy(4)},
    )
    ending = in_time(scenario(rig))
    assert (ending.status, ending.error["code"]) == (RunStatus.LIMIT, "limit.cpu")  # type: ignore[index]
    assert rig.rows()[-1].meta["cpu_ms"] > 50
    rig.close()


def test_more_unfinished_runs_than_allowed_are_refused_where_they_are_submitted(tmp_path: Path) -> None:
    """The refusal names whose they are and the line; when one has ended there is room again."""
    table = Table(
        Bounds(runs=3), agents={"waits": Bounds(runs=2)}, principals={"sender:*": Bounds(runs=1), "*": Bounds()}
    )
    go = asyncio.Event()

    async def wait(_call: Call) -> Answer:
        await go.wait()
        return Answer({})

    async def refused(rig: Attached, request: RunRequest) -> str:
        with pytest.raises(Refusal) as caught:
            await rig.engine.submit(request)
        assert caught.value.code == "limit.runs"
        assert not rig.rows(request.id)
        return f"{caught.value.message} / {caught.value.remedy}"

    async def scenario(rig: Attached) -> None:
        first = replace(rig.request("waits", "r1"), principal=ANA)
        await rig.engine.submit(first)
        said = await refused(rig, replace(rig.request("other", "r2"), principal=ANA))
        await refused(rig, replace(rig.request("other", "r2"), principal=ANA))
        assert said == (
            "the bound of principal sender:mail:ana is 1 unfinished runs at a time: 1 are used, and this needs 1 / "
            'raise runs under [limits.principals."sender:*"] in config.toml and restart, or wait for one of them to end'
        )
        await rig.engine.submit(rig.request("waits", "r3"))
        assert "agent waits is 2" in await refused(rig, rig.request("waits", "r4"))
        await rig.engine.submit(rig.request("other", "r5"))
        assert "all agents together is 3" in await refused(rig, rig.request("other", "r6"))
        go.set()
        await asyncio.gather(*(rig.engine.result(run) for run in ("r1", "r3", "r5")))
        await rig.ask("waits", "r7")

    script = Script(lambda call, _args: call("t.wait"))
    rig = Attached(
        tmp_path,
        table,
        Handlers(t__wait=wait),
        more=(capability("t.wait", waits=True, timeout_s=60),),
        scripts={"waits": script, "other": script},
    )
    in_time(scenario(rig))
    notes = [row.meta for row in rig.journal.rows() if row.kind is RowKind.NOTE and "limit" in row.meta.get("what", "")]
    assert [(note["holder"], note["bound"], note["principal"]) for note in notes] == [
        ("principal", 1, "sender"),
        ("agent", 2, "agent:waits"),
        ("owner", 3, "agent:other"),
    ]
    rig.close()


def test_a_run_that_takes_too_long_is_ended_and_says_so(tmp_path: Path) -> None:
    """Its last row has `limit.wall`; what its call in flight held is given back."""
    clock = Clock()

    performing = asyncio.Event()

    async def forever(_call: Call) -> Answer:
        performing.set()
        await asyncio.sleep(3600)
        return Answer({})

    async def scenario(rig: Attached) -> Ending:
        wall = WallTime(
            rig.engine.unfinished,
            rig.meter.wall_of,
            lambda run, limit: rig.engine.stop(run, limit=limit),
            lambda: clock.ran,
        )
        await rig.engine.submit(rig.request("waits", "r1"))
        await performing.wait()
        wall.look()
        clock.pass_by(30)
        wall.look()
        assert rig.engine.unfinished()["r1"].stopped is None
        clock.pass_by(31)
        wall.look()
        return await rig.engine.result("r1")

    rig = Attached(
        tmp_path,
        Table(Bounds(run_wall_s=60)),
        Handlers(t__wait=forever),
        more=(capability("t.wait", waits=True, timeout_s=7200),),
        scripts={"waits": Script(lambda call, _args: call("t.wait"))},
    )
    ending = in_time(scenario(rig))
    assert (ending.status, ending.error["code"]) == (RunStatus.LIMIT, "limit.wall")  # type: ignore[index]
    assert ending.error == {
        "kind": "ended",
        "code": "limit.wall",
        "message": "the bound of all agents together is 60 seconds from start to end of a run, and this one is at 61",
        "remedy": "raise run_wall_s under [limits] in config.toml and restart",
        "blame": "owner",
    }
    assert all(account.in_flight == Sums() for account in rig.meter._accounts.values())
    rig.close()


@dataclass
class Open:
    """An unfinished run, as far as its time goes."""

    request: RunRequest
    status: RunStatus


def test_time_stands_still_while_the_owner_is_asked() -> None:
    """For the run that asks, for whoever waits for it, and for what stands behind it in its conversation."""
    runs = {
        "child": Open(replace(begin("child"), parent="parent", conversation="k"), RunStatus.ASKING),
        "parent": Open(begin("parent"), RunStatus.WAITING),
        "behind": Open(begin("behind"), RunStatus.ACCEPTED),
        "other": Open(replace(begin("other"), conversation="d"), RunStatus.RUNNING),
    }
    assert waiting_for_owner(runs.values()) == {"child", "parent", "behind"}
    clock, ended = Clock(), list[str]()
    one = meter(Table(Bounds(run_wall_s=60)), clock)
    wall = WallTime(lambda: runs, one.wall_of, lambda run, _limit: ended.append(run), lambda: clock.ran)
    for _ in range(100):
        wall.look()
        clock.pass_by(1)
    assert set(ended) == {"other"}
    runs["child"].status = RunStatus.WAITING
    ended.clear()
    for _ in range(70):
        wall.look()
        clock.pass_by(1)
    assert set(ended) == {"child", "parent", "behind", "other"}


def test_a_refusal_of_a_rate_is_journaled_and_the_module_may_go_on(tmp_path: Path) -> None:
    """The row has the code; the sums have what was let through."""
    clock = Clock()
    rig = Rig(tmp_path)
    one = attached(rig, Table(agents={"tester": Bounds(calls_per_minute=2)}), lambda: clock.at)
    rig.counter._meter = one
    run = rig.run(rig.module("tester", "kv.get"))
    for _ in range(2):
        rig.counter.call(run, "kv.get", '{"key":"a"}')
    with pytest.raises(Refusal, match="calls a minute"):
        rig.counter.call(run, "kv.get", '{"key":"a"}')
    assert rig.rows()[-1].meta["error"] == "limit.rate"
    assert used(one, "agent", "tester").calls == 2
    rig.close()


# Settings and the list


def test_bounds_are_read_from_the_settings(tmp_path: Path) -> None:
    """`[limits]` for all together; tables below it by agent, principal and role; a wrong key is named."""
    path = tmp_path / "config.toml"
    path.write_text(
        "[limits]\ntokens_per_day = 9\nruns = 4\nrepeats = 7\nopen_brains = 3\n"
        '[limits.agents."*"]\ncalls_per_minute = 60\n[limits.principals."sender:*"]\nmoney_per_day = 0.5\n'
        "[limits.roles.guest]\nrun_wall_s = 600\n"
    )
    config = load_config(path)
    assert (config.tokens_per_day, config.repeats, config.open_brains) == (9, 7, 3)
    assert table_of(config) == Table(
        Bounds(tokens_per_day=9, runs=4),
        agents={"*": Bounds(calls_per_minute=60)},
        principals={"sender:*": Bounds(money_per_day=0.5)},
        roles={"guest": Bounds(run_wall_s=600)},
    )
    for text, message in (
        ("[limits.agents.main]\nrepeats = 3\n", r"sets repeats under \[limits.agents.main\]"),
        ("[limits.agents.main]\ncals_per_day = 3\n", "unknown setting limits.cals_per_day"),
        ("[limits.roles.guest]\nruns = -1\n", "limits.roles.guest.runs in"),
        ("[limits.agents]\nmain = 3\n", "limits.agents.main must be a table"),
        ("[limits.gents.main]\nruns = 3\n", "unknown setting limits.gents"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=message):
            load_config(path)


def test_the_list_has_every_bound_with_what_is_used_of_it() -> None:
    """Of one agent where it is named; what is used without a bound stands there too."""
    clock = Clock()
    table = Table(Bounds(tokens_per_day=100), agents={"a": Bounds(calls_per_minute=1, run_mb=5)})
    one = meter(table, clock)
    first, second = view("r1", "a"), view("r2", "b")
    one.admit(first, SMALL, "{}", 2, 30)
    one.settle(first, Usage(20), "{}")
    one.admit(second, SMALL, "{}", 2, 40)
    rows = {(row["holder"], row["name"], row["setting"]): row for row in one.shown("a", {"r1": first, "r2": second})}
    assert {name for kind, name, _setting in rows if kind == "agent"} == {"a"}
    assert rows["owner", "", "tokens_per_day"] == {
        "holder": "owner",
        "name": "",
        "setting": "tokens_per_day",
        "bound": 100,
        "used": 20,
        "in_flight": 40,
        "resets": NOON + 43_200,
        "table": "limits",
    }
    assert rows["agent", "a", "calls_per_minute"]["resets"] == pytest.approx(clock.at + 61, abs=1)
    assert (rows["owner", "", "runs"]["used"], rows["agent", "a", "runs"]["used"]) == (2, 1)
    assert rows["agent", "a", "run_mb"]["used"] is None
    assert rows["agent", "a", "tokens_per_day"]["bound"] is None
