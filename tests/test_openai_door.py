"""Agents behind the Chat Completions interface: the official client, a real server, a real model server behind it."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from live import Server, loket, prepare, serving
from loket.app import running
from loket.home import Home
from loket.operations.clients import client
from loket.testing.model_server import ModelServer, Reply, Request
from loket.testing.models import InstantModel


def answer(request: Request) -> Reply:
    said = request.body["messages"][-1]["content"]
    if "fetch" in said and not any(one["role"] == "tool" for one in request.body["messages"]):
        return Reply("", tool_calls=[("c1", "message_send", json.dumps({"agent": "main", "text": "hello"}))])
    return Reply("Paris is the capital.", usage=(20, 7))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with ModelServer(answer) as model:
        home = prepare(tmp_path_factory.mktemp("door") / "home", model.url)
        with serving(home) as running:
            yield running


def secret(server: Server, name: str) -> str:
    return str(loket(server.home, "token", "create", name, "--json")["secret"])


@pytest.fixture(scope="module")
def program(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=secret(server, "editor"), max_retries=0)


def ask(client: openai.OpenAI, *texts: str, model: str = "main", **more: object) -> str:
    messages = [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]
    got = client.chat.completions.create(model=model, messages=messages, **more)  # type: ignore[call-overload]
    assert got.choices[0].finish_reason == "stop"
    return str(got.choices[0].message.content)


def last_run(server: Server) -> dict[str, object]:
    found = loket(server.home, "runs", "list", "--json")["runs"][0]
    return dict(loket(server.home, "runs", "show", found["id"], "--json"))


def test_agents_are_models(program: openai.OpenAI) -> None:
    """The list of models is the list of agents."""
    assert [model.id for model in program.models.list()] == ["main"]


def test_an_answer_whole_and_in_pieces(program: openai.OpenAI) -> None:
    """The same text either way, with the tokens of the run."""
    assert ask(program, "What is the capital of France?") == "Paris is the capital."
    stream = program.chat.completions.create(
        model="main",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And again?"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Paris is the capital."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 27


def test_a_program_speaks_in_its_own_name(program: openai.OpenAI, server: Server) -> None:
    """The run's principal and label are the client's."""
    ask(program, "Who am I?")
    run = last_run(server)
    start = run["rows"][0]  # type: ignore[index]
    assert start["principal"] == "client:openai/editor"
    assert start["labels"] == ["client:openai/editor"]


def test_the_commands_of_the_home_speak_as_the_owner(server: Server) -> None:
    """Who has the home's token is the owner at the command line."""
    token = (server.home / "token").read_text()
    owner = openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key=token, max_retries=0)
    ask(owner, "It is me.")
    start = last_run(server)["rows"][0]  # type: ignore[index]
    assert (start["principal"], start["labels"]) == ("agent:main", ["owner"])


def test_one_chat_is_one_conversation(program: openai.OpenAI, server: Server) -> None:
    """A chat is known by its first words, or by the name that the client gives it; two programs share none."""
    ask(program, "A first word.")
    first = last_run(server)["conversation"]
    ask(program, "A first word.", "Paris is the capital.", "A second one.")
    assert last_run(server)["conversation"] == first
    ask(program, "Another beginning.")
    assert last_run(server)["conversation"] != first
    ask(program, "Another beginning.", user="thread-7")
    assert str(last_run(server)["conversation"]).endswith(":openai:thread-7")
    other = openai.OpenAI(base_url=str(program.base_url), api_key=secret(server, "other"), max_retries=0)
    ask(other, "A first word.")
    assert last_run(server)["conversation"] != first


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"model": "nobody"}, "agent.unknown"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]}, "openai.field"),
        ({"messages": [{"role": "assistant", "content": "I end it"}]}, "openai.messages"),
        ({"messages": [{"role": "user", "content": " "}]}, "openai.messages"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "openai.messages",
        ),
    ],
)
def test_what_agents_do_not_serve_is_said(program: openai.OpenAI, more: dict[str, object], code: str) -> None:
    """The error has the interface's form, and names the field and the remedy."""
    asked = {"model": "main", "messages": [{"role": "user", "content": "Hello"}], **more}
    with pytest.raises(openai.APIStatusError) as failed:
        program.chat.completions.create(**asked)  # type: ignore[call-overload]
    assert failed.value.code == code
    assert failed.value.status_code in (400, 404)


def test_a_wrong_key_is_refused(program: openai.OpenAI) -> None:
    """As everywhere behind the gateway."""
    stranger = openai.OpenAI(base_url=str(program.base_url), api_key="lkt_wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_what_a_program_says_names_nothing(tmp_path: Path) -> None:
    """The journal of its run has no words of the owner's; that of the owner's own message has them."""

    async def words(home: Home) -> list[object]:
        async with running(home, llm=InstantModel(lambda _: "")) as system:
            found = []
            for sender in (client("openai/editor"), None):
                run = await system.send("main", "/help", sender=sender)
                await system.finished(run)
                found.append(json.loads(next(iter(system.journal.rows(run))).value).get("words"))
            return found

    prepare(tmp_path / "home")
    assert asyncio.run(words(Home(tmp_path / "home"))) == [None, "/help"]
