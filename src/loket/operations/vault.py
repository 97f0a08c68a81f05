"""The vault: secrets are put there and taken away; no operation answers with a value."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput
from loket.operations.table import Emit, operation


@operation("vault.list")
async def vault_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Names of the secrets."""
    return {"secrets": list(await asyncio.to_thread(system.vault.names))}


@operation("vault.put")
async def vault_put(system: Loket, _emit: Emit, *, name: str, value: str) -> dict[str, Any]:
    """Put a secret into the vault, in the place of one of the same name. `name`, and whether one was `replaced`."""
    replaced = name in await asyncio.to_thread(system.vault.names)
    await asyncio.to_thread(system.vault.put, name, value)
    return {"name": name, "replaced": replaced}


@operation("vault.remove")
async def vault_remove(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Remove a secret."""
    if not await asyncio.to_thread(system.vault.delete, name):
        raise BadInput("vault.unknown", f"there is no secret {name!r} in the vault", "loket vault list")
    return {"name": name, "removed": True}
