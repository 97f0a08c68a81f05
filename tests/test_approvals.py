"""Approvals: what the policy leaves to the owner is asked, kept, and answered once."""

import asyncio
import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import EngineRig, Handlers, Rig, Script, begin, capability
from loket.approvals import OwnerApprovals, Ruling, Scope
from loket.contracts import (
    OWNER,
    Answer,
    Asked,
    BadInput,
    Call,
    Damaged,
    Decision,
    Effect,
    Lease,
    LoketError,
    OnUncertain,
    Principal,
    Question,
    Refusal,
    RowKind,
    RunStatus,
    Verdict,
)
from loket.contracts.catalogue import STOCK
from loket.delegation import ending_of
from loket.kernel.journal import ERASED
from loket.store.approvals import ALLOWED, DENIED, EXPIRED, OPEN, PASSED, WITHDRAWN

PAY = replace(capability("bank.pay", Effect.MONEY, on_uncertain=OnUncertain.DEDUPE), critical=("to", "amount"))
POST = capability("wall.post", Effect.EGRESS)
GATE = capability("gate.wait", waits=True, timeout_s=30)

YES = Ruling(Verdict.ALLOW, OWNER)
NO = Ruling(Verdict.DENY, OWNER, reason="too much")
RUN = Ruling(Verdict.ALLOW, OWNER, Scope.RUN)


class AskEffects:
    """Asks for every effect; `allowed` are capabilities that a rule allows since."""

    def __init__(self) -> None:
        self.allowed: set[str] = set()
        self.rule = "test.ask"

    def decide(self, question: Question) -> Decision:
        name = question.capability.id
        if not question.capability.effect.changes or name in self.allowed:
            return Decision(Verdict.ALLOW, ("test.rule",), "a rule allows it", "p1")
        return Decision(Verdict.ASK, (self.rule,), "it pays somebody", "p1", (), "a rule would allow it")


class Bank:
    """What was paid; (run, ordinal) is paid once."""

    def __init__(self) -> None:
        self.paid: dict[tuple[str, int], Any] = {}

    def pay(self, call: Call) -> Answer:
        self.paid.setdefault((call.run, call.ordinal), dict(call.args))
        return Answer({"paid": True})

    def provider(self) -> Handlers:
        async def wait(_call: Call) -> Answer:
            return Answer({})

        return Handlers(bank__pay=self.pay, wall__post=lambda _call: Answer({}), gate__wait=wait)


class Desk(EngineRig):
    """A kernel that asks, with a bank; `pay` makes one payment for each of the arguments `to`."""

    def __init__(self, directory: Path, **more: Any) -> None:
        self.bank = Bank()
        self.policy = more.pop("policy", None) or AskEffects()
        self.rules: dict[str, str] = {}
        settings = more.pop("settings", {})
        scripts = {"a": Script(paying), "b": Script(paying), **more.pop("scripts", {})}
        super().__init__(
            directory,
            more.pop("provider", None) or self.bank.provider(),
            scripts=scripts,
            more=(PAY, POST, GATE),
            policy=self.policy,
            approvals=lambda rig: approvals_of(rig, self._save, **settings),
            **more,
        )

    def _save(self, name: str, text: str) -> None:
        self.rules[name] = text
        self.policy.allowed.add(text.partition(" ")[0])

    def waiting(self, **more: Any) -> list[Any]:
        return self.approvals.listed(**{"run": None, "agent": None, "every": False, "limit": 1000, **more})

    async def asked(self, number: int = 1) -> list[Any]:
        """The questions that wait, once there are so many and their runs have come to rest."""
        states = self.engine.unfinished
        await until(lambda: sum(run.status is RunStatus.ASKING for run in states().values()) >= number, 60)
        await until(lambda: len(self.waiting()) >= number)
        await until(lambda: all(states()[row.run].status is RunStatus.ASKING for row in self.waiting()))
        return self.waiting()

    async def decide(self, identity: str, ruling: Ruling) -> Any:
        (row,) = await asyncio.to_thread(self.approvals.decide, [identity], ruling)
        self.engine.answered(row.run)
        return row

    async def finished(self, run: str) -> Any:
        """The end of a run, unfinished or not."""
        if run in self.engine.unfinished():
            return await self.engine.result(run)
        return ending_of(self.database.run(run) or {})


def approvals_of(rig: Rig, save: Callable[[str, str], None], **settings: Any) -> OwnerApprovals:
    """Approvals whose rules are one line: a capability, and after a blank what its arguments have to be."""

    def proposed(question: Question) -> str:
        return f"{question.capability.id} to={question.args.get('to')}"

    return OwnerApprovals(
        rig.database.approvals,
        rig.journal,
        capability=lambda name: rig.registry.find(name).capability,
        rule=proposed,
        narrower=lambda text, question: text.startswith(proposed(question)),
        save_rule=save,
        now=settings.pop("now", time.time),
        **settings,
    )


def paying(call: Any, args: dict[str, Any]) -> Any:
    """One payment for each name; what was refused is said."""
    said = []
    for to in args.get("to", ["ana"]):
        try:
            call("bank.pay", to=to, amount=5, note=f"for {to}, {len(said)}")
            said.append("paid")
        except LoketError as error:
            said.append(f"{error.code}: {error.message}")
    return {"said": said}


async def until(condition: Callable[[], Any], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - the condition is the engine's state, which has no event
            await asyncio.sleep(0.002)


def on_desk(directory: Path, work: Callable[[Desk], Coroutine[Any, Any, None]], **more: Any) -> None:
    """Do something at a desk, and close it."""

    async def main() -> None:
        desk = Desk(directory, **more)
        try:
            desk.engine.resume(desk.database.unfinished())
            await work(desk)
        finally:
            await desk.engine.close()
            desk.close()

    asyncio.run(main())


def notes(desk: Rig) -> list[dict[str, Any]]:
    rows = [row.meta for row in desk.journal.rows() if row.kind is RowKind.NOTE]
    return [facts for facts in rows if facts["what"].startswith("approval.")]


def test_what_the_owner_approves_is_done_once_and_replays(tmp_path: Path) -> None:
    """The run waits without a thread; what is shown is the call; after the owner's word it is made, and replays."""

    async def work(desk: Desk) -> None:
        run = await desk.engine.submit(desk.request("a", "r1", args={"to": ["ana"]}))
        (row,) = await desk.asked()
        assert desk.bank.paid == {}
        assert (row.run, row.agent, row.capability, row.ordinal, row.status) == ("r1", "a", "bank.pay", 1, OPEN)
        assert row.said["args"] == {"to": "ana", "amount": 5, "note": "for ana, 0"}
        assert (row.said["critical"], row.said["rules"], row.said["reason"]) == (
            ["to", "amount"],
            ["test.ask"],
            "it pays somebody",
        )
        decided = await desk.decide(row.id, YES)
        assert decided.status == ALLOWED
        ending = await desk.finished(run)
        assert ending.answer == {"said": ["paid"]}
        assert list(desk.bank.paid) == [("r1", 1)]
        (intent,) = [row.meta for row in desk.rows() if row.kind is RowKind.INTENT]
        assert intent["rules"] == ["test.ask", f"approval:{row.id}"]
        assert intent["reason"] == "the owner approved this call"
        assert desk.approvals.find(row.id).used is not None
        assert (await asyncio.to_thread(desk.replayer.replay, "r1")).ok

    on_desk(tmp_path, work)


def test_a_denial_reaches_the_agent_with_its_reason_and_counts_for_the_rest_of_the_run(tmp_path: Path) -> None:
    """The agent gets `approval.denied` with the words of the owner; the same payment again is refused unasked."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1", args={"to": ["ana", "ana"]}))
        (row,) = await desk.asked()
        assert (await desk.decide(row.id, NO)).status == DENIED
        ending = await desk.finished("r1")
        assert ending.answer == {"said": ["approval.denied: the owner denied it: too much"] * 2}
        assert desk.bank.paid == {}
        assert len(desk.waiting(every=True)) == 1
        assert (await asyncio.to_thread(desk.replayer.replay, "r1")).ok

    on_desk(tmp_path, work)


def test_an_approval_for_the_run_covers_the_same_values_and_no_others(tmp_path: Path) -> None:
    """The same critical values need no second question, whatever the note says; another payee or rule does."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1", args={"to": ["ana", "ana", "ben", "ana"]}))
        (row,) = await desk.asked()
        await desk.decide(row.id, RUN)
        await until(lambda: [one.ordinal for one in desk.waiting()] == [3])
        (other,) = await desk.asked()
        assert other.said["args"]["to"] == "ben"
        desk.policy.rule = "test.other"
        await desk.decide(other.id, YES)
        await until(lambda: [one.ordinal for one in desk.waiting()] == [4])
        (third,) = await desk.asked()
        assert third.said["rules"] == ["test.other"]
        await desk.decide(third.id, NO)
        ending = await desk.finished("r1")
        assert ending.answer["said"][:3] == ["paid"] * 3
        assert [ordinal for _run, ordinal in desk.bank.paid] == [1, 2, 3]
        leases = [row for row in desk.waiting(every=True) if row.decision and "from" in row.decision]
        assert [(lease.ordinal, lease.decision["from"], lease.status) for lease in leases] == [(2, row.id, ALLOWED)]
        assert (await asyncio.to_thread(desk.replayer.replay, "r1")).ok

    on_desk(tmp_path, work)


def test_an_approval_of_one_run_is_none_of_another(tmp_path: Path) -> None:
    """Another run of the same agent with the same payment asks on its own."""

    async def work(desk: Desk) -> None:
        for run in ("r1", "r2"):
            await desk.engine.submit(desk.request("a", run))
        first, second = await desk.asked(2)
        await desk.decide(first.id, RUN)
        await desk.finished(first.run)
        assert [row.id for row in await desk.asked()] == [second.id]
        await desk.decide(second.id, NO)
        assert list(desk.bank.paid) == [(first.run, 1)]

    on_desk(tmp_path, work)


def test_a_capability_without_critical_arguments_is_covered_with_the_same_arguments_alone(tmp_path: Path) -> None:
    """An approval for the run of one text is none for the next text."""

    def body(call: Any, _args: dict[str, Any]) -> Any:
        for text in ("one", "one", "two"):
            call("wall.post", text=text)
        return {}

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("poster", "r1"))
        (row,) = await desk.asked()
        await desk.decide(row.id, RUN)
        await until(lambda: [one.ordinal for one in desk.waiting()] == [3])
        (row,) = await desk.asked()
        await desk.decide(row.id, YES)
        assert (await desk.finished("r1")).status is RunStatus.DONE

    on_desk(tmp_path, work, scripts={"poster": Script(body)})


def test_an_approval_as_a_rule_is_saved_first_and_lets_those_go_on_that_wait_for_the_same(tmp_path: Path) -> None:
    """The proposed rule is saved under the approval's name, what was shown is what is saved, and the others look."""

    async def work(desk: Desk) -> None:
        for run in ("r1", "r2"):
            await desk.engine.submit(desk.request("a", run))
        first, second = await desk.asked(2)
        assert desk.approvals.proposed(first) == "bank.pay to=ana"
        ruling = Ruling(Verdict.ALLOW, OWNER, Scope.RULE)
        decided = await desk.decide(first.id, ruling)
        concerned = desk.approvals.concerned([decided], ruling)
        assert desk.rules == {f"approval-{first.id}": "bank.pay to=ana"}
        for run in concerned:
            desk.engine.answered(run)
        assert [(await desk.finished(run)).answer for run in ("r1", "r2")] == [{"said": ["paid"]}] * 2
        assert desk.approvals.find(second.id).status == PASSED
        assert desk.waiting() == []
        with pytest.raises(BadInput, match="its run has gone on or has ended"):
            desk.approvals.decide([second.id], YES)
        assert [note["what"] for note in notes(desk)] == ["approval.rule"]

    on_desk(tmp_path, work)


def test_a_rule_may_be_narrower_than_what_was_asked_and_never_broader(tmp_path: Path) -> None:
    """A broader text is refused before anything is saved or decided; a narrower one is taken."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        with pytest.raises(BadInput) as broader:
            desk.approvals.decide([row.id], Ruling(Verdict.ALLOW, OWNER, Scope.RULE, rule="bank.pay"))
        assert broader.value.code == "approval.rule"
        assert (desk.rules, desk.waiting()[0].status, notes(desk)) == ({}, OPEN, [])
        narrow = "bank.pay to=ana amount=5"
        await desk.decide(row.id, Ruling(Verdict.ALLOW, OWNER, Scope.RULE, rule=narrow))
        assert list(desk.rules.values()) == [narrow]
        await desk.finished("r1")

    on_desk(tmp_path, work)


def test_a_rule_that_cannot_be_saved_leaves_the_question_open(tmp_path: Path) -> None:
    """Nothing is decided, and nothing is in the journal."""

    async def work(desk: Desk) -> None:
        def broken(_name: str, _text: str) -> None:
            raise BadInput("policy.text", "no policy", "mend it")

        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        desk.approvals._save_rule = broken
        with pytest.raises(BadInput, match="no policy"):
            desk.approvals.decide([row.id], Ruling(Verdict.ALLOW, OWNER, Scope.RULE))
        assert (desk.waiting()[0].status, notes(desk)) == (OPEN, [])

    on_desk(tmp_path, work)


def test_silence_is_a_denial_with_a_code_of_its_own(tmp_path: Path) -> None:
    """After the time the agent gets `approval.timeout`, also for the same call again, and nobody can approve it."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1", args={"to": ["ana", "ana"]}))
        (row,) = await desk.asked()
        ending = await desk.finished("r1")
        assert [said.partition(":")[0] for said in ending.answer["said"]] == ["approval.timeout"] * 2
        refused = [row for row in desk.rows() if row.meta.get("error") == "approval.timeout"]
        assert "timeout_h under [approvals]" in json.loads(refused[0].value)["error"]["remedy"]
        assert desk.approvals.find(row.id).status == EXPIRED
        with pytest.raises(BadInput, match="not answered in time"):
            desk.approvals.decide([row.id], YES)
        assert desk.bank.paid == {}

    on_desk(tmp_path, work, settings={"timeout_s": 0.6})


def test_time_goes_on_while_nothing_runs(tmp_path: Path) -> None:
    """A question that was asked before a stop is denied at the start after its time."""

    async def ask(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        await desk.asked()

    async def later(desk: Desk) -> None:
        assert desk.waiting() == []
        assert [row.status for row in desk.waiting(every=True)] == [EXPIRED]
        ending = await desk.finished("r1")
        assert ending.answer["said"][0].startswith("approval.timeout")

    on_desk(tmp_path, ask)
    on_desk(tmp_path, later, settings={"now": lambda: time.time() + 73 * 3600})


def test_where_nobody_can_be_asked_it_is_a_denial_with_a_code_of_its_own(tmp_path: Path) -> None:
    """Nothing is kept, and the remedy names the setting."""

    async def work(desk: Desk) -> None:
        ending = await desk.ask("a", "r1")
        assert ending.answer["said"][0].startswith("approval.headless")
        assert desk.waiting(every=True) == []
        (refused,) = [row for row in desk.rows() if row.meta.get("error") == "approval.headless"]
        assert 'headless = "ask" under [approvals]' in json.loads(refused.value)["error"]["remedy"]

    on_desk(tmp_path, work, settings={"headless": True})


def test_a_question_outlives_a_restart_as_the_same_question(tmp_path: Path) -> None:
    """A decision that was written down while nothing ran counts at the next start; the other run waits as before."""
    ids: list[str] = []

    async def ask(desk: Desk) -> None:
        for run in ("r1", "r2"):
            await desk.engine.submit(desk.request("a", run))
        ids.extend(row.id for row in await desk.asked(2))

    async def again(desk: Desk) -> None:
        first, second = (desk.approvals.find(identity) for identity in ids)
        assert (await desk.finished(first.run)).answer["said"][0].startswith("approval.denied")
        assert [row.id for row in await desk.asked()] == [second.id]
        await desk.decide(second.id, YES)
        assert (await desk.finished(second.run)).answer == {"said": ["paid"]}
        assert len(desk.waiting(every=True)) == 2

    on_desk(tmp_path, ask)
    idle = Desk(tmp_path)
    idle.approvals.decide([ids[0]], NO)
    idle.close()
    on_desk(tmp_path, again)


def test_two_who_decide_at_once_are_one_decision(tmp_path: Path) -> None:
    """Of twenty, half of them denials, one counts, the others are told; the journal has one note, and one payment."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        rulings = [YES, NO] * 10
        decided = await asyncio.gather(
            *(asyncio.to_thread(desk.approvals.decide, [row.id], ruling) for ruling in rulings), return_exceptions=True
        )
        done = [outcome for outcome in decided if not isinstance(outcome, BaseException)]
        late = [outcome for outcome in decided if isinstance(outcome, BadInput)]
        assert (len(done), len(late), {error.code for error in late}) == (1, 19, {"approval.closed"})
        desk.engine.answered("r1")
        await desk.finished("r1")
        (note,) = notes(desk)
        assert len(desk.bank.paid) == (note["what"] == "approval.allow")

    on_desk(tmp_path, work)


def test_what_is_decided_stays_decided(tmp_path: Path) -> None:
    """Approving after a denial, and the other way round, is refused with what was said before."""

    async def work(desk: Desk) -> None:
        for run in ("r1", "r2"):
            await desk.engine.submit(desk.request("a", run))
        first, second = await desk.asked(2)
        desk.approvals.decide([first.id], NO)
        desk.approvals.decide([second.id], YES)
        with pytest.raises(BadInput, match="is denied already"):
            desk.approvals.decide([first.id], YES)
        with pytest.raises(BadInput, match="is approved already"):
            desk.approvals.decide([second.id], NO)

    on_desk(tmp_path, work)


def test_several_are_decided_together_or_not_at_all(tmp_path: Path) -> None:
    """One that is closed, or unknown, leaves all the others open."""

    async def work(desk: Desk) -> None:
        for run in ("r1", "r2", "r3"):
            await desk.engine.submit(desk.request("a", run))
        rows = await desk.asked(3)
        for wrong in ([*(row.id for row in rows), "zzz"], []):
            with pytest.raises(BadInput):
                desk.approvals.decide(wrong, YES)
        assert len(desk.waiting()) == 3
        desk.approvals.decide([row.id for row in rows], YES)
        assert desk.waiting() == []
        assert [note["approval"] for note in notes(desk)] == [row.id for row in rows]

    on_desk(tmp_path, work)


def test_only_a_person_decides(tmp_path: Path) -> None:
    """An agent, the host, a client and a sender are refused; a user is kept by name with the run, and not in facts."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        for kind in ("agent", "host", "client", "sender"):
            with pytest.raises(Refusal) as refused:
                desk.approvals.decide([row.id], replace(YES, by=Principal(kind, "a")))
            assert refused.value.code == "approval.principal"
        await desk.decide(row.id, replace(YES, by=Principal("user", "ana-maria")))
        await desk.finished("r1")
        assert desk.approvals.find(row.id).decision["by"] == "user:ana-maria"
        assert notes(desk)[0]["principal"] == "user"
        assert "ana-maria" not in str([row.facts for row in desk.journal.rows()])

    on_desk(tmp_path, work)


def test_no_capability_reaches_approvals(tmp_path: Path) -> None:
    """The catalogue has none, and an agent that names the owner's operations gets `capability.unknown`."""
    names = ("approvals.decide", "approvals.list", "approval.allow", "operations.approvals.decide")

    def body(call: Any, _args: dict[str, Any]) -> Any:
        codes = []
        for name in names:
            with pytest.raises(Refusal) as refused:
                call(name, ids=["1"], decision="allow")
            codes.append(refused.value.code)
        return {"codes": codes}

    async def work(desk: Desk) -> None:
        ending = await desk.ask("sly", "r1")
        assert ending.answer == {"codes": ["capability.unknown"] * len(names)}

    assert not [one.id for one in STOCK if "approv" in one.id]
    on_desk(tmp_path, work, scripts={"sly": Script(body)})


def test_other_arguments_at_the_repeat_are_another_question(tmp_path: Path) -> None:
    """What was approved is withdrawn, not used; the new call is asked anew, with its own values."""
    to = ["ana"]

    def body(call: Any, _args: dict[str, Any]) -> Any:
        return call("bank.pay", to=to[0], amount=5)

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("fickle", "r1"))
        (row,) = await desk.asked()
        to[0] = "mallory"
        await desk.decide(row.id, RUN)
        await until(lambda: desk.waiting() and desk.waiting()[0].id != row.id)
        (other,) = await desk.asked()
        assert (other.said["args"]["to"], other.ordinal) == ("mallory", 1)
        assert desk.approvals.find(row.id).status == WITHDRAWN
        assert desk.bank.paid == {}
        to[0] = "ana"
        await desk.decide(other.id, YES)
        (third,) = await desk.asked()
        assert third.id not in (row.id, other.id)
        await desk.decide(third.id, NO)
        await desk.finished("r1")
        assert desk.bank.paid == {}

    on_desk(tmp_path, work, scripts={"fickle": Script(body)})


def test_a_thousand_runs_wait_on_four_threads(tmp_path: Path) -> None:
    """They hold no thread and not their agent: another message is answered meanwhile; all of them go on."""

    async def work(desk: Desk) -> None:
        template = desk.request("a", "t")
        before = threading.active_count()
        for number in range(1000):
            run = f"w{number}"
            await desk.engine.submit(replace(template, id=run, root=run, conversation=run))
        rows = await desk.asked(1000)
        assert threading.active_count() - before <= 6
        assert desk.engine.unfinished().keys() == {f"w{number}" for number in range(1000)}
        assert (await desk.ask("a", "quick", args={"to": []})).answer == {"said": []}
        await asyncio.to_thread(desk.approvals.decide, [row.id for row in rows], YES)
        for row in rows:
            desk.engine.answered(row.run)
        await until(lambda: not desk.engine.unfinished(), 60)
        assert len(desk.bank.paid) == 1000

    on_desk(tmp_path, work, settings={"most_open": 1000})


def test_a_flood_of_questions_is_bounded_for_each_agent(tmp_path: Path) -> None:
    """The sixth of one agent is refused and not kept; another agent may ask, and so may the first after an answer."""

    async def work(desk: Desk) -> None:
        for number in range(5):
            await desk.engine.submit(desk.request("a", f"w{number}"))
        rows = await desk.asked(5)
        ending = await desk.ask("a", "w5")
        assert ending.answer["said"][0].startswith("approval.flood")
        await desk.engine.submit(desk.request("b", "other"))
        assert len(await desk.asked(6)) == 6
        await desk.decide(rows[0].id, NO)
        await desk.finished(rows[0].run)
        await desk.engine.submit(desk.request("a", "w6"))
        assert len(await desk.asked(6)) == 6

    on_desk(tmp_path, work, settings={"most_open": 5})


def test_a_run_that_is_stopped_asks_no_more(tmp_path: Path) -> None:
    """Its question is over, and does not count against its agent."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        desk.engine.stop("r1")
        assert (await desk.finished("r1")).status is RunStatus.STOPPED
        assert desk.approvals.find(row.id).status == PASSED
        with pytest.raises(BadInput, match="has ended"):
            desk.approvals.decide([row.id], YES)
        await desk.engine.submit(desk.request("a", "r2"))
        await desk.asked()

    on_desk(tmp_path, work, settings={"most_open": 1})


def test_values_are_in_no_plain_column_and_go_with_their_run(tmp_path: Path) -> None:
    """No file has them in the clear while they wait or after; once the key is destroyed the question says so."""
    secret = "Ana-Geheim-4711"
    ids: list[str] = []

    def no_words_on_disk() -> bool:
        return not [file.name for file in tmp_path.iterdir() if secret.encode() in file.read_bytes()]

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1", args={"to": [secret, "ben"]}))
        (row,) = await desk.asked()
        ids.append(row.id)
        assert no_words_on_disk()
        await desk.decide(row.id, replace(RUN, reason=f"{secret} is a friend"))
        await until(lambda: [one.ordinal for one in desk.waiting()] == [2])
        await desk.decide((await desk.asked())[0].id, replace(NO, reason=secret))
        await desk.finished("r1")
        assert no_words_on_disk()
        desk.journal.append("", 0, RowKind.NOTE, {"what": ERASED, "principal": "owner", "runs": ["r1"]}, "{}")
        desk.database.destroy_keys(["r1"])
        shown = desk.approvals.find(row.id)
        assert (shown.erased, shown.said, shown.decision, shown.status) == (True, None, None, ALLOWED)
        assert len(desk.waiting(every=True)) == 2
        with pytest.raises(Damaged, match="erased"):
            desk.approvals.question(shown)

    on_desk(tmp_path, work)


def test_whoever_changes_the_table_from_outside_approves_nothing(tmp_path: Path) -> None:
    """A plain column that says `allowed`, and another question's decision put in its place, are no approval."""

    async def work(desk: Desk) -> None:
        for run in ("r1", "r2"):
            await desk.engine.submit(desk.request("a", run))
        first, second = await desk.asked(2)
        await desk.decide(first.id, YES)
        await desk.finished(first.run)
        other = apsw.Connection(str(tmp_path / "kernel.db"))
        other.execute("UPDATE approvals SET status = 'allowed' WHERE id = ?", (second.id,)).fetchall()
        other.execute(
            "UPDATE approvals SET decision = (SELECT decision FROM approvals WHERE id = ?) WHERE id = ?",
            (first.id, second.id),
        ).fetchall()
        other.close()
        desk.engine.answered(second.run)
        ending = await desk.finished(second.run)
        assert list(desk.bank.paid) == [(first.run, 1)]
        assert "approval.damaged" in str(ending)
        assert [row.unreadable is not None for row in desk.waiting(every=True)] == [True, False]

    on_desk(tmp_path, work)


def test_the_question_is_rebuilt_as_the_policy_was_asked_it(tmp_path: Path) -> None:
    """From what is kept, after a restart too: principal, run, arguments, labels, findings and what was seen."""
    asked: list[Question] = []

    class Remembering(AskEffects):
        def decide(self, question: Question) -> Decision:
            asked.append(question)
            return super().decide(question)

    async def ask(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        await desk.asked()

    async def again(desk: Desk) -> None:
        (row,) = await desk.asked()
        built = desk.approvals.question(row)
        assert replace(built, run=asked[0].run) == asked[0]
        assert (built.run.id, built.run.agent, built.run.args) == ("r1", "a", asked[0].run.args)

    on_desk(tmp_path, ask, policy=Remembering())
    on_desk(tmp_path, again)


def test_the_decision_is_in_the_journal_without_values(tmp_path: Path) -> None:
    """What, who, which approval, run and capability: and nothing of what was said."""

    async def work(desk: Desk) -> None:
        await desk.engine.submit(desk.request("a", "r1"))
        (row,) = await desk.asked()
        await desk.decide(row.id, RUN)
        await desk.finished("r1")
        (note,) = notes(desk)
        assert note == {
            "what": "approval.allow",
            "principal": "owner",
            "approval": row.id,
            "run": "r1",
            "capability": "bank.pay",
            "scope": "run",
        }
        _verdicts, faults = await asyncio.to_thread(desk.replayer.verify, ["r1"])
        assert faults == []

    on_desk(tmp_path, work)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.sampled_from(["r1", "r2"]), st.integers(1, 3), st.sampled_from("ab")),
        st.tuples(st.just("decide"), st.integers(0, 5), st.sampled_from([YES, NO, RUN])),
        st.tuples(st.just("later"), st.sampled_from([60.0, 1800.0, 4000.0])),
        st.tuples(st.just("restart")),
    ),
    max_size=25,
)


@given(ACTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_lease_is_never_more_than_the_owner_said(acts: list[tuple[Any, ...]]) -> None:
    """In any order of calls, decisions, time and restarts: what is leased was approved, for itself or for its run."""
    with tempfile.TemporaryDirectory() as directory:
        check_leases(Path(directory), acts)


def check_leases(directory: Path, acts: list[tuple[Any, ...]]) -> None:
    clock = [1_795_000_000.0]
    said: list[tuple[Any, Ruling]] = []
    desk = Desk(directory, settings={"now": lambda: clock[0], "timeout_s": 3600.0})
    for run in ("r1", "r2"):
        desk.run(desk.module(), run)
    desk.journal.sync()
    for what, *given_ in acts:
        if what == "later":
            clock[0] += given_[0]
        elif what == "restart":
            desk.close()
            desk = Desk(directory, settings={"now": lambda: clock[0], "timeout_s": 3600.0})
        elif what == "decide":
            rows = desk.waiting()
            if given_[0] < len(rows):
                assert rows[given_[0]].until > clock[0]
                said += [(row, given_[1]) for row in desk.approvals.decide([rows[given_[0]].id], given_[1])]
        else:
            check_claim(desk, said, *given_)
    assert len(notes(desk)) == len(said)
    desk.close()


def check_claim(desk: Desk, said: list[tuple[Any, Ruling]], run: str, ordinal: int, to: str) -> None:
    """Claim a call, and compare with all that was said until now."""
    asked = asking(run, ordinal, to)
    mine = [(row, ruling) for row, ruling in said if (row.run, row.said["args"]["to"]) == (run, to)]
    exact = [ruling for row, ruling in mine if row.ordinal == ordinal and row.said["args"] == asked.question.args]
    whole = [ruling for _row, ruling in mine if ruling.scope is Scope.RUN and ruling.verdict is Verdict.ALLOW]
    try:
        found = desk.approvals.claim(asked)
    except Refusal as refused:
        denied = any(ruling.verdict is Verdict.DENY for _row, ruling in mine)
        assert refused.code in ("approval.timeout", "approval.denied" if denied else "")  # noqa: PT017 - one way of two
        return
    if isinstance(found, float):
        assert [row for row in desk.waiting() if (row.run, row.ordinal, row.said["args"]["to"]) == (run, ordinal, to)]
        return
    assert whole or any(ruling.verdict is Verdict.ALLOW for ruling in exact)
    desk.journal.also(found.statement)
    desk.journal.sync()
    assert isinstance(desk.approvals.claim(asked), Lease)  # after a crash it is the same one


def asking(run: str, ordinal: int, to: str) -> Asked:
    args = {"to": to, "amount": 5, "note": f"note {ordinal}"}
    request = begin(run)
    question = Question(request.principal, request, PAY, args, {}, {}, ("owner",))
    fingerprint = hashlib.sha256(f"{run}/{ordinal}/{args}".encode()).hexdigest()
    return Asked(question, ordinal, fingerprint, AskEffects().decide(question))


PROCESS = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_approvals import *
home, moment = Path(sys.argv[1]), sys.argv[3]

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def pay(call):
    if moment == "intent":
        die()
    word = f"{call.run}/{call.ordinal}"
    done = (home / "world.log").read_text().split() if (home / "world.log").exists() else []
    if moment == "effect":
        (home / "remembers").touch()
    if word in done and (home / "remembers").exists():   # where it may have happened, its store says so
        return Answer({"paid": True})
    with open(home / "world.log", "a") as log:
        log.write(word + chr(10)); log.flush(); os.fsync(log.fileno())
    if moment == "effect":
        die()
    return Answer({"paid": True})

def rigged(desk):
    claim, append = desk.approvals.claim, desk.journal.append
    def claimed(asked):
        found = claim(asked)
        if moment == "claim" and not isinstance(found, float):
            die()
        return found
    def appended(run, ordinal, kind, facts, value, statements=()):
        seq = append(run, ordinal, kind, facts, value, statements)
        if moment == "note" and "approval.allow" in str(facts):
            die()
        return seq
    desk.approvals.claim, desk.journal.append = claimed, appended

async def main():
    desk = Desk(home, provider=Handlers(bank__pay=pay, gate__wait=pay, wall__post=pay))
    rigged(desk)
    desk.engine.resume(desk.database.unfinished())
    if not desk.database.runs(None, 10):
        await desk.engine.submit(desk.request("a", "r1", args={"to": ["ana", "ben"]}))
    while desk.engine.unfinished():
        for row in desk.waiting():
            desk.approvals.decide([row.id], RUN if sys.argv[4] == "run" else YES)
            if moment == "decided":
                die()
            desk.engine.answered(row.run)
        await asyncio.sleep(0.005)
    print("ended", desk.database.run("r1")["answer"], flush=True)
    await desk.engine.close()
    desk.close()

asyncio.run(main())
"""


def killed_at(home: Path, moment: str, scope: str = "once") -> tuple[int, str]:
    """Run the process above until its end: its exit code and what it said."""
    words = [sys.executable, "-c", PROCESS, str(home), str(Path(__file__).parent), moment, scope]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("scope", ["once", "run"])
@pytest.mark.parametrize("moment", ["note", "decided", "claim", "intent", "effect"])
def test_kill_9_between_approval_claim_and_effect_leaves_exactly_one_effect(
    tmp_path: Path, moment: str, scope: str
) -> None:
    """Killed at the same moment twice, then left alone: both payments were made, each once, each approved."""
    for _ in range(2):
        assert killed_at(tmp_path, moment, scope)[0] == -signal.SIGKILL
    assert killed_at(tmp_path, "never", scope) == (0, "ended {'said': ['paid', 'paid']}\n")
    assert sorted((tmp_path / "world.log").read_text().split()) == ["r1/1", "r1/2"]
    rig = Desk(tmp_path)
    rows = rig.waiting(every=True)
    assert sorted((row.ordinal, row.status, row.used is not None) for row in rows) == [
        (1, ALLOWED, True),
        (2, ALLOWED, True),
    ]
    assert len(notes(rig)) == 2
    assert (rig.replayer.replay("r1")).ok
    rig.close()
