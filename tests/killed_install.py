"""The process that `test_packs_live` kills: it installs a pack, and ends with SIGKILL at the step that it is told.

A step is whatever touches the disk: a file that is opened to be written, made, renamed or removed, and the moments
before and after the transaction that says which versions count.
"""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from loket.app import running
from loket.home import Home
from loket.operations import Operations
from loket.store.kernel import KernelDatabase
from loket.testing.models import InstantModel

_EVENTS = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "shutil.copyfile"})
steps = {"left": -1, "seen": 0}


def step() -> None:
    """One more step; the last one that is allowed kills."""
    if steps["left"] < 0:
        return
    steps["seen"] += 1
    if steps["seen"] == steps["left"]:
        os.kill(os.getpid(), signal.SIGKILL)


def audited(event: str, arguments: tuple[Any, ...]) -> None:
    """What Python says about each operation before it is done."""
    if event in _EVENTS or (event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
        step()


def watched(database: KernelDatabase) -> None:
    """Count the moments before and after each transaction."""
    write = database.write

    def stepped(*args: Any) -> None:
        step()
        write(*args)
        step()

    database.write = stepped  # type: ignore[method-assign] - the process is made to be killed


async def main(home: str, pack: str, at: int) -> None:
    """Install a pack; the number of steps that it took is printed, where it was not killed."""
    async with running(Home(Path(home)), llm=InstantModel(lambda _: "")) as system:
        watched(system.database)
        sys.addaudithook(audited)
        steps["left"] = at
        args = {"source": pack, "unsigned": True, "more": True, "grant": ["kv.get"]}
        await Operations(system).perform("module.install", args, lambda _event: None)
        steps["left"] = -1
        print(steps["seen"])  # noqa: T201 - the test reads it


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
