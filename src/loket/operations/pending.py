"""What lies in the drop box: the owner looks at it, and installs or dismisses it."""

import asyncio
from collections.abc import Callable
from typing import Any

from loket.app import Loket
from loket.contracts import LoketError, RowKind
from loket.dropbox import Dropbox
from loket.offers import Word
from loket.operations.modules import granted_of, installed_shown, offers_of
from loket.operations.table import Emit, operation


def dropbox_of(system: Loket) -> Dropbox:
    """The drop box of a system's home."""
    return Dropbox(system.home.root / "dropbox")


def arrived_at(system: Loket, say: Callable[[str], None]) -> Callable[[str], None]:
    """What is done when something has come: the journal notes it, and the owner is told."""

    def arrived(name: str) -> None:
        facts = {"what": "package.pending", "principal": "host:loket", "name": name}
        system.journal.append("", 0, RowKind.NOTE, facts, "{}")
        system.journal.sync()
        say(f"In the drop box, {name} waits for your word: loket pending list")

    return arrived


@operation("pending.list")
async def pending_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """What waits in the drop box, each with what it asks for, or with the error that keeps it from being installed."""
    dropbox = dropbox_of(system)
    waiting = await asyncio.to_thread(dropbox.all)
    return {"folder": str(dropbox.folder), "pending": [await _shown(system, one.name) for one in waiting]}


async def _shown(system: Loket, name: str) -> dict[str, Any]:
    offers = offers_of(system)
    try:
        async with offers.opened(dropbox_of(system).one(name).path, name) as offer:
            return {"name": name, **await asyncio.to_thread(offers.described, offer), "error": None}
    except LoketError as error:
        return {"name": name, "modules": [], "error": error.as_dict()}


@operation("pending.approve")
async def pending_approve(
    system: Loket,
    _emit: Emit,
    *,
    name: str,
    grant: list[str] | None = None,
    more: bool = False,
    unsigned: bool = False,
    trust: str | None = None,
    expect: str | None = None,
) -> dict[str, Any]:
    """Install what waits under a name, and take it out of the drop box; the arguments are those of `module.install`."""
    dropbox, offers = dropbox_of(system), offers_of(system)
    dropped = await asyncio.to_thread(dropbox.one, name)
    async with offers.opened(dropped.path, f"dropbox/{name}") as offer:
        word = Word(granted_of(offer, grant or []), more, unsigned, trust, expect)
        shown = installed_shown(system, await offers.install(offer, word))
    await asyncio.to_thread(dropbox.dismiss, name)
    return shown


@operation("pending.dismiss")
async def pending_dismiss(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Remove what waits under a name."""
    await asyncio.to_thread(dropbox_of(system).dismiss, name)
    return {"name": name, "dismissed": True}
