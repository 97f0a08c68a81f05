"""Modules: look at them, install them, go back to an earlier version, remove them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, ModuleRef
from loket.offers import Offer, Offers, Word
from loket.operations.keys import publishers_of
from loket.operations.status import agent_shown
from loket.operations.table import Emit, operation
from loket.packages.fetch import is_address
from loket.store.modules import Version


def offers_of(system: Loket) -> Offers:
    """What can be installed on a system's home."""
    return Offers(system.home, system.installed, publishers_of(system), system.grants, system.registry)


@operation("module.inspect")
async def module_inspect(system: Loket, emit: Emit, *, source: str) -> dict[str, Any]:
    """What a folder, a pack or an address holds and asks for, and what it holds already; nothing is changed.

    A fetched pack is `place`: install it from there, and remove it.
    """
    offers = offers_of(system)
    place = await offers.fetched(source, _telling(emit))
    try:
        async with offers.opened(place, source) as offer:
            shown = await asyncio.to_thread(offers.described, offer)
    except BaseException:
        if is_address(source):
            await asyncio.to_thread(place.unlink, missing_ok=True)
        raise
    return {**shown, "place": str(place)}


def _telling(emit: Emit) -> Callable[[int, int | None], None]:
    """A taker of progress on any thread."""
    loop = asyncio.get_running_loop()

    def told(done: int, total: int | None) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": done, "total": total})

    return told


@operation("module.install")
async def module_install(
    system: Loket,
    emit: Emit,
    *,
    source: str,
    named: str | None = None,
    grant: list[str] | None = None,
    more: bool = False,
    unsigned: bool = False,
    trust: str | None = None,
    expect: str | None = None,
) -> dict[str, Any]:
    """Install a folder's module or those of a pack, and grant these of the capabilities that they ask for.

    `grant` has names of capabilities, or `MODULE:CAPABILITY`. `more`, `unsigned`, `trust` and `expect` are `Word`'s.
    """
    offers = offers_of(system)
    place = await offers.fetched(source, _telling(emit))
    try:
        async with offers.opened(place, named or source) as offer:
            word = Word(granted_of(offer, grant or []), more, unsigned, trust, expect)
            return installed_shown(system, await offers.install(offer, word))
    finally:
        if is_address(source):
            await asyncio.to_thread(place.unlink, missing_ok=True)


def granted_of(offer: Offer, grant: Sequence[str]) -> dict[str, list[str]]:
    """What is granted, by module: a capability without a module's name goes to each that asks for it."""
    granted: dict[str, list[str]] = {}
    for text in grant:
        module, _, capability = text.rpartition(":")
        asking = [
            package.manifest.id
            for package in offer.packages
            if capability in {want.name for want in package.manifest.capabilities}
        ]
        for name in [module] if module else asking or [offer.packages[0].manifest.id]:
            granted.setdefault(name, []).append(capability)
    return granted


def installed_shown(system: Loket, refs: Sequence[ModuleRef]) -> dict[str, Any]:
    """The modules as the list of agents has them; those of the first at the top too."""
    shown = [agent_shown(system, *system.installed.module(ref.id)) for ref in refs]
    return {**shown[0], "modules": shown}


@operation("module.versions")
async def module_versions(system: Loket, _emit: Emit, *, agent: str) -> dict[str, Any]:
    """The versions of a module that are kept, the newest first; `current` is the one that counts."""
    if system.installed.publisher_of(agent) is None:
        system.installed.module(agent)
    revoked = publishers_of(system).revoked()
    return {
        "versions": [
            {
                "version": one.version,
                "current": counts,
                "publisher": one.publisher,
                "digest": one.digest,
                "signer": one.signer,
                "revoked": one.signer in revoked or not system.grants.runnable(one.digest),
                "source": one.source,
                "installed": one.installed,
            }
            for one, counts in system.installed.versions(agent)
        ]
    }


@operation("module.rollback")
async def module_rollback(system: Loket, _emit: Emit, *, agent: str, version: str | None = None) -> dict[str, Any]:
    """Have the version before, or the one named, count again. Grants stay as they are."""
    revoked = publishers_of(system).revoked()

    def allowed(one: Version) -> None:
        if one.signer in revoked:
            raise BadInput(
                "pack.revoked", f"you have revoked the key that signed {one.id} {one.version}", "loket keys list"
            )

    ref = await system.installed.rollback(agent, version, allowed)
    return agent_shown(system, *system.installed.module(ref.id))


@operation("module.remove")
async def module_remove(system: Loket, _emit: Emit, *, agent: str, revoke: bool = False) -> dict[str, Any]:
    """Remove a module and its grants; its brain and its journal stay. A revoked one may never run again."""
    digests = {row["id"]: row["digest"] for row in system.database.modules()}
    if agent not in digests:
        system.installed.module(agent)
    sharing = [name for name, digest in digests.items() if digest == digests[agent] and name != agent]
    if revoke and sharing:
        raise BadInput(
            "module.shared", f"{', '.join(sharing)} runs on the same bytes as {agent}", "remove it without --revoke"
        )
    await system.installed.remove(agent)
    if revoke:
        await asyncio.to_thread(system.grants.revoke_digest, digests[agent], system.now())
    return {"agent": agent, "removed": True, "revoked": revoke}
