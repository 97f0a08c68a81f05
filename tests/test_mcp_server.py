"""Loket as a server of the Model Context Protocol: clients with grants of their own, over lines and over HTTP."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme
from mcp import Client as Sdk
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from live import Server, environment, free_port, loket, prepare, serving
from loket import clients
from loket.app import Loket, running
from loket.contracts import BadInput, Decision, Grant, Question, RunStatus, Verdict
from loket.home import Home
from loket.mcp_server.calls import Again
from loket.mcp_server.desk import Desk, Unknown, progress_of
from loket.mcp_server.lines import Line
from loket.operations import Operations
from loket.policy import PlainPolicy
from loket.testing.model_server import ModelServer, Reply, Request
from mcp_kit import on_loop
from test_mcp_conformance import HERE, NODE, npm_packages

GO_ON = threading.Event()
WAIT_S = 60
MCP = [sys.executable, "-m", "loket.cli.main", "mcp"]


def answer(request: Request) -> Reply:
    said = request.body["messages"][-1]["content"]
    return Reply("It took long.", until=GO_ON) if "slow" in said else Reply("Paris is the capital.")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with ModelServer(answer) as made:
        yield made
        GO_ON.set()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: ModelServer) -> Iterator[Server]:
    home = prepare(tmp_path_factory.mktemp("mcp-server") / "home", model.url)
    with serving(home) as made:
        allow(home, "client:local", "kv.get", "kv.set", "brain.add", "brain.search")
        loket(home, "grants", "allow", "client:local", "agent.ask", "--add", "agents=main")
        yield made


def allow(home: Path, client: str, *capabilities: str) -> None:
    for capability in capabilities:
        loket(home, "grants", "allow", client, capability)


@asynccontextmanager
async def system(tmp_path: Path, model_url: str | None = None) -> AsyncIterator[tuple[Loket, Desk]]:
    """A system in this process, and its desk."""
    async with running(Home(prepare(tmp_path / "home", model_url))) as made:
        yield made, Desk(made, os.urandom(32))


def grant(made: Loket, client: clients.Client, capability: str, **constraints: Any) -> None:
    made.grants.accept("client", client.ref.id, client.ref.digest, made.now())
    made.grants.allow(Grant("client", client.ref.id, capability, constraints, "owner", made.now()))


# At the desk


@on_loop
async def test_a_client_that_was_granted_nothing_finds_nothing_and_is_told_what_would_help(tmp_path: Path) -> None:
    """Lists are empty, and a call is refused at the counter, with the owner's command as the remedy."""
    async with system(tmp_path) as (made, desk):
        nobody = clients.local("nobody")
        assert (desk.tools(nobody), desk.resources(nobody), desk.prompts(nobody)) == ([], [], [])
        result = await desk.call(nobody, "kv_get", {"key": "a"})
        assert result["isError"]
        assert result["structuredContent"]["error"]["code"] in ("module.unaccepted", "grant.missing")
        grant(made, nobody, "kv.set")
        refused = (await desk.call(nobody, "kv_get", {"key": "a"}))["structuredContent"]["error"]
        assert refused["code"] == "grant.missing"
        assert refused["remedy"] == "loket grants allow client:nobody kv.get"
        with pytest.raises(Unknown):
            await desk.call(nobody, "no_such_tool", {})


@on_loop
async def test_what_a_client_keeps_is_its_own(tmp_path: Path) -> None:
    """Two clients with the same grants do not see each other's values, and neither sees an agent's."""
    async with system(tmp_path) as (made, desk):
        one, other = clients.local("one"), clients.local("other")
        for client in (one, other):
            grant(made, client, "kv.get")
            grant(made, client, "kv.set")
        await desk.call(one, "kv_set", {"key": "a", "value": "mine"})
        assert (await desk.call(one, "kv_get", {"key": "a"}))["structuredContent"] == {"found": True, "value": "mine"}
        assert (await desk.call(other, "kv_get", {"key": "a"}))["structuredContent"]["found"] is False


@on_loop
async def test_a_client_reads_the_brains_of_agents_that_it_may_ask_alone(tmp_path: Path) -> None:
    """`brain.search` alone opens no agent's brain; with `agent.ask` for it, its memories are a resource."""
    async with system(tmp_path) as (made, desk):
        reader = clients.local("reader")
        grant(made, reader, "brain.search")
        assert desk.resources(reader) == []
        with pytest.raises(Unknown):
            await desk.read(reader, "brain://main/memories")
        grant(made, reader, "agent.ask", agents=["other"])
        with pytest.raises(Unknown):
            await desk.read(reader, "brain://main/memories")
        await made.direct("main", "brain.add", {"items": [{"text": "The sky is blue."}]})
        grant(made, reader, "agent.ask", agents=["main"])
        found = await desk.read(reader, "brain://main/memories?query=sky")
        assert "The sky is blue." in found["contents"][0]["text"]


@on_loop
async def test_calls_that_come_together_share_a_run_that_can_be_replayed(tmp_path: Path) -> None:
    """Many quick calls are a few runs; each call is a row, its answer is its own, and a replay makes the same calls."""
    async with system(tmp_path) as (made, desk):
        client = clients.local("many")
        for capability in ("kv.get", "kv.set"):
            grant(made, client, capability)
        for n in range(5):
            await desk.call(client, "kv_set", {"key": f"k{n}", "value": n})
        wrong = desk.call(client, "kv_get", {"key": 5})
        gets = (desk.call(client, "kv_get", {"key": f"k{n % 5}"}) for n in range(200))
        *results, failed = await asyncio.gather(*gets, wrong)
        assert [result["structuredContent"]["value"] for result in results] == [0, 1, 2, 3, 4] * 40
        assert failed["structuredContent"]["error"]["code"] == "arguments.invalid"
        runs = [run for run in made.database.runs(None, 100, None) if run["agent"] == client.agent]
        assert len(runs) <= 5 + 6
        assert sum(run["calls"] for run in runs) == 5 + 201
        for run in runs:
            replayed = await asyncio.to_thread(made.replayer.replay, run["id"])
            assert replayed.ok, replayed


class Asking:
    """A policy that has the owner asked about every value that is set."""

    def __init__(self) -> None:
        self._plain = PlainPolicy()

    def decide(self, question: Question) -> Decision:
        decision = self._plain.decide(question)
        return replace(decision, verdict=Verdict.ASK) if question.capability.id == "kv.set" else decision


@on_loop
async def test_a_call_that_waits_for_the_owner_says_so_and_holds_up_no_other(tmp_path: Path) -> None:
    """The client hears that the owner is asked; its other calls go on; with the owner's word the call is done."""
    async with running(Home(prepare(tmp_path / "home")), policy=Asking()) as made:
        desk, client = Desk(made, os.urandom(32)), clients.local("asks")
        for capability in ("kv.get", "kv.set"):
            grant(made, client, capability)
        told: asyncio.Queue[Any] = asyncio.Queue()
        sent = {"key": "a", "value": 1}
        call = asyncio.create_task(desk.call(client, "kv_set", sent, tell=told.put_nowait))
        while (event := await asyncio.wait_for(told.get(), WAIT_S))["type"] != "asking":
            pass
        assert "owner" in progress_of(event)
        meanwhile = await asyncio.wait_for(desk.call(client, "kv_get", {"key": "a"}), WAIT_S)
        assert meanwhile["structuredContent"]["found"] is False
        approving = {"ids": [event["approval"]], "decision": "allow"}
        await Operations(made).perform("approvals.decide", approving, lambda _event: None)
        assert (await asyncio.wait_for(call, WAIT_S))["isError"] is False


@on_loop
async def test_what_a_client_gives_up_is_stopped(tmp_path: Path, model: ModelServer) -> None:
    """A cancelled call ends its run, and the agent's run that it waits for."""
    async with system(tmp_path, model.url) as (made, desk):
        client = clients.local("editor")
        grant(made, client, "agent.ask", agents=["main"])
        call = asyncio.create_task(desk.call(client, "ask_main", {"text": "be slow"}))
        while len(made.engine.unfinished()) < 2:  # noqa: ASYNC110 - runs have no event for this
            await asyncio.sleep(0.02)
        runs = list(made.engine.unfinished())
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        endings = [await made.finished(run) for run in runs]
        assert {ending.status for ending in endings} == {RunStatus.STOPPED}


@on_loop
async def test_what_a_client_keeps_for_the_server_is_signed_for_it(tmp_path: Path) -> None:
    """A state of one client is refused of another one, for another capability, and changed in any byte."""
    async with system(tmp_path) as (_made, desk):
        one, other = clients.local("one"), clients.local("other")
        sealed = desk.calls.sealed(one, "a.b", {"step": 2})
        assert desk.calls.again(one, "a.b", {}, Again({}, sealed))["input"]["state"] == {"step": 2}
        for client, capability, state in (
            (other, "a.b", sealed),
            (clients.Client("one", "token"), "a.b", sealed),
            (one, "a.c", sealed),
            (one, "a.b", sealed[:-1]),
            (one, "a.b", f"A{sealed}"),
        ):
            with pytest.raises(BadInput, match="requestState"):
                desk.calls.again(client, capability, {}, Again({}, state))


def test_a_new_token_of_an_old_name_starts_with_nothing(tmp_path: Path) -> None:
    """Grants belong to the token for which they were given, and the next grant to its successor brings none of them."""
    home = prepare(tmp_path / "home")
    first = loket(home, "token", "create", "editor", "--json")
    allow(home, "client:editor", "kv.get")
    loket(home, "token", "revoke", "editor")
    second = loket(home, "token", "create", "editor", "--json")

    async def held() -> list[list[str]]:
        async with running(Home(home)) as made:
            return [sorted(clients.granted(made, clients.Client("editor", one["id"]))) for one in (first, second)]

    assert asyncio.run(held()) == [["kv.get"], []]
    allow(home, "client:editor", "kv.set")
    assert asyncio.run(held())[1] == ["kv.set"]
    loket(home, "grants", "revoke", "client:editor", "kv.set")
    assert asyncio.run(held())[1] == []


# Over lines


class Wire:
    """A connection to the desk in this process, line by line."""

    def __init__(self, desk: Desk, client: clients.Client) -> None:
        self.said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.reader = asyncio.StreamReader()
        line = Line(desk, client, lambda data: self.said.put_nowait(json.loads(data)))
        self.task = asyncio.create_task(line.serve(self.reader))

    def send(self, **message: Any) -> None:
        self.reader.feed_data(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.send(id=method, method=method, params=params)
        while (message := await asyncio.wait_for(self.said.get(), WAIT_S)).get("id") != method:
            pass
        return message


MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@on_loop
async def test_both_eras_are_spoken_on_a_line(tmp_path: Path) -> None:
    """With `initialize` and without; what belongs to one era is not there in the other."""
    async with system(tmp_path) as (made, desk):
        grant(made, clients.local("a"), "kv.get")
        wire = Wire(desk, clients.local("a"))
        assert (await wire.ask("tools/list"))["error"]["code"] == -32602
        found = (await wire.ask("server/discover", _meta=MODERN))["result"]
        assert (found["supportedVersions"], found["resultType"]) == (["2026-07-28"], "complete")
        listed = (await wire.ask("tools/list", _meta=MODERN))["result"]
        assert (len(listed["tools"]), listed["cacheScope"]) == (1, "private")
        assert (await wire.ask("ping", _meta=MODERN))["error"]["code"] == -32601
        other = MODERN | {"io.modelcontextprotocol/protocolVersion": "2031-01-01"}
        assert (await wire.ask("tools/list", _meta=other))["error"]["code"] == -32022
        greeted = (await wire.ask("initialize", protocolVersion="2024-11-05", capabilities={}))["result"]
        assert greeted["protocolVersion"] == "2024-11-05"
        assert "cacheScope" not in (await wire.ask("tools/list"))["result"]
        assert (await wire.ask("server/discover"))["error"]["code"] == -32601
        wire.reader.feed_eof()
        await asyncio.wait_for(wire.task, WAIT_S)


@on_loop
async def test_lines_that_are_no_requests_are_answered_with_errors(tmp_path: Path) -> None:
    """What is no JSON, no object, no id or no method ends nothing: the next request is answered."""
    async with system(tmp_path) as (_made, desk):
        wire = Wire(desk, clients.local("a"))
        for line, code in ((b"{", -32700), (b"[]", -32600), (b'{"id": [], "method": "ping"}', -32600)):
            wire.reader.feed_data(line + b"\n")
            assert (await asyncio.wait_for(wire.said.get(), WAIT_S))["error"]["code"] == code
        wire.send(method="notifications/cancelled", params={"requestId": [1]})
        wire.send(id="nobody asked", result={})
        assert (await wire.ask("ping"))["result"] == {}
        wire.task.cancel()


@on_loop
async def test_who_listens_is_told_when_the_owner_grants_something(tmp_path: Path) -> None:
    """In both eras: as a notification of the session, and on the stream that was asked for."""
    async with system(tmp_path) as (made, desk):
        client = clients.local("a")
        old, new = Wire(desk, client), Wire(desk, client)
        await old.ask("initialize", protocolVersion="2025-11-25", capabilities={})
        await old.ask("ping")
        new.send(
            id=7, method="subscriptions/listen", params={"_meta": MODERN, "notifications": {"toolsListChanged": True}}
        )
        first = await asyncio.wait_for(new.said.get(), WAIT_S)
        assert first["method"] == "notifications/subscriptions/acknowledged"
        await asyncio.sleep(0.1)
        grant(made, client, "kv.get")
        told = await asyncio.wait_for(new.said.get(), WAIT_S)
        assert told["method"] == "notifications/tools/list_changed"
        assert told["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        assert (await asyncio.wait_for(old.said.get(), WAIT_S))["method"] == "notifications/tools/list_changed"
        for wire in (old, new):
            wire.task.cancel()


# `loket mcp`


def speak(home: Path, *messages: dict[str, Any], words: tuple[str, ...] = ()) -> dict[Any, dict[str, Any]]:
    """Write messages to `loket mcp` and close its input; what it answered, by id."""
    text = "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in messages)
    done = subprocess.run(
        [*MCP, *words], env=environment(home), input=text, capture_output=True, text=True, timeout=WAIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return {message.get("id"): message for message in map(json.loads, done.stdout.splitlines())}


def call(number: int, name: str, **args: Any) -> dict[str, Any]:
    params = {"name": name, "arguments": args, "_meta": MODERN}
    return {"id": number, "method": "tools/call", "params": params}


def test_what_is_asked_before_the_input_ends_is_answered(server: Server, tmp_path: Path) -> None:
    """Through the running server, and where none runs; what `loket mcp` prints is the protocol's lines alone."""
    alone = prepare(tmp_path / "home")
    allow(alone, "client:local", "kv.get")
    for home in (server.home, alone):
        assert speak(home, call(1, "kv_get", key="none"))[1]["result"]["structuredContent"]["found"] is False
        as_other = speak(home, call(1, "kv_get", key="none"), words=("--client", "stranger"))[1]["result"]
        assert as_other["isError"]


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_the_sdk_asks_an_agent_over_stdio(server: Server, mode: str) -> None:
    """The official SDK's client, in each era, gets the agent's answer, progress on the way, and reads its brain."""
    parts = StdioServerParameters(command=MCP[0], args=MCP[1:], env=environment(server.home))
    heard: list[str] = []

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        heard.append(f"{progress} of {total}: {message}")

    async def talk() -> tuple[list[str], Any, Any]:
        async with Sdk(stdio_client(parts), mode=mode) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            said = await client.call_tool("ask_main", {"text": "Capital?"}, progress_callback=hear)
            brain = await client.read_resource("brain://main/memories")
            return tools, said, brain

    tools, said, brain = asyncio.run(talk())
    assert tools == ["ask_main", "brain_add", "brain_search", "kv_get", "kv_set"]
    assert said.content[0].text == "Paris is the capital."
    assert heard
    assert json.loads(brain.contents[0].text) is not None
    start = loket(server.home, "runs", "show", said.structured_content["run"], "--json")["rows"][0]
    assert "client" in json.dumps(start)


def test_the_inspector_asks_an_agent(server: Server) -> None:
    """`@modelcontextprotocol/inspector --cli`, pointed at `loket mcp`, lists the tools and asks."""
    packages = npm_packages(HERE / "package-lock.json", "conformance")
    launcher = packages / "node_modules/@modelcontextprotocol/inspector/clients/launcher/build/index.js"
    given = [
        f"-e{name}={value}" for name, value in environment(server.home).items() if name.startswith(("LOKET", "PY"))
    ]
    places = [word for pair in given for word in ("-e", pair.removeprefix("-e"))]
    asking = ["--method", "tools/call", "--tool-name", "ask_main", "--tool-arg", "text=What is the capital?"]
    words = [NODE, str(launcher), "--cli", *places, *MCP, *asking]
    done = subprocess.run(words, capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["content"][0]["text"] == "Paris is the capital."


# Over HTTP


def token(server: Server, name: str, *capabilities: str) -> str:
    secret = loket(server.home, "token", "create", name, "--json")["secret"]
    allow(server.home, f"client:{name}", *capabilities)
    return str(secret)


def post(url: str, secret: str, body: Any, verify: Any = True, **headers: str) -> Any:
    given = {"Authorization": f"Bearer {secret}", "Accept": "application/json, text/event-stream"}
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.post(url, json=body, headers=given | more, verify=verify, timeout=WAIT_S)


GREETING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


def test_a_session_is_of_the_client_that_began_it(server: Server) -> None:
    """Another token with the session's id is told that there is no such session, and no token that it needs one."""
    url = f"http://127.0.0.1:{server.port}/mcp"
    mine, other = token(server, "mine", "kv.get"), token(server, "other", "kv.get")
    session = post(url, mine, GREETING).headers["mcp-session-id"]
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    assert post(url, mine, ping, mcp_session_id=session).status_code == 200
    assert post(url, other, ping, mcp_session_id=session).status_code == 404
    refused = post(url, "wrong", ping, mcp_session_id=session)
    assert refused.status_code == 401
    assert refused.headers["www-authenticate"].startswith("Bearer")


def test_pages_and_foreign_hosts_are_not_let_in(server: Server) -> None:
    """An `Origin` or a `Host` of somewhere else is refused before a token is looked at."""
    url, secret = f"http://127.0.0.1:{server.port}/mcp", token(server, "paged", "kv.get")
    assert post(url, secret, GREETING, Origin="https://evil.example").status_code == 403
    assert post(url, secret, GREETING, Host="evil.example").status_code == 403


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
def test_the_sdk_uses_what_its_token_was_granted_over_http(server: Server, mode: str) -> None:
    """Tools are those of the token's own grants."""
    secret = token(server, f"http-{mode[:4]}", "kv.get", "kv.set")

    async def talk() -> tuple[list[str], Any]:
        async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {secret}"}, timeout=WAIT_S) as http:
            transport = streamable_http_client(f"http://127.0.0.1:{server.port}/mcp", http_client=http)
            async with Sdk(transport, mode=mode) as client:
                tools = [tool.name for tool in (await client.list_tools()).tools]
                await client.call_tool("kv_set", {"key": "a", "value": [1]})
                return tools, await client.call_tool("kv_get", {"key": "a"})

    tools, said = asyncio.run(talk())
    assert tools == ["kv_get", "kv_set"]
    assert said.structured_content == {"found": True, "value": [1]}


# Shared beyond loopback


def test_what_is_shared_is_for_tokens_over_tls_and_is_nothing_else(tmp_path: Path) -> None:
    """With the home's own authority: a client's token works, the home's does not, and no owner's route is there."""
    home, port = prepare(tmp_path / "home"), free_port()
    with (home / "config.toml").open("a") as settings:
        settings.write(f'\n[share]\nlisten = "127.0.0.1:{port}"\nnames = "localhost, 127.0.0.1"\n')
    with serving(home) as server:
        secret, url = token(server, "colleague", "kv.get"), f"https://localhost:{port}"
        trusted = ssl.create_default_context(cafile=home / "tls" / "ca.pem")
        assert post(f"{url}/mcp", secret, GREETING, trusted).status_code == 200
        assert post(f"{url}/mcp", (home / "token").read_text(), GREETING, trusted).status_code == 401
        assert post(f"{url}/mcp", secret, GREETING, trusted, Host="evil.example").status_code == 403
        assert post(f"{url}/mcp", secret, GREETING, trusted, Origin=url).status_code == 403
        for path in ("/v1/operations/status", "/v1/agents", "/openapi.json", "/v1/setup", "/"):
            assert post(f"{url}{path}", secret, {}, trusted).status_code == 404
        assert httpx2.get(f"{url}/healthz", verify=trusted).status_code == 200
        with pytest.raises(httpx2.ConnectError):
            post(f"{url}/mcp", secret, GREETING)
        with pytest.raises(httpx2.HTTPError):
            httpx2.get(f"http://localhost:{port}/healthz")
    assert (home / "tls" / "ca.key").stat().st_mode & 0o077 == 0


def test_the_owners_certificate_is_used_where_one_is_named(tmp_path: Path) -> None:
    """Whoever trusts its authority is served."""
    authority, home, port = trustme.CA(), prepare(tmp_path / "home"), free_port()
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with (home / "config.toml").open("a") as settings:
        settings.write(f'\n[share]\nlisten = "127.0.0.1:{port}"\nnames = "localhost"\n')
        settings.write(f'certificate = "{tmp_path}/cert.pem"\nkey = "{tmp_path}/key.pem"\n')
    trusted = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    with serving(home):
        assert httpx2.get(f"https://localhost:{port}/healthz", verify=trusted).status_code == 200


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ('listen = "0.0.0.0:{port}"', "share.names"),
        ('listen = "everywhere"', "share.listen"),
        ('listen = "127.0.0.1:{port}"\ncertificate = "/nowhere.pem"', "share.certificate"),
        ('listen = "127.0.0.1:{port}"\ncertificate = "/nowhere.pem"\nkey = "/nowhere.key"', "share.certificate"),
    ],
)
def test_without_a_name_or_a_certificate_nothing_starts(tmp_path: Path, settings: str, code: str) -> None:
    """What is said of sharing by halves stops the start, with the line that would help."""
    home = prepare(tmp_path / "home")
    with (home / "config.toml").open("a") as file:
        file.write(f"\n[share]\n{settings.replace('{port}', str(free_port()))}\n")
    said = loket(home, "up", "--port", str(free_port()), code=2)
    assert code in said
