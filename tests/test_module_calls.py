"""Operations of modules as capabilities: which there are, and what performing one is."""

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit import DIGEST, EngineRig, Handlers, Script, Values, capability
from loket.contracts import (
    Answer,
    BadInput,
    Call,
    Decision,
    Effect,
    Ending,
    Grant,
    Limits,
    ModuleRef,
    OnUncertain,
    Principal,
    Question,
    Refusal,
    RunRequest,
    RunStatus,
    Sender,
    Verdict,
)
from loket.ids import derived_id
from loket.labelling import Labelling
from loket.module_calls import ModuleCalls, capability_of
from loket.packages.change import Change, What
from loket.packages.install import Package
from loket.packages.manifest import load_manifest
from loket.schemas import compile_check
from loket.store.kernel import request_of
from test_agents import until

STOCK = """
id = "stock"
version = "{version}"
kind = "{kind}"
summary = "What is in stock"
entry = "module.wasm"

[[operation]]
name = "lookup"
summary = "How many there are"
effect = "read"
arguments = {{ type = "object", required = ["sku"], properties = {{ sku = {{ type = "string" }} }} }}
answer = {{ type = "object", required = ["n"], properties = {{ n = {{ type = "integer" }} }} }}

[[operation]]
name = "count"
summary = "Write down how many there are"
effect = "modify"
critical = ["sku"]
arguments.type = "object"
arguments.properties = {{ sku = {{ type = "string" }}, n = {{ type = "integer" }} }}

[[operation]]
name = "move"
summary = "Move some"
effect = "modify"
arguments.type = "object"
arguments.properties = {{ sku = {{ type = "string" }}, to = {{ type = "string" }} }}

[limits]
tokens = 50000
depth = 4
"""


def package(folder: Path, kind: str = "tool", version: str = "1.0.0") -> Package:
    folder.mkdir(exist_ok=True)
    (folder / "loket.toml").write_text(STOCK.format(kind=kind, version=version))
    return Package(folder, load_manifest(folder), folder / "module.wasm", DIGEST, "", "")


def change(folder: Path, what: What = What.INSTALLED, version: str = "1.0.0", kind: str = "tool") -> Change:
    read = package(folder, kind, version)
    return Change(what, ModuleRef("local", "stock", version, DIGEST, read.manifest.limits), read)


class Allowing:
    """A policy that leaves all to the grants."""

    def decide(self, _question: Question) -> Decision:
        return Decision(Verdict.ALLOW, ("test",), "granted", "")


class Rig(EngineRig):
    """A kernel in which `main` asks, and `stock` answers."""

    def __init__(self, directory: Path, main: Callable[..., Any], stock: Callable[..., Any]) -> None:
        self.kept = Values()
        self.gate = asyncio.Event()
        scripts = {"main": Script(main), "stock": Script(stock)}
        handlers = Handlers(
            kv__get=self.kept.get, kv__set=self.kept.set, gate__wait=self.wait, secret__read=self.secret
        )
        known = (capability("gate.wait", waits=True), capability("secret.read", Effect.PRIVATE))
        super().__init__(directory, handlers, scripts=scripts, more=known, labeller=Labelling(), policy=Allowing())
        self.calls = ModuleCalls(self.registry, self.grants, compile_check, time.time)
        self.calls.bind(self.engine, self.database)
        self.directory = directory
        self.grants.accept("local", "stock", DIGEST, 0.0)

    async def wait(self, _call: Call) -> Answer:
        await self.gate.wait()
        return Answer({})

    def secret(self, _call: Call) -> Answer:
        return Answer({"text": "the word is swordfish"}, ("vault:word",))

    def install(self, *granted: str, version: str = "1.0.0", what: What = What.INSTALLED) -> None:
        self.calls.follow("stock", change(self.directory / version, what, version))
        for name in granted:
            self.grants.allow(Grant("local", "stock", name, {}, "owner", 0.0))

    def started(self, run: str) -> RunRequest:
        return request_of(next(iter(self.journal.rows(run))))[0]

    async def done(self) -> None:
        self.gate.set()
        await self.engine.close()
        self.close()


def on_rig(directory: Path, main: Any, stock: Any, story: Callable[[Rig], Any]) -> Any:
    async def told() -> Any:
        rig = Rig(directory, main, stock)
        try:
            return await story(rig)
        finally:
            await rig.done()

    return asyncio.run(told())


def looks(call: Any, args: dict[str, Any]) -> Any:
    return call("stock.lookup", sku=args["sku"])


def has_seven(_call: Any, _args: dict[str, Any]) -> Any:
    return {"n": 7}


def test_operations_of_a_tool_are_capabilities_with_its_schemas_and_effects(tmp_path: Path) -> None:
    """Critical are the arguments that the manifest names, else all of what changes something and none of a read."""
    manifest = package(tmp_path / "stock").manifest
    lookup, count, move = (capability_of(manifest, one) for one in manifest.operations)
    assert (lookup.id, lookup.effect, lookup.critical) == ("stock.lookup", Effect.READ, ())
    assert (count.effect, count.critical, move.critical) == (Effect.MODIFY, ("sku",), ("sku", "to"))
    assert lookup.arguments["required"] == ["sku"]
    assert {one.on_uncertain for one in (lookup, count, move)} == {OnUncertain.DEDUPE}
    assert lookup.waits


def test_a_call_is_a_run_of_the_module_for_whoever_asks(tmp_path: Path) -> None:
    """Its id follows from the call, its labels are those of the arguments, and its limits what is left at most."""

    async def story(rig: Rig) -> None:
        rig.install("kv.get", "kv.set")
        ending = await rig.ask(
            "main", "r1", args={"sku": "ABC"}, words="how many ABC?", limits=Limits(tokens=900, depth=3)
        )
        assert (ending.status, ending.answer) == (RunStatus.DONE, {"n": 7})
        child = rig.started(derived_id("r1", 1))
        assert (child.parent, child.root, child.depth, child.operation) == ("r1", "r1", 2, "lookup")
        assert (child.principal, child.words) == (Principal("agent", "main"), "how many ABC?")
        assert child.args == {"sku": "ABC"}
        assert child.labels == ("owner",)
        assert child.module is not None
        assert (child.module.limits.tokens, child.module.limits.depth) == (900, 3)
        assert child.rights == {"kv.get": {}}, "a read may change nothing, whatever its module was granted"
        assert set(ending.labels) >= {"capability:stock.lookup", "module:stock"}
        assert rig.replayer.replay("r1").ok
        assert rig.replayer.replay(child.id).ok

    on_rig(tmp_path, looks, has_seven, story)


def test_what_the_module_has_read_labels_its_answer(tmp_path: Path) -> None:
    """A tool that reads something private answers with a private value, though it calls itself a read."""

    def reads(call: Any, _args: Any) -> Any:
        return {"n": 1, "said": call("secret.read")["text"]}

    async def story(rig: Rig) -> Ending:
        rig.install("secret.read")
        return await rig.ask("main", "r1", args={"sku": "ABC"})

    ending = on_rig(tmp_path, looks, reads, story)
    assert {"private", "vault:word"} <= set(ending.labels)


def test_a_read_cannot_change_anything(tmp_path: Path) -> None:
    """Though its module may, in operations that say so."""

    def changes(call: Any, args: dict[str, Any]) -> Any:
        call("kv.set", key="stock", value=args["sku"])
        return {"n": 1}

    def asks(call: Any, args: dict[str, Any]) -> Any:
        call("stock.count", sku="ABC", n=1)
        return looks(call, args)

    async def story(rig: Rig) -> tuple[Ending, dict[str, Any]]:
        rig.install("kv.set")
        return await rig.ask("main", "r1", args={"sku": "XYZ"}), rig.kept.store

    ending, kept = on_rig(tmp_path, asks, changes, story)
    assert ending.error is not None
    assert ending.error["code"] == "module.refused"
    assert "token does not allow kv.set" in ending.error["message"]
    assert kept == {"stock": "ABC"}


@pytest.mark.parametrize(("answer", "code"), [({"n": "seven"}, "provider.answer"), (None, "module.refused")])
def test_an_answer_that_does_not_fit_and_a_refusal_are_errors_of_the_call(
    tmp_path: Path, answer: Any, code: str
) -> None:
    """The module's own refusal is passed on with its remedy."""

    def answers(_call: Any, _args: Any) -> Any:
        if answer is None:
            raise Refusal("stock.unknown", "nobody keeps ABC", "ask for another one")
        return answer

    ending = on_rig(tmp_path, looks, answers, _installed_and_asked)
    assert ending.error is not None
    assert ending.error["code"] == code
    if answer is None:
        assert (ending.error["message"], ending.error["remedy"]) == (
            "stock.lookup refused: nobody keeps ABC",
            "ask for another one",
        )


async def _installed_and_asked(rig: Rig) -> Ending:
    rig.install()
    return await rig.ask("main", "r1", args={"sku": "ABC"})


def test_capabilities_come_and_go_with_the_module(tmp_path: Path) -> None:
    """After a removal the next call is refused; an agent's operations are none of them."""

    async def story(rig: Rig) -> None:
        assert not rig.registry.get("stock.lookup")
        rig.install()
        assert rig.registry.get("stock.lookup")
        rig.install(what=What.REMOVED)
        assert not rig.registry.get("stock.lookup")
        ending = await rig.ask("main", "r1", args={"sku": "ABC"})
        assert ending.error is not None
        assert ending.error["code"] == "capability.unknown"
        rig.calls.follow("stock", change(tmp_path / "agent", kind="agent"))
        assert not rig.registry.get("stock.lookup")

    on_rig(tmp_path, looks, has_seven, story)


def test_a_call_that_has_begun_ends_on_its_version(tmp_path: Path) -> None:
    """An upgrade counts from the next call on; a removal does not end what goes on."""

    def waits(call: Any, _args: Any) -> Any:
        call("gate.wait")
        return {"n": 1}

    async def story(rig: Rig) -> None:
        rig.install("gate.wait")
        await rig.engine.submit(rig.request("main", "r1", args={"sku": "ABC"}))
        child = derived_id("r1", 1)
        await until(lambda: child in rig.engine.unfinished())
        rig.install(version="2.0.0", what=What.UPGRADED)
        await rig.engine.submit(rig.request("main", "r2", args={"sku": "ABC"}))
        second = derived_id("r2", 1)
        await until(lambda: second in rig.engine.unfinished())
        rig.install(what=What.REMOVED)
        versions = [rig.engine.unfinished()[run].request.module for run in (child, second)]
        assert [ref.version for ref in versions if ref is not None] == ["1.0.0", "2.0.0"]
        rig.gate.set()
        assert [(await rig.engine.result(run)).answer for run in ("r1", "r2")] == [{"n": 1}] * 2

    on_rig(tmp_path, looks, waits, story)


def test_a_module_that_calls_itself_ends_at_the_depth_limit(tmp_path: Path) -> None:
    """Each call is one deeper, and the limit of the first is that of all."""

    async def story(rig: Rig) -> Ending:
        rig.install("stock.lookup")
        return await rig.ask("main", "r1", args={"sku": "ABC"}, limits=Limits(depth=3))

    ending = on_rig(tmp_path, looks, looks, story)
    assert ending.error is not None
    assert "may be 3 deep" in ending.error["message"]


def test_a_call_that_is_made_again_after_a_crash_finds_its_run(tmp_path: Path) -> None:
    """The operation is done once, whenever Loket is killed in between."""

    def counts(call: Any, _args: Any) -> Any:
        call("kv.set", key="n", value=1)
        call("gate.wait")
        return {"n": 1}

    def asks(call: Any, _args: Any) -> Any:
        return call("stock.count", sku="ABC", n=1)

    async def first() -> None:
        rig = Rig(tmp_path, asks, counts)
        rig.install("gate.wait", "kv.set")
        await rig.engine.submit(rig.request("main", "r1"))
        await until(lambda: ("kv.set", derived_id("r1", 1), 1) in rig.kept.performed)
        await rig.engine.close()
        rig.close()

    async def second() -> None:
        rig = Rig(tmp_path, asks, counts)
        rig.install("gate.wait", "kv.set")
        unfinished, _unreadable = rig.database.unfinished_runs()
        assert sorted(request.id for request, _seed in unfinished) == sorted(["r1", derived_id("r1", 1)])
        rig.gate.set()
        rig.engine.resume(unfinished)
        ending = await rig.engine.result("r1")
        assert ending.answer == {"n": 1}, ending.error
        assert rig.kept.performed == []
        rows = [json.loads(row.facts).get("capability") for row in rig.journal.rows(derived_id("r1", 1))]
        assert rows.count("kv.set") == 2, "its intent and its outcome, of the first start"
        await rig.done()

    asyncio.run(first())
    asyncio.run(second())


def test_an_operation_is_run_by_itself_for_whoever_sends_it(tmp_path: Path) -> None:
    """With the sender's labels; wrong arguments and unknown names are the sender's errors."""
    sender = Sender(Principal("client", "probe"), ("client:probe",))

    async def story(rig: Rig) -> None:
        rig.install()
        answer = await rig.calls.operate("stock", "lookup", {"sku": "A"}, conversation="c", sender=sender)
        assert answer == {"n": 7}
        run = rig.database.runs("stock", 1)[0]
        assert (run["principal"], run["labels"]) == ("client:probe", ["client:probe"])
        for module, operation, args, code in (
            ("stok", "lookup", {"sku": "A"}, "agent.unknown"),
            ("stock", "lokup", {"sku": "A"}, "operation.unknown"),
            ("stock", "lookup", {"sku": 1}, "arguments.invalid"),
        ):
            with pytest.raises(BadInput) as caught:
                await rig.calls.operate(module, operation, args, conversation="c", sender=sender)
            assert caught.value.code == code

    on_rig(tmp_path, looks, has_seven, story)
