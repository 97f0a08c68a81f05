"""A running system with channels on a real home: real modules of `guests/channels`, the stock agent, a quick model."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from guests_fixture import ROOT, built, share_compiled
from loket.app import Loket, running
from loket.channels import System
from loket.home import Home
from loket.testing.models import InstantModel, Reply

WAIT_S = 90.0


def echo(messages: Sequence[Mapping[str, Any]]) -> Reply:
    """A model that says the last words of its user in capitals."""
    return str(messages[-1]["content"]).upper()


def prepared(folder: Path) -> Home:
    """A home with the shared compiled code."""
    home = Home(folder)
    home.prepare()
    if not (folder / "cache").is_symlink():
        shutil.rmtree(folder / "cache", ignore_errors=True)
        share_compiled(folder)
    return home


@contextlib.asynccontextmanager
async def talking(
    home: Home, *, answer: Callable[[Sequence[Mapping[str, Any]]], Reply] = echo, slash: Any = None
) -> AsyncIterator[Loket]:
    """A system whose channels are on, until the context ends; `slash` answers its slash commands."""
    async with running(home, llm=InstantModel(answer)) as system:
        system.channels.bind(_seen(system, slash))
        await system.channels.start()
        try:
            yield system
        finally:
            await system.channels.close()


def _seen(system: Loket, slash: Any) -> System:
    """The running system as channels see it."""
    return System(
        send=system.send,
        perform=system.perform,
        ending=system.finished,
        events=system.watching.watch,
        asked=lambda run: [one.approval for one in system.approvals.open_of([run])],
        leave=lambda value: system.leaving.answer(value, "channel"),
        check=system.installed.module,
        now=system.now,
        slash=slash,
    )


def built_channel(name: str) -> Path:
    """The component of one of our channel modules."""
    return built(ROOT / "guests" / "channels" / name)


async def install(system: Loket, sources: Path, name: str) -> None:
    """Install one of our channel modules."""
    made = sources / name
    shutil.copytree(ROOT / "guests" / "channels" / name, made, dirs_exist_ok=True)
    shutil.copy(built_channel(name), made / "module.wasm")
    await system.installed.install(made, "local", [], "owner")


async def until(there: Callable[[], Any]) -> Any:
    """What is there in the end, looked at again and again."""
    async with asyncio.timeout(WAIT_S):
        while True:
            found = await asyncio.to_thread(there)
            if found:
                return found
            await asyncio.sleep(0.05)


async def there(wanted: Callable[[], Any]) -> None:
    """Wait until something is so in this process."""
    await until(wanted)
