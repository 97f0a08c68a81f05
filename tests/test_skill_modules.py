"""The skills that come with Loket as modules, and what is served of modules over HTTP: sealed, on real processes."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_spec_validator import OpenAPIV31SpecValidator

import puppets
from guests_fixture import COMPILED, ROOT, Scripted, built, digest_of
from live import Server, loket, prepare, serving
from loket.app import Loket
from loket.contracts import Guest, Limits
from loket.gateway.module_openapi import document, moved
from loket.packages.manifest import load_manifest
from loket.sandbox import WasmSandbox
from loket.schemas import compile_check
from test_slash import STRANGER, on_system, say

NAMES = ("inventory", "customers")
FIRST, LAST = date(2026, 1, 5), date(2026, 12, 31)
DAYS = st.dates(FIRST, LAST)
JSON = {"Content_Type": "application/json"}
SKUS = st.sampled_from(["XYZ-900", "XYZ-910", "ABC-100", "KLM-205"])


def source(name: str) -> Path:
    return ROOT / "guests" / "skills" / name


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of both with their built modules."""
    made = tmp_path_factory.mktemp("packages")
    for name in NAMES:
        shutil.copytree(source(name), made / name, ignore=shutil.ignore_patterns("*.wasm"))
        shutil.copyfile(built(source(name)), made / name / "module.wasm")
    return made


@pytest.fixture(scope="module")
def guests(packages: Path) -> Iterator[dict[str, Guest]]:
    sandbox = WasmSandbox(COMPILED)
    wasm = {name: packages / name / "module.wasm" for name in NAMES}
    yield {name: sandbox.load(wasm[name], digest_of(wasm[name])) for name in NAMES}
    sandbox.close()


def asked(guest: Guest, operation: str, **args: Any) -> dict[str, Any]:
    """The answer of an operation, or its refusal; no call of the counter is answered."""
    segment = guest.run(Scripted(), operation, json.dumps(args), Limits())
    if segment.refusal is not None:
        return {"refused": segment.refusal.code, "remedy": segment.refusal.remedy}
    assert segment.answer is not None, segment.ended
    found: dict[str, Any] = json.loads(segment.answer)
    manifest = load_manifest(source("customers" if operation == "find" or "id" in args else "inventory"))
    schema = next(one.answer for one in manifest.operations if one.name == operation)
    assert compile_check(schema)(found) is None
    return found


def test_the_stock_of_a_day_is_that_of_the_last_count(guests: dict[str, Guest]) -> None:
    """Before the first count there is none; an unknown article or place is refused with those that are known."""
    stock = guests["inventory"]
    at = {"sku": "XYZ-900", "location": "WH-A"}
    assert asked(stock, "lookup", **at) == {**at, "quantity": 88, "counted": "2026-06-29"}
    assert asked(stock, "lookup", **at, on="2026-03-29")["quantity"] == 96
    assert asked(stock, "lookup", **at, on="2026-03-30")["quantity"] == 141
    assert asked(stock, "lookup", **at, on="2026-01-04") == {
        "refused": "inventory.uncounted",
        "remedy": "ask from 2026-01-05 on",
    }
    assert asked(stock, "lookup", sku="XYZ-910", location="SHOP")["remedy"] == "it is at WH-A"
    assert asked(stock, "lookup", sku="AAA-000", location="SHOP")["refused"] == "inventory.unknown"


def test_the_delta_of_a_range_is_the_difference_of_its_ends(guests: dict[str, Guest]) -> None:
    """In all and by location; a range that ends before it begins is refused."""
    stock = guests["inventory"]
    found = asked(stock, "calculate_inventory_delta", sku="XYZ-900", start="2026-01-05", end="2026-03-31")
    assert (found["before"], found["after"], found["delta"]) == (160, 186, 26)
    assert found["locations"] == {"SHOP": 5, "WH-A": 21, "WH-B": 0}
    one = asked(
        stock, "calculate_inventory_delta", sku="XYZ-900", start="2026-03-31", end="2026-06-30", location="WH-A"
    )
    assert (one["delta"], one["locations"]) == (-53, {"WH-A": -53})
    wrong = asked(stock, "calculate_inventory_delta", sku="XYZ-900", start="2026-03-02", end="2026-03-01")
    assert wrong["refused"] == "inventory.range"


@settings(max_examples=30, deadline=None)
@given(SKUS, st.lists(DAYS, min_size=3, max_size=3))
def test_deltas_of_ranges_that_follow_each_other_add_up(guests: dict[str, Guest], sku: str, days: list[date]) -> None:
    """Whatever the days: the whole is the sum of its parts, and the locations' are the whole."""
    first, middle, last = (day.isoformat() for day in sorted(days))

    def delta(start: str, end: str) -> dict[str, Any]:
        return asked(guests["inventory"], "calculate_inventory_delta", sku=sku, start=start, end=end)

    whole = delta(first, last)
    assert whole["delta"] == delta(first, middle)["delta"] + delta(middle, last)["delta"]
    assert whole["delta"] == sum(whole["locations"].values()) == whole["after"] - whole["before"]


def test_customers_are_found_by_number_and_by_address(guests: dict[str, Guest]) -> None:
    """Addresses in whatever case; nobody is an answer to a search, and a refusal of a number."""
    customers = guests["customers"]
    ana = asked(customers, "lookup", id="C-1001")
    assert (ana["name"], ana["since"]) == ("Ana Ruiz", "2023-04-17")
    assert asked(customers, "find", email="ANA.Ruiz@example.com") == {"found": True, "customer": ana}
    assert asked(customers, "find", email="eve@example.org") == {"found": False, "customer": None}
    assert asked(customers, "lookup", id="C-9999")["refused"] == "customers.unknown"


def test_agents_call_them_by_grant_and_people_by_command(packages: Path, tmp_path: Path) -> None:
    """What a customer's record says is private; a command of a module's is the owner's, or needs the agent's grant."""

    async def story(system: Loket) -> None:
        for name in NAMES:
            await system.installed.install(packages / name, "local", [], "owner")
        await puppets.install(system, tmp_path / "made", "pup", {})
        for name in ("inventory.lookup", "customers.find"):
            await asyncio.to_thread(system.installed.allow, "pup", name, {})
        calls = (("inventory.lookup", {"sku": "XYZ-900", "location": "SHOP"}), ("customers.find", {"email": "x@y.org"}))
        ending = await system.finished(await system.send("pup", puppets.steps(*calls)))
        assert ending.answer is not None, ending.error
        assert '"quantity": 3' in ending.answer["text"]
        assert {"private", "module:customers", "module:inventory"} <= set(ending.labels)
        assert dict(system.skills.known("pup")).keys() == {"inventory", "customers"}
        assert await say(system, "/stock xyz-910") == "XYZ-910: 60 at WH-A."
        assert "has no grant for inventory.stock" in await say(system, "/stock XYZ-910", STRANGER)
        assert "/stock TEXT: " in await say(system, "/help")
        assert system.replayer.replay(system.database.runs("inventory", 1)[0]["id"]).ok
        await system.installed.remove("inventory")
        assert not system.registry.get("inventory.lookup")
        assert "There is no command /stock" in await say(system, "/stock x")

    on_system(tmp_path, story)


def test_each_module_is_described_by_its_own_schemas() -> None:
    """The description is valid OpenAPI 3.1, and references within a schema point into it."""
    for name in NAMES:
        manifest = load_manifest(source(name))
        operations = [
            {
                "name": one.name,
                "summary": one.summary,
                "effect": one.effect.value,
                "arguments": one.arguments,
                "answer": one.answer,
            }
            for one in manifest.operations
        ]
        made = document(
            {"id": name, "version": manifest.version, "summary": manifest.summary, "operations": operations}
        )
        OpenAPIV31SpecValidator(made).validate()
        assert list(made["paths"]) == [f"/modules/{name}/{one.name}" for one in manifest.operations]
    tree = {"$defs": {"t": {"items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t", "enum": [{"$ref": 1}]}
    assert moved(tree, "#/a")["$ref"] == "#/a/$defs/t"
    assert moved(tree, "#/a")["$defs"]["t"]["items"]["$ref"] == "#/a/$defs/t"


@pytest.fixture(scope="module")
def server(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    home = prepare(tmp_path_factory.mktemp("http") / "home")
    with serving(home) as running:
        for name in NAMES:
            loket(home, "install", str(packages / name), "--yes")
        yield running


def test_modules_are_described_and_called_over_http(server: Server) -> None:
    """By the schemas that are checked; what is not there is 404, what does not fit 400."""
    status, body = server.request("/modules/inventory/openapi.json")
    assert status == 200
    OpenAPIV31SpecValidator(json.loads(body)).validate()
    status, body = server.request("/modules/inventory/lookup", {"sku": "XYZ-910", "location": "WH-A"}, **JSON)
    assert (status, json.loads(body)["quantity"]) == (200, 60)
    status, body = server.request("/modules/inventory/lookup", {"sku": "XYZ-910", "location": "WH-C"}, **JSON)
    assert (status, json.loads(body)["error"]["code"]) == (400, "arguments.invalid")
    for path in ("/modules/nothing/lookup", "/modules/inventory/nothing", "/modules/main/message"):
        assert server.request(path, {}, **JSON)[0] == 404
    assert server.request("/modules/main/openapi.json")[0] == 404
    run = loket(server.home, "runs", "list", "--json")["runs"][0]
    assert (run["agent"], run["operation"], run["status"]) == ("inventory", "lookup", "done")


def test_a_programs_token_looks_and_does_not_decide(server: Server) -> None:
    """It may call what reads and send commands, but /approve and what changes something are refused."""
    token = loket(server.home, "token", "create", "probe", "--json")["secret"]
    as_program = {**JSON, "Authorization": f"Bearer {token}"}
    lookup = {"sku": "XYZ-910", "location": "WH-A"}
    assert server.request("/modules/inventory/lookup", lookup, **as_program)[0] == 200
    assert server.request("/v1/skills", **as_program)[0] == 200
    assert server.request("/v1/skills", {"folder": "/skills"}, **as_program)[0] == 403
    status, body = server.request("/v1/agents/main/messages", {"text": " /approve 1hx7"}, **as_program)
    assert (status, json.loads(body)["error"]["code"]) == (403, "slash.owner")
    assert server.request("/v1/agents/main/messages", {"text": "/status"}, **as_program)[0] == 202


def test_skills_and_commands_at_the_command_line(server: Server, tmp_path: Path) -> None:
    """Added, listed, shown, changed, approved and removed; commands answer through `loket ask`."""
    made = tmp_path / "expenses"
    made.mkdir()
    (made / "SKILL.md").write_text("---\nname: expenses\ndescription: How expenses are claimed.\n---\nAsk Ana.\n")
    home = server.home
    assert "is a skill" in loket(home, "skills", "validate", str(made))
    assert "Added expenses for all agents" in loket(home, "skills", "add", str(made))
    assert "Ask Ana." in loket(home, "skills", "show", "expenses")
    (home / "skills" / "shared" / "expenses" / "SKILL.md").write_text(
        "---\nname: expenses\ndescription: How expenses are claimed.\n---\nAsk Eve.\n"
    )
    states = {one["name"]: one["state"] for one in loket(home, "skills", "list", "--json")["skills"]}
    assert states == {"expenses": "changed", "inventory": "approved", "customers": "approved"}
    loket(home, "skills", "approve", "expenses")
    status, body = server.request("/v1/skills/expenses")
    assert (status, json.loads(body)["state"]) == (200, "approved")
    assert "/stock" in loket(home, "commands")
    assert "- expenses: How expenses" in loket(home, "ask", "main", "/skills")
    assert json.loads(server.request("/v1/commands")[1])["commands"][0]["name"] == "help"
    loket(home, "skills", "remove", "expenses")


def test_days_are_iso_8601() -> None:
    """The schema takes a real day of the calendar, and no other way of writing one."""
    lookup = load_manifest(source("inventory")).operations[0]
    check = compile_check(lookup.arguments)
    base = {"sku": "XYZ-900", "location": "WH-A"}
    assert check({**base, "on": (FIRST + timedelta(days=54)).isoformat()}) is None
    for wrong in ("2026-02-30", "30-03-2026", "2026-3-1", "20260301", "2026-03-01T00:00:00Z", ""):
        assert check({**base, "on": wrong}) is not None
