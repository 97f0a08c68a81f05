"""Runs that wait for other runs: who waits for whom, and whose time stands still while the owner thinks."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import begin
from loket import children
from loket.approvals import Ruling
from loket.children import ASKED, waiting_for_owner, waits_for
from loket.contracts import OWNER, Answer, Call, FailedAsk, Principal, RunStatus, Token, Usage, Verdict
from loket.kernel.state import RunState
from test_agents import Rig, speaker, until
from test_approvals import PAY, AskEffects, approvals_of

YES = Ruling(Verdict.ALLOW, OWNER)


class AskToPay(AskEffects):
    """Asks for payments alone."""

    def decide(self, question: Any) -> Any:
        self.allowed = {question.capability.id} - {"bank.pay"}
        return super().decide(question)


def paying(call: Any, args: dict[str, Any]) -> Any:
    """As `speaker`; `pay` pays, and `pay and wait` waits for the gate after it."""
    if not args["text"].startswith("pay"):
        return speaker(call, args)
    call("bank.pay", to="ana", amount=5)
    if args["text"] != "pay":
        call("gate.wait")
    return {"text": "paid"}


def on_rig(directory: Path, story: Callable[[Rig], Any]) -> None:
    """Tell a story on four agents that ask the owner before they pay, then verify all that was run."""

    async def main() -> None:
        effects = [(PAY, lambda _call: Answer({"paid": True}))]
        asked = {"policy": AskToPay(), "approvals": lambda rig: approvals_of(rig, lambda _name, _text: None)}
        rig = Rig(directory, paying, effects=effects, **asked)
        try:
            await story(rig)
            rig.gate.set()
            await rig.idle()
            await rig.verified()
        finally:
            await rig.shut()

    asyncio.run(main())


async def question(rig: Rig) -> Any:
    """The question that waits, once its run has come to rest."""
    states = rig.engine.unfinished
    await until(lambda: any(state.status is RunStatus.ASKING for state in states().values()))
    (row,) = rig.approvals.listed(run=None, agent=None, every=False, limit=10)
    return row


async def approve(rig: Rig, row: Any) -> None:
    await asyncio.to_thread(rig.approvals.decide, [row.id], YES)
    rig.engine.answered(row.run)


def asks(rig: Rig, run: str, agent: str, text: str, seconds: float) -> "asyncio.Task[Answer]":
    """Have a run that waits ask an agent, with less time than a grant of it could name."""
    call = Call(run, 5, "ana", "main", Principal("agent", "ana"), "agent.ask", {}, ())
    return asyncio.create_task(rig.delegation.ask(call, agent, text, seconds))


@pytest.mark.parametrize("text", ["pay", "ask cleo: pay", "ask cleo: ask dan: pay"])
def test_a_child_that_waits_for_the_owner_is_not_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    """Itself or through whom it asked: many times its time passes, and the answer comes after the approval."""
    monkeypatch.setattr(children, "LOOK_S", 0.02)

    async def story(rig: Rig) -> None:
        asking = asks(rig, await rig.say("ana", "wait", run="r1"), "ben", text, 0.3)
        row = await question(rig)
        await asyncio.sleep(1)
        assert not asking.done()
        assert waits_for(rig.engine.unfinished(), "r1", row.run) == "r1"
        await approve(rig, row)
        assert (await asking).value["text"].endswith("paid")

    on_rig(tmp_path, story)


def test_a_child_has_no_more_time_than_it_had_before_it_asked_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the approval its time goes on where it stood: it waits for something else, and is stopped."""
    monkeypatch.setattr(children, "LOOK_S", 0.02)

    async def story(rig: Rig) -> None:
        asking = asks(rig, await rig.say("ana", "wait", run="r1"), "ben", "pay and wait", 0.5)
        row = await question(rig)
        await asyncio.sleep(1)
        await approve(rig, row)
        with pytest.raises(FailedAsk, match="in the time that there was") as late:
            await asking
        assert late.value.code == "agent.timeout"
        assert (rig.database.run(row.run) or {})["status"] == "stopped"

    on_rig(tmp_path, story)


def test_a_child_behind_a_run_that_asks_is_not_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its conversation is held up by the owner, not by itself."""
    monkeypatch.setattr(children, "LOOK_S", 0.02)

    async def story(rig: Rig) -> None:
        await rig.say("ben", "pay", run="first", conversation="ask:ana:main")
        row = await question(rig)
        asking = asks(rig, await rig.say("ana", "wait", run="r1"), "ben", "hello", 0.3)
        await asyncio.sleep(1)
        assert not asking.done()
        await approve(rig, row)
        assert (await asking).value["text"] == "heard hello"

    on_rig(tmp_path, story)


def unfinished(parents: dict[str, str | None], places: dict[str, str], status: dict[str, RunStatus]) -> Any:
    """Runs of these ids, asked by these, in these conversations."""
    states = {}
    for run, parent in parents.items():
        place = f"{ASKED}{places[run]}" if parent is not None else places[run]
        request = replace(begin(run), parent=parent, conversation=place)
        states[run] = RunState(request, "{}", Token(run, "", 0, b""), b"", (), status[run])
    return states


def test_who_waits_for_whom() -> None:
    """Through itself where it asked, through the run before it in its conversation, else not at all."""
    parents = {"a": None, "b": "a", "c": "b", "next": None, "other": None}
    places = {"a": "main", "b": "b", "c": "c", "next": "main", "other": "else"}
    status = dict.fromkeys(parents, RunStatus.WAITING) | {"c": RunStatus.ASKING, "next": RunStatus.ACCEPTED}
    states = unfinished(parents, places, status)
    assert [waits_for(states, run, "c") for run in parents] == ["a", "b", "c", "a", None]
    assert waiting_for_owner(states) == {"a", "b", "c", "next"}
    assert waits_for(states, "gone", "c") is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.sampled_from(RunStatus)), max_size=12))
def test_whoever_waits_for_the_owner_waits_for_a_run_that_asks(drawn: list[tuple[int, int, RunStatus]]) -> None:
    """For any runs: the set is what `waits_for` says of some run that asks, through the runs in between."""
    names = [f"r{number}" for number in range(len(drawn))]
    parents = {
        name: names[up] if up < place else None
        for place, (name, (up, _, _)) in enumerate(zip(names, drawn, strict=True))
    }
    places = {name: str(where) for name, (_, where, _) in zip(names, drawn, strict=True)}
    states = unfinished(parents, places, {name: one[2] for name, one in zip(names, drawn, strict=True)})
    waiting = waiting_for_owner(states)
    asking = [run for run in names if states[run].status is RunStatus.ASKING]
    assert set(asking) <= waiting
    assert {run for run in names if any(waits_for(states, run, asks) for asks in asking)} <= waiting
    assert bool(waiting) == bool(asking)


def test_what_a_late_child_used_is_charged() -> None:
    """The error carries the use, counted on the day already, as the answer would."""
    error = children.failed_ask("agent.timeout", "late", "ask for less", Usage(7, counted=True), ("owner",))
    assert (error.usage.tokens, error.usage.counted, error.labels) == (7, True, ("owner",))
