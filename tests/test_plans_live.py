"""Plans in the whole system: by command, by the stock agent, and under `kill -9`."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import share_compiled, unfenced
from live import environment, loket, prepare
from loket.app import Loket, running
from loket.bench import Place
from loket.bench.plans import campaign
from loket.home import Home
from loket.testing.models import InstantModel

PLAN = {
    "title": "Remember and look",
    "steps": [
        {"id": "keep", "call": "brain.add", "args": {"items": [{"text": "Ana lives in Utrecht", "kind": "fact"}]}},
        {"id": "find", "call": "brain.search", "args": {"query": "Utrecht", "limit": 1}, "after": ["keep"]},
    ],
    "answer": {"text": {"$step": "find.memories[0].text"}},
}


GONE = {"id": "a", "call": "fs.read", "args": {"path": "a.md"}}
"""A sound step, for which the stock agent has no grant."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("plans") / "home")


def test_a_plan_is_checked_run_saved_edited_and_removed_by_command(home: Path, tmp_path: Path) -> None:
    """Each command in words and as JSON; a plan's run verifies."""
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(PLAN))
    report = loket(home, "plans", "check", "main", str(file), "--json")
    assert (report["ok"], report["approvals"], report["calls"]) == (True, [], 2)
    done = loket(home, "plans", "run", "main", str(file), "--yes", "--json")
    assert (done["status"], done["answer"]) == ("done", {"text": "Ana lives in Utrecht"})
    assert loket(home, "runs", "verify", done["run"], "--json")["ok"] is True
    assert loket(home, "plans", "save", "main", "where", str(file), "--json") == {"name": "where"}
    assert "Remember and look" in loket(home, "plans", "list", "main")
    shown = loket(home, "plans", "show", "main", "where", "--json")
    assert (shown["plan"], shown["by"]) == (PLAN, "owner")
    changed = {**shown, "plan": {**PLAN, "title": "Changed"}}
    loket(home, "plans", "save", "main", "where", "-", stdin=json.dumps(changed))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed -i.old s/Changed/Edited/ "$1"\n')
    editor.chmod(0o700)
    os.environ["EDITOR"] = str(editor)
    try:
        assert "Saved" in loket(home, "plans", "edit", "main", "where")
    finally:
        del os.environ["EDITOR"]
    assert "Edited" in loket(home, "plans", "show", "main", "where")
    assert "done" in loket(home, "plans", "run", "main", "where", "--yes")
    assert loket(home, "plans", "remove", "main", "where", "--json") == {"existed": True}


@pytest.mark.parametrize(
    ("text", "words", "code", "says"),
    [
        ("{", ("check",), 2, "holds no plan"),
        ("[]", ("check",), 2, "a JSON object is needed"),
        (json.dumps({**PLAN, "loop": 1}), ("check",), 2, "there is no such key"),
        (
            json.dumps({"title": "a", "steps": [{"id": "a", "call": "brain.serch"}]}),
            ("check",),
            2,
            "did you mean brain.search",
        ),
        (
            json.dumps({"title": "a", "steps": [{"id": "a", "call": "brain.serch"}]}),
            ("run",),
            2,
            "did you mean brain.search",
        ),
        (json.dumps({"title": "a", "steps": [GONE]}), ("check",), 3, "no grant"),
        (json.dumps({**PLAN, "loop": 1}), ("run", "--yes"), 3, "loop"),
        (json.dumps(PLAN), ("run",), 2, "add --yes"),
    ],
)
def test_a_wrong_plan_is_named_and_ends_with_its_code(
    home: Path, tmp_path: Path, text: str, words: tuple[str, ...], code: int, says: str
) -> None:
    """Wrong usage is 2, as is a plan that is none, a refusal 3; nothing runs."""
    file = tmp_path / "plan.json"
    file.write_text(text)
    assert says in loket(home, "plans", words[0], "main", str(file), *words[1:], code=code)
    assert environment(home)["LOKET_HOME"] == str(home)


def test_an_unknown_saved_plan_is_a_refusal(home: Path) -> None:
    """With the command that lists those there are."""
    said = loket(home, "plans", "run", "main", "nothing", "--yes", code=3)
    assert "main has no plan 'nothing'" in said
    assert "loket plans list main" in said


def on_system(root: Path, model: InstantModel, story: Any) -> Any:
    home = Home(prepare(root / "home"))

    async def main() -> Any:
        async with running(home, llm=model) as system:
            return await story(system)

    return asyncio.run(main())


def test_the_stock_agent_does_a_request_of_several_steps_as_a_plan(tmp_path: Path) -> None:
    """Its model asks for the tool `plan`; the request is planned and done, and the runs verify."""
    asked = "Remember that Ana lives in Utrecht, and tell me where she lives"

    def answer(messages: Any) -> Any:
        if messages[0]["content"].startswith("You turn a request into a plan"):
            assert messages[1]["content"] == asked
            return json.dumps(PLAN)
        if messages[-1]["role"] == "tool":
            return f"It says: {json.loads(unfenced(messages[-1]['content']))['answer']['text']}"
        return {"tool_calls": [{"id": "1", "name": "plan", "arguments": {}}]}

    async def story(system: Loket) -> None:
        run = await system.send("main", asked)
        ending = await system.finished(run)
        assert ending.answer is not None, ending.error
        assert ending.answer["text"] == "It says: Ana lives in Utrecht"
        runs = system.database.ended_runs()
        operations = {name: system.database.run(name)["operation"] for name in runs}
        assert {"message", "plan:make", "plan:run"} <= set(operations.values())
        verdicts, faults = await asyncio.to_thread(system.replayer.verify, runs)
        assert ([verdict.reason for verdict in verdicts if not verdict.ok], faults) == ([], [])

    on_system(tmp_path, InstantModel(answer), story)


def test_plans_killed_in_mid_run_lose_no_effect_and_do_none_twice(tmp_path: Path) -> None:
    """A small run of `loket bench plans`: real processes, `kill -9`, and then every promise is counted."""
    share_compiled(tmp_path)
    outcome = campaign(Place(tmp_path), 20, 11, lambda _line: None)
    assert (outcome.lost, outcome.doubled) == ([], [])
    assert outcome.interrupted >= 20
    assert outcome.plans >= outcome.interrupted
