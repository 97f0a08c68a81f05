"""All servers of a home: what the owner approved of them, their connections, and their tools in the registry.

Agents see tools as the owner approved them, from what is kept, whether their server runs or not; it is connected at the
first call. Before each call its list of tools is compared with what was approved. A tool that says something else than
before is withdrawn until the owner has looked at the difference.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from loket.contracts import (
    Answer,
    BadInput,
    Call,
    Capability,
    Failed,
    FailedAsk,
    Handler,
    Json,
    Launcher,
    LoketError,
    Refusal,
    command,
)
from loket.mcp import definition, names, oauth, web
from loket.mcp.capability import answer_of, capability_of, said
from loket.mcp.connection import Connection
from loket.mcp.log import Log
from loket.mcp.progress import Shown
from loket.mcp.settings import Server, canonical, filled, read
from loket.mcp.start import launched
from loket.mcp.state import Health, State, state_of
from loket.mcp.stdio import stdio
from loket.providers.net_address import Resolve, resolve
from loket.store.mcp import KeptServer, KeptTool, McpTable

IDLE_S = 300.0
"""Seconds without a call after which a connection is closed."""
_CONNECT_S = 30.0
FIRST_S = 180.0
"""Seconds for the owner's own test: a package may have to be fetched first."""
_LIST_S = 20.0
_WAITS = (1.0, 2.0, 5.0, 15.0, 60.0, 300.0)
"""Seconds before the next try, by the number of failures."""
_MESSAGE = 500
_TEND_S = 10.0

CompileCheck: TypeAlias = Callable[[Mapping[str, Any]], Callable[[Any], str | None]]
Note: TypeAlias = Callable[[str, Mapping[str, Json]], None]
"""Writes into the journal what happened to a server outside any run."""


class Tools(Protocol):
    """The registry, as far as servers use it."""

    def put(self, source: str, capabilities: Sequence[Capability], handlers: Mapping[str, Handler]) -> None: ...

    def drop(self, source: str) -> None: ...


class Servers:
    """Servers, by name. Used from one event loop.

    `folder` is where workspaces are, `logs` where their logs go. `launcher` finds what makes
    sandboxes, or raises `Refusal`. `now` is seconds since 1970. `elicit`, a callback of the
    library, answers what servers ask in the middle of a call; without one they are refused.
    """

    def __init__(
        self,
        table: McpTable,
        vault: oauth.Vault,
        registry: Tools,
        compile_check: CompileCheck,
        *,
        folder: Path,
        logs: Path,
        launcher: Callable[[], Launcher],
        note: Note = lambda _what, _said: None,
        now: Callable[[], float] = time.time,
        idle_s: float = IDLE_S,
        resolved: Resolve = resolve,
        tls: Any = None,
        elicit: Any = None,
    ) -> None:
        self.table = table
        self.vault = vault
        self.folder = folder
        self.launcher = launcher
        self.now = now
        self._registry = registry
        self._compile = compile_check
        self._logs = logs
        self._note = note
        self._idle_s = idle_s
        self._resolved = resolved
        self._tls = tls
        self._elicit = elicit
        self._connections: dict[str, Connection] = {}
        self._opening: dict[str, asyncio.Lock] = {}
        self._health: dict[str, Health] = {}
        self._checks: dict[str, tuple[str, Callable[[Any], str | None]]] = {}
        self._unusable: dict[tuple[str, str], str] = {}
        self._relisting: set[str] = set()
        self._scopes: dict[str, str] = {}
        self._work: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None

    # Life

    async def start(self) -> None:
        """Have the approved tools of all servers in the registry. Nothing is connected."""
        for kept in await asyncio.to_thread(self.table.servers):
            with contextlib.suppress(LoketError):  # of one that cannot be read `loket mcp show` says why
                self.publish(kept.name)

    async def warm(self) -> None:
        """Connect the servers that are switched on and approved, one after the other; failures are in their health."""
        for kept in await asyncio.to_thread(self.table.servers):
            if kept.enabled and kept.approved == kept.digest and any(map(self._usable, self.table.tools(kept.name))):
                with contextlib.suppress(LoketError):
                    await self.checked(kept.name)

    async def close(self) -> None:
        """Close all connections. The table stays open: it is its opener's."""
        if self._tending is not None:
            self._tending.cancel()
            await asyncio.wait({self._tending})
        for task in list(self._work):
            task.cancel()
        if self._work:
            await asyncio.wait(self._work)
        await asyncio.gather(*(one.close() for one in self._connections.values()))
        self._connections.clear()

    # What is kept

    def kept(self, name: str) -> KeptServer:
        """A server as it is kept. Raises `BadInput`."""
        found = self.table.server(name)
        if found is None:
            have = ", ".join(one.name for one in self.table.servers()) or "none"
            raise BadInput("mcp.unknown", f"there is no server {name!r}; there are: {have}", "loket mcp list")
        return found

    def tool(self, server: str, name: str) -> KeptTool:
        """A tool as it is kept, by its own name or the one in its capability. Raises `BadInput`."""
        found = {one.name: one for one in self.table.tools(self.kept(server).name)}
        encoded = name.removeprefix(f"{names.FAMILY}.{server}.")
        for one in found.values():
            if one.name == name or names.encode(one.name) == encoded:
                return one
        have = ", ".join(sorted(found)[:20]) or "none yet"
        raise BadInput(
            "mcp.tool.unknown", f"{server} has no tool {name[:80]!r}; it has: {have}", f"loket mcp test {server}"
        )

    def state(self, tool: KeptTool, config: str) -> State:
        """How a tool stands."""
        return state_of(tool, config, unusable=(tool.server, tool.name) in self._unusable)

    def why_unusable(self, tool: KeptTool) -> str:
        """Why a tool cannot be used at all; empty where it can."""
        return self._unusable.get((tool.server, tool.name), "")

    def health(self, name: str) -> Health:
        """How a server is."""
        held = self._connections.get(name)
        known = self._health.setdefault(name, Health())
        known.connected = held is not None and held.alive
        return known

    def _usable(self, tool: KeptTool) -> bool:
        return self.state(tool, self.kept(tool.server).digest) is State.APPROVED

    # Capabilities

    def publish(self, name: str) -> None:
        """Have exactly the approved tools of a server in the registry."""
        kept = self.table.server(name)
        source = f"{names.FAMILY}:{name}"
        for known in [key for key in self._unusable if key[0] == name]:
            del self._unusable[known]
        if kept is None or not kept.enabled or kept.approved != kept.digest:
            self._registry.drop(source)
            return
        timeout_s = read(name, dict(kept.config)).timeout_s
        made = [
            self._made(tool, timeout_s)
            for tool in self.table.tools(name)
            if self.state(tool, kept.digest) is State.APPROVED
        ]
        usable = [capability for capability in made if capability is not None]
        self._registry.put(source, usable, {capability.id: self._perform for capability in usable})

    def _made(self, tool: KeptTool, timeout_s: float) -> Capability | None:
        """The capability of a tool; None, and the reason kept, where its schemas are none."""
        try:
            made = capability_of(tool, timeout_s)
            self._compile(made.arguments)
            self._compile(made.answer)
        except (BadInput, ValueError) as error:
            self._unusable[(tool.server, tool.name)] = str(error)[:300]
            return None
        return made

    # Calls

    async def _perform(self, call: Call) -> Answer:
        """Perform a tool. Raises `Refusal` (`mcp.changed` and others) and `Failed`."""
        _family, server, encoded = call.capability.split(".", 2)
        name = names.decode(encoded)
        label = f"{names.FAMILY}:{server}/{name}"
        connection = await self._heard(server, label)
        tool = self._callable(server, name)
        with contextlib.closing(Shown(call)) as progress:
            try:
                result = await connection.call(name, call.args, call.deadline_s, progress)
            except Failed as error:
                raise _told(error.message, label, error.code, error.remedy) from None
        self.health(server).calls += 1
        if result.get("isError"):
            raise _told(f"{call.capability} failed, and says: {said(result, _MESSAGE)}", label)
        self._fits(tool, result, label)
        return answer_of(result, label)

    async def _heard(self, server: str, label: str) -> Connection:
        """A checked connection; what a server says instead of one is its own words, which carry the label."""
        try:
            return await self.checked(server)
        except (Failed, Refusal) as error:
            if isinstance(error, Refusal) and error.blame != "provider":
                raise
            raise _told(error.message, label, error.code, error.remedy) from None

    def _callable(self, server: str, name: str) -> KeptTool:
        """A tool that may be called now. Raises `Refusal` with the command that helps."""
        kept, found = self.kept(server), {one.name: one for one in self.table.tools(server)}
        tool = found.get(name)
        state = State.GONE if tool is None else self.state(tool, kept.digest)
        if not kept.enabled:
            raise Refusal(
                "mcp.disabled", f"the server {server} is switched off", command("mcp", "enable", server), blame="owner"
            )
        if tool is not None and state is State.APPROVED:
            return tool
        if state is State.CHANGED:
            raise Refusal(
                "mcp.changed",
                f"the tool {name[:80]} of {server} is not what the owner approved any more",
                command("mcp", "diff", server, name),
                blame="provider",
            )
        if state is State.GONE:
            raise Refusal(
                "mcp.gone",
                f"{server} has no tool {name[:80]} any more",
                command("mcp", "tools", server),
                blame="provider",
            )
        raise Refusal(
            "mcp.unapproved",
            f"the owner has not approved the tool {name[:80]} of {server}",
            command("mcp", "approve", server, name),
            blame="owner",
        )

    def _fits(self, tool: KeptTool, result: Mapping[str, Json], label: str) -> None:
        """Raise `Failed` (`mcp.tool`) where an answer is not what the tool's own schema says."""
        schema = tool.definition.get("outputSchema")
        data = result.get("structuredContent")
        if not isinstance(schema, Mapping):
            return
        if data is None:
            raise _told(f"{tool.name} of {tool.server} answered without the data that it declares", label)
        known = self._checks.get(tool.server + "/" + tool.name)
        if known is None or known[0] != tool.digest:
            try:
                known = tool.digest, self._compile(schema)
            except ValueError:
                known = tool.digest, lambda _value: "its own schema is none"
            self._checks[tool.server + "/" + tool.name] = known
        wrong = known[1](data)
        if wrong is not None:
            raise _told(f"{tool.name} of {tool.server} answered against its own schema: {wrong}", label)

    # Connections

    async def checked(self, name: str, timeout_s: float = _CONNECT_S) -> Connection:
        """A connection whose tools have just been compared with what was approved. Raises `LoketError`."""
        connection = await self.connected(name, timeout_s)
        await self.relist(name, connection)
        return connection

    async def connected(self, name: str, timeout_s: float = _CONNECT_S, *, owner: bool = False) -> Connection:
        """The server's connection, opened where there is none. `owner`: without waiting after a failure.

        Raises `Refusal` where the owner has not approved it or switched it off, and `Failed`.
        """
        async with self._opening.setdefault(name, asyncio.Lock()):
            held = self._connections.get(name)
            if held is not None and held.alive:
                return held
            if held is not None:
                await self._forget(name, held)
            server = self._startable(name)
            health = self._health.setdefault(name, Health())
            if not owner:
                health.must_wait(name)
            return await self._open(server, health, timeout_s)

    async def _open(self, server: Server, health: Health, timeout_s: float) -> Connection:
        connection: Connection | None = None
        try:
            await asyncio.to_thread(_import)
            connection = Connection(server.name, self._opener(server), lambda: self._changed(server.name), self._elicit)
            self._connections[server.name] = connection
            await connection.ready(timeout_s)
        except LoketError as error:
            health.failed(error, _WAITS)
            if connection is not None:
                await self._forget(server.name, connection)
            raise
        except BaseException:
            if connection is not None:
                await self._forget(server.name, connection)
            raise
        health.opened(connection.protocol, connection.server, self.now())
        if self._tending is None:
            self._tending = asyncio.create_task(self._tend())
        return connection

    def _startable(self, name: str) -> Server:
        kept = self.kept(name)
        if kept.approved != kept.digest:
            raise Refusal(
                "mcp.unapproved",
                f"the owner has not approved how the server {name} is started",
                command("mcp", "approve", name),
                blame="owner",
            )
        if not kept.enabled:
            raise Refusal(
                "mcp.disabled", f"the server {name} is switched off", command("mcp", "enable", name), blame="owner"
            )
        return read(name, dict(kept.config))

    def log_of(self, name: str) -> Log:
        """The log of a server."""
        return Log(self._logs / f"mcp-{name}.log")

    def _opener(self, server: Server) -> Callable[[Callable[[str], None]], Any]:
        if server.command:
            return lambda tell: self._process(server, tell)
        return lambda _tell: self._remote(server, self._auth(server))

    @contextlib.asynccontextmanager
    async def _process(self, server: Server, tell: Callable[[str], None]) -> AsyncIterator[tuple[Any, Any]]:
        log = self.log_of(server.name)
        log.hide([value for name in server.secrets if (value := self.vault.get(name))])
        launch, workspace = await asyncio.to_thread(launched, server, self.folder, self.launcher, self.vault.get)

        def told(what: str) -> None:
            log.write(f"[loket] it {what}, and was ended")
            tell(what)

        async with stdio(launch, workspace, log, told) as streams:
            yield streams

    def _auth(self, server: Server) -> Any:
        """How a server elsewhere is logged in to; None where a header says it all."""
        if any(name.lower() == "authorization" for name in server.headers):
            return None
        held = oauth.Held(self.vault, server)
        held.redirect = f"http://127.0.0.1:{held.registered_port}/callback"
        return oauth.silent(server, held, lambda scopes: self._scopes.__setitem__(server.name, scopes))

    @contextlib.asynccontextmanager
    async def _remote(self, server: Server, auth: Any) -> AsyncIterator[tuple[Any, Any]]:
        from mcp.client.streamable_http import streamable_http_client

        headers = {name: filled(server, text, self.vault.get) for name, text in server.headers.items()}
        url = filled(server, server.url, self.vault.get)
        client = web.client(replace(server, url=url), headers, auth=auth, resolved=self._resolved, tls=self._tls)
        async with client, streamable_http_client(url, http_client=client, max_sse_event_size=web.LARGEST) as streams:
            yield streams

    async def _forget(self, name: str, connection: Connection) -> None:
        if self._connections.get(name) is connection:
            del self._connections[name]
        await connection.close()

    async def disconnect(self, name: str) -> None:
        """Close a server's connection, if it has one."""
        held = self._connections.get(name)
        if held is not None:
            await self._forget(name, held)

    async def _tend(self) -> None:
        """Close connections that nobody uses."""
        while True:
            await asyncio.sleep(min(_TEND_S, self._idle_s))
            for name, held in list(self._connections.items()):
                if not held.alive or held.unused(self._idle_s):
                    await self._forget(name, held)

    async def login(self, name: str, show: Callable[[str], None]) -> None:
        """Have the owner log in: `show` gets the address to open. Raises `BadInput`, `Failed`, `Refusal`."""
        server = self._startable(name)
        oauth.check(server)
        await asyncio.to_thread(_import)
        held = oauth.Held(self.vault, server)
        await self.disconnect(name)

        async def shown(url: str) -> None:
            desk.ask()
            show(web.login_page(server, oauth.with_scopes(url, self._scopes.get(name, ""))))

        async with oauth.desk(held.registered_port) as desk:
            held.forget(registration=desk.port != held.registered_port)
            held.redirect = desk.redirect
            auth = oauth.provider(server, held, shown, desk.answer)
            connection = Connection(name, lambda _tell: self._remote(server, auth), lambda: None)
            try:
                await connection.ready(oauth.WAIT_S + _CONNECT_S)
                await self.relist(name, connection)
            finally:
                await connection.close()
        self._health[name] = Health()

    # Lists of tools

    async def relist(self, name: str, connection: Connection) -> None:
        """Compare what a server lists with what is kept; withdraw what is not as it was approved."""
        listed = await connection.tools(_LIST_S)
        self._seen(name, listed.items())

    def _seen(self, name: str, listed: Iterable[tuple[str, Mapping[str, Json]]]) -> None:
        found = {tool: (said, definition.digest(said)) for tool, said in listed if _fits_kept(said)}
        before = {tool.name: tool for tool in self.table.tools(name)}
        same = {tool.name: tool.digest for tool in before.values() if not tool.gone}
        if same == {tool: digest for tool, (_said, digest) in found.items()}:
            return
        config = self.kept(name).digest
        self.table.see(name, found, self.now())
        self.publish(name)
        for tool in self.table.tools(name):
            old = before.get(tool.name)
            was = self.state(old, config) if old is not None else None
            if was is State.APPROVED and self.state(tool, config) is not State.APPROVED:
                what = "mcp.gone" if tool.gone else "mcp.changed"
                facts = {"server": name, "tool": tool.name, "approved": tool.approved_digest, "now": tool.digest}
                self._note(what, facts)

    def _changed(self, name: str) -> None:
        """A server says that its tools have changed: look, once for however many times it says so meanwhile."""
        held = self._connections.get(name)
        if held is None or name in self._relisting:
            return
        self._relisting.add(name)
        task = asyncio.create_task(self._look(name, held))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _look(self, name: str, connection: Connection) -> None:
        try:
            await asyncio.sleep(0.05)
            self._relisting.discard(name)
            with contextlib.suppress(LoketError):  # the next call finds out
                await self.relist(name, connection)
        finally:
            self._relisting.discard(name)


def _fits_kept(said: Mapping[str, Json]) -> bool:
    """Whether a definition is of a size that anybody could look over."""
    return len(canonical(said)) <= definition.LARGEST


def _told(message: str, label: str, code: str = "mcp.tool", remedy: str | None = None) -> FailedAsk:
    """A failure in a server's own words, which carry its label."""
    error = FailedAsk(code, "".join(sign if sign.isprintable() else " " for sign in message), remedy)
    error.labels = (label,)
    return error


def _import() -> None:
    """Import the library beside the event loop: it takes most of a second."""
    import mcp.client.client
    import mcp.client.streamable_http  # noqa: F401 - both are used later, by name
