"""Servers of the Model Context Protocol on a home of a test's own, with real processes behind them."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loket.contracts import Answer, Call, Capability, Launcher, Principal, Refusal
from loket.kernel.registry import Registry
from loket.mcp import Server, Servers, owner
from loket.mcp.settings import read
from loket.providers.vault import FileVault
from loket.schemas import compile_check
from loket.store.mcp import McpTable

HERE = Path(__file__).parent
TOOLS = str(HERE / "mcp_tools_server.py")
HOSTILE = str(HERE / "mcp_hostile_server.py")


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **given: Any) -> None:
        asyncio.run(test(*args, **given))

    return run


def no_sandbox() -> Launcher:
    """A machine that has no sandbox."""
    raise Refusal("jail.none", "this machine has no process sandbox that works", "apt-get install bubblewrap")


def entry(*words: str, **more: Any) -> dict[str, Any]:
    """The entry of a server in Python, without a sandbox unless that is asked for."""
    return {"command": sys.executable, "args": list(words), "sandbox": False, **more}


@dataclass
class Rig:
    """Servers with a registry; `notes` is what was journaled, `pieces` what calls emitted."""

    servers: Servers
    registry: Registry
    vault: FileVault
    home: Path
    notes: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)

    async def add(self, name: str, given: Mapping[str, Any]) -> Server:
        """Add a server and approve how it starts."""
        await owner.add(self.servers, read(name, dict(given)), "test", replacing=True, approve=True)
        await owner.approve_server(self.servers, name, None)
        return read(name, dict(self.servers.kept(name).config))

    async def ready(self, name: str, given: Mapping[str, Any], **said: Any) -> None:
        """Add a server, connect it, and approve all its tools."""
        await self.add(name, given)
        await owner.tested(self.servers, name)
        for tool in self.servers.table.tools(name):
            await owner.approve_tool(self.servers, name, tool.name, **said)

    def ids(self) -> list[str]:
        return [known.id for known in self.registry.all()]

    def capability(self, name: str) -> Capability:
        return self.registry.find(name).capability

    async def call(self, name: str, deadline_s: float = 20.0, **args: Any) -> Any:
        """What a capability's handler answers, or the error that it raises."""
        entry = self.registry.find(name)
        assert entry.handler is not None
        assert entry.check_args(args) is None, entry.check_args(args)
        call = Call(
            "r1", 1, "main", "c", Principal("agent", "main"), name, args, (), deadline_s=deadline_s,
            emit=self.pieces.append,
        )  # fmt: skip
        answer = await entry.handler(call)  # type: ignore[misc]  # these handlers are asynchronous
        assert isinstance(answer, Answer)
        assert entry.check_answer(answer.value) is None, entry.check_answer(answer.value)
        return answer

    async def data(self, name: str, **args: Any) -> Any:
        """The data of an answer."""
        return (await self.call(name, **args)).value.get("data")


@asynccontextmanager
async def rig(home: Path, launcher: Callable[[], Launcher] = no_sandbox, **parts: Any) -> AsyncIterator[Rig]:
    """Servers on a home, until the context ends: then nothing of them is left."""
    for folder in ("vault", "logs"):
        (home / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    vault, table = FileVault(home / "vault"), McpTable(home / "mcp.db")
    registry = Registry((), (), compile_check)
    notes: list[tuple[str, Mapping[str, Any]]] = []
    servers = Servers(
        table,
        vault,
        registry,
        compile_check,
        folder=home / "mcp",
        logs=home / "logs",
        launcher=launcher,
        note=lambda what, said: notes.append((what, said)),
        **parts,
    )
    await servers.start()
    try:
        yield Rig(servers, registry, vault, home, notes)
    finally:
        await servers.close()
        table.close()
