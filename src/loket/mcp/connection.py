"""One connection to a server: opened once, used by many calls, watched for its end.

The library's client lives in one task, as its cancel scopes ask for; calls come from other tasks of the same loop. A
connection that has ended stays ended: whoever needs the server opens another one.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from loket.contracts import Failed, Json, LoketError
from loket.mcp.definition import normal

if TYPE_CHECKING:
    from mcp.client.client import Client

Open: TypeAlias = Callable[[Callable[[str], None]], AbstractAsyncContextManager[tuple[Any, Any]]]
"""A transport: streams of messages from a server and to it, for as long as the context lasts.

It takes a function that hears what the server did, where the transport ends it for that.
"""


class Progress(Protocol):
    """Takes how far a call is: so much, of so much, and a word about it."""

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None: ...


_PAGES = 50
_TOOLS = 512
_BURST, _RATE = 2_000, 200.0
"""Notifications and requests of a server: so many at once, and so many a second after that."""
_CLOSE_S = 6.0
_SETTLE_S = 0.5
_ROUNDS = 8
"""Rounds of a call in which a server asks to be called again."""
_AGAIN_S = 0.1


class Connection:
    """A connection to one server. `changed` is called (from the loop) when it says that its tools have changed."""

    def __init__(self, name: str, opened: Open, changed: Callable[[], None], elicit: Any = None) -> None:
        self.name = name
        self.protocol = ""
        """The revision that was agreed on."""
        self.server = ""
        """What the server calls itself."""
        self.used = time.monotonic()
        self.calls = 0
        """Calls that wait for their answers."""
        self._opened = opened
        self._changed = changed
        self._elicit = elicit
        self._client: Client | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closing = asyncio.Event()
        self._over = asyncio.Event()
        self._why: LoketError | None = None
        self._bounds: set[asyncio.Timeout] = set()
        self._tokens, self._counted = float(_BURST), time.monotonic()
        self._task = asyncio.create_task(self._run())

    async def ready(self, timeout_s: float) -> None:
        """Wait until it can be used. Raises the `LoketError` for which it cannot."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(self._ready)
        except TimeoutError:
            self._why = self._why or Failed(
                "mcp.connect",
                f"the server {self.name} was not ready within {timeout_s:g} s",
                f"loket mcp log {self.name}",
            )
            await self.close()
            raise self._why from None

    def unused(self, seconds: float) -> bool:
        """Whether it was opened, and nobody has used it for so long."""
        return self._ready.done() and not self.calls and time.monotonic() - self.used >= seconds

    @property
    def alive(self) -> bool:
        return not self._over.is_set() and not self._closing.is_set()

    async def close(self) -> None:
        """End it, and wait until everything that belongs to it has ended."""
        self._closing.set()
        if not self._ready.done():
            self._task.cancel()
        done, _ = await asyncio.wait({self._task}, timeout=_CLOSE_S)
        if not done:
            self._task.cancel()
            await asyncio.wait({self._task})

    # Using it

    async def tools(self, timeout_s: float) -> dict[str, dict[str, Json]]:
        """The definitions of all tools by name, as the server says them now; one that is there twice is left out.

        Raises `Failed` (`mcp.list`) where there are too many.
        """
        found: dict[str, dict[str, Json]] = {}
        twice: set[str] = set()
        cursor: str | None = None
        for _page in range(_PAGES):
            page = await self._asked(self._listed(cursor), timeout_s)
            for tool in page.tools:
                said = normal(tool.model_dump(by_alias=True, mode="json", exclude_unset=True))
                twice |= {tool.name} & found.keys()
                found[tool.name] = said
            cursor = page.next_cursor
            if len(found) > _TOOLS:
                break
            if cursor is None:
                return {name: said for name, said in found.items() if name not in twice}
        raise Failed("mcp.list", f"the server {self.name} lists more than {_TOOLS} tools", "use another server")

    async def _listed(self, cursor: str | None) -> Any:
        return await self._session().list_tools(cursor=cursor, cache_mode="bypass")

    async def call(self, tool: str, args: Mapping[str, Json], timeout_s: float, progress: Progress) -> dict[str, Json]:
        """Call a tool; its result as JSON. When cancelled, the server is told. Raises `Failed` (`mcp.*`)."""
        self.calls += 1
        try:
            result = await self._asked(self._called(tool, args, progress), timeout_s)
        finally:
            self.calls -= 1
        if getattr(result, "result_type", "complete") == "input_required":
            raise Failed(
                "mcp.input",
                f"the server {self.name} wants something of its client in the middle of a call, which is not given",
                "use a tool that needs no more than its arguments",
            )
        said: dict[str, Json] = result.model_dump(by_alias=True, mode="json", exclude_unset=True)
        return said

    async def _called(self, tool: str, args: Mapping[str, Json], progress: Progress) -> Any:
        """The request itself: the library's own method checks answers with expressions that can take for ever."""
        import mcp_types

        more: dict[str, Any] = {}
        for _round in range(_ROUNDS):
            params = mcp_types.CallToolRequestParams(name=tool, arguments=dict(args), **more)
            request = mcp_types.CallToolRequest(params=params)
            session = self._session().session
            result = await session.send_request(request, _answers(), progress_callback=progress)
            if not isinstance(result, mcp_types.InputRequiredResult):
                return result
            given = await self._given(session, result.input_requests or {})
            if given is None:
                return result
            more = {"input_responses": given or None, "request_state": result.request_state}
        return result

    async def _given(self, session: Any, requests: Mapping[str, Any]) -> dict[str, Any] | None:
        """What a server wants in the middle of a call; None where that is not given to it."""
        import mcp_types
        from mcp.client.session import ClientRequestContext

        found: dict[str, Any] = {}
        for key, request in requests.items():
            context = ClientRequestContext(session=session, request_id=key, meta=None)
            found[key] = await session.dispatch_input_request(context, request)
            if isinstance(found[key], mcp_types.ErrorData):
                return None
        if not requests:
            await asyncio.sleep(_AGAIN_S)
        return found

    def _session(self) -> "Client":
        if self._client is None or not self.alive:
            raise self._gone()
        return self._client

    async def _asked(self, asking: Awaitable[Any], timeout_s: float) -> Any:
        """What is asked, unless the connection ends before. Raises `Failed`."""
        from mcp.shared.exceptions import MCPError
        from pydantic import ValidationError

        self.used = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s) as bound:
                self._bounds.add(bound)
                try:
                    return await asking
                finally:
                    self._bounds.discard(bound)
        except TimeoutError:
            if not self.alive:
                raise await self._reason() from None
            raise Failed(
                "mcp.timeout", f"the server {self.name} gave no answer within {timeout_s:g} s", "try again, or ask less"
            ) from None
        except MCPError as error:
            if not self.alive or error.error.code == _CLOSED:
                raise await self._reason() from None
            said = "".join(sign for sign in error.error.message if sign.isprintable())[:300]
            raise Failed("mcp.error", f"the server {self.name} answered with an error: {said}", None) from None
        except (ValidationError, ValueError, RuntimeError) as error:
            raise Failed(
                "mcp.protocol",
                f"the server {self.name} answered with what is not of the protocol ({type(error).__name__})",
                f"loket mcp test {self.name}",
            ) from None
        finally:
            self.used = time.monotonic()

    def _finish(self) -> None:
        """It is over: whoever still waits for an answer has the moment in which the library says so itself."""
        if not self._over.is_set():
            self._over.set()
            until = asyncio.get_running_loop().time() + _SETTLE_S
            for bound in self._bounds:
                bound.reschedule(until)

    async def _reason(self) -> LoketError:
        """Why it is over; that is known when all that belongs to it has ended."""
        await asyncio.wait({self._task}, timeout=_SETTLE_S)
        return self._gone()

    def _gone(self) -> LoketError:
        return self._why or Failed(
            "mcp.gone", f"the server {self.name} has ended, or broke off the connection", f"loket mcp log {self.name}"
        )

    # Its life

    async def _run(self) -> None:
        """Hold the client, from its first message to its last."""
        try:
            async with self._made() as client:
                self._client = client
                self.protocol = client.protocol_version
                info = client.server_info
                self.server = f"{info.name} {info.version}"[:200] if info is not None else ""
                self.used = time.monotonic()
                self._ready.set_result(None)
                async with self._followed(client):
                    await self._ended()
        except asyncio.CancelledError:
            if not self._closing.is_set():
                raise
        except BaseException as error:  # noqa: BLE001 - groups of whatever a transport raised: said in words below
            self._why = self._why or _told(self.name, error)
        finally:
            self._finish()
            if not self._ready.done():
                self._ready.set_exception(self._gone())
                self._ready.exception()  # somebody may wait for it, or nobody

    async def _ended(self) -> None:
        closing, over = asyncio.create_task(self._closing.wait()), asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({closing, over}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            closing.cancel()
            over.cancel()

    @contextlib.asynccontextmanager
    async def _made(self) -> AsyncIterator["Client"]:
        from mcp.client.client import Client
        from mcp_types import Implementation

        logging.getLogger("mcp").setLevel(logging.CRITICAL + 1)  # its messages quote what servers send
        logging.getLogger("httpcore2").setLevel(logging.INFO)
        info = Implementation(name="loket", version="1")
        made = Client(
            self._watched(), message_handler=self._told, client_info=info, cache=None, elicitation_callback=self._elicit
        )
        async with made as client:
            yield client

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[tuple[Any, Any]]:
        async with self._opened(self._broke) as (incoming, outgoing):
            yield _Watched(incoming, self._take, self._finish), outgoing

    @contextlib.asynccontextmanager
    async def _followed(self, client: "Client") -> AsyncIterator[None]:
        """Hear of changed tools where that has to be asked for: since the revision of 2026-07-28."""
        following = asyncio.create_task(self._follow(client))
        try:
            yield
        finally:
            following.cancel()
            await asyncio.wait({following})
            if not following.cancelled():
                following.exception()  # a server that tells nothing is asked before each call

    async def _follow(self, client: "Client") -> None:
        capabilities = client.server_capabilities.tools
        if client.protocol_version < "2026" or capabilities is None or not capabilities.list_changed:
            return
        async with client.listen(tools_list_changed=True) as events:
            async for _event in events:
                self._changed()

    async def _told(self, message: Any) -> None:
        """A notification of the server. Of all that it may say, a changed list of tools alone matters."""
        if type(message).__name__ == "ToolListChangedNotification":
            self._changed()

    def _take(self, message: Any) -> bool:
        """Whether one more message may come: answers always, what nobody asked for within bounds."""
        if not hasattr(getattr(message, "message", None), "method"):
            return True
        now = time.monotonic()
        self._tokens = min(float(_BURST), self._tokens + (now - self._counted) * _RATE)
        self._counted = now
        self._tokens -= 1
        if self._tokens >= 0:
            return True
        self._broke(f"sent more than {_BURST} messages that nobody asked for")
        return False

    def _broke(self, what: str) -> None:
        self._why = Failed(
            "mcp.broken", f"the server {self.name} {what}, and was ended", f"loket mcp disable {self.name}"
        )


@functools.cache
def _answers() -> Any:
    """What a call can be answered with. Made once, which takes 2 ms."""
    import mcp_types
    from pydantic import TypeAdapter

    return TypeAdapter(mcp_types.InputRequiredResult | mcp_types.CallToolResult)


_CLOSED = -32_000
"""The library's code for a connection that was closed."""


def _told(name: str, error: BaseException) -> LoketError:
    """Why a connection ended, of whatever was raised."""
    found = _first(error)
    if isinstance(found, LoketError):
        return found
    said = "".join(sign for sign in str(found) if sign.isprintable())[:200]
    return Failed(
        "mcp.connect",
        f"the server {name} cannot be connected ({type(found).__name__}: {said})".replace(": )", ")"),
        f"loket mcp log {name}",
    )


def _first(error: BaseException) -> BaseException:
    """The error of ours in a group, or in the causes of one; else the first one."""
    waiting, seen = [error], list[BaseException]()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, LoketError):
            return one
        if isinstance(one, BaseExceptionGroup):
            waiting = [*one.exceptions, *waiting]
            continue
        seen.append(one)
        cause = one.__cause__ or one.__context__
        if cause is not None and len(seen) < 20:  # noqa: PLR2004 - a chain that is longer says nothing more
            waiting.append(cause)
    return seen[0] if seen else error


class _Watched:
    """A stream of messages that counts them, and tells of its end. It has the shape that the library asks for."""

    def __init__(self, inner: Any, take: Callable[[Any], bool], over: Callable[[], None]) -> None:
        self._inner = inner
        self._take = take
        self._over = over

    @property
    def last_context(self) -> Any:
        return getattr(self._inner, "last_context", None)

    async def receive(self) -> Any:
        item = await self._inner.receive()
        return self._checked(item)

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> "_Watched":
        return self

    async def __anext__(self) -> Any:
        try:
            item = await self._inner.__anext__()
        except StopAsyncIteration:
            self._over()
            raise
        return self._checked(item)

    def _checked(self, item: Any) -> Any:
        if not self._take(item):
            self._over()
            raise StopAsyncIteration
        return item

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._inner.__aexit__(*error)
