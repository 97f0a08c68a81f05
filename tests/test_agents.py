"""Agents that ask each other, and messages between them."""

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import built_guest
from kit import DIGEST, EngineRig, Handlers, Script, capability
from live import Server, environment, loket, prepare, serving
from loket.app import Loket, running
from loket.contracts import (
    Answer,
    BadInput,
    Call,
    Capability,
    Ending,
    FailedAsk,
    Grant,
    Limits,
    LoketError,
    ModuleRef,
    Principal,
    Refusal,
    RunEnded,
    RunRequest,
    RunStatus,
    Usage,
)
from loket.delegation import Delegation
from loket.home import Home
from loket.ids import derived_id
from loket.providers.agents import AgentsProvider
from loket.providers.message import MessageProvider
from loket.resting import finish_others
from loket.store.bus import MOST_TOPICS, Bus
from loket.testing.model_server import ModelServer, Reply
from loket.testing.models import InstantModel

NAMES = ("ana", "ben", "cleo", "dan")

USED = ("agent.ask", "message.send", "message.publish", "message.subscribe", "message.unsubscribe", "gate.wait")


def speaker(call: Any, args: dict[str, Any]) -> Any:
    """A module that does what a message says, as the guest `asker` does."""
    command, _, rest = args["text"].partition(" ")
    name, _, text = rest.partition(": ")
    if command == "ask":
        return {"text": f"{name} said: {call('agent.ask', agent=name, text=text)['text']}"}
    if command == "send":
        return {"text": call("message.send", agent=name, text=text)["run"]}
    if command == "publish":
        return {"text": " ".join(call("message.publish", topic=name, text=text)["delivered"])}
    if command in ("subscribe", "unsubscribe"):
        return {"text": " ".join(call(f"message.{command}", topic=rest)["topics"])}
    if command == "use":
        call("llm.complete", messages=[{"role": "user", "content": name}], max_tokens=1)
        return {"text": call("agent.ask", agent="ben", text=text)["text"] if text else "used"}
    if command == "wait":
        call("gate.wait")
    if command == "fail":
        raise Refusal("speaker.failed", "there is no such weather")
    return {"text": f"heard {args['text']}", "at": call("clock.now")["seconds"]}


async def using(call: Call) -> Answer:
    """A model that uses as many tokens as it is told to."""
    tokens = int(call.args["messages"][0]["content"])
    tokens_used = {"in": tokens, "out": 0}
    answer = {"text": "", "tool_calls": [], "model": "meter", "finish": "stop", "tokens": tokens_used}
    return Answer(answer, ("model:meter",), Usage(tokens_in=tokens, money=tokens / 1e6))


class Rig(EngineRig):
    """A kernel with an engine, and four agents that can ask each other."""

    def __init__(
        self,
        directory: Path,
        body: Callable[..., Any] = speaker,
        names: tuple[str, ...] = NAMES,
        effects: Sequence[tuple[Capability, Any]] = (),
        **rig: Any,
    ) -> None:
        self.gate = asyncio.Event()
        self.entered: list[str] = []
        self.limits: dict[str, Limits] = {}
        self.bus = Bus(directory / "bus.db")
        self.delegation = Delegation(self.bus, self.address, time.time)
        providers = (AgentsProvider(self.delegation), MessageProvider(self.delegation, self.bus))
        handlers = {declared.id.replace(".", "__"): handler for declared, handler in effects}
        more = Handlers(gate__wait=self.wait, llm__complete=using, **handlers)
        scripts = {name: Script(body) for name in names}
        declared = (capability("gate.wait", waits=True, timeout_s=30), *(one for one, _handler in effects))
        super().__init__(directory, *providers, more, scripts=scripts, more=declared, **rig)
        self.delegation.bind(self.engine, self.database, self.grants)
        for name in names:
            if not self.grants.held("local", name):
                self.grants.accept("local", name, DIGEST, 0.0)
                for used in (*USED, "clock.now", "llm.complete", *(one.id for one, _handler in effects)):
                    self.grants.allow(Grant("local", name, used, {}, "owner", 0.0))

    async def wait(self, call: Call) -> Answer:
        self.entered.append(call.run)
        await self.gate.wait()
        return Answer({})

    def address(self, agent: str, text: str, place: str, more: Mapping[str, Any]) -> tuple[ModuleRef, dict[str, Any]]:
        if agent not in self.scripts:
            raise BadInput(
                "agent.unknown", f"there is no agent {agent!r}; installed: ana, ben, cleo, dan", "loket agents"
            )
        limits = self.limits.get(agent, Limits())
        return ModuleRef("local", agent, "1", DIGEST, limits), {"text": text, "conversation": place, **more}

    async def say(self, agent: str, text: str, run: str = "", conversation: str = "main") -> str:
        """Accept the owner's message; the run's id."""
        ref, args = self.address(agent, text, conversation, {})
        run = run or f"{agent}-{len(list(self.database.runs(None, 10_000)))}"
        who = Principal("agent", agent)
        request = RunRequest(run, run, agent, who, ref, conversation, "message", args, ("owner",), time.time())
        return await self.engine.submit(request)

    async def told(self, agent: str, text: str, **more: Any) -> Ending:
        return await self.engine.result(await self.say(agent, text, **more))

    def runs(self, agent: str | None = None) -> list[dict[str, Any]]:
        """Runs, oldest first."""
        return list(reversed(self.database.runs(agent, 10_000)))

    async def idle(self) -> None:
        await until(lambda: not self.engine.unfinished())

    async def verified(self) -> None:
        """Every finished run replays, and the journal is sound."""
        verdicts, faults = await asyncio.to_thread(self.replayer.verify, self.database.ended_runs())
        assert [verdict.reason for verdict in verdicts if not verdict.ok] == []
        assert faults == []

    async def shut(self) -> None:
        await self.engine.close()
        self.bus.close()
        self.close()


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - the condition is the engine's state, which has no event
            await asyncio.sleep(0.002)


def on_rig(directory: Path, story: Callable[[Rig], Any], **more: Any) -> None:
    """Tell a story on a rig, then verify all that was run."""

    async def main() -> None:
        rig = Rig(directory, **more)
        try:
            await story(rig)
            await rig.idle()
            await rig.verified()
        finally:
            await rig.shut()

    asyncio.run(main())


# Asking


def test_an_agent_that_is_asked_runs_as_a_child_with_its_own_grants(tmp_path: Path) -> None:
    """Parent, root, depth, principal, labels and conversation are what the kernel wrote; both runs replay."""

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", "ask ben: ask cleo: hello", run="r1")
        assert ending.answer == {"text": "ben said: cleo said: heard hello"}
        first, second = rig.rows(derived_id("r1", 1)), rig.rows(derived_id(derived_id("r1", 1), 1))
        for rows, parent, depth, asker in ((first, "r1", 2, "ana"), (second, derived_id("r1", 1), 3, "ben")):
            meta, value = rows[0].meta, json.loads(rows[0].value)
            assert (meta["parent"], meta["root"], meta["depth"]) == (parent, "r1", depth)
            assert (meta["principal"], value["principal"]) == (f"agent:{asker}", f"agent:{asker}")
            assert value["labels"] == ["owner"]
            assert value["args"]["from"] == asker
        assert json.loads(second[0].value)["conversation"] == "ask:ben:ask:ana:main"
        assert {"agent:ben", "agent:cleo", "capability:agent.ask", "owner"} <= set(ending.labels)
        rig.grants.revoke("local", "ben", "agent.ask")
        refused = await rig.told("ana", "ask ben: ask cleo: hello", run="r2")
        assert refused.error is not None
        assert "ben has no grant for agent.ask" in refused.error["message"]

    on_rig(tmp_path, story)


def test_the_labels_of_an_answer_are_those_of_all_that_the_child_saw(tmp_path: Path) -> None:
    """What a model told the callee is known of in the asking run."""

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", "ask ben: use 5")
        assert {"model:meter", "capability:llm.complete", "agent:ben"} <= set(ending.labels)

    on_rig(tmp_path, story)


def test_a_child_gets_what_the_asking_run_has_left_and_its_use_is_charged_once_a_day(tmp_path: Path) -> None:
    """Of 5,000 tokens 1,000 are used: the child may use 4,000, and what it used counts for the run, not twice a day."""

    async def story(rig: Rig) -> None:
        rig.limits["ana"] = Limits(tokens=5_000, money=0.5, depth=3)
        rig.limits["ben"] = Limits(tokens=900_000, money=0.4, calls=7)
        ending = await rig.told("ana", "use 1000: use 300", run="r1")
        limits = rig.rows(derived_id("r1", 2))[0].meta["limits"]
        assert (limits["tokens"], limits["depth"], limits["calls"]) == (4_000, 3, 7)
        assert limits["money"] == pytest.approx(0.4)
        assert ending.tokens == 1_300
        assert ending.money == pytest.approx(0.0013)
        rig.journal.sync()
        today = int(time.time() // 86_400)
        assert {one.agent: one.tokens for one in rig.database.used_by_runs(today)} == {"ana": 1_000, "ben": 300}
        over = await rig.told("ana", "use 5000: use 1", run="r2")
        assert over.error is not None
        assert "quota.tokens" in over.error["message"]
        rig.journal.sync()
        used = [one for one in rig.database.used_by_runs(today) if one.agent == "ana"]
        assert sum(one.tokens for one in used) == 6_000
        assert sum(one.money for one in used) == pytest.approx(0.006)
        found = rig.database.run("r1")
        assert found is not None
        assert found["tokens"] == 1_300

    on_rig(tmp_path, story)


def test_asking_is_as_deep_as_the_first_asker_may(tmp_path: Path) -> None:
    """The asker's limit of two holds for the callee, whose own would be eight."""

    async def story(rig: Rig) -> None:
        rig.limits["ana"] = Limits(depth=2)
        ending = await rig.told("ana", "ask ben: ask cleo: hello")
        assert ending.error is not None
        assert "limit.depth" in ending.error["message"]
        assert rig.runs("cleo") == []

    on_rig(tmp_path, story)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ask ana: hello", "ana may not ask ana: it cannot ask itself"),
        ("ask ben: ask ana: hello", "ben may not ask ana: ana waits for it: ana asked ben"),
        ("ask ben: ask cleo: ask ben: hello", "cleo may not ask ben: ben waits for it: ana asked ben asked cleo"),
        ("ask nobody: hello", "there is no agent 'nobody'; installed: ana, ben, cleo, dan"),
    ],
)
def test_who_waits_or_is_not_there_cannot_be_asked(tmp_path: Path, text: str, says: str) -> None:
    """A refusal that says why, and nothing hangs."""

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", text)
        assert ending.error is not None
        assert says in ending.error["message"]

    on_rig(tmp_path, story)


def test_a_child_that_fails_is_an_error_with_its_reason_and_its_run(tmp_path: Path) -> None:
    """The asking module gets it as a value; the error has what the child used and which labels its words carry."""

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] == "use and fail":
            call("llm.complete", messages=[{"role": "user", "content": "40"}], max_tokens=1)
            raise Refusal("speaker.failed", "there is no such weather")
        return speaker(call, args)

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", "ask ben: use and fail", run="r1")
        child = derived_id("r1", 1)
        assert ending.error is not None
        assert ending.error["code"] == "agent.failed"
        assert f"(run {child}): speaker.failed: there is no such weather" in ending.error["message"]
        assert (ending.tokens, {"agent:ben", "model:meter"} <= set(ending.labels)) == (40, True)
        waiting = await rig.say("dan", "wait", run="r2")
        call = Call(waiting, 9, "dan", "main", Principal("agent", "dan"), "agent.ask", {}, ("owner",))
        with pytest.raises(FailedAsk) as failed:
            await rig.delegation.ask(call, "ben", "use and fail", 5)
        assert failed.value.usage == Usage(40, 0, pytest.approx(4e-5), counted=True)
        assert {"agent:ben", "model:meter"} <= set(failed.value.labels)
        rig.gate.set()

    on_rig(tmp_path, story, body=body)


def test_a_child_is_stopped_with_all_that_it_asked_when_its_time_runs_out(tmp_path: Path) -> None:
    """After a second `agent.timeout`; the child and the child's child are stopped, and the asker goes on."""

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] != "hurry":
            return speaker(call, args)
        try:
            return call("agent.ask", agent="ben", text="ask cleo: wait", timeout_s=1)
        except LoketError as error:
            return {"text": error.code, "at": call("clock.now")["seconds"]}

    async def story(rig: Rig) -> None:
        started = time.monotonic()
        ending = await rig.told("ana", "hurry", run="r1")
        assert 0.9 < time.monotonic() - started < 60
        assert ending.answer is not None
        assert ending.answer["text"] == "agent.timeout"
        await rig.idle()
        assert [run["status"] for run in rig.runs()] == ["done", "stopped", "stopped"]

    on_rig(tmp_path, story, body=body)


def test_a_callee_cannot_wait_longer_than_its_asker(tmp_path: Path) -> None:
    """What it asks for 300 seconds ends with the second that it has itself."""

    async def story(rig: Rig) -> None:
        asking = await rig.say("ana", "wait", run="r1")
        call = Call(asking, 5, "ana", "main", Principal("agent", "ana"), "agent.ask", {}, ())
        began = asyncio.get_running_loop().time()
        asked = asyncio.create_task(rig.delegation.ask(call, "ben", "ask cleo: wait", 1))
        deadlines = rig.delegation._children._deadlines
        await until(lambda: len(deadlines) == 2)
        assert all((deadline.when() or began + 9) - began < 1.5 for deadline in deadlines.values())
        with pytest.raises(FailedAsk, match="in the time that there was"):
            await asked
        assert deadlines == {}
        rig.gate.set()

    on_rig(tmp_path, story)


@pytest.mark.parametrize("deep", [1, 2])
def test_stopping_a_run_stops_all_that_it_asked(tmp_path: Path, deep: int) -> None:
    """The owner stops the first one; children and their children end as stopped, each with its own row."""

    async def story(rig: Rig) -> None:
        run = await rig.say("ana", "ask ben: ask cleo: wait" if deep == 2 else "ask cleo: wait")
        await until(lambda: rig.entered)
        ended = asyncio.ensure_future(rig.engine.result(run))
        await asyncio.sleep(0)
        assert rig.engine.stop(run)
        assert (await ended).status is RunStatus.STOPPED
        await rig.idle()
        assert [run["status"] for run in rig.runs()] == ["stopped"] * (deep + 1)

    on_rig(tmp_path, story)


def test_a_run_that_is_stopped_while_its_call_is_parked_stops_its_child_too(tmp_path: Path) -> None:
    """In the first ten milliseconds of a wait the instance is still there, and nothing may be left over.

    The child's token is revoked in that moment; a call that it is just making fails, and it still ends as stopped.
    """

    async def story(rig: Rig) -> None:
        run = await rig.say("ana", "ask cleo: wait")
        await until(lambda: len(rig.runs()) == 2)
        assert rig.engine.stop(run)
        await rig.idle()
        first, child = (run["status"] for run in rig.runs())
        assert first == "stopped"
        assert child == "stopped"
        assert [row.kind.value for row in rig.rows(run)][-1] == "end"

    on_rig(tmp_path, story)


def test_more_askers_than_workers_are_all_answered(tmp_path: Path) -> None:
    """Forty runs ask on four threads, their callees ask again, and all wait at once: askers hold no thread."""

    async def story(rig: Rig) -> None:
        asked = [await rig.say("ana", "ask ben: ask cleo: wait", f"r{n}", f"c{n}") for n in range(40)]
        results = [asyncio.ensure_future(rig.engine.result(run)) for run in asked]
        await until(lambda: len(rig.entered) == 40)
        assert len(rig.engine.unfinished()) == 120
        waiting = sum(state.status is RunStatus.WAITING for state in rig.engine.unfinished().values())
        assert waiting == 120
        rig.gate.set()
        endings = await asyncio.gather(*results)
        assert {ending.status for ending in endings} == {RunStatus.DONE}

    on_rig(tmp_path, story)


def test_what_a_stopped_server_left_is_gone_on_with_and_asked_once(tmp_path: Path) -> None:
    """The engine closes while asker, callee and callee's callee wait; the next one has one child each, and answers."""

    async def first() -> None:
        rig = Rig(tmp_path)
        await rig.say("ana", "ask ben: ask cleo: wait", run="r1")
        await until(lambda: rig.entered)
        await rig.shut()

    async def second(rig: Rig) -> None:
        rig.gate.set()
        assert rig.engine.resume(rig.database.unfinished()) == 3
        rig.delegation.stop_orphans()
        ending = await rig.engine.result("r1")
        assert ending.answer is not None
        assert ending.answer["text"] == "ben said: cleo said: heard wait"
        assert [run["status"] for run in rig.runs()] == ["done"] * 3

    asyncio.run(first())
    on_rig(tmp_path, second)


def test_a_server_that_stops_does_not_stop_what_was_asked(tmp_path: Path) -> None:
    """The callee computes while the engine closes: it comes to its end, or goes on at the next start."""
    busy = threading.Event()

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] == "compute":
            busy.set()
            time.sleep(0.3)
            return {"text": "computed", "at": call("clock.now")["seconds"]}
        return speaker(call, args)

    async def first() -> None:
        rig = Rig(tmp_path, body)
        await rig.told("ana", "ask ben: compute", run="r0")  # so that the next one is not parked
        busy.clear()
        await rig.say("ana", "ask ben: compute", run="r1")
        await until(busy.is_set)
        await asyncio.sleep(0.05)
        await rig.shut()

    async def second(rig: Rig) -> None:
        rig.engine.resume(rig.database.unfinished())
        ending = await rig.engine.result("r1")
        assert ending.answer == {"text": "ben said: computed"}
        assert [run["status"] for run in rig.runs()] == ["done"] * 4

    asyncio.run(first())
    on_rig(tmp_path, second, body=body)


def test_what_a_run_asked_that_has_ended_is_stopped_at_the_next_start(tmp_path: Path) -> None:
    """The asker was stopped, and the process died before its child was: nobody works for a run that is over."""

    async def first() -> None:
        rig = Rig(tmp_path)
        await rig.say("ana", "ask ben: wait", run="r1")
        await rig.say("dan", "send ben: wait", run="r2")
        await until(lambda: len(rig.entered) == 2)
        rig.engine.unfinished()["r1"].stopped = None
        rig.engine.stop = lambda _run, _reason="": False  # type: ignore[method-assign] - it dies before this is done
        active = rig.engine._active["r1"]
        active.run.stopped = RunEnded("run.stopped", "the owner stopped the run")
        assert active.task is not None
        active.task.cancel()
        await until(lambda: "r1" not in rig.engine.unfinished())
        await rig.shut()

    async def second(rig: Rig) -> None:
        rig.engine.resume(rig.database.unfinished())
        rig.delegation.stop_orphans()
        child = derived_id("r1", 1)
        assert (await rig.engine.result(child)).status is RunStatus.STOPPED
        sent = derived_id("r2", 1)
        assert sent in rig.engine.unfinished()
        rig.gate.set()
        assert (await rig.engine.result(sent)).status is RunStatus.DONE

    asyncio.run(first())
    on_rig(tmp_path, second)


# Messages


def test_a_message_is_sent_and_not_waited_for(tmp_path: Path) -> None:
    """The sender ends while the receiver still waits; its run is the sender's child, with the sender's label."""

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", "send ben: wait", run="r1")
        assert ending.answer == {"text": derived_id("r1", 1)}
        await until(lambda: rig.entered == [derived_id("r1", 1)])
        start = rig.rows(derived_id("r1", 1))[0]
        assert (start.meta["parent"], start.meta["depth"]) == ("r1", 2)
        value = json.loads(start.value)
        assert value["labels"] == ["agent:ana", "owner"]
        assert (value["args"]["from"], value["conversation"]) == ("ana", "from:ana")
        rig.gate.set()

    on_rig(tmp_path, story)


def test_whoever_sends_a_message_waits_for_nobody(tmp_path: Path) -> None:
    """While sender and receiver are both unfinished there is no edge between them; after a restart neither."""

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] == "both":
            call("message.send", agent="ben", text="wait")
            call("gate.wait")
            return {"text": "done"}
        return speaker(call, args)

    async def first() -> None:
        rig = Rig(tmp_path, body)
        await rig.say("ana", "both", run="r1")
        await until(lambda: len(rig.entered) == 2)
        assert rig.engine._waits._edges == {}
        await rig.shut()

    async def second(rig: Rig) -> None:
        rig.engine.resume(rig.database.unfinished())
        await until(lambda: len(rig.entered) == 2)
        assert rig.engine._waits._edges == {}
        rig.gate.set()

    asyncio.run(first())
    on_rig(tmp_path, second, body=body)


def test_an_agent_may_ask_the_one_that_sent_it_a_message(tmp_path: Path) -> None:
    """A sender does not wait, so asking it back closes no cycle, even while it is unfinished."""

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] == "both":
            call("message.send", agent="ben", text="ask ana: hello")
            call("gate.wait")
            return {"text": "done"}
        return speaker(call, args)

    async def story(rig: Rig) -> None:
        await rig.say("ana", "both", run="r1")
        await until(lambda: rig.runs("ben") and rig.runs("ben")[0]["answer"])
        assert "r1" in rig.engine.unfinished()
        assert rig.runs("ben")[0]["answer"] == {"text": "ana said: heard hello"}
        rig.gate.set()

    on_rig(tmp_path, story, body=body)


def test_ping_pong_ends_at_the_depth_limit_with_a_refusal(tmp_path: Path) -> None:
    """Two agents that answer each message with one stop after eight runs."""

    def body(call: Any, args: dict[str, Any]) -> Any:
        other = {"ana": "ben", "ben": "ana"}[args["from"]] if "from" in args else "ana"
        me = {"ana": "ben", "ben": "ana"}[other]
        call("message.send", agent=other, text="ping" if me == "ana" else "pong")
        return {"text": "sent"}

    async def story(rig: Rig) -> None:
        await rig.say("ben", "go")
        await rig.idle()
        runs = rig.runs()
        assert [run["status"] for run in runs] == ["done"] * 7 + ["refused"]
        assert runs[-1]["error"]["code"] == "limit.depth"

    on_rig(tmp_path, story, body=body, names=("ana", "ben"))


def test_a_flood_of_messages_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what comes of one message of the owner at most so many runs are unfinished; the next one is refused."""
    monkeypatch.setattr("loket.delegation.MOST_IN_FLIGHT", 5)

    def body(call: Any, args: dict[str, Any]) -> Any:
        if args["text"] == "flood":
            for _ in range(10):
                call("message.send", agent="ben", text="wait")
        return speaker(call, args)

    async def story(rig: Rig) -> None:
        ending = await rig.told("ana", "flood")
        assert ending.error is not None
        assert ending.error["code"] == "limit.messages"
        assert len(rig.runs("ben")) == 4
        rig.gate.set()

    on_rig(tmp_path, story, body=body)


def test_a_message_reaches_all_who_subscribe_and_not_its_publisher(tmp_path: Path) -> None:
    """Exactly this topic, or all below one that ends in a slash; labels, `topic` and `from` come with it."""

    async def story(rig: Rig) -> None:
        for agent, topic in (
            ("ana", "weather/"),
            ("ben", "weather/storm"),
            ("cleo", "weather/"),
            ("cleo", "weather/storm"),
        ):
            await rig.told(agent, f"subscribe {topic}")
        assert (await rig.told("dan", "subscribe weather")).answer == {"text": "weather"}
        ending = await rig.told("ana", "publish weather/storm: hide", run="r1")
        assert ending.answer == {"text": "ben cleo"}
        await rig.idle()
        start = json.loads(rig.rows(derived_id("r1", 1, "cleo"))[0].value)
        assert start["args"] | {"topic": "weather/storm", "from": "ana", "text": "hide"} == start["args"]
        assert start["labels"] == ["agent:ana", "owner"]
        assert (await rig.told("ana", "publish weather/sun: out")).answer == {"text": "cleo"}
        assert (await rig.told("ana", "publish weather: all")).answer == {"text": "dan"}
        assert (await rig.told("cleo", "unsubscribe weather/")).answer == {"text": "weather/storm"}
        assert (await rig.told("ana", "publish weather/sun: out")).answer == {"text": ""}

    on_rig(tmp_path, story)


def test_a_subscriber_that_is_gone_or_broken_or_has_no_grant_hinders_nobody(tmp_path: Path) -> None:
    """`delivered` lists those that got it; a grant that is given back lets messages through again."""

    async def story(rig: Rig) -> None:
        for agent in NAMES:
            await rig.told(agent, "subscribe news/local")
        removed = rig.scripts.pop("ben")
        rig.grants.revoke("local", "cleo", "message.subscribe")
        rig.limits["dan"] = Limits(depth=1)
        assert (await rig.told("ana", "publish news/local: one")).answer == {"text": ""}
        rig.scripts["ben"] = removed
        assert (await rig.told("ana", "publish news/local: two")).answer == {"text": "ben"}
        rig.grants.allow(Grant("local", "cleo", "message.subscribe", {"topics": ["news/"]}, "owner", 0.0))
        rig.grants.allow(Grant("local", "ben", "message.subscribe", {"topics": ["sport/"]}, "owner", 0.0))
        assert (await rig.told("ana", "publish news/local: three")).answer == {"text": "cleo"}

    on_rig(tmp_path, story)


def test_publishing_at_the_depth_limit_is_refused(tmp_path: Path) -> None:
    """A message may be no deeper than its publisher's limit."""

    async def story(rig: Rig) -> None:
        await rig.told("ben", "subscribe t")
        rig.limits["ana"] = Limits(depth=1)
        ending = await rig.told("ana", "publish t: x")
        assert ending.error is not None
        assert ending.error["code"] == "limit.depth"

    on_rig(tmp_path, story)


PUBLISHING = """
import asyncio, os, signal, sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_agents import Rig

async def main():
    rig = Rig(Path(sys.argv[1]), names=("ana", "ben", "cleo", "dan"))
    rig.gate.set()
    if sys.argv[3] == "0":
        rig.engine.resume(rig.database.unfinished())
        rig.delegation.stop_orphans()
    else:
        for agent in ("ben", "cleo", "dan"):
            await rig.told(agent, "subscribe news")
        submit, begun, done, wanted = rig.engine.submit, 0, 0, int(sys.argv[3])
        async def dying(*args, **more):
            nonlocal begun, done
            begun += 1
            if begun > wanted:
                await asyncio.sleep(60)
            run = await submit(*args, **more)
            done += 1
            if done == wanted:
                os.kill(os.getpid(), signal.SIGKILL)
            return run
        await rig.say("ana", "publish news: hello", run="r1")
        rig.engine.submit = dying
    await rig.idle()
    await rig.verified()
    await rig.shut()

asyncio.run(main())
"""


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_message_is_delivered_once_to_each_subscriber_over_a_kill(tmp_path: Path, after: int) -> None:
    """Killed behind the first, second or third delivery; after the restart each of three has it exactly once."""
    words = [sys.executable, "-c", PUBLISHING, str(tmp_path), str(Path(__file__).parent)]
    died = subprocess.run([*words, str(after)], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    subprocess.run([*words, "0"], timeout=60, check=True)

    async def story(rig: Rig) -> None:
        got = [run for run in rig.runs() if run["parent"] == "r1"]
        assert sorted(run["agent"] for run in got) == ["ben", "cleo", "dan"]
        assert {run["status"] for run in got} == {"done"}
        published = next(run for run in rig.runs("ana") if run["id"] == "r1")
        assert published["answer"] == {"text": "ben cleo dan"}

    on_rig(tmp_path, story)


def _call(agent: str, run: str, ordinal: int = 1) -> Call:
    return Call(run, ordinal, agent, "main", Principal("agent", agent), "message.subscribe", {}, ())


def test_subscriptions_are_on_the_disk_and_change_once(tmp_path: Path) -> None:
    """Another process finds them; a call that is performed again changes nothing, whatever came after it."""
    bus = Bus(tmp_path / "bus.db", lambda: 5.0)
    assert bus.subscribe(_call("ana", "r1"), "news") == ["news"]
    bus.subscribe(_call("ben", "r2"), "news")
    assert bus.hearing(_call("x", "r3"), "news") == ["ana", "ben"]
    assert bus.unsubscribe(_call("ana", "r4"), "news") == []
    bus.close()
    bus = Bus(tmp_path / "bus.db")
    assert bus.subscribe(_call("ana", "r1"), "news") == ["news"]
    assert [tuple(one) for one in bus.all()] == [("ben", "news", 5.0, "r2")]
    assert bus.hearing(_call("x", "r3"), "news") == ["ana", "ben"]
    assert bus.hearing(_call("x", "r5"), "news") == ["ben"]
    assert bus.remove("ben", "news")
    assert not bus.remove("ben", "news")
    bus.close()


def test_an_agent_has_a_bounded_number_of_subscriptions(tmp_path: Path) -> None:
    """The hundred and first is refused, one that it has already is not."""
    bus = Bus(tmp_path / "bus.db")
    for number in range(MOST_TOPICS):
        bus.subscribe(_call("ana", "r1", number), f"t{number}")
    with pytest.raises(Refusal, match="the most there may be"):
        bus.subscribe(_call("ana", "r2"), "one-more")
    assert len(bus.subscribe(_call("ana", "r3"), "t7")) == MOST_TOPICS
    bus.close()


def test_what_an_erased_run_subscribed_to_is_in_no_byte_of_the_file(tmp_path: Path) -> None:
    """Subscription and remembered answers go; those of other runs stay."""
    bus = Bus(tmp_path / "bus.db")
    bus.subscribe(_call("ana", "r1"), "secret/affair")
    bus.subscribe(_call("ana", "r2"), "news")
    provider = MessageProvider(Delegation(bus, lambda *_: (_ for _ in ()).throw(KeyError), time.time), bus)
    assert provider.writes("message.subscribe", {"topic": "secret/affair"}, {}) == ["secret/affair"]
    assert len(provider.erase("ana", ["r1"])) == 1
    assert [one.topic for one in bus.all()] == ["news"]
    bus.close()


def test_a_renewed_subscription_is_the_newer_runs(tmp_path: Path) -> None:
    """Erasing the run that subscribed first leaves what a later one asked for too."""
    bus = Bus(tmp_path / "bus.db")
    bus.subscribe(_call("ana", "r1"), "news")
    bus.subscribe(_call("ana", "r2"), "news")
    assert bus.erase("ana", ["r1"]) == []
    assert [(one.topic, one.run) for one in bus.all()] == [("news", "r2")]
    assert bus.erase("ana", ["r2"]) == ["news"]
    bus.close()


# Real modules


def folder(root: Path, name: str, *, calls: int = 200, depth: int = 8) -> Path:
    """The guest `asker` as a module of another name."""
    made = root / name
    made.mkdir(parents=True)
    source = Path(__file__).parent / "guests" / "asker" / "loket.toml"
    manifest = source.read_text().replace('id = "asker"', f'id = "{name}"')
    (made / "loket.toml").write_text(f"{manifest}\n[limits]\ncalls = {calls}\ndepth = {depth}\n")
    shutil.copy(built_guest("asker"), made / "module.wasm")
    return made


async def installed(system: Loket, root: Path, *names: str) -> None:
    for name in names:
        made = folder(root, name)
        granted = [*USED[:-1], "kv.get", "kv.set", "llm.complete", "clock.now"]
        await system.installed.install(made, "local", granted, "owner")


async def said(system: Loket, agent: str, text: str) -> str:
    """The answer of an agent, or the code and message of the error."""
    ending = await system.finished(await system.send(agent, text))
    return str(ending.answer["text"] if ending.answer else (ending.error or {})["message"])


def test_sealed_agents_ask_send_and_publish_and_their_runs_verify(tmp_path: Path) -> None:
    """Three WebAssembly modules: a chain of questions to a model, a cycle, a message, topics; every run replays."""
    root = prepare(tmp_path / "home")

    async def main() -> None:
        async with running(Home(root), llm=InstantModel(lambda messages: f"thought: {messages[-1]['content']}")) as s:
            await installed(s, tmp_path / "sources", "ana", "ben", "cleo")
            answer = await said(s, "ana", "ask ben: ask cleo: think about: rain")
            assert answer == "ben said: cleo said: thought: rain"
            assert "wait.cycle: ben may not ask ana" in await said(s, "ana", "ask ben: try ana: hi")
            assert "it cannot ask itself" in await said(s, "ana", "try ana: hi")
            assert "installed: ana, ben, cleo, main" in await said(s, "ana", "try nobody: hi")
            sent = await said(s, "ana", "send ben: it rains")
            assert (await s.finished(sent)).answer == {"text": "ben heard it rains"}
            for agent in ("ana", "ben", "cleo"):
                assert await said(s, agent, "subscribe weather/") == "weather/"
            assert await said(s, "ana", "publish weather/storm: hide") == "ben cleo"
            await finish_others(s.engine, 20)
            assert await said(s, "cleo", "heard x") == "weather/storm ana hide"
            s.grants.revoke("local", "cleo", "message.subscribe")
            await s.installed.remove("ben")
            assert await said(s, "ana", "publish weather/sun: out") == ""
            verdicts, faults = await asyncio.to_thread(s.replayer.verify, s.database.ended_runs())
            asked_by = [(s.database.run(verdict.run) or {})["principal"] for verdict in verdicts]
            assert sum(principal != "host:lessons" for principal in asked_by) == 17
            assert [verdict.reason for verdict in verdicts if not verdict.ok] == []
            assert faults == []

    asyncio.run(main())


def test_stopping_the_asker_stops_a_sealed_callee(tmp_path: Path) -> None:
    """The callee waits for a model that never answers; the owner stops the asker, and both end."""
    root = prepare(tmp_path / "home")

    class Silent:
        id = "llm"
        asked = threading.Event()

        def handlers(self) -> dict[str, Any]:
            return {"llm.complete": self.complete, "llm.models": lambda _call: Answer({"models": []})}

        async def start(self) -> None:
            """Nothing to start."""

        async def close(self) -> None:
            """Nothing to close."""

        async def complete(self, _call: Call) -> Answer:
            self.asked.set()
            await asyncio.sleep(60)
            raise AssertionError("nobody waits so long")

    async def main() -> None:
        model = Silent()
        async with running(Home(root), llm=model) as system:
            await installed(system, tmp_path / "sources", "ana", "ben")
            run = await system.send("ana", "ask ben: think about: rain")
            await until(model.asked.is_set)
            assert system.engine.stop(run)
            await until(lambda: not system.engine.unfinished())
            assert (await system.finished(run)).status is RunStatus.STOPPED
            child = await system.finished(derived_id(run, 1))
            assert child.status is RunStatus.STOPPED
            verdicts, faults = await asyncio.to_thread(system.replayer.verify, system.database.ended_runs())
            assert all(verdict.ok for verdict in verdicts)
            assert faults == []

    asyncio.run(main())


@contextmanager
def asking(home: Path, *words: str) -> Any:
    """A `loket ask` that waits for its answer."""
    command = [sys.executable, "-m", "loket.cli.main", "ask", *words]
    process = subprocess.Popen(
        command, env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _finished(home: Path, server: Server, count: int) -> list[dict[str, Any]]:
    """Runs once so many have ended."""
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        runs = loket(home, "runs", "list", "--json")["runs"]
        if sum(run["ended"] is not None for run in runs) == count and len(runs) == count:
            return list(runs)
        assert server.process.poll() is None
        time.sleep(0.1)
    raise AssertionError(runs)


def test_a_kill_while_a_child_thinks_leaves_one_child_and_one_answer(tmp_path: Path) -> None:
    """`kill -9` of the server while the callee waits for its model: after the restart both are answered, once."""
    release = threading.Event()
    with ModelServer(lambda _request: Reply("because of the air", until=release)) as model:
        home = prepare(tmp_path / "home", model.url)
        for name in ("ana", "ben"):
            loket(home, "install", str(folder(tmp_path / "sources", name)), "--yes")
        with serving(home) as server, asking(home, "ana", "ask ben: think about: sky", "--message", "one") as waiting:
            assert model.asked.wait(120)
            server.kill()
            waiting.wait(120)
        release.set()
        with serving(home) as server:
            runs = _finished(home, server, 2)
            assert sorted((run["agent"], run["status"]) for run in runs) == [("ana", "done"), ("ben", "done")]
            answer = loket(home, "ask", "ana", "ask ben: think about: sky", "--message", "one", "--json")
            assert answer["answer"] == "ben said: because of the air"
            child, parent = sorted(runs, key=lambda run: run["parent"] is None)
            assert (child["parent"], child["id"]) == (parent["id"], derived_id(parent["id"], 1))
            verified = loket(home, "runs", "verify", "--json")
            assert (verified["verified"], verified["failed"]) == (2, 0)
            assert server.stop() == 0


def test_subscriptions_are_listed_and_removed_by_command(tmp_path: Path) -> None:
    """`loket subscriptions` shows who hears what; `remove` takes one back, and names one that is not there."""
    home = prepare(tmp_path / "home")
    loket(home, "install", str(folder(tmp_path / "sources", "ben")), "--yes")
    assert "no agent subscribes" in loket(home, "subscriptions")
    loket(home, "ask", "ben", "subscribe weather/")
    shown = loket(home, "subscriptions", "--json")["subscriptions"]
    assert [(one["agent"], one["topic"], one["hears"]) for one in shown] == [("ben", "weather/", True)]
    loket(home, "grants", "revoke", "ben", "message.subscribe")
    assert "no" in loket(home, "subscriptions").split()
    assert "ben hears weather/ no more" in loket(home, "subscriptions", "remove", "ben", "weather/")
    assert "does not subscribe to weather/" in loket(home, "subscriptions", "remove", "ben", "weather/", code=2)
    assert loket(home, "subscriptions", "--json") == {"subscriptions": []}
