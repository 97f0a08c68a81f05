"""A2A: the SDK's own client against a real server, over both bindings, and what the door keeps out."""

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from a2a.client import Client, ClientConfig, ClientFactory
from a2a.client.card_resolver import A2ACardResolver
from a2a.server.context import ServerCallContext
from a2a.types.a2a_pb2 import (
    CancelTaskRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageRequest,
    Task,
    TaskState,
)
from a2a.utils.errors import TaskNotFoundError

from live import Server, loket, prepare, serving
from loket.a2a.application import Tasks, _Visitor
from loket.a2a.door import _application
from loket.contracts import Failed
from loket.testing.model_server import ModelServer, Reply, Request

GO_ON = threading.Event()


def answer(request: Request) -> Reply:
    said = request.body["messages"][-1]["content"]
    return Reply("It took long.", until=GO_ON) if "slow" in said else Reply("Paris is the capital.")


@dataclass
class Door:
    server: Server
    token: str

    @asynccontextmanager
    async def client(self, binding: str, token: str | None = None) -> AsyncIterator[Client]:
        """A client of the agent `main`, by its card."""
        headers = {"Authorization": f"Bearer {token or self.token}"}
        async with httpx.AsyncClient(headers=headers, timeout=60) as http:
            base = f"http://127.0.0.1:{self.server.port}/a2a/main"
            card = await A2ACardResolver(http, base).get_agent_card()
            config = ClientConfig(httpx_client=http, supported_protocol_bindings=[binding], use_client_preference=True)
            async with ClientFactory(config).create(card) as client:
                yield client


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with ModelServer(answer) as model:
        home = prepare(tmp_path_factory.mktemp("a2a") / "home", model.url)
        with serving(home) as server:
            yield Door(server, loket(home, "token", "create", "partner", "--json")["secret"])
            GO_ON.set()


def message(text: str, identity: str, **more: Any) -> SendMessageRequest:
    said = Message(message_id=identity, role=Role.ROLE_USER, parts=[Part(text=text)], **more)
    return SendMessageRequest(message=said)


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_a_task_is_a_run(door: Door, binding: str) -> None:
    """A message is answered as an artifact, its states come in order, and the run is the client's."""

    async def talk() -> tuple[list[Any], Any, list[str]]:
        async with door.client(binding) as client:
            events = [event async for event in client.send_message(message("Capital?", f"m-{binding}"))]
            task = events[0].task.id
            found = await client.get_task(GetTaskRequest(id=task))
            listed = await client.list_tasks(ListTasksRequest())
            return events, found, [one.id for one in listed.tasks]

    events, found, listed = asyncio.run(talk())
    kinds = [event.WhichOneof("payload") for event in events]
    assert kinds == ["task", "status_update", "artifact_update", "status_update"]
    assert events[-1].status_update.status.state == TaskState.TASK_STATE_COMPLETED
    assert found.artifacts[0].parts[0].text == "Paris is the capital."
    assert found.id in listed
    run = events[1].status_update.metadata["run"]
    start = loket(door.server.home, "runs", "show", run, "--json")["rows"][0]
    assert (start["principal"], start["labels"]) == ("client:a2a/partner", ["client:a2a/partner"])


def test_a_task_can_be_stopped(door: Door) -> None:
    """Cancelling a task stops its run."""

    async def stop() -> tuple[Any, str]:
        async with door.client("JSONRPC") as client:
            events = client.send_message(message("Be slow.", "m-slow"))
            task = (await anext(events)).task.id
            run = (await anext(events)).status_update.metadata["run"]
            return await client.cancel_task(CancelTaskRequest(id=task)), run

    task, run = asyncio.run(stop())
    assert task.status.state == TaskState.TASK_STATE_CANCELED
    assert loket(door.server.home, "runs", "show", run, "--json")["status"] == "stopped"


def test_tasks_belong_to_whoever_made_them(door: Door) -> None:
    """Another program does not find a task, by id or in the list."""
    other = loket(door.server.home, "token", "create", "other", "--json")["secret"]

    async def peek() -> None:
        async with door.client("JSONRPC") as client:
            events = [event async for event in client.send_message(message("Mine?", "m-mine"))]
            task = events[0].task.id
        async with door.client("JSONRPC", other) as client:
            with pytest.raises(TaskNotFoundError):
                await client.get_task(GetTaskRequest(id=task))
            assert task not in [one.id for one in (await client.list_tasks(ListTasksRequest())).tasks]

    asyncio.run(peek())


def test_long_ids_that_begin_alike_are_two_messages(door: Door) -> None:
    """Each is answered for itself; the same one again is not."""
    headers = {"Authorization": f"Bearer {door.token}", "A2A-Version": "1.0"}
    address = f"http://127.0.0.1:{door.server.port}/a2a/main/v1/message:send"

    def runs() -> int:
        return len(loket(door.server.home, "runs", "list", "--json")["runs"])

    before = runs()
    for identity in ("a", "b", "b"):
        said = {"messageId": "x" * 300 + identity, "role": "ROLE_USER", "parts": [{"text": "Capital?"}]}
        assert httpx.post(address, json={"message": said}, headers=headers, timeout=60).status_code == 200
    assert runs() == before + 2


def test_tasks_are_kept_within_bounds_and_each_visitors_for_itself() -> None:
    """The oldest go, by number and by size; nobody pushes out what is another's."""

    async def fill() -> None:
        tasks = Tasks(most=3, most_bytes=1_000)
        mine, theirs = (ServerCallContext(user=_Visitor(name)) for name in ("a2a/one", "a2a/two"))
        await tasks.save(Task(id="theirs"), theirs)
        for number in range(9):
            await tasks.save(Task(id=f"t{number}"), mine)
        assert [number for number in range(9) if await tasks.get(f"t{number}", mine)] == [6, 7, 8]
        await tasks.save(Task(id="large", context_id="x" * 5_000), mine)
        assert [one.id for one in (await tasks.list(ListTasksRequest(), mine)).tasks] == ["large"]
        assert await tasks.get("theirs", theirs) is not None

    asyncio.run(fill())


def test_a_token_for_one_door_opens_no_other(door: Door) -> None:
    """Whoever gives you tasks neither reads memories nor speaks at another door; the refusal says what would do."""
    made = loket(door.server.home, "token", "create", "only-tasks", "--for", "a2a", "--json")
    assert made["doors"] == ["a2a"]
    base, token = f"http://127.0.0.1:{door.server.port}", {"Authorization": f"Bearer {made['secret']}"}
    assert httpx.get(f"{base}/a2a/main/v1/tasks", headers=token).status_code != 403
    said = {"model": "main", "messages": [{"role": "user", "content": "hello"}]}
    for got in (
        httpx.get(f"{base}/v1/agents/main/memories", headers=token),
        httpx.post(f"{base}/v1/agents/main/messages", headers=token, json={"text": "hello"}),
        httpx.post(f"{base}/v1/chat/completions", headers=token, json=said),
        httpx.post(f"{base}/mcp", headers=token, json={"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    ):
        assert (got.status_code, got.json()["error"]["code"]) == (403, "gateway.access")
        assert "--for" in got.json()["error"]["remedy"]
    wrong = loket(door.server.home, "token", "create", "x", "--for", "window", "--json", code=2)
    assert wrong["error"]["code"] == "token.doors"


def test_the_card_is_open_and_nothing_else(door: Door) -> None:
    """Without a token there is the card, also where the protocol looks first, and no other answer."""
    base = f"http://127.0.0.1:{door.server.port}"
    card = httpx.get(f"{base}/.well-known/agent-card.json", follow_redirects=True).json()
    assert [one["protocolBinding"] for one in card["supportedInterfaces"]] == ["JSONRPC", "HTTP+JSON"]
    assert card["securityRequirements"]
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks", "params": {}}
    for path in ("/a2a/main/", "/a2a/main/v1/message:send"):
        assert httpx.post(base + path, json=body).status_code == 401
    assert httpx.get(f"{base}/a2a/main/v1/tasks").status_code == 401
    token = {"Authorization": f"Bearer {door.token}"}
    assert httpx.get(f"{base}/a2a/nobody/v1/tasks", headers=token).json()["error"]["code"] == "agent.unknown"
    foreign = httpx.get(f"{base}/a2a/main/v1/tasks", headers={**token, "Origin": "https://evil.example"})
    assert foreign.status_code == 403


def test_without_the_library_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door is optional: whoever knocks is told what to install, and nothing else is hindered."""
    for name in [one for one in sys.modules if one.partition(".")[0] == "a2a"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "loket.a2a.application", raising=False)
    with pytest.raises(Failed) as failed:
        _application(None, {"id": "main"})  # type: ignore[arg-type]
    assert failed.value.code == "a2a.missing"
    assert "loket[a2a]" in (failed.value.remedy or "")
