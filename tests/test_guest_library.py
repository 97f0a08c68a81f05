"""The guest library: the standard library's clock, chance and output come from the counter, errors from Python."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from guests_fixture import NOW, Scripted, built_guest, digest_of, unfenced
from loket.contracts import Guest, Limits, LoketError, Refusal, RunEnded, Segment
from loket.sandbox import WasmSandbox

LIMITS = Limits(cpu_ms=5_000)


@pytest.fixture(scope="module")
def library(sandbox: WasmSandbox) -> Guest:
    wasm = built_guest("library")
    return sandbox.load(wasm, digest_of(wasm))


@pytest.fixture(scope="module")
def misbehave(sandbox: WasmSandbox) -> Guest:
    wasm = built_guest("misbehave")
    return sandbox.load(wasm, digest_of(wasm))


@pytest.fixture(scope="module")
def main(sandbox: WasmSandbox) -> Guest:
    wasm = built_guest("main")
    return sandbox.load(wasm, digest_of(wasm))


@pytest.fixture(scope="module")
def learner(sandbox: WasmSandbox) -> Guest:
    wasm = built_guest("learner")
    return sandbox.load(wasm, digest_of(wasm))


def run(guest: Guest, operation: str, host: Scripted | None = None, **arguments: Any) -> Segment:
    return guest.run(host or Scripted(), operation, json.dumps(arguments), LIMITS)


def answer(guest: Guest, operation: str, host: Scripted | None = None, **arguments: Any) -> Any:
    segment = run(guest, operation, host, **arguments)
    assert segment.answer is not None, segment
    return json.loads(segment.answer)


def refusal(guest: Guest, operation: str, host: Scripted | None = None, **arguments: Any) -> LoketError:
    segment = run(guest, operation, host, **arguments)
    error = segment.refusal or segment.ended
    assert error is not None, segment
    return error


def test_every_clock_of_the_standard_library_asks_the_counter(library: Guest) -> None:
    """`time`, `datetime` and all that reads the clock show the counter's time, each by one call."""
    host = Scripted()
    times = answer(library, "times", host)
    assert host.names() == ["clock.now"] * 14
    assert times["time"] == NOW + 1 / 8
    assert times["time_ns"] == pytest.approx((NOW + 2 / 8) * 1e9)
    assert times["perf_counter"] > times["monotonic"] > times["time"]
    assert times["strftime"] == times["today"] == "2026-11-18"
    assert times["ctime"] == "Wed Nov 18 11:06:41 2026"
    assert times["aware"].startswith("2026-11-18T11:06:42")
    assert times["epoch"] == 1970


def test_dates_that_need_no_clock_make_no_call(library: Guest) -> None:
    """Computing, parsing and converting dates works, and asks nobody."""
    host = Scripted()
    dates = answer(library, "dates", host)
    assert dates["later"] == "2026-12-31T07:30:00+00:00"
    assert dates["parsed"] == "2026-11-21"
    assert dates["zone"] == "2026-11-21T14:30:00+07:00"
    assert host.calls == []


def test_sleeping_asks_the_counter(library: Guest) -> None:
    """`time.sleep` is a call as well: the counter decides what it means."""
    host = Scripted()
    assert answer(library, "sleep", host, seconds=2) == "capability.unknown"
    assert host.calls == [("clock.sleep", {"seconds": 2})]


def test_all_chance_comes_from_the_counter_and_follows_it(library: Guest) -> None:
    """Two runs with the same answers draw the same, other answers give other draws, in every source of chance."""

    def other(args: dict[str, int]) -> dict[str, str]:
        return {"hex": "5a" * args["n"]}

    first, again = answer(library, "randoms"), answer(library, "randoms")
    changed = answer(library, "randoms", Scripted({"random.bytes": other}))
    assert first == again
    assert [name for name in first if first[name] == changed[name]] == []
    assert first["uuid4"][14] == "4"


def test_the_random_module_is_seeded_at_its_first_use_only(library: Guest) -> None:
    """A draw costs one seed a run; a generator with a seed of its own costs none."""
    host = Scripted()
    answer(library, "first_chance", host)
    assert host.calls == [("random.bytes", {"n": 32})]
    host = Scripted()
    assert answer(library, "seeded", host)[:2] == [0.6394267984578837, 0.32383276483316237]
    assert host.calls == []


def test_print_and_logging_write_to_the_log_line_by_line(library: Guest) -> None:
    """Each line is one call with its level; what has no end of line is written at the end of the run."""
    host = Scripted()
    answer(library, "prints", host)
    lines = [(line["level"], line["text"]) for line in host.asked("log.write")]
    assert lines[:6] == [
        ("info", "one line"),
        ("info", "two"),
        ("info", "lines"),
        ("warning", "to stderr"),
        ("info", "told 3"),
        ("warning", "careful"),
    ]
    assert ("debug", "DEBUG now heard") in lines
    assert any(level == "warning" and "UserWarning: warned" in text for level, text in lines)
    assert lines[-1] == ("info", "no end of line")


def test_a_log_that_is_refused_is_asked_once(misbehave: Guest) -> None:
    """Losing a line of log is no reason to fail, and one refusal in the journal is enough."""
    host = Scripted({"log.write": Refusal("grant.missing", "no grant")})
    assert answer(misbehave, "many_logs", host, n=5) == 5
    assert len(host.calls) == 1


def test_a_logged_exception_shows_the_line_of_source(library: Guest) -> None:
    """Tracebacks need no files: the sources' lines are part of the component."""
    host = Scripted()
    text = answer(library, "logged_error", host)
    assert 'call("no.such")' in text
    assert "Refused: there is no capability no.such" in text
    assert "Traceback" in host.asked("log.write")[0]["text"]


def test_sets_keep_their_order_in_every_run_of_a_component(library: Guest) -> None:
    """The hash seed and the addresses are part of the component, on which replay rests."""
    assert answer(library, "words") == answer(library, "words")
    assert answer(library, "identity") == answer(library, "identity")


def test_imports_in_functions_are_loaded_at_build_time(library: Guest) -> None:
    """What stands in the source is found; what nobody could see is told where to be imported."""
    assert answer(library, "late") == "(0.0, 0.0, 0) 1/2"
    error = refusal(library, "hidden")
    assert "ModuleNotFoundError: No module named 'ftplib'" in error.message
    assert "at the top of the file" in error.message


def test_operations_take_keywords_or_all_arguments_at_once(library: Guest) -> None:
    """A wrong argument is a refusal that shows the signature; so is an operation that is not there."""
    assert answer(library, "both", a=1, b="é") == {"a": 1, "b": "é"}
    assert answer(library, "keyword-only", place="Utrecht") == "Utrecht 1"
    wrong = refusal(library, "keyword-only", days=2)
    assert wrong.code == "arguments.invalid"
    assert "'place'" in wrong.message
    assert "place: str" in str(wrong.remedy)
    unknown = refusal(library, "nothing")
    assert unknown.code == "operation.unknown"
    assert "keyword-only" in str(unknown.remedy)


def test_a_module_refuses_with_its_own_words(misbehave: Guest) -> None:
    """`Refused` that is not caught goes out as it is, and one that is caught shows code, message and remedy."""
    error = refusal(misbehave, "refuse")
    assert (error.code, error.message, error.remedy) == ("test.refused", "not today", "ask tomorrow")
    caught = answer(misbehave, "ask", capability="no.such", arguments={})
    assert caught == {
        "refused": "capability.unknown",
        "message": "there is no capability no.such",
        "remedy": "loket caps",
    }


def test_an_exception_goes_out_with_file_line_and_message(misbehave: Guest) -> None:
    """The owner sees Python's own message and the place, without the library's frames."""
    error = refusal(misbehave, "crash")
    assert error.code == "guest.error"
    place, message = error.message.splitlines()
    assert place.startswith("agent.py:")
    assert place.endswith(" in crash")
    assert message == "ValueError: the module's own mistake"


def test_memory_and_recursion_have_codes_of_their_own(misbehave: Guest) -> None:
    """Python's own errors for them are refusals; the instance is thrown away in any case."""
    assert refusal(misbehave, "memory").code == "guest.memory"
    assert refusal(misbehave, "big").code == "guest.memory"
    assert refusal(misbehave, "recursion").code == "guest.recursion"


def test_text_that_is_half_a_character_crosses_the_border(misbehave: Guest) -> None:
    """Half a surrogate pair would be a panic in the runtime; it becomes a question mark."""
    assert answer(misbehave, "half_text") == "?"


def test_a_module_has_no_files_and_no_environment(library: Guest) -> None:
    """Opening a file is Python's own error at the line, and the environment is empty."""
    error = refusal(library, "outside", what="open")
    assert "FileNotFoundError" in error.message
    assert "a module has no files" in error.message
    assert answer(library, "outside", what="environ") == "{}"
    assert "SystemExit: 3" in refusal(library, "outside", what="exit").message
    assert "ZoneInfoNotFoundError" in refusal(library, "outside", what="zone").message


@pytest.mark.parametrize(
    ("what", "said", "remedy"),
    [
        ("mkdir", "use a file (os.mkdir)", "kv.set"),
        ("input", "use the standard streams directly (input)", "print"),
        ("descriptor", "use the standard streams directly (os.write)", "print"),
        ("socket", "use the network (socket.socket)", "net.fetch"),
        ("connect", "use the network (socket.getaddrinfo)", "net.fetch"),
        ("os_exit", "end its process (os._exit)", "return"),
        ("resolution", "read a clock (time.clock_getres)", "time.time"),
        ("compile", "compile text that is no valid Python", "literal_eval"),
    ],
)
def test_a_trap_of_a_stub_is_told_in_a_sentence(library: Guest, what: str, said: str, remedy: str) -> None:
    """What has no counterpart behind the counter ends the run and names the Python call and what to use instead."""
    ended = run(library, "outside", what=what).ended
    assert isinstance(ended, RunEnded)
    assert said in ended.message
    assert remedy in str(ended.remedy)


SMALL = {"models": [{"name": "small", "local": True, "tools": False, "context": 2048}]}
CAPABLE = {"models": [{"name": "capable", "local": False, "tools": True, "context": 200_000}]}
SISTER = "My sister's name is Ana"
SEARCH_TOOL = {"name": "brain.search", "description": "recall", "parameters": {"type": "object"}}


def memory(identity: int, text: str, speaker: str = "user") -> dict[str, Any]:
    return {
        "id": identity,
        "text": text,
        "kind": "episode",
        "speaker": speaker,
        "score": 1.0,
        "source": "agent:main",
        "run": "r",
        "labels": [],
        "created": "2026-11-20T08:00:00Z",
    }


def reply(text: str, calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    finish = "tool_calls" if calls else "stop"
    return {"text": text, "tool_calls": calls or [], "model": "m", "finish": finish, "tokens": {"in": 1, "out": 1}}


def agent_host(
    models: dict[str, Any], complete: Any = None, turns: Sequence[dict[str, Any]] = (), **answers: Any
) -> Scripted:
    memories = [memory(1, SISTER), memory(2, "Who is my sister?"), memory(3, "I will remember", "agent")]
    return Scripted(
        {
            "brain.search": lambda args: {"memories": list(turns) if args.get("conversation") else memories},
            "brain.add": {"ids": [8, 9]},
            "llm.models": models,
            "llm.complete": complete,
            **answers,
        }
    )


def tell(guest: Guest, host: Scripted, text: str, **more: Any) -> dict[str, Any]:
    persona = "You are a helpful assistant.\n\nYou live in Utrecht."
    args = {"text": text, "conversation": "c", "persona": persona, "rules": "- Be brief", "agent": "main", **more}
    value: dict[str, Any] = answer(guest, "message", host, **args)
    return value


def test_a_small_model_gets_examples_and_what_was_told(main: Guest) -> None:
    """Four calls a turn; what the person told stands before the question, earlier questions and replies do not."""
    host = agent_host(SMALL, reply("Her name is Ana.\n\nShe is"))
    said = tell(main, host, "What is my sister's name?")
    assert said == {"text": "Her name is Ana.", "recalled": [1], "model": "m"}
    assert host.names() == ["brain.search", "llm.models", "llm.complete", "brain.add"]
    asked = host.asked("llm.complete")[0]
    assert asked["messages"][0] == {"role": "system", "content": "You are a helpful assistant."}
    assert asked["messages"][-1]["content"] == f"{SISTER}. What is my sister's name?"
    assert asked["temperature"] == 0
    assert asked["stream"] is True
    assert [item["speaker"] for item in host.asked("brain.add")[0]["items"]] == ["user", "agent"]


def test_a_small_model_is_not_asked_for_what_nobody_told(main: Guest) -> None:
    """It would answer with a name out of nowhere; a question about the world goes to it all the same."""
    host = agent_host(SMALL, reply("Paris."), **{"brain.search": {"memories": []}})
    assert tell(main, host, "What is my sister's name?")["text"].startswith("You have not told me that yet.")
    assert host.asked("llm.complete") == []
    assert tell(main, host, "What is the capital of France?")["text"] == "Paris."


def test_a_capable_model_gets_rules_turns_and_tools(main: Guest) -> None:
    """Tool calls go through the counter under the capability's name; an unknown tool is told to the model."""
    wanted = [
        {"id": "1", "name": "brain_search", "arguments": {"query": "sister"}},
        {"id": "2", "name": "net_fetch", "arguments": {}},
    ]
    replies = iter([reply("", wanted), reply("Ana.")])
    turns = [memory(6, "Good day", "agent"), memory(5, "Hello")]
    host = agent_host(CAPABLE, lambda _args: next(replies), turns)
    said = tell(main, host, "What is my sister's name?", tools=[SEARCH_TOOL, {**SEARCH_TOOL, "name": "kv.get"}])
    assert said == {"text": "Ana.", "recalled": [1, 2, 3], "model": "m"}
    first, second = host.asked("llm.complete")
    assert [tool["name"] for tool in first["tools"]] == ["brain_search"]
    system = first["messages"][0]["content"]
    assert "You live in Utrecht." in system
    assert "- Be brief" in system
    assert "Wednesday, 18 November 2026" in system
    assert f"[1] (episode, said by the user, 2026-11-20) {SISTER}" in system
    assert [message["content"] for message in first["messages"][1:]] == [
        "Hello",
        "Good day",
        "What is my sister's name?",
    ]
    results = [json.loads(unfenced(message["content"])) for message in second["messages"] if message["role"] == "tool"]
    assert results[0]["memories"][0]["id"] == 1
    assert results[1]["refused"] == "tool.unknown"
    assert [message["role"] for message in first["messages"]] == ["system", "user", "assistant", "user"]


def test_a_refused_tool_goes_back_to_the_model_with_its_remedy(main: Guest) -> None:
    """The model can tell the person what would allow it."""
    replies = iter([reply("", [{"id": "1", "name": "brain_forget", "arguments": {"id": 1}}]), reply("Not allowed.")])
    refused = Refusal("grant.missing", "no grant", "loket grants allow main brain.forget")
    host = agent_host(CAPABLE, lambda _args: next(replies), **{"brain.forget": refused})
    tell(main, host, "Forget it", tools=[{**SEARCH_TOOL, "name": "brain.forget"}])
    result = json.loads(unfenced(host.asked("llm.complete")[1]["messages"][-1]["content"]))
    assert result == {
        "refused": "grant.missing",
        "message": "no grant",
        "remedy": "loket grants allow main brain.forget",
    }


def test_a_model_has_no_references(main: Guest) -> None:
    """What a model writes as one is a plain word, in the call and in the history that the model is sent again."""
    wanted = {"id": {"$ref": "r1.memories[0].id"}, "$as": "reference"}
    replies = iter([reply("", [{"id": "1", "name": "brain_forget", "arguments": wanted}]), reply("Done.")])
    host = agent_host(CAPABLE, lambda _args: next(replies), **{"brain.forget": {"forgotten": [1]}})
    tell(main, host, "Forget it", tools=[{**SEARCH_TOOL, "name": "brain.forget"}])
    plain = {"id": {"ref": "r1.memories[0].id"}, "as": "reference"}
    assert host.asked("brain.forget") == [plain]
    assert host.asked("llm.complete")[1]["messages"][-2]["tool_calls"][0]["arguments"] == plain


def test_the_loop_of_tools_is_bounded(main: Guest) -> None:
    """A model that asks for tools without end is made to answer after six rounds, without tools."""

    def greedy(args: dict[str, Any]) -> dict[str, Any]:
        call = {"id": "1", "name": "brain_search", "arguments": {"query": "x"}}
        return reply("", [call]) if "tools" in args else reply("Enough.")

    host = agent_host(CAPABLE, greedy)
    assert tell(main, host, "Go on", tools=[SEARCH_TOOL])["text"] == "Enough."
    assert len(host.asked("llm.complete")) == 7


def test_without_a_model_it_says_so_and_shows_what_it_remembers(main: Guest) -> None:
    """The message is stored all the same, once, and no reply is invented."""
    host = agent_host({"models": []})
    said = tell(main, host, "What is my sister's name?")
    assert said["model"] is None
    assert said["recalled"] == [1]
    assert "There is no language model here yet" in said["text"]
    assert f"- {SISTER}" in said["text"]
    assert "loket model list" in said["text"]
    assert [item["speaker"] for item in host.asked("brain.add")[0]["items"]] == ["user"]


def test_a_model_that_fails_is_told_with_its_remedy(main: Guest) -> None:
    """The reply says what failed and what would help; only what the person said is remembered."""
    host = agent_host(CAPABLE, Refusal("quota.tokens", "the day's tokens are used up", "raise tokens_per_day"))
    said = tell(main, host, "Hello")
    assert "the day's tokens are used up" in said["text"]
    assert "raise tokens_per_day" in said["text"]
    assert len(host.asked("brain.add")) == 1
    assert len(host.asked("brain.add")[0]["items"]) == 1


@pytest.mark.parametrize(
    ("text", "calls", "said"),
    [
        ("/help", [], "/remember TEXT"),
        ("/nothing", [], "There is no command /nothing."),
        ("/remember My cat is Tom", ["brain.add"], "Remembered as number 8."),
        ("/recall sister", ["brain.search"], f"1. {SISTER}"),
        ("/forget 3", ["brain.forget"], "Forgotten: 3."),
        ("/forget it", [], "/forget NUMBER"),
        ("/correct 1 Her name is Anna", ["brain.correct"], "number 4 stands in the place of 1"),
        ("/lesson Ask first", ["brain.lesson"], "Learned as number 5."),
        ("/lesson", [], "/lesson TEXT"),
    ],
)
def test_commands_need_no_model(main: Guest, text: str, calls: list[str], said: str) -> None:
    """A message that begins with a slash is done at once, without asking a model."""
    stores = {"brain.forget": {"forgotten": [3]}, "brain.correct": {"id": 4, "replaced": 1}, "brain.lesson": {"id": 5}}
    host = agent_host({"models": []}, **stores)
    assert said in tell(main, host, text)["text"]
    assert host.names() == calls


@pytest.mark.parametrize(
    ("about", "asked"),
    [
        ("net.fetch", {"query": "", "subject": "net.fetch"}),
        ("brain.search@2", {"query": "", "subject": "brain.search@2"}),
        ("the weather page", {"query": "the weather page"}),
        ("x" * 5_000, {"query": "x" * 4_000}),
    ],
)
def test_lessons_are_one_search(learner: Guest, about: str, asked: dict[str, str]) -> None:
    """A capability is looked up by its name, a topic by its words; nothing else is asked."""
    host = Scripted({"brain.search": {"memories": [{"text": "Ask first"}]}})
    assert answer(learner, "recall", host, about=about, limit=7) == {"texts": ["Ask first"]}
    assert host.calls == [("brain.search", {**asked, "kinds": ["lesson", "procedure"], "limit": 7})]


def lesson(ident: int, text: str, subject: str | None = None, **more: Any) -> dict[str, Any]:
    return {**memory(ident, text, "x"), "kind": "lesson", "subject": subject, "source": "host:lessons", **more}


REFUSED = "net.fetch for bad.example was refused (grant.constraint).\nBecause: it is not granted\nInstead: ask"

FETCH_TOOL = {**SEARCH_TOOL, "name": "net.fetch"}


def fetch(url: str, ident: str = "1") -> dict[str, Any]:
    return reply("", [{"id": ident, "name": "net_fetch", "arguments": {"url": url}}])


def learned_host(complete: Any, found: Sequence[dict[str, Any]], about: Sequence[dict[str, Any]] = ()) -> Scripted:
    """A brain that recalls `found` for a message, and `about` for a capability."""

    def search(args: dict[str, Any]) -> dict[str, Any]:
        return {"memories": list(about if "subject" in args else [] if args.get("conversation") else found)}

    return agent_host(CAPABLE, complete, **{"brain.search": search, "net.fetch": {"status": 200}})


def test_a_prompt_carries_the_lessons_about_what_it_offers(main: Guest) -> None:
    """At most three, apart from memories; those about other capabilities are left out, the person's own are not."""
    found = [lesson(n, f"net.fetch for h{n} failed (net.failed).", "net.fetch") for n in range(1, 5)]
    found += [lesson(5, "fs.read was refused (grant.missing).", "fs.read"), memory(6, SISTER)]
    told = lesson(7, "Ask before you fetch", None, source="agent:main")
    host = learned_host(reply("Yes."), [told, *found])
    said = tell(main, host, "Fetch h1", tools=[FETCH_TOOL])
    assert said["recalled"] == [6, 1, 2, 3]
    system = host.asked("llm.complete")[0]["messages"][0]["content"]
    memories, learned = system.split("What you learned from what went wrong:")
    assert "fs.read" not in system
    assert "[4]" not in system
    assert SISTER in memories
    assert "- [1] (lesson, 2026-11-20) net.fetch for h1 failed (net.failed)." in learned
    host = learned_host(reply("Yes."), [told])
    tell(main, host, "Fetch h1", tools=[FETCH_TOOL])
    assert "Ask before you fetch" in host.asked("llm.complete")[0]["messages"][0]["content"]


def test_a_tool_tells_its_lesson_once_and_is_then_used(main: Guest) -> None:
    """One search for a capability in a turn; another host is asked at once; who asks again is served."""
    replies = iter([fetch("https://good.example/"), fetch("https://bad.example/x"), fetch("https://bad.example/x")])
    host = learned_host(lambda _args: next(replies, reply("Done.")), [], [lesson(1, REFUSED, "net.fetch")])
    tell(main, host, "Look it up", tools=[FETCH_TOOL])
    assert [args["url"] for args in host.asked("net.fetch")] == ["https://good.example/", "https://bad.example/x"]
    assert [args.get("subject") for args in host.asked("brain.search")] == [None, None, "net.fetch"]
    said = host.asked("llm.complete")[-1]["messages"]
    results = [json.loads(unfenced(m["content"])) for m in said if m["role"] == "tool"]
    assert results[0] == {"status": 200}
    assert results[1]["lesson"] == REFUSED
    assert results[2] == {"status": 200}


def test_a_lesson_that_is_not_the_hosts_holds_no_tool_back(main: Guest) -> None:
    """Whoever can write into a brain cannot keep an agent from its tools, and old advice is no refusal."""
    about = [lesson(1, REFUSED, "net.fetch", source="agent:main"), lesson(2, REFUSED, "net.fetch", kind="procedure")]
    replies = iter([fetch("https://bad.example/x")])
    host = learned_host(lambda _args: next(replies, reply("Done.")), [], about)
    tell(main, host, "Look it up", tools=[FETCH_TOOL])
    assert len(host.asked("net.fetch")) == 1


def test_a_small_model_is_not_told_what_went_wrong(main: Guest) -> None:
    """It would take it for something that the person said."""
    host = agent_host(SMALL, reply("Ana."), **{"brain.search": {"memories": [lesson(1, REFUSED), memory(2, SISTER)]}})
    assert tell(main, host, "What is my sister's name?")["recalled"] == [2]
