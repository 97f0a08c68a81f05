"""A desk behind the official SDK: its low-level server, which takes and gives the protocol's objects.

The SDK knows eras, versions, sessions, streams and headers; here is only what a request means at the desk.
"""

import asyncio
import contextlib
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import mcp_types as types
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel.server import NotificationOptions, Server
from mcp.server.session import ServerSession
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.subscriptions import PromptsListChanged, ResourcesListChanged, ResourceUpdated, ToolsListChanged
from starlette.types import Receive, Scope, Send

from loket.clients import Client
from loket.contracts import BadInput, Json, LoketError
from loket.mcp_server.calls import Again, Tell
from loket.mcp_server.desk import (
    ERA_2026,
    LACKING,
    NAME,
    NOT_FOUND,
    TITLE,
    TTL_MS,
    VERSION,
    WATCH_S,
    Desk,
    Lacking,
    Unknown,
    instructions,
    progress_of,
)

_MOST_FOLLOWED = 256
_MOST_ROUNDS = 8
"""Times that one call may ask a client for more."""

_RESOURCE_NOT_FOUND = -32002
_LEVELS = ("debug", "info")
_REQUESTS: Mapping[str, tuple[Any, Any]] = {
    "elicitation/create": (types.ElicitRequest, types.ElicitResult),
    "sampling/createMessage": (types.CreateMessageRequest, types.CreateMessageResult),
    "roots/list": (types.ListRootsRequest, types.ListRootsResult),
}

_Context = ServerRequestContext[Any, Any]


class _Follower:
    """A session of the era with sessions, and what it is told of."""

    def __init__(self, client: Client, session: ServerSession, state: str) -> None:
        self.client = client
        self.session = session
        self.state = state
        self.marks: dict[str, str] = {}
        """The resources that it subscribes to, as they were last."""
        self.logs = False


class Served:
    """An application that serves a desk. The scope of a request has its client."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._followers: OrderedDict[str, _Follower] = OrderedDict()
        self._buses: OrderedDict[str, tuple[Client, InMemorySubscriptionBus, ListenHandler, dict[str, str]]] = (
            OrderedDict()
        )
        self._server = self._made()
        self._manager = StreamableHTTPSessionManager(self._server)
        self._running: asyncio.Task[None] | None = None
        self._started = asyncio.Event()

    async def start(self) -> None:
        """Have it run, once; it ends with the event loop."""
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="mcp")
        await self._started.wait()

    async def _run(self) -> None:
        async with self._manager.run():
            self._started.set()
            while True:
                await asyncio.sleep(WATCH_S)
                with contextlib.suppress(LoketError):  # a module that cannot be read now is looked at again
                    await self._look()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client: Client = scope["loket.client"]
        token = AccessToken(token="", client_id=f"{client.ref.id} {client.ref.digest}", scopes=[])
        await self._manager.handle_request({**scope, "user": AuthenticatedUser(token)}, receive, send)

    def _made(self) -> Server[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", MCPDeprecationWarning)  # logging, for the era that has it
            server: Server[Any] = Server(
                NAME,
                title=TITLE,
                version=VERSION,
                instructions=instructions(),
                on_list_tools=cast(Any, self._lists("tools", self._desk.tools)),
                on_call_tool=cast(Any, self._call),
                on_list_resources=cast(Any, self._lists("resources", self._desk.resources)),
                on_list_resource_templates=cast(Any, self._lists("resourceTemplates", self._desk.templates)),
                on_read_resource=cast(Any, self._read),
                on_subscribe_resource=cast(Any, self._subscribe),
                on_unsubscribe_resource=cast(Any, self._unsubscribe),
                on_subscriptions_listen=cast(Any, self._listen),
                on_list_prompts=cast(Any, self._lists("prompts", self._desk.prompts)),
                on_get_prompt=cast(Any, self._prompt),
                on_completion=cast(Any, self._completion),
                on_set_logging_level=cast(Any, self._set_level),
            )
        options = server.create_initialization_options
        changes = NotificationOptions(prompts_changed=True, resources_changed=True, tools_changed=True)
        server.create_initialization_options = (  # type: ignore[method-assign]  # the manager asks without options
            lambda notification_options=None, *more, **named: options(notification_options or changes, *more, **named)
        )
        return server

    # Requests

    def _client(self, context: _Context) -> Client:
        """The client of a request, which is remembered where it has a session."""
        scope = context.request.scope  # type: ignore[union-attr]  # HTTP alone comes here
        client: Client = scope["loket.client"]
        session = context.request.headers.get("mcp-session-id")  # type: ignore[union-attr]
        if session and context.protocol_version != ERA_2026:
            held = self._followers.get(session)
            if held is None:
                self._followers[session] = _Follower(client, context.session, self._desk.state_of(client))
                if len(self._followers) > _MOST_FOLLOWED:
                    self._followers.popitem(last=False)
            else:
                held.session = context.session
                self._followers.move_to_end(session)
        return client

    def _follower(self, context: _Context) -> _Follower | None:
        self._client(context)
        return self._followers.get(context.request.headers.get("mcp-session-id", ""))  # type: ignore[union-attr]

    def _lists(
        self, key: str, listed: Callable[[Client], list[dict[str, Json]]]
    ) -> Callable[[_Context, Any], Awaitable[dict[str, Json]]]:
        async def handle(context: _Context, _params: Any) -> dict[str, Json]:
            found: dict[str, Json] = {key: listed(self._client(context))}
            return self._cached(context, found)

        return handle

    @staticmethod
    def _cached(context: _Context, result: dict[str, Json]) -> dict[str, Json]:
        """What may be kept for how long, in the era that says so; another client must never get it."""
        if context.protocol_version == ERA_2026:
            result |= {"ttlMs": TTL_MS, "cacheScope": "private"}
        return _complete(context, result)

    async def _call(self, context: _Context, params: types.CallToolRequestParams) -> dict[str, Json]:
        client, told = self._client(context), _Told(context, self._follower(context))

        async def once(again: Again | None) -> dict[str, Json]:
            args = params.arguments or {}
            return await self._desk.call(client, params.name, args, again=again, tell=told.tell, able=_able(context))

        async with told:
            return await self._rounds(context, once, _again(params))

    async def _prompt(self, context: _Context, params: types.GetPromptRequestParams) -> dict[str, Json]:
        client = self._client(context)

        async def once(again: Again | None) -> dict[str, Json]:
            return await self._desk.prompt(client, params.name, params.arguments or {}, again, _able(context))

        return await self._rounds(context, once, _again(params))

    async def _rounds(
        self, context: _Context, once: Callable[[Again | None], Awaitable[dict[str, Json]]], again: Again | None
    ) -> dict[str, Json]:
        """In the era of sessions a client is asked on the way; later it gets the question as the result."""
        for _ in range(_MOST_ROUNDS):
            try:
                result = await once(again)
            except LoketError as error:
                raise _error(error) from None
            if result.get("resultType") != "input_required" or context.protocol_version == ERA_2026:
                return _complete(context, result)
            responses = {key: await _asked(context, wanted) for key, wanted in result["inputRequests"].items()}
            again = Again(responses, result.get("requestState"))
        raise MCPError(NOT_FOUND, "the capability asked too often")

    async def _read(self, context: _Context, params: types.ReadResourceRequestParams) -> dict[str, Json]:
        try:
            found = await self._desk.read(self._client(context), str(params.uri))
        except Unknown as error:
            modern = context.protocol_version == ERA_2026
            code = NOT_FOUND if modern else _RESOURCE_NOT_FOUND
            raise MCPError(code, error.message, {"uri": str(params.uri)}) from None
        except LoketError as error:
            raise _error(error) from None
        return self._cached(context, found)

    async def _completion(self, context: _Context, _params: types.CompleteRequestParams) -> dict[str, Json]:
        """Nothing is known of what could be meant."""
        return _complete(context, {"completion": {"values": [], "total": 0, "hasMore": False}})

    async def _set_level(self, context: _Context, params: types.SetLevelRequestParams) -> dict[str, Json]:
        follower = self._follower(context)
        if follower is not None:
            follower.logs = params.level in _LEVELS
        return {}

    # Changes

    async def _subscribe(self, context: _Context, params: types.SubscribeRequestParams) -> dict[str, Json]:
        follower = self._follower(context)
        if follower is not None:
            follower.marks[str(params.uri)] = self._desk.mark(follower.client, str(params.uri))
        return {}

    async def _unsubscribe(self, context: _Context, params: types.UnsubscribeRequestParams) -> dict[str, Json]:
        follower = self._follower(context)
        if follower is not None:
            follower.marks.pop(str(params.uri), None)
        return {}

    async def _listen(
        self, context: _Context, params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """One stream of changes, for the client of this request alone."""
        client = self._client(context)
        key = client.ref.digest
        if key not in self._buses:
            bus = InMemorySubscriptionBus()
            self._buses[key] = (client, bus, ListenHandler(bus, max_subscriptions=16), {})
            if len(self._buses) > _MOST_FOLLOWED:
                self._buses.popitem(last=False)[1][2].close()
        _client, _bus, handler, marks = self._buses[key]
        marks.setdefault("", self._desk.state_of(client))
        for uri in params.notifications.resource_subscriptions or ():
            marks[str(uri)] = self._desk.mark(client, str(uri))
        return await handler(context, params)

    async def _look(self) -> None:
        """Tell who follows what has changed."""
        states: dict[str, str] = {}

        def state_of(client: Client) -> str:
            key = client.ref.digest
            if key not in states:
                states[key] = self._desk.state_of(client)
            return states[key]

        await self._tell_sessions(state_of)
        await self._tell_streams(state_of)

    async def _tell_sessions(self, state_of: Callable[[Client], str]) -> None:
        for session, follower in list(self._followers.items()):
            try:
                await self._tell_session(follower, state_of(follower.client))
            except Exception:  # noqa: BLE001 - whatever the SDK raises for a session that has ended
                self._followers.pop(session, None)

    async def _tell_session(self, follower: _Follower, state: str) -> None:
        if state != follower.state:
            follower.state = state
            await follower.session.send_tool_list_changed()
            await follower.session.send_resource_list_changed()
            await follower.session.send_prompt_list_changed()
        for uri in self._changed(follower.client, follower.marks):
            await follower.session.send_resource_updated(uri)

    async def _tell_streams(self, state_of: Callable[[Client], str]) -> None:
        for client, bus, _handler, marks in list(self._buses.values()):
            state = state_of(client)
            if state != marks.get(""):
                marks[""] = state
                for event in (ToolsListChanged(), ResourcesListChanged(), PromptsListChanged()):
                    await bus.publish(event)
            for uri in self._changed(client, marks):
                await bus.publish(ResourceUpdated(uri=uri))

    def _changed(self, client: Client, marks: dict[str, str]) -> list[str]:
        """The resources of these that are not as they were."""
        changed = []
        for uri, before in list(marks.items()):
            now = self._desk.mark(client, uri) if uri else before
            if now != before:
                marks[uri] = now
                changed.append(uri)
        return changed


class _Told:
    """Sends what happens in a run to who waits for it, in order, until the context ends."""

    def __init__(self, context: _Context, follower: _Follower | None) -> None:
        self._context = context
        self._token = (context.meta or {}).get("progress_token")
        self._logs = context.protocol_version == ERA_2026 or (follower is not None and follower.logs)
        self._queue: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None

    @property
    def tell(self) -> Tell | None:
        """Who takes events; None where nobody asked for any."""
        return self._queue.put_nowait if self._token is not None or self._logs else None

    async def __aenter__(self) -> None:
        if self.tell is not None:
            self._sending = asyncio.create_task(self._send())

    async def __aexit__(self, kind: object, _error: object, _trace: object) -> None:
        if self._sending is None:
            return
        if kind is not None:
            self._sending.cancel()
            return
        self._queue.put_nowait(None)
        await self._sending

    async def _send(self) -> None:
        count, session, request = 0, self._context.session, str(self._context.request_id)
        while (event := await self._queue.get()) is not None:
            said = progress_of(event)
            if not said:
                continue
            count += 1
            if self._token is not None:
                await session.send_progress_notification(self._token, count, None, said, related_request_id=request)
            if self._logs:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", MCPDeprecationWarning)
                    await session.send_log_message("info", said, NAME, related_request_id=request)


def _complete(context: _Context, result: dict[str, Json]) -> dict[str, Json]:
    """A result, which says that it is one in the era in which it could be a question."""
    return {"resultType": "complete", **result} if context.protocol_version == ERA_2026 else result


def _able(context: _Context) -> dict[str, Json]:
    can = context.session.client_capabilities
    return {} if can is None else can.model_dump(mode="json", by_alias=True, exclude_none=True)


def _again(params: Any) -> Again | None:
    """What a client that was asked for more sends with its request."""
    responses, state = getattr(params, "input_responses", None), getattr(params, "request_state", None)
    if responses is None and state is None:
        return None
    shown = {
        key: one if isinstance(one, dict) else one.model_dump(mode="json", by_alias=True, exclude_none=True)
        for key, one in (responses or {}).items()
    }
    return Again(shown, state)


async def _asked(context: _Context, wanted: Mapping[str, Json]) -> dict[str, Json]:
    """Ask the client, while its request waits."""
    request, result = _REQUESTS[wanted["method"]]
    made = request.model_validate({"method": wanted["method"], "params": wanted.get("params")})
    related = ServerMessageMetadata(related_request_id=context.request_id)
    answered = await context.session.send_request(made, result, metadata=related)
    shown: dict[str, Json] = answered.model_dump(mode="json", by_alias=True, exclude_none=True)
    return shown


def _error(error: LoketError) -> MCPError:
    if isinstance(error, Lacking):
        return MCPError(LACKING, error.message, {"requiredCapabilities": {name: {} for name in error.capabilities}})
    code = types.INVALID_PARAMS if isinstance(error, BadInput) else types.INTERNAL_ERROR
    return MCPError(code, error.message, {"error": error.as_dict()})
