"""The engine: order, suspension, resumption, replay."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import apsw
import pytest

from kit import EngineRig, Handlers, Script, Values, capability, open_kernel
from loket.contracts import Answer, Call, Effect, Failed, Limits, OnUncertain, Refusal, RunStatus


def counting(call: Any, args: dict[str, Any]) -> Any:
    """Sets, reads, and answers with what it read."""
    call("kv.set", key="n", value=args.get("n", 1))
    return {"text": str(call("kv.get", key="n")["value"]), "at": call("clock.now")["seconds"]}


class Gate:
    """A capability that waits until the test opens it."""

    declared = capability("gate.wait", waits=True, timeout_s=30)

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.entered = 0

    async def wait(self, call: Call) -> Answer:
        self.entered += 1
        await self.open.wait()
        return Answer({"run": call.run})

    def provider(self) -> Handlers:
        return Handlers(gate__wait=self.wait)


async def until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110 - the condition is the engine's state, which has no event
        await asyncio.sleep(0.002)


def test_a_run_is_answered_journaled_and_replays(tmp_path: Path) -> None:
    """From acceptance to answer, and then the same calls and answer again from the journal alone."""

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(counting)})
        ending = await rig.ask("a", "r1", args={"n": 7})
        assert ending.status is RunStatus.DONE
        assert ending.answer is not None
        assert ending.answer["text"] == "7"
        assert [row.kind.value for row in rig.rows()] == ["start", "intent", "outcome", "call", "end"]
        performed = len(rig.values.performed)
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, ["r1"])
        assert [verdict.ok for verdict in verdicts] == [True]
        assert faults == []
        assert len(rig.values.performed) == performed
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_module_that_changed_does_not_replay(tmp_path: Path) -> None:
    """Another call, other arguments, another answer, other logs: each is named."""
    changed = {
        "kv.set now": lambda call, _a: call("kv.set", key="m", value=1),
        "arguments of call 1": lambda call, _a: call("kv.set", key="n", value=2),
        "its answer": lambda call, a: {**counting(call, a), "text": "8"},
        "clock, random or log": lambda call, a: [call("log.write", text="x"), counting(call, a)][1],
        "ended before": lambda _call, _a: {"text": "1"},
    }

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(counting)})
        await rig.ask("a", "r1")
        for body in changed.values():
            rig.scripts["a"] = Script(body)
            verdict = await asyncio.to_thread(rig.replayer.replay, "r1")
            assert not verdict.ok
            assert verdict.reason
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_changed_row_is_named_by_verify(tmp_path: Path) -> None:
    """The run whose row was changed fails, the others verify."""

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(counting)})
        for run in ("r1", "r2", "r3"):
            await rig.ask("a", run)
        other = apsw.Connection(str(tmp_path / "kernel.db"))
        other.execute("DROP TRIGGER journal_append_only_update")
        other.execute(
            "UPDATE journal SET value = CAST('{\"answer\":{\"text\":\"1\"}}' AS BLOB) WHERE run = 'r2' AND kind = 'end'"
        )
        other.close()
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, ["r1", "r2", "r3"])
        assert [verdict.ok for verdict in verdicts] == [True, False, True]
        assert "was changed" in verdicts[1].reason
        assert faults[0].run == "r2"
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_waiting_run_holds_neither_thread_nor_instance_nor_agent(tmp_path: Path) -> None:
    """Three hundred runs of one agent wait at once on four threads, and a three-hundred-and-first is answered."""

    async def main() -> None:
        gate = Gate()
        script = Script(lambda call, a: call("gate.wait") if a.get("wait") else {"text": "at once"})
        rig = EngineRig(tmp_path, gate.provider(), scripts={"a": script}, more=(gate.declared,))
        request = rig.request("a", "template")
        from dataclasses import replace

        for number in range(300):
            await rig.engine.submit(
                replace(request, id=f"w{number}", root=f"w{number}", conversation=f"c{number}", args={"wait": True})
            )
        await until(lambda: gate.entered == 300)
        assert (await rig.ask("a", "quick")).answer == {"text": "at once"}
        gate.open.set()
        endings = [
            await rig.engine.result(f"w{number}") for number in range(300) if f"w{number}" in rig.engine.unfinished()
        ]
        assert all(ending.status is RunStatus.DONE for ending in endings)
        await until(lambda: not rig.engine.unfinished())
        assert script.segments == 601
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_messages_of_one_conversation_are_answered_in_order(tmp_path: Path) -> None:
    """The second message waits for the first one's answer, even while the first is suspended."""

    async def main() -> None:
        gate = Gate()
        order: list[str] = []

        def body(call: Any, args: dict[str, Any]) -> Any:
            if args["n"] == 0:
                call("gate.wait")
            order.append(args["n"])
            return {"n": args["n"]}

        rig = EngineRig(tmp_path, gate.provider(), scripts={"a": Script(body)}, more=(gate.declared,))
        for number in range(4):
            await rig.engine.submit(rig.request("a", f"r{number}", conversation="one", args={"n": number}))
        await until(lambda: gate.entered == 1)
        assert order == []
        gate.open.set()
        await until(lambda: not rig.engine.unfinished())
        assert order == [0, 1, 2, 3]
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_cycle_of_waits_is_refused(tmp_path: Path) -> None:
    """A run that would wait for one that waits for it is refused, and nobody hangs."""

    async def main() -> None:
        gate = Gate()
        scripts = {name: Script(lambda call, _a: call("gate.wait")) for name in ("a", "b")}
        rig = EngineRig(tmp_path, gate.provider(), scripts=scripts, more=(gate.declared,))
        await rig.engine.submit(rig.request("a", "r1", conversation="x"))
        await rig.engine.submit(rig.request("b", "r2", conversation="y", parent="r1", depth=2))
        with pytest.raises(Refusal, match="waits for it"):
            await rig.engine.submit(rig.request("a", "r3", conversation="x", parent="r2", depth=3))
        gate.open.set()
        await until(lambda: not rig.engine.unfinished())
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_runs_that_ask_each_other_too_deeply_are_refused(tmp_path: Path) -> None:
    """Depth is a limit like any other."""

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(counting)})
        with pytest.raises(Refusal, match="2 deep"):
            await rig.engine.submit(rig.request("a", "r1", depth=3, limits=Limits(depth=2)))
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_run_can_be_stopped_while_it_waits(tmp_path: Path) -> None:
    """Stopping ends a waiting run with a terminal row; it is not resumed."""

    async def main() -> None:
        gate = Gate()
        script = Script(lambda call, _a: call("gate.wait"))
        rig = EngineRig(tmp_path, gate.provider(), scripts={"a": script}, more=(gate.declared,))
        await rig.engine.submit(rig.request("a", "r1"))
        await until(lambda: gate.entered == 1)
        result = asyncio.create_task(rig.engine.result("r1"))
        await asyncio.sleep(0)
        assert rig.engine.stop("r1")
        assert (await result).status is RunStatus.STOPPED
        assert rig.rows()[-1].meta["status"] == "stopped"
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        assert rig.database.unfinished() == []
        rig.close()

    asyncio.run(main())


def test_pieces_are_numbered_by_attempt_and_withdrawn_on_a_retry(tmp_path: Path) -> None:
    """Whoever watches sees provisional pieces, their withdrawal, and the final answer once."""
    from loket.contracts import WITHDRAW

    speak = capability("gate.speak", waits=True)

    async def speaking(call: Call) -> Answer:
        for piece in ("wr", "ong", WITHDRAW, "right"):
            call.emit(piece)
        return Answer({"text": "right"})

    async def main() -> None:
        script = Script(lambda call, _a: call("gate.speak"))
        rig = EngineRig(tmp_path, Handlers(gate__speak=speaking), scripts={"a": script}, more=(speak,))
        await rig.engine.submit(rig.request("a", "r1"))
        events = [event async for event in rig.watching.watch("r1")]
        said = [(e["type"], e.get("attempt"), e.get("text")) for e in events if e["type"] in ("piece", "withdrawn")]
        assert said == [
            ("piece", 1, "wr"),
            ("piece", 1, "ong"),
            ("withdrawn", 1, None),
            ("piece", 2, "right"),
        ]
        assert events[-1]["type"] == "end"
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def uncertain(rule: OnUncertain) -> Any:
    return capability("world.change", Effect.MODIFY, on_uncertain=rule)


class Allow:
    """Allows everything, so that effects of every kind can be tried."""

    def decide(self, _question: Any) -> Any:
        from loket.contracts import Decision, Verdict

        return Decision(Verdict.ALLOW, ("test.all",), "a test", "p")


def interrupted(tmp_path: Path, rule: OnUncertain, happened: list[int]) -> None:
    """A run whose process "dies" between the effect and its outcome: the provider never returns to the kernel."""

    class PowerCut(BaseException):
        pass

    def change(call: Call) -> Answer:
        happened.append(call.ordinal)
        raise PowerCut

    async def main() -> None:
        script = Script(lambda call, _a: call("world.change", n=1))
        rig = EngineRig(
            tmp_path, Handlers(world__change=change), scripts={"a": script}, more=(uncertain(rule),), policy=Allow()
        )
        request = rig.request("a", "r1")
        active = rig.engine._begin(request, b"s" * 32)
        rig.engine._record_start(active.run, None)
        with pytest.raises(PowerCut):
            rig.engine._segment(active.run)
        rig.journal.sync()
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


@pytest.mark.parametrize("rule", [OnUncertain.REPEAT, OnUncertain.DEDUPE])
def test_an_uncertain_effect_is_done_again_as_its_capability_says(tmp_path: Path, rule: OnUncertain) -> None:
    """Repeat: a second intent, both charged. Dedupe: the store is asked with the same run and ordinal."""
    happened: list[int] = []
    interrupted(tmp_path, rule, happened)

    def change(call: Call) -> Answer:
        happened.append(call.ordinal)
        return Answer({"done": True})

    async def main() -> None:
        script = Script(lambda call, _a: call("world.change", n=1))
        rig = EngineRig(
            tmp_path, Handlers(world__change=change), scripts={"a": script}, more=(uncertain(rule),), policy=Allow()
        )
        assert rig.engine.resume(rig.database.unfinished()) == 1
        ending = await rig.engine.result("r1")
        assert ending.answer == {"done": True}
        assert happened == [1, 1]
        attempts = [row.meta.get("attempt") for row in rig.rows() if row.kind.value == "intent"]
        assert attempts == ([1, 2] if rule is OnUncertain.REPEAT else [1])
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


@pytest.mark.parametrize("happened_word", [True, False])
def test_an_uncertain_effect_that_must_be_asked_is_never_repeated_silently(tmp_path: Path, happened_word: bool) -> None:
    """The run waits for the owner's word; only `not` performs it again."""
    happened: list[int] = []
    interrupted(tmp_path, OnUncertain.ASK, happened)

    def change(call: Call) -> Answer:
        happened.append(call.ordinal)
        return Answer({"done": True})

    async def main() -> None:
        script = Script(lambda call, _a: call("world.change", n=1))
        rig = EngineRig(
            tmp_path,
            Handlers(world__change=change),
            scripts={"a": script},
            more=(uncertain(OnUncertain.ASK),),
            policy=Allow(),
        )
        rig.engine.resume(rig.database.unfinished())
        await until(lambda: rig.engine.unfinished()["r1"].status is RunStatus.ASKING)
        assert happened == [1]
        result = asyncio.create_task(rig.engine.result("r1"))
        await asyncio.sleep(0)
        rig.engine.settle("r1", happened=happened_word)
        ending = await result
        if happened_word:
            assert ending.error is not None
            assert ending.error["code"] == "effect.uncertain"
            assert happened == [1]
        else:
            assert ending.answer == {"done": True}
            assert happened == [1, 1]
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_revoked_module_is_replayed_but_not_resumed(tmp_path: Path) -> None:
    """Unfinished runs of revoked bytes end; finished ones still verify."""

    async def main() -> None:
        gate = Gate()
        values = Values()
        script = Script(lambda call, a: call("gate.wait") if a.get("wait") else counting(call, a))
        rig = EngineRig(tmp_path, gate.provider(), values.provider(), scripts={"a": script}, more=(gate.declared,))
        await rig.ask("a", "done")
        await rig.engine.submit(rig.request("a", "open", args={"wait": True}))
        await until(lambda: rig.engine.unfinished()["open"].status is RunStatus.WAITING)
        result = asyncio.create_task(rig.engine.result("open"))
        await asyncio.sleep(0)
        from kit import DIGEST

        rig.grants.revoke_digest(DIGEST, 0.0)
        gate.open.set()
        ending = await result
        assert ending.error is not None
        assert ending.error["code"] == "module.revoked"
        assert (await asyncio.to_thread(rig.replayer.replay, "done")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


SERVER = """
import asyncio, json, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from kit import EngineRig, Handlers, Script, capability
from loket.contracts import Answer, Effect, OnUncertain
home = Path(sys.argv[1])
log = open(home / "world.log", "a")

def change(call):
    done = {line.strip() for line in open(home / "world.log")}
    word = f"{call.run}/{call.ordinal}"
    if word not in done:   # the store that remembers (run, ordinal)
        log.write(word + chr(10)); log.flush()
    return Answer({"done": True})

async def wait(call):
    await asyncio.sleep(0.003)
    return Answer({})

def body(call, args):
    for n in range(3):
        call("world.change", n=n)
        call("gate.wait")
        call("clock.now")
    return {"text": f"answer to {args['n']}"}

from test_engine import Allow
more = (capability("world.change", Effect.MODIFY, on_uncertain=OnUncertain.DEDUPE), capability("gate.wait", waits=True))

async def main():
    provider = Handlers(world__change=change, gate__wait=wait)
    rig = EngineRig(home, provider, scripts={"a": Script(body)}, more=more, policy=Allow())
    rig.engine.resume(rig.database.unfinished())
    print("up", flush=True)
    first = int(sys.argv[3])
    template = rig.request("a", "t")
    from dataclasses import replace
    for number in range(first, first + 40):
        run = f"m{number}"
        await rig.engine.submit(replace(template, id=run, root=run, conversation=f"c{number % 5}", args={"n": number}))
        print("accepted", run, flush=True)
    while rig.engine.unfinished():
        await asyncio.sleep(0.002)
    print("idle", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_every_accepted_message_is_answered_exactly_once_through_kill_9(tmp_path: Path) -> None:
    """Six times killed at different moments: each acknowledged message has one answer, each effect happened once."""
    accepted: list[str] = []
    delays = itertools.cycle((1, 9, 17, 26, 33, 40))
    for round_ in range(7):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(tmp_path), str(Path(__file__).parent), str(round_ * 100)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        last = round_ == 6
        wanted = next(delays)
        seen = 0
        for line in process.stdout:
            if line.startswith("accepted"):
                accepted.append(line.split()[1])
                seen += 1
            if (not last and seen >= wanted) or line.startswith("idle"):
                break
        os.kill(process.pid, signal.SIGKILL)
        accepted.extend(line.split()[1] for line in process.stdout if line.startswith("accepted"))
        process.wait()
        process.stdout.close()
    connection = apsw.Connection(str(tmp_path / "kernel.db"))
    ends = dict(connection.execute("SELECT run, count(*) FROM journal WHERE kind = 'end' GROUP BY run"))
    connection.close()
    database = open_kernel(tmp_path / "kernel.db")
    runs = {run["id"]: run for run in database.runs(None, 10_000)}
    database.close()
    assert not [run for run in runs.values() if run["error"]]
    assert len(set(accepted)) >= 160
    for run in accepted:
        assert ends[run] == 1
        assert runs[run]["answer"] == {"text": f"answer to {run[1:]}"}
    effects = (tmp_path / "world.log").read_text().split()
    assert len(effects) == len(set(effects))
    assert {f"{run}/{ordinal}" for run in accepted for ordinal in (1, 3, 5)} <= set(effects)


def test_a_failed_call_reaches_the_module_as_a_value(tmp_path: Path) -> None:
    """A module may catch a failure and go on."""

    def broken(_call: Call) -> Answer:
        raise Failed("disk.gone", "the disk is gone", "mend it")

    def body(call: Any, _args: dict[str, Any]) -> Any:
        try:
            call("kv.get", key="a")
        except Failed as error:
            return {"text": error.code}
        return {"text": "no"}

    async def main() -> None:
        rig = EngineRig(tmp_path, Handlers(kv__get=broken), scripts={"a": Script(body)})
        assert (await rig.ask("a", "r1")).answer == {"text": "disk.gone"}
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_what_was_accepted_or_answered_survives_a_loss_of_power(tmp_path: Path) -> None:  # noqa: C901, PLR0915 - one story
    """Twelve power cuts in the middle of work: accepted messages are answered once, released answers stay the same."""
    from loket.testing.disk import PowerLoss

    def body(call: Any, args: dict[str, Any]) -> Any:
        call("kv.set", key=f"k{args['n']}", value=args["n"])
        call("gate.wait")
        return {"text": f"answer to {args['n']}", "at": call("clock.now")["seconds"]}

    async def wait(_call: Call) -> Answer:
        await asyncio.sleep(0.004)
        return Answer({})

    def rig_on(home: Path, vfs: str | None) -> EngineRig:
        gate = Handlers(gate__wait=wait)
        more = (Gate.declared,)
        return EngineRig(home, gate, Values().provider(), scripts={"a": Script(body)}, more=more, vfs=vfs)

    disk = PowerLoss("power-engine")
    home = tmp_path / "home"
    home.mkdir()
    promises: list[tuple[Path, list[str], dict[str, Any]]] = []

    async def work() -> None:
        from dataclasses import replace

        rig = rig_on(home, disk.name)
        template = rig.request("a", "t")
        accepted: list[str] = []
        released: dict[str, Any] = {}

        async def release(run: str) -> None:
            released[run] = (await rig.engine.result(run)).answer

        waiting = []
        for number in range(60):
            run = f"m{number}"
            request = replace(template, id=run, root=run, conversation=f"c{number % 7}", args={"n": number})
            await rig.engine.submit(request)
            accepted.append(run)
            waiting.append(asyncio.create_task(release(run)))
            if number % 5 == 4:
                after = tmp_path / f"after{number}"
                kept = (list(accepted), dict(released))
                await asyncio.to_thread(disk.crash, home, after, number)
                promises.append((after, *kept))
        await asyncio.gather(*waiting)
        await rig.engine.close()
        rig.close()

    async def check(after: Path, accepted: list[str], released: dict[str, Any]) -> None:
        rig = rig_on(after, None)
        rig.engine.resume(rig.database.unfinished())
        await until(lambda: not rig.engine.unfinished())
        for run in accepted:
            found = rig.database.run(run)
            assert found is not None
            assert found["answer"]["text"] == f"answer to {run[1:]}"
            assert sum(row.kind.value == "end" for row in rig.rows(run)) == 1
        for run, answer in released.items():
            found = rig.database.run(run)
            assert found is not None
            assert found["answer"] == answer
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, accepted)
        assert all(verdict.ok for verdict in verdicts)
        assert faults == []
        await rig.engine.close()
        rig.close()

    asyncio.run(work())
    assert len(promises) == 12
    for promise in promises:
        asyncio.run(check(*promise))


def test_a_module_that_answers_with_no_object_fails_and_verifies(tmp_path: Path) -> None:
    """An answer that is no JSON object ends the run; a replay comes to the same end."""

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(lambda _call, _args: ["x"])})
        ending = await rig.ask("a", "r1")
        assert ending.error is not None
        assert ending.error["code"] == "module.answer"
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        rig.scripts["a"] = Script(lambda _call, _args: {"x": 1})
        assert not (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_quick_wait_keeps_its_instance_and_a_slow_one_does_not(tmp_path: Path) -> None:
    """A wait that is over at once takes one segment; after a slow one, the next is not parked."""
    quick, slow = capability("wait.quick", waits=True), capability("wait.slow", waits=True)

    async def at_once(_call: Call) -> Answer:
        return Answer({})

    async def later(_call: Call) -> Answer:
        await asyncio.sleep(0.1)
        return Answer({})

    async def main() -> None:
        def body(call: Any, args: dict[str, Any]) -> Any:
            return [call(args["cap"]), call(args["cap"]), {"text": "done"}][-1]

        script = Script(body)
        provider = Handlers(wait__quick=at_once, wait__slow=later)
        rig = EngineRig(tmp_path, provider, scripts={"a": script}, more=(quick, slow))
        assert (await rig.ask("a", "r1", args={"cap": "wait.quick"})).answer == {"text": "done"}
        assert script.segments == 1
        assert (await rig.ask("a", "r2", args={"cap": "wait.slow"})).answer == {"text": "done"}
        assert script.segments == 4
        verdicts, _faults = await asyncio.to_thread(rig.replayer.verify, ["r1", "r2"])
        assert all(verdict.ok for verdict in verdicts)
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_message_that_cannot_be_accepted_holds_nobody_up(tmp_path: Path) -> None:
    """The run queued behind a failed submission is answered."""

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(lambda _call, _args: {"text": "ok"})})
        bad = rig.request("a", "r1", conversation="c", args={"text": "\ud800"})
        good = rig.request("a", "r2", conversation="c")
        failed, run = await asyncio.gather(rig.engine.submit(bad), rig.engine.submit(good), return_exceptions=True)
        assert isinstance(failed, UnicodeEncodeError)
        assert run == "r2"
        await until(lambda: not rig.engine.unfinished())
        found = rig.database.run("r2")
        assert found is not None
        assert found["answer"] == {"text": "ok"}
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_a_run_can_be_stopped_at_every_stage_and_more_than_once(tmp_path: Path) -> None:
    """Queued, waiting, stopped twice: it ends, and the run behind it goes on."""

    async def main() -> None:
        gate = Gate()
        script = Script(lambda call, a: call("gate.wait") if a.get("wait") else {"text": "ok"})
        rig = EngineRig(tmp_path, gate.provider(), scripts={"a": script}, more=(gate.declared,))
        for run, args in (("r1", {"wait": True}), ("r2", {}), ("r3", {})):
            await rig.engine.submit(rig.request("a", run, conversation="one", args=args))
        await until(lambda: rig.engine.unfinished()["r1"].status is RunStatus.WAITING)
        queued = asyncio.create_task(rig.engine.result("r2"))
        await asyncio.sleep(0)
        assert rig.engine.stop("r2")
        assert (await queued).status is RunStatus.STOPPED
        waiting = asyncio.create_task(rig.engine.result("r1"))
        await asyncio.sleep(0)
        assert rig.engine.stop("r1")
        for _ in range(3):
            await asyncio.sleep(0)
            rig.engine.stop("r1")
        assert (await waiting).status is RunStatus.STOPPED
        await until(lambda: not rig.engine.unfinished())
        found = rig.database.run("r3")
        assert found is not None
        assert found["status"] == "done"
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_an_interrupted_effect_that_is_refused_when_tried_again_replays(tmp_path: Path) -> None:
    """The grant was revoked between the crash and the next start: refused, journaled, and honest."""
    happened: list[int] = []
    interrupted(tmp_path, OnUncertain.DEDUPE, happened)

    def body(call: Any, _args: dict[str, Any]) -> Any:
        try:
            call("world.change", n=1)
        except Refusal as refusal:
            return {"text": refusal.code, "at": call("clock.now")["seconds"]}
        return {}

    async def main() -> None:
        rig = EngineRig(
            tmp_path,
            Handlers(world__change=lambda _call: Answer({})),
            scripts={"a": Script(body)},
            more=(uncertain(OnUncertain.DEDUPE),),
            policy=Allow(),
        )
        rig.grants.revoke("local", "a", "world.change")
        rig.engine.resume(rig.database.unfinished())
        ending = await rig.engine.result("r1")
        assert ending.answer is not None
        assert ending.answer["text"] == "grant.missing"
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


@pytest.mark.parametrize("code", ["replay.diverged", "run.stopped", "limit.cpu"])
def test_a_module_that_refuses_with_the_kernels_codes_gains_nothing(tmp_path: Path, code: str) -> None:
    """Its refusal is a refusal, it verifies, and another answer does not."""

    def body(_call: Any, _args: dict[str, Any]) -> Any:
        raise Refusal(code, "said by the module")

    async def main() -> None:
        rig = EngineRig(tmp_path, scripts={"a": Script(body)})
        assert (await rig.ask("a", "r1")).status is RunStatus.REFUSED
        assert (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        rig.scripts["a"] = Script(lambda _call, _args: {"text": "something else"})
        assert not (await asyncio.to_thread(rig.replayer.replay, "r1")).ok
        await rig.engine.close()
        rig.close()

    asyncio.run(main())
