"""One agent behind A2A 1.0, over the official SDK: each task is a run, and each context a conversation.

What a program says names nothing for the policy, as at every other door; the owner's own commands speak as the owner.
Tasks belong to whoever made them. They are kept in memory: after a restart of the server a task is unknown, and its run
stands in the journal.
"""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from a2a.auth.user import User
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.context import ServerCallContext
from a2a.server.events import EventQueue
from a2a.server.request_handlers import DefaultRequestHandlerV2
from a2a.server.request_handlers.response_helpers import agent_card_to_dict
from a2a.server.routes import create_jsonrpc_routes, create_rest_routes
from a2a.server.routes.common import DefaultServerCallContextBuilder
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types.a2a_pb2 import (
    AgentCapabilities,
    AgentCard,
    AgentInterface,
    AgentSkill,
    HTTPAuthSecurityScheme,
    Part,
    SecurityRequirement,
    SecurityScheme,
    StringList,
    Task,
    TaskState,
    TaskStatus,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from loket.a2a.words import WELL_KNOWN, owner_says, sender_of
from loket.contracts import LoketError
from loket.gateway.doors import saying, visitor_of
from loket.gateway.endpoint import Services, unheard
from loket.gateway.sse import Work

PROTOCOL = "1.0"
_REST = "/v1"
_LONGEST_ID = 64
_MOST_TASKS = 1_000
"""Of one visitor and one agent, the newest."""
_MOST_BYTES = 16 << 20
"""Of these, all together; the newest is kept whatever its size."""


def application(services: Services, about: Mapping[str, str]) -> Starlette:
    """The routes of an agent (`id`, `version`, `summary`), relative to where they are mounted."""
    handler = DefaultRequestHandlerV2(_Executor(services, about["id"]), Tasks(), _card(about, ""))
    builder = _ContextBuilder()

    async def card(request: Request) -> Response:
        place = f"{request.url.scheme}://{request.url.netloc}/a2a/{about['id']}"
        return JSONResponse(agent_card_to_dict(_card(about, place)))

    return Starlette(
        routes=[
            Route(WELL_KNOWN, card, methods=["GET"]),
            *create_jsonrpc_routes(handler, "/", builder),
            *create_rest_routes(handler, builder, path_prefix=_REST),
        ]
    )


def _card(about: Mapping[str, str], base: str) -> AgentCard:
    return AgentCard(
        name=about["id"],
        description=about["summary"],
        version=about["version"],
        supported_interfaces=[
            AgentInterface(url=f"{base}/", protocol_binding="JSONRPC", protocol_version=PROTOCOL),
            AgentInterface(url=f"{base}{_REST}", protocol_binding="HTTP+JSON", protocol_version=PROTOCOL),
        ],
        capabilities=AgentCapabilities(streaming=True, push_notifications=False),
        security_schemes={"token": SecurityScheme(http_auth_security_scheme=HTTPAuthSecurityScheme(scheme="bearer"))},
        security_requirements=[SecurityRequirement(schemes={"token": StringList()})],
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        skills=[AgentSkill(id="message", name="message", description=about["summary"], tags=["chat"])],
    )


class _Visitor(User):
    """Who was let in, as the SDK knows users: tasks are parted by this name."""

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def user_name(self) -> str:
        return self._name


class Tasks(InMemoryTaskStore):
    """Tasks in memory, the newest of each visitor: whoever sends many pushes out its own and nobody else's."""

    def __init__(self, most: int = _MOST_TASKS, most_bytes: int = _MOST_BYTES) -> None:
        super().__init__()
        self._most = most
        self._most_bytes = most_bytes
        self._held: dict[str, OrderedDict[str, int]] = {}
        """Bytes of the tasks of each visitor, those that changed last at the end."""

    async def save(self, task: Task, context: ServerCallContext) -> None:
        """Keep a task, and no more than there is room for."""
        await super().save(task, context)
        held = self._held.setdefault(context.user.user_name, OrderedDict())
        held[task.id] = task.ByteSize()
        held.move_to_end(task.id)
        while len(held) > 1 and (len(held) > self._most or sum(held.values()) > self._most_bytes):
            await super().delete(held.popitem(last=False)[0], context)


class _ContextBuilder(DefaultServerCallContextBuilder):
    """Takes the user from the gateway's doorkeeper, and hands no header on that holds a secret."""

    def build(self, request: Request) -> ServerCallContext:
        context = super().build(request)
        for name in ("authorization", "cookie"):
            context.state["headers"].pop(name, None)
        return context

    def build_user(self, request: Request) -> User:
        return _Visitor(sender_of(visitor_of(request.scope)))


class _Executor(AgentExecutor):
    """Has an agent answer: a task's events are those of its run."""

    def __init__(self, services: Services, agent: str) -> None:
        self._services = services
        self._agent = agent
        self._runs: dict[str, str] = {}
        """The run of each task that is on its way."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Say the message, and publish what comes of it until the run's end."""
        task, place = context.task_id or "", context.context_id or ""
        updater = TaskUpdater(event_queue, task, place)
        if context.current_task is None:
            submitted = TaskStatus(state=TaskState.TASK_STATE_SUBMITTED)
            await event_queue.enqueue_event(
                Task(id=task, context_id=place, status=submitted, history=[context.message] if context.message else [])
            )
        work = self._services.start(Work(self._services.perform, *self._operation(context)))
        try:
            while (event := await work.mailbox.get()) is not None:
                await self._publish(updater, event[1], json.loads(event[2]))
        finally:
            self._runs.pop(task, None)
            work.leave(stop=False)

    def _operation(self, context: RequestContext) -> tuple[str, dict[str, Any]]:
        who = context.call_context.user.user_name
        sent = context.message.message_id if context.message is not None else ""
        message, place = f"a2a:{who}:{_short(sent)}", f"a2a:{_short(context.context_id or '')}"
        name = None if owner_says(who) else who
        return saying(name, self._agent, context.get_user_input(), place, message=message)

    async def _publish(self, updater: TaskUpdater, kind: str, event: Mapping[str, Any]) -> None:
        if kind == "accepted":
            self._runs[updater.task_id] = event["run"]
            await updater.update_status(TaskState.TASK_STATE_WORKING, metadata={"run": event["run"]})
        elif kind == "asking":
            await updater.requires_auth(_said(updater, "the owner has to approve what the agent wants to do"))
        elif kind == "result":
            await updater.add_artifact([Part(text=event["value"]["answer"])], name="answer", last_chunk=True)
            await updater.complete()
        elif kind == "error":
            remedy = f" ({event['remedy']})" if event.get("remedy") else ""
            said = _said(updater, f"{event['code']}: {event['message']}{remedy}")
            await (updater.reject(said) if event["kind"] in ("input", "refusal") else updater.failed(said))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        """Stop the task's run."""
        run = self._runs.get(context.task_id or "")
        if run is not None:
            try:
                await self._services.perform("runs.stop", {"run": run}, unheard)
            except LoketError as error:
                if error.code != "run.finished":
                    raise
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


def _short(identity: str) -> str:
    """An id of the other side's within one of ours: a long one by its digest, as its beginning could be another's."""
    return identity if len(identity) <= _LONGEST_ID else hashlib.sha256(identity.encode()).hexdigest()


def _said(updater: TaskUpdater, text: str) -> Any:
    return updater.new_agent_message([Part(text=text)])
