"""Keys of publishers: the owner's own, and those of others that the owner trusts or has revoked."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput
from loket.operations.table import Emit, operation
from loket.packages.pack import read_list
from loket.packages.signature import public_key, written
from loket.publishers import Publishers
from loket.store.modules import PublisherKey


def publishers_of(system: Loket) -> Publishers:
    """The keys of a system's home."""
    return Publishers(system.database.packages, system.journal, system.vault, system.now)


@operation("keys.new")
async def keys_new(system: Loket, _emit: Emit, *, publisher: str) -> dict[str, Any]:
    """Make a key pair; the private key goes to the vault and never leaves it."""
    return _shown(system, await asyncio.to_thread(publishers_of(system).new, publisher))


@operation("keys.list")
async def keys_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All keys that the owner has said something about, with the installed modules that each has signed."""
    return {"keys": [_shown(system, key) for key in publishers_of(system).all()]}


@operation("keys.show")
async def keys_show(system: Loket, _emit: Emit, *, publisher: str) -> dict[str, Any]:
    """A key by its fingerprint or its publisher."""
    return _shown(system, publishers_of(system).key(publisher))


@operation("keys.trust")
async def keys_trust(
    system: Loket, _emit: Emit, *, key: str, publisher: str, replaces: str | None = None
) -> dict[str, Any]:
    """Trust a public key (as text) under a publisher's name; `replaces` names the one that it follows."""
    done = await asyncio.to_thread(publishers_of(system).trust, public_key(key), publisher, replaces)
    return _shown(system, done)


@operation("keys.revoke")
async def keys_revoke(system: Loket, _emit: Emit, *, publisher: str) -> dict[str, Any]:
    """Have nothing more installed that a key signed. What is installed from it goes on, and is named in `modules`."""
    return _shown(system, await asyncio.to_thread(publishers_of(system).revoke, publisher))


@operation("keys.sign")
async def keys_sign(system: Loket, _emit: Emit, *, publisher: str, listed: str) -> dict[str, Any]:
    """Sign the list of a pack with a key of the owner's own: `signature` (hex). Nothing else is signed."""
    signer = await asyncio.to_thread(publishers_of(system).signer, publisher)
    data = listed.encode()
    found = read_list(data)
    if (found.publisher, found.key) != (signer.name, signer.key):
        raise BadInput("key.other", "the list names another publisher's key", "pack it again")
    return {"signature": signer.sign(data).hex()}


def _shown(system: Loket, key: PublisherKey) -> dict[str, Any]:
    signed = [one for one in system.database.packages.versions() if one.signer == key.fingerprint]
    counting = {row["folder"] for row in system.database.modules()}
    return {
        "publisher": key.publisher,
        "fingerprint": key.fingerprint,
        "key": written(key.key),
        "state": key.state,
        "own": key.own,
        "at": key.at,
        "modules": sorted(one.id for one in signed if one.folder in counting),
    }
