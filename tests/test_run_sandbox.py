"""One operation of a tool with exactly the contexts that are named: a real module, real processes."""

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guests_fixture import GUESTS, ROOT, built, built_guest
from live import environment, loket, prepare, serving
from loket.app import running
from loket.cli.show import REFUSED, USAGE
from loket.contracts import BadInput, Effect, Failed, Refusal
from loket.home import Home
from loket.packages.manifest import Context, load_manifest
from loket.sandbox_run import run_sandbox, union

EXAMPLE = ROOT / "examples" / "inventory"
READ = ("--context", "read:inventory_data")
XYZ = '{"sku": "XYZ-900", "location": "WH-A"}'


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example's folder with its built module."""
    folder = tmp_path_factory.mktemp("package") / "inventory"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("*.wasm"))
    shutil.copyfile(built(EXAMPLE), folder / "module.wasm")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, package: Path) -> Path:
    """A home with the example, and everything granted that it asks for."""
    made = prepare(tmp_path_factory.mktemp("inventory") / "home")
    loket(made, "install", str(package), "--yes")
    return made


@pytest.fixture(scope="module", autouse=True)
def _no_home_of_the_owner() -> Iterator[None]:
    before = os.environ.pop("LOKET_HOME", None)
    yield
    if before is not None:
        os.environ["LOKET_HOME"] = before


def sandboxed(home: Path, operation: str, params: str, *words: str, code: int = 0) -> Any:
    """What the command prints with `--json`."""
    line = ("run-sandbox", "--tool-name", f"inventory.{operation}", "--input-params", params, *words, "--json")
    return loket(home, *line, code=code)


def test_a_tool_runs_with_the_context_that_it_needs(home: Path) -> None:
    """The command of the documents answers, and its run stands in the journal with the rights that it had."""
    said = sandboxed(home, "lookup", XYZ, *READ)
    assert said["answer"] == {"sku": "XYZ-900", "location": "WH-A", "quantity": 120, "counted": "2026-01-05"}
    assert said["rights"] == {"kv.get": {"prefixes": ["stock/"]}}
    assert said["refused"] == []
    shown = loket(home, "runs", "show", said["run"], "--json")
    assert shown["rows"][0]["value"]["rights"] == said["rights"]
    assert [row.get("capability") for row in shown["rows"] if row["kind"] == "call"] == ["kv.get"]
    assert loket(home, "runs", "replay", said["run"], "--json")["ok"]


def test_without_a_context_a_tool_has_nothing(home: Path) -> None:
    """Though all that it asks for is granted; the refusal has the command that would do."""
    error = sandboxed(home, "lookup", XYZ, code=REFUSED)["error"]
    assert error["code"] == "token.rights"
    assert "does not allow kv.get" in error["message"]
    assert error["remedy"].startswith("loket run-sandbox --tool-name inventory.lookup --context read:inventory_data ")
    shown = loket(home, "runs", "show", error["run"], "--json")
    assert [row.get("error") for row in shown["rows"] if row["kind"] == "call"] == ["token.rights"]


def test_a_context_to_read_does_not_let_a_tool_write(home: Path) -> None:
    """The same tool with the context to modify does, and only what that names is changed."""
    count = '{"sku": "ABC-100", "location": "WH-A", "quantity": 1400, "on": "2026-06-30"}'
    error = sandboxed(home, "count", count, *READ, code=REFUSED)["error"]
    assert (error["code"], "kv.set" in error["message"]) == ("token.rights", True)
    assert "modify:inventory_data" in error["remedy"]
    at_a = '{"sku": "ABC-100", "location": "WH-A"}'
    assert sandboxed(home, "lookup", at_a, *READ)["answer"]["quantity"] == 1450
    assert sandboxed(home, "count", count, "--context", "modify:inventory_data")["answer"] == {"counts": 2}
    assert sandboxed(home, "lookup", at_a, *READ)["answer"]["quantity"] == 1400
    before = json.dumps({**json.loads(at_a), "on": "2026-06-29"})
    assert sandboxed(home, "lookup", before, *READ)["answer"]["counted"] == "2026-01-05"


WRONG = (
    ('{"sku": "xyz-900", "location": "WH-A"}', 'sku is the string "xyz-900"; expected a string that matches'),
    ('{"sku": "XYZ-900", "location": "WH-C"}', 'location is the string "WH-C"; expected one of WH-A, WH-B, SHOP'),
    (
        '{"sku": "XYZ-900", "location": "WH-A", "on": "21-11-2026"}',
        'on is the string "21-11-2026"; expected a date in ISO 8601 such as 2026-11-21',
    ),
    ('{"sku": "XYZ-900", "location": "WH-A", "on": "2026-02-30"}', "expected a date in ISO 8601"),
    ('{"sku": "XYZ-900", "loc": "WH-A"}', 'loc is no field that is known; did you mean "location"?'),
    ('{"sku": "XYZ-900"}', "location is missing; expected one of WH-A, WH-B, SHOP"),
    ("[]", "the value is an array with 0 items; expected an object"),
    ("{", "are no JSON"),
    ("[" * 100_000, "are no JSON"),
)

NOT_THERE = (
    ("inventory", [], "tool.name", "inventory.lookup"),
    ("inventory.", [], "tool.name", "inventory.lookup"),
    ("inventry.lookup", [], "agent.unknown", "loket agents"),
    ("inventory.lokup", [], "operation.unknown", 'did you mean "lookup"?'),
    ("inventory.lookup", ["read:inventory"], "context.unknown", "read:inventory_data"),
    ("inventory.lookup", ["kv.get"], "context.unknown", "read:inventory_data"),
)


def test_what_does_not_fit_is_refused_before_anything_runs(home: Path) -> None:
    """Arguments with the place, the type and what was expected; names with the nearest one. No run is made."""

    async def main() -> None:
        async with running(Home(home)) as system:
            before = system.database.runs("inventory", 100, None)
            for params, says in WRONG:
                error = await refused(run_sandbox(system, "inventory.lookup", [READ[1]], params))
                assert (error.code, says in error.message) == ("arguments.invalid", True), error.message
                assert len(error.message) < 400
            for tool, contexts, code, says in NOT_THERE:
                error = await refused(run_sandbox(system, tool, contexts, XYZ))
                assert (error.code, says in (error.remedy or "")) == (code, True), error.remedy
            assert system.database.runs("inventory", 100, None) == before

    asyncio.run(main())
    assert sandboxed(home, "lookup", "{}", *READ, code=USAGE)["error"]["code"] == "arguments.invalid"


async def refused(running_it: Awaitable[Any]) -> BadInput:
    """What a run of a tool is refused with."""
    with pytest.raises(BadInput) as caught:
        await running_it
    return caught.value


def test_the_module_s_own_refusal_is_shown(home: Path) -> None:
    """What no location keeps is no fault of the caller's rights."""
    error = sandboxed(home, "lookup", '{"sku": "ZZZ-999", "location": "WH-A"}', *READ, code=REFUSED)["error"]
    assert (error["code"], error["run"] is not None) == ("inventory.unknown", True)


def test_it_works_the_same_through_a_running_server(home: Path) -> None:
    """`loket up` holds the home, and the command goes through it."""
    with serving(home):
        assert sandboxed(home, "lookup", XYZ, *READ)["answer"]["quantity"] == 120
        assert sandboxed(home, "lookup", XYZ, code=REFUSED)["error"]["code"] == "token.rights"
        words = ("run-sandbox", "--tool-name", "inventory.lookup", *READ, "--input-params", "-")
        text = loket(home, *words, stdin=XYZ)
    assert "quantity  120" in text
    assert "loket runs show" in text
    assert environment(home)["LOKET_HOME"] == str(home)


def test_a_context_gives_no_module_what_it_was_not_granted(tmp_path: Path, package: Path) -> None:
    """Grant and token have to agree, and the refusal names the grant, which does not."""
    home = prepare(tmp_path / "home")
    loket(home, "install", str(package), "--no-grants")
    error = sandboxed(home, "lookup", XYZ, *READ, code=REFUSED)["error"]
    assert error["code"] == "grant.missing"
    assert error["remedy"] == "loket grants allow inventory kv.get"


@pytest.fixture(scope="module")
def nosy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module that goes on when it is refused something."""
    folder = tmp_path_factory.mktemp("nosy")
    shutil.copyfile(GUESTS / "nosy" / "loket.toml", folder / "loket.toml")
    shutil.copyfile(built_guest("nosy"), folder / "module.wasm")
    return folder


def test_every_call_outside_the_contexts_is_refused_and_shown(tmp_path: Path, nosy: Path) -> None:
    """Also where the module catches the refusal and answers; all is granted, and the owner widens grants meanwhile."""
    names = [
        ("kv.get", {"key": "a/1"}),
        ("kv.list", {}),
        ("clock.now", {}),
        ("net.fetch", {"url": "https://example.org"}),
        ("no.such", {}),
    ]

    async def main() -> None:
        async with running(Home(prepare(tmp_path / "home"))) as system:
            await system.installed.install(nosy, "local", ["kv.get", "kv.list", "clock.now"], "owner")
            params = json.dumps({"key": "", "names": names})
            said = await run_sandbox(system, "nosy.peek", ["read:a"], params)
            assert said["answer"]["kv.get"] == {"found": False, "value": None}
            codes = {one["capability"]: one["code"] for one in said["refused"]}
            assert codes == {
                "kv.list": "token.rights",
                "clock.now": "token.rights",
                "net.fetch": "grant.missing",
                "no.such": "capability.unknown",
            }
            remedies = {one["capability"]: one["remedy"] for one in said["refused"]}
            assert "--context read:a --context read:b" in remedies["clock.now"]
            assert remedies["kv.list"] == "no other context of nosy allows it"
            beyond = json.dumps({"key": "", "names": [("kv.get", {"key": "c/1"})]})
            both = await run_sandbox(system, "nosy.peek", ["read:a", "read:b"], beyond)
            assert both["rights"]["kv.get"] == {"prefixes": ["a/", "b/"]}
            assert both["answer"] == {"kv.get": "token.rights"}
            with pytest.raises(Failed) as caught:
                await run_sandbox(system, "nosy.peek", [], '{"key": "wrong", "names": []}')
            assert caught.value.code == "answer.invalid"
            assert "key is the integer 1; expected a string" in caught.value.message
            assert caught.value.run is not None
            with pytest.raises(Refusal):
                await run_sandbox(system, "nosy.peek", [], "{}")

    asyncio.run(main())


def context(name: str, **constraints: list[str]) -> Context:
    return Context(name, Effect.READ, "of a test", {"net.fetch": constraints})


def test_contexts_that_cannot_be_joined_exactly_are_refused() -> None:
    """A list of hosts and a list of methods, each from another context, would allow what neither does."""
    assert union([context("a", hosts=["x"]), context("b", hosts=["y"])]) == {"net.fetch": {"hosts": ["x", "y"]}}
    assert union([context("a", hosts=["x"]), context("b")]) == {"net.fetch": {}}
    with pytest.raises(BadInput) as caught:
        union([context("a", hosts=["x"], methods=["GET"]), context("b", hosts=["y"], methods=["POST"])])
    assert caught.value.code == "context.conflict"


_CONSTRAINTS = st.dictionaries(
    st.sampled_from(["hosts", "methods", "paths"]), st.lists(st.sampled_from("xyz"), min_size=1, max_size=3), max_size=3
)
_CALL = st.fixed_dictionaries({name: st.sampled_from("xyz") for name in ("hosts", "methods", "paths")})


def allows(constraints: dict[str, list[str]], call: dict[str, str]) -> bool:
    return all(call[name] in texts for name, texts in constraints.items())


@given(st.lists(_CONSTRAINTS, min_size=1, max_size=3), _CALL)
def test_a_union_allows_what_one_of_its_contexts_does_and_nothing_else(
    many: list[dict[str, list[str]]], call: dict[str, str]
) -> None:
    """Or there is none."""
    try:
        joined = union([context(f"c{number}", **one) for number, one in enumerate(many)])["net.fetch"]
    except BadInput:
        return
    assert allows(joined, call) is any(allows(one, call) for one in many)


def test_the_example_s_manifest_says_what_its_contexts_allow() -> None:
    """Reading allows no call that changes anything."""
    contexts = {one.id: one.allows for one in load_manifest(EXAMPLE).contexts}
    assert contexts == {
        "read:inventory_data": {"kv.get": {"prefixes": ["stock/"]}},
        "modify:inventory_data": {"kv.get": {"prefixes": ["stock/"]}, "kv.set": {"prefixes": ["stock/"]}},
    }
