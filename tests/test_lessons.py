"""Errors become lessons: drawn from runs, recalled before the same is tried again, consolidated, proposed as rules."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from guests_fixture import GUESTS, NOW, built_guest, unfenced
from live import loket, prepare, serving
from loket.app import Loket, running
from loket.contracts import BadInput, Capability, Ending, Grant, Principal, Recorded, RowKind, RunRequest, RunStatus
from loket.contracts.catalogue import BY_ID
from loket.erasure import Eraser
from loket.home import Home
from loket.ids import new_id
from loket.installed import LOCAL_PUBLISHER
from loket.lesson_words import Told, allows, clean, key_of, lessons_of, what_of
from loket.lessons import HOST
from loket.operations import Operations
from loket.store.proposals import Proposals
from loket.testing.model_server import ModelServer, Reply, Request
from loket.testing.models import InstantModel

SECRET = "correct-horse-battery"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(prepare(tmp_path / "home"))


@contextlib.asynccontextmanager
async def learning(home: Home, **parts: Any) -> AsyncIterator[Loket]:
    """A system in which the agent `learner` is installed with all that it asks for."""
    async with running(home, llm=InstantModel(lambda _messages: "Yes."), **parts) as system:
        if "learner" not in {ref.id for ref, _ in system.installed.all()}:
            await system.installed.install(_folder(home), LOCAL_PUBLISHER, ["kv.get", "brain.search"], "a test")
        yield system


def _folder(home: Home) -> Path:
    folder = home.root / "sources"
    folder.mkdir()
    (folder / "loket.toml").write_bytes((GUESTS / "learner" / "loket.toml").read_bytes())
    (folder / "module.wasm").write_bytes(built_guest("learner").read_bytes())
    return folder


async def tell(system: Loket, text: str, agent: str = "learner") -> Ending:
    """Send a message, and have everything learned that can be."""
    ending = await system.finished(await system.send(agent, text))
    await system.lessons.settled()
    return ending


async def operate(system: Loket, operation: str, **args: Any) -> tuple[str, Ending]:
    """Have the learner do one of its operations; the run and its end."""
    ref, _package = system.installed.module("learner")
    run = new_id(system.now())
    agent = Principal("agent", "learner")
    request = RunRequest(run, run, "learner", agent, ref, run, operation, args, ("owner", "web:x.example"), 0.0)
    return run, await system.perform(request)


async def lessons(system: Loket, agent: str = "learner", **more: Any) -> list[dict[str, Any]]:
    args = {"query": "", "kinds": ["lesson"], "limit": 200, **more}
    ending = await system.direct(agent, "brain.search", args)
    assert ending.answer is not None
    return list(ending.answer["memories"])


def calls_of(system: Loket, run: str) -> list[str]:
    return [row.meta["capability"] for row in system.journal.rows(run) if row.kind in (RowKind.CALL, RowKind.OUTCOME)]


# An agent that learns


async def _fails_once(home: Home) -> None:
    async with learning(home) as system:
        first = await tell(system, "closed/plan")
        second = await tell(system, "closed/other")
        third = await tell(system, "open/plan")
        assert (first.answer or {})["tried"] is True
        assert (second.answer or {})["tried"] is False
        assert (third.answer or {}) == {"text": "None", "tried": True}
        runs = {run["accepted"]: run["id"] for run in system.database.runs("learner", 20) if run["module"]}
        made = [calls_of(system, runs[at]) for at in sorted(runs)]
        assert made == [["brain.search", "kv.get"], ["brain.search"], ["brain.search", "kv.get"]]
        assert "kv.get for closed/ was refused (grant.constraint)." in (second.answer or {})["text"]
        verified = await asyncio.to_thread(system.replayer.verify, system.database.ended_runs())
        assert [verdict for verdict in verified[0] if not verdict.ok] == []
        assert verified[1] == []


def test_an_agent_that_failed_once_does_not_fail_the_second_time(home: Home) -> None:
    """It recalls the lesson and does not ask again; another thing it tries; all runs verify, the lesson's too."""
    asyncio.run(_fails_once(home))


async def _one_lesson(home: Home) -> None:
    async with learning(home) as system:
        for number in range(3):
            await operate(system, "crash", text=f"closed/{number}")
        await operate(system, "crash", text="secret/x")
        await system.lessons.settled()
        found = await lessons(system)
        assert [memory["text"].splitlines()[0] for memory in found] == [
            "kv.get for secret/ was refused (grant.constraint).",
            "kv.get for closed/ was refused (grant.constraint).",
        ]
        lesson = found[1]
        assert lesson["key"] == key_of("grant.constraint", "closed/")
        assert lesson["subject"] == "kv.get"
        assert lesson["source"] == str(HOST)
        assert "Because: key is 'closed/2', and the grant of learner for kv.get allows only open/" in lesson["text"]
        assert "loket grants allow learner kv.get --add prefixes=closed/2" in lesson["text"]
        assert "Seen 3 times, last on 20" in lesson["text"]
        assert "web:x.example" in lesson["labels"]
        history = await system.direct("learner", "brain.history", {"id": lesson["id"]})
        texts = [memory["text"] for memory in (history.answer or {})["memories"]]
        assert ["Seen once" in text for text in texts] == [True, False, False]
        assert len(texts) == 3


def test_the_same_error_is_one_lesson_that_counts(home: Home) -> None:
    """Cause, remedy and count are in it, with the run's labels; earlier rows stay in its history."""
    asyncio.run(_one_lesson(home))


async def _no_loops(home: Home) -> None:
    async with learning(home) as system:
        refused = await system.direct("learner", "brain.forget", {"id": 99})
        assert refused.status is RunStatus.REFUSED
        await operate(system, "crash", text="closed/x")
        await system.lessons.settled()
        assert len(await lessons(system)) == 1
        ours = [run for run in system.database.runs("learner", 50) if run["principal"] == str(HOST)]
        assert sorted(run["operation"] for run in ours) == ["brain.add", "brain.search"]
        start = next(iter(system.journal.rows(ours[0]["id"])))
        assert start.meta["principal"] == "host:lessons"
        rules = {row.meta["rules"][0] for run in ours for row in system.journal.rows(run["id"]) if "rules" in row.meta}
        assert rules == {"default.host"}


def test_calls_of_the_owner_teach_nothing_and_lessons_teach_nothing(home: Home) -> None:
    """A refused `direct` call leaves no lesson; a lesson is two runs of Loket's own, with a rule of their own."""
    asyncio.run(_no_loops(home))


async def _ended(home: Home) -> None:
    async with learning(home) as system:
        _run, ending = await operate(system, "flood", n=400)
        assert ending.status is RunStatus.LIMIT
        await system.lessons.settled()
        found = await lessons(system)
        ends = [memory for memory in found if memory["subject"] == "flood"]
        assert ends[0]["text"].startswith("flood ended with an error (limit.calls).\nBecause: the run made 200 calls")
        assert len(found) == 16
        _run, crashed = await operate(system, "crash", text="closed/x")
        assert crashed.status is RunStatus.REFUSED
        await system.lessons.settled()
        assert len(await lessons(system)) == 17
        assert "raise calls under [limits]" in ends[0]["text"]


def test_a_run_that_ends_with_an_error_teaches_too(home: Home) -> None:
    """A limit is a lesson about the operation; a refusal that ends the run is only the call's; a flood is bounded."""
    asyncio.run(_ended(home))


# Crashes


async def _crashed(home: Home) -> None:
    async with learning(home) as system:
        system.lessons._wake = lambda: None  # type: ignore[method-assign] - the process dies before anything is drawn
        await operate(system, "crash", text="closed/x")
        await operate(system, "crash", text="open/x")
        assert await lessons(system) == []
    for _ in range(2):
        async with learning(home) as system:
            await system.lessons.settled()
            assert ["Seen once" in memory["text"] for memory in await lessons(system)] == [True]
            assert system.database.unlearned(0.0) == []


def test_a_lesson_that_a_crash_prevented_is_drawn_at_the_next_start_once(home: Home) -> None:
    """The journal says which failed runs have taught nothing."""
    asyncio.run(_crashed(home))


def test_a_server_that_is_killed_has_its_lessons_after_the_next_start(tmp_path: Path) -> None:
    """`kill -9` right after the answer: the lesson is there when the server is up again, and is counted once."""
    home = prepare(tmp_path / "home")
    folder = _folder(Home(home))
    loket(home, "install", str(folder), "--yes")
    with serving(home) as server:
        loket(home, "ask", "learner", "closed/plan")
        server.kill()
    with serving(home):
        listed = loket(home, "lessons", "learner", "--json")["lessons"]
    assert [memory["text"].splitlines()[0] for memory in listed] == [
        "kv.get for closed/ was refused (grant.constraint)."
    ]
    assert "Seen once" in listed[0]["text"]


# What holds no longer


async def _granted(home: Home) -> None:
    async with learning(home) as system:
        operations = Operations(system)
        await tell(system, "closed/plan")
        await tell(system, "other/plan")
        args = {"agent": "learner", "capability": "kv.get", "constraints": {"prefixes": ["closed/"]}, "add": True}
        await operations.perform("grants.allow", args, lambda _event: None)
        await system.lessons.settled()
        assert ["for other/" in memory["text"] for memory in await lessons(system)] == [True]
        assert (await tell(system, "closed/plan")).answer == {"text": "None", "tried": True}


def test_a_grant_supersedes_the_lessons_that_it_settles(home: Home) -> None:
    """After the owner has followed the remedy the agent tries again; other lessons stay."""
    asyncio.run(_granted(home))


def _asks(folder: str) -> Any:
    """A model that publishes in a folder until it has been served, or told something, twice."""

    def reply(messages: Any) -> Any:
        done = sum(message["role"] == "tool" for message in messages)
        call = {"id": str(done), "name": "message_publish", "arguments": {"topic": f"{folder}x", "text": "Hi"}}
        return {"tool_calls": [call]} if done < 2 else "Done."

    return reply


async def _worked(home: Home) -> None:
    async with running(home, llm=InstantModel(_asks("news/"))) as system:
        await asyncio.to_thread(system.installed.allow, "main", "message.publish", {"topics": ["open/"]})
        await tell(system, "One", "main")
        assert ["Seen 2 times" in memory["text"] for memory in await lessons(system, "main")] == [True]
        ref, _package = system.installed.module("main")
        grant = Grant(ref.publisher, "main", "message.publish", {"topics": ["news/"]}, "owner", 0.0)
        system.grants.allow(grant)  # nobody tells the lessons
        run = await system.send("main", "Two", conversation="new")
        await system.finished(run)
        await system.lessons.settled()
        assert calls_of(system, run).count("message.publish") == 1
        assert await lessons(system, "main") == []
        await tell(system, "Three", "main")
        assert len(await lessons(system, "main", history=True)) == 1


def test_what_works_again_is_no_lesson_any_more(home: Home) -> None:
    """An agent that recalled a lesson, tried all the same and was served, is not warned again; its history stays."""
    asyncio.run(_worked(home))


# Words


def _call(capability: str, error: dict[str, Any], **args: Any) -> Recorded:
    return Recorded(1, capability, json.dumps(args), None, error, None, ())


def _error(code: str, message: str, kind: str = "refusal") -> dict[str, Any]:
    return {"kind": kind, "code": code, "message": message, "remedy": "say please", "blame": "owner"}


@pytest.mark.parametrize(
    "text",
    [
        "connect to https://ana:hunter2secret@api.example/v1?key=hunter2secret failed",
        "the header Authorization: Bearer hunter2secret was refused",
        "password=hunter2secret is wrong",
        '{"api_key": "hunter2secret"} is wrong',
        "the key sk-hunter2secretAAAA1111bbbb was refused",
        "got hunter2secret back",
    ],
)
def test_a_lesson_holds_no_secret(text: str) -> None:
    """Values of the vault are left out, and what looks like a key, a password or the rest of an address."""
    secrets = ["hunter2secret"] if text.startswith("got") else []
    call = _call("net.fetch", _error("net.failed", text, "failure"), url="https://x:hunter2secret@api.example/hunter2")
    lesson = lessons_of("message", [call], None, BY_ID.get, secrets)[0]
    assert "hunter2" not in lesson.text(1, NOW)
    assert lesson.text(1, NOW).startswith("net.fetch for api.example failed (net.failed).\nBecause: ")


def test_words_that_are_no_secrets_stay() -> None:
    """Commands, paths, dates and names are what a lesson is made of."""
    said = "see notes/2026-11-21-meeting-with-ana; loket grants allow main net.fetch --add hosts=a1.example, token kept"
    assert clean(said, 400) == said


@pytest.mark.parametrize(
    ("name", "code", "args", "what"),
    [
        ("net.fetch", "grant.constraint", {"url": "https://a.example/x?y=1"}, "a.example"),
        ("net.fetch", "net.failed", {"url": "http://a.example:8080/x"}, "a.example:8080"),
        ("net.fetch", "grant.missing", {"url": "https://a.example/x"}, ""),
        ("kv.get", "grant.constraint", {"key": "closed/a/b"}, "closed/"),
        ("fs.read", "fs.missing", {"path": "notes/a.md"}, "notes/a.md"),
        ("brain.forget", "brain.unknown", {"id": 7}, "7"),
        ("agent.ask", "grant.constraint", {"agent": "weather", "text": "private"}, "weather"),
        ("net.fetch", "net.failed", {"bytes": 5, "sha256": "x"}, ""),
        ("no.such", "capability.unknown", {"x": 1}, ""),
    ],
)
def test_a_lesson_names_what_its_error_depends_on(name: str, code: str, args: dict[str, Any], what: str) -> None:
    """The host of an address, the part of a key that is granted or not, the object; nothing where all is refused."""
    capability: Capability | None = BY_ID.get(name)
    assert what_of(capability, code, args) == what


# The stock agent


def _scripted(asked: list[Request]) -> Any:
    """A model that publishes, and answers at once where it has been told that this does not work."""

    def reply(request: Request) -> Reply:
        asked.append(request)
        messages = request.body["messages"]
        if messages[-1]["role"] == "tool":
            return Reply(f"I could not: {messages[-1]['content'][:40]}")
        if "message.publish for closed/" in messages[0]["content"]:
            return Reply("I know that I may not publish that.")
        return Reply(tool_calls=[("1", "message_publish", '{"topic": "closed/plan", "text": "Hello"}')])

    return reply


def _grant_publishing(home: Path) -> None:
    loket(home, "grants", "allow", "main", "message.publish", "--constraint", 'topics=["open/"]')


def test_the_stock_agents_second_prompt_has_the_lesson_and_it_acts_otherwise(tmp_path: Path) -> None:
    """The first turn is refused; the second turn's prompt says why, and the model does not ask for it again."""
    asked: list[Request] = []
    with ModelServer(_scripted(asked)) as model:
        home = prepare(tmp_path / "home", model.url)
        _grant_publishing(home)
        first = loket(home, "ask", "main", "Publish hello on closed/plan", "--json")
        second = loket(home, "ask", "main", "Publish hello on closed/plan now", "--conversation", "new", "--json")
    assert ("message.publish", "deny") in [(call["capability"], call["decision"]) for call in first["calls"]]
    assert "message.publish" not in [call["capability"] for call in second["calls"]]
    assert second["answer"] == "I know that I may not publish that."
    system = asked[-1].body["messages"][0]["content"]
    assert "What you learned from what went wrong:" in system
    assert "message.publish for closed/ was refused (grant.constraint). Because: topic is 'closed/plan'" in system
    assert [call["capability"] for call in second["calls"]].count("brain.search") == 2


def _stubborn(asked: list[Request]) -> Any:
    """A model that asks for the same once more whatever it is told, in words that recall nothing."""

    def reply(request: Request) -> Reply:
        asked.append(request)
        results = [one for one in request.body["messages"] if one["role"] == "tool"]
        if len(results) < 2:
            return Reply(
                tool_calls=[(str(len(results)), "message_publish", '{"topic": "closed/plan", "text": "Hello"}')]
            )
        return Reply("That is all.")

    return reply


def test_a_tool_that_failed_before_tells_its_lesson_first(tmp_path: Path) -> None:
    """The model gets the lesson instead of another refusal, and may try all the same; what works is no lesson then."""
    asked: list[Request] = []
    with ModelServer(_stubborn(asked)) as model:
        home = prepare(tmp_path / "home", model.url)
        _grant_publishing(home)
        loket(home, "ask", "main", "Hello")
        second = loket(home, "ask", "main", "Good morning", "--conversation", "new", "--json")
        published = [call for call in second["calls"] if call["capability"] == "message.publish"]
        assert len(published) == 1
        told, tried = [json.loads(unfenced(m["content"])) for m in asked[-1].body["messages"] if m["role"] == "tool"]
        assert told["lesson"].startswith("message.publish for closed/ was refused (grant.constraint).\nBecause:")
        assert "ask for the same once more" in told["note"]
        assert tried["refused"] == "grant.constraint"
        assert "Seen 3 times" in loket(home, "lessons", "main", "--json")["lessons"][0]["text"]


# Consolidation and proposals


async def _consolidated(home: Home) -> None:
    async with learning(home) as system:
        for name in ("a/x", "b/x", "c/x"):
            await operate(system, "crash", text=name)
        await system.lessons.settled()
        before = await lessons(system)
        done = await system.lessons.consolidate("learner")
        again = await system.lessons.consolidate("learner")
        assert (len(done["procedures"]), done["proposed"]) == (1, 1)
        assert again == {"procedures": [], "proposed": 0}
        assert await lessons(system) == before
        procedure = (await lessons(system, kinds=["procedure"]))[0]
        ids = ", ".join(str(memory["id"]) for memory in reversed(before))
        assert procedure["text"].endswith(f"Rests on memories {ids}.")
        assert procedure["subject"] == "kv.get"
        assert "web:x.example" in procedure["labels"]
        proposal = system.proposals.listed("learner")[0]
        assert proposal["line"].startswith("Do not use kv.get for a/ or b/ or c/: it is refused (grant.constraint).")
        assert proposal["status"] == "open"
        assert sorted(proposal["memories"]) == sorted(memory["id"] for memory in before)


def test_recurring_lessons_become_one_procedure_that_cites_them(home: Home) -> None:
    """The lessons stay; doing it again changes nothing; a rule is proposed."""
    asyncio.run(_consolidated(home))


async def _idle(home: Home) -> None:
    async with learning(home, idle_s=0.2) as system:
        for _ in range(3):
            await operate(system, "crash", text="closed/x")
        for _ in range(400):
            await asyncio.sleep(0.05)
            if system.proposals.listed("learner"):
                break
        assert "it did not work 3 times" in (await lessons(system, kinds=["procedure"]))[0]["text"]
        assert system.proposals.due() == []


def test_an_idle_agent_is_consolidated(home: Home) -> None:
    """Nobody asks for it: it happens some time after the agent's last run."""
    asyncio.run(_idle(home))


async def _busy(home: Home) -> None:
    async with learning(home) as system:
        for _ in range(3):
            await operate(system, "crash", text="closed/x")
        await system.lessons.settled()
        assert not system.lessons._is_idle("learner", 60.0)
        assert system.lessons._is_idle("learner", 0.0)
        _, package = system.installed.module("learner")
        run = await system.send("learner", "open/x")
        assert not system.lessons._is_idle("learner", 0.0)
        await system.finished(run)
        assert package.rules == ""


def test_an_agent_with_a_run_or_a_recent_one_is_not_idle(home: Home) -> None:
    """Consolidation waits for quiet."""
    asyncio.run(_busy(home))


def _rules_of(model_messages: list[Any]) -> str:
    return str(model_messages[-1][0]["content"])


async def _decided(home: Home) -> None:
    model = InstantModel(lambda _messages: "Yes.")
    async with running(home, llm=model) as system:
        system.proposals.propose("main", "net.fetch grant.constraint", "Do not use x.", [1], ["r"], 1.0)
        await tell(system, "Hello", "main")
        assert "Do not use x." not in _rules_of(model.calls)
        operations = Operations(system)
        shown = await operations.perform("proposals.decide", {"id": 1, "accept": True}, lambda _event: None)
        assert shown["status"] == "accepted"
        await tell(system, "Hello again", "main")
        assert "Never invent a memory, a result or a source.\n- Do not use x." in _rules_of(model.calls)
        assert system.proposals.propose("main", "net.fetch grant.constraint", "Another", [1], ["r"], 1.0) is False
    async with running(home, llm=model) as system:
        assert system.proposals.rules("main", "- Be brief\n") == "- Be brief\n- Do not use x."
        system.lessons.decide(1, accept=False)
        await tell(system, "Once more", "main")
        assert "Do not use x." not in _rules_of(model.calls)
        notes = [row.meta for row in system.journal.rows("") if str(row.meta.get("what")).startswith("proposal.")]
        assert [(note["what"], note["agent"], note["proposal"]) for note in notes] == [
            ("proposal.accept", "main", 1),
            ("proposal.reject", "main", 1),
        ]
        with pytest.raises(BadInput, match="there is no proposal 7"):
            system.lessons.decide(7, accept=True)


def test_an_accepted_proposal_is_a_rule_until_it_is_taken_back(home: Home) -> None:
    """It counts from the next message on and after a restart; each decision is a row of the journal."""
    asyncio.run(_decided(home))


# Erasure


async def _erased(home: Home) -> None:
    async with learning(home) as system:
        runs = [(await operate(system, "crash", text=f"closed-{SECRET}/x"))[0] for _ in range(3)]
        await system.lessons.settled()
        await system.lessons.consolidate("learner")
        system.lessons.decide(1, accept=True)
        assert SECRET in system.proposals.rules("learner", "")
        eraser: Eraser = system.eraser
        eraser.erase(await asyncio.to_thread(eraser.plan, runs), "a test")
        assert await lessons(system, history=True) == []
        assert system.proposals.listed() == []
        assert system.proposals.rules("learner", "- Be brief\n") == "- Be brief\n"
        await tell(system, "open/x")
        assert system.database.unlearned(0.0) == []
        faults = await asyncio.to_thread(system.replayer.verify, system.database.ended_runs())
        assert ([verdict for verdict in faults[0] if not verdict.ok], faults[1]) == ([], [])
    held = [path for path in home.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert [path.name for path in held if SECRET.encode() in path.read_bytes()] == []


def test_erasing_a_run_erases_what_it_taught(home: Home) -> None:
    """Lessons, procedures, proposals and accepted rules go with the runs they were drawn from; the journal verifies."""
    asyncio.run(_erased(home))


async def _erased_soon(system: Loket, run: str) -> None:
    for _ in range(1_000):
        if await asyncio.to_thread(system.database.is_erased, run):
            return
        await asyncio.sleep(0.01)
    pytest.fail("the run was not erased in ten seconds")


async def _raced(home: Home) -> None:
    async with learning(home) as system:
        add, reached, go_on = system.lessons._add, asyncio.Event(), asyncio.Event()

        async def paused(*args: Any, **named: Any) -> list[int]:
            reached.set()
            await go_on.wait()
            return await add(*args, **named)

        system.lessons._add = paused  # type: ignore[method-assign]
        run = await system.send("learner", f"closed-{SECRET}/x")
        await system.finished(run)
        await reached.wait()  # the lesson's words are read, and not written yet
        doomed = await asyncio.to_thread(system.eraser.plan, [run])
        erasing = asyncio.create_task(asyncio.to_thread(system.eraser.erase, doomed, "a test"))
        await _erased_soon(system, run)
        go_on.set()
        await erasing
        await system.lessons.settled()
        assert await lessons(system, history=True) == []
    held = [path for path in home.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert [path.name for path in held if SECRET.encode() in path.read_bytes()] == []


def test_a_lesson_that_was_being_drawn_does_not_outlive_its_run(home: Home) -> None:
    """Its words were read before the key was destroyed, and would have been written after."""
    asyncio.run(_raced(home))


async def _overtaken(home: Home) -> None:
    async with learning(home) as system:
        done, reached, go_on = system.lessons._done, asyncio.Event(), asyncio.Event()

        async def paused(request: RunRequest) -> Ending:
            if request.operation == "brain.add":
                reached.set()
                await go_on.wait()  # past the look at the run, and before it is accepted
            return await done(request)

        system.lessons._done = paused  # type: ignore[method-assign]
        run = await system.send("learner", f"closed-{SECRET}/x")
        await system.finished(run)
        await reached.wait()
        doomed = await asyncio.to_thread(system.eraser.plan, [run])
        erasing = asyncio.create_task(asyncio.to_thread(system.eraser.erase, doomed, "a test"))
        await _erased_soon(system, run)
        go_on.set()
        await erasing
        assert await lessons(system, history=True) == []
    held = [path for path in home.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert [path.name for path in held if SECRET.encode() in path.read_bytes()] == []


def test_a_lesson_that_is_written_behind_the_erasure_is_erased_after_it(home: Home) -> None:
    """The erasure waits for it, finds it as a child of what it erased, and takes it along."""
    asyncio.run(_overtaken(home))


async def _settled_erased(home: Home) -> None:
    async with learning(home) as system:
        run = await system.send("learner", f"closed-{SECRET}/x")
        await system.finished(run)
        await system.lessons.settled()
        (lesson,) = await lessons(system)
        system.lessons.allowed(await _granting(system, lesson["subject"]))
        await system.lessons.settled()
        assert await lessons(system) == []
        doomed = await asyncio.to_thread(system.eraser.plan, [run])
        await asyncio.to_thread(system.eraser.erase, doomed, "a test")
    held = [path for path in home.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert [path.name for path in held if SECRET.encode() in path.read_bytes()] == []


async def _granting(system: Loket, capability: str) -> Grant:
    """A grant that settles every lesson about a capability; nobody has to hold it."""
    ref, _package = system.installed.module("learner")
    return Grant(ref.publisher, "learner", capability, {}, "owner", 0.0)


def test_what_took_a_lessons_place_goes_with_its_run(home: Home) -> None:
    """The memory that a grant made of a lesson names what it was about, so it is a child of who read the lesson."""
    asyncio.run(_settled_erased(home))


async def _ruled(home: Home) -> None:
    async with learning(home) as system:
        runs = [(await operate(system, "crash", text=f"closed-{SECRET}/x"))[0] for _ in range(3)]
        await system.lessons.settled()
        await system.lessons.consolidate("learner")
        before, _ending = await operate(system, "crash", text="other")
        system.lessons.decide(1, accept=True)
        rules = system.proposals.rules("learner", "- Be brief")
        later, _ending = await operate(system, "crash", text="other", rules=rules)
        await system.lessons.settled()
        doomed = await asyncio.to_thread(system.eraser.plan, runs)
        assert later in doomed.carried
        assert before not in doomed.carried
        await asyncio.to_thread(system.eraser.erase, doomed, "a test")
    held = [path for path in home.root.rglob("*") if path.is_file() and "cache" not in path.parts]
    assert [path.name for path in held if SECRET.encode() in path.read_bytes()] == []


def test_a_run_whose_rules_had_an_accepted_line_goes_with_what_it_was_drawn_from(home: Home) -> None:
    """The rules stand in the run's own row; a run of before the decision stays."""
    asyncio.run(_ruled(home))


def test_proposals_are_kept_apart_by_agent(tmp_path: Path) -> None:
    """Marks and proposals survive; purging takes those that rest on a run, and no other."""
    proposals = Proposals(tmp_path / "proposals.db")
    proposals.propose("a", "t", "one", [1], ["r1"], 1.0)
    proposals.propose("b", "t", "two", [1], ["r2"], 1.0)
    proposals.set_due("a", due=True)
    proposals.draw(5.0)
    proposals.close()
    proposals = Proposals(tmp_path / "proposals.db")
    assert (proposals.due(), proposals.drawn()) == (["a"], 5.0)
    proposals.purge(["r1", "r9"])
    assert [one["agent"] for one in proposals.listed()] == ["b"]
    proposals.close()


# The command line


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose learner was refused three times."""
    home = prepare(tmp_path_factory.mktemp("lessons") / "home")
    loket(home, "install", str(_folder(Home(home))), "--yes")
    for folder in ("a", "b", "c"):
        loket(home, "ask", "learner", f"{folder}/plan")
    return home


def test_runs_that_draw_lessons_are_marked_on_the_list(taught: Path) -> None:
    """Whoever looks for what an agent was asked sees which runs are Loket's own."""
    loket(taught, "lessons", "learner")  # waits until they are drawn
    own = {run["id"] for run in loket(taught, "runs", "list", "--json")["runs"] if run["principal"] == "host:lessons"}
    lines = loket(taught, "runs", "list").splitlines()
    assert {line.split()[0] for line in lines if " learner (lesson) " in line} == own
    assert len(own) >= 3


def test_the_owner_sees_lessons_and_decides_on_proposals(taught: Path) -> None:
    """`loket lessons`, `loket proposals`, accept, and take back."""
    assert "kv.get for a/ was refused" in loket(taught, "lessons", "learner")
    assert "1 new or changed procedures, 1 new" in loket(taught, "lessons", "learner", "consolidate")
    listed = loket(taught, "proposals", "learner", "--json")["proposals"]
    assert [one["status"] for one in listed] == ["open"]
    assert "Do not use kv.get" in loket(taught, "proposals", "accept", "1")
    assert loket(taught, "proposals", "--json")["proposals"][0]["status"] == "accepted"
    assert "is rejected" in loket(taught, "proposals", "reject", "1")
    assert loket(taught, "proposals", "main", "--json") == {"proposals": []}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("lessons", "nobody"), "there is no agent 'nobody'"),
        (("lessons", "learner", "dance"), "there is no action 'dance'"),
        (("proposals", "accept"), "accept needs the id"),
        (("proposals", "reject", "x"), "reject needs the id"),
        (("proposals", "accept", "9" * 30), "accept needs the id"),
        (("proposals", "accept", "77"), "there is no proposal 77"),
        (("proposals", "nobody"), "there is no agent 'nobody'"),
        (("proposals", "learner", "x"), "one word too many"),
    ],
)
def test_wrong_words_are_named(taught: Path, words: tuple[str, ...], says: str) -> None:
    """Exit code 2, and the remedy."""
    assert says in loket(taught, *words, code=2)


@pytest.mark.parametrize(
    ("capability", "code", "what", "constraints", "settled"),
    [
        ("net.fetch", "grant.constraint", "a.example.org", {"hosts": ["*.example.org"]}, True),
        ("net.fetch", "grant.constraint", "nas.local:81", {"hosts": ["x.org"], "private": ["nas.local:81"]}, False),
        ("net.fetch", "grant.constraint", "x.org", {}, False),
        ("net.fetch", "net.address", "nas.local:81", {"hosts": ["nas.local:81"], "private": ["nas.local:81"]}, True),
        ("net.fetch", "net.address", "nas.local", {"hosts": ["nas.local"], "private": ["nas.local:80"]}, True),
        ("net.fetch", "net.address", "nas.local:81", {"hosts": ["nas.local:81"]}, False),
        ("kv.get", "grant.constraint", "notes/", {"prefixes": ["no"]}, True),
        ("kv.get", "grant.constraint", "notes/", {}, True),
        ("kv.get", "grant.constraint", "notes/", {"prefixes": ["other/"]}, False),
        ("agent.ask", "grant.constraint", "main", {"agents": ["mai"]}, False),
        ("net.fetch", "net.timeout", "x.org", {"hosts": ["x.org"]}, False),
    ],
)
def test_a_lesson_is_settled_by_a_grant_that_covers_it(
    capability: str, code: str, what: str, constraints: dict[str, list[str]], settled: bool
) -> None:
    """What decides is the constraint of that argument, as the counter matches it: wildcards, prefixes and places."""
    known = BY_ID[capability]
    lesson = Told(1, "lesson", capability, f"lesson:{code}:x", "r", "", code, what, refused=True, seen=1)
    assert allows(constraints, lesson, known) is settled
