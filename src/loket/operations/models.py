"""Models: which of them answers, and with which key."""

import asyncio
from typing import Any

from loket import models
from loket.app import Loket
from loket.contracts import BadInput
from loket.operations.table import Emit, operation


@operation("models.list")
async def models_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Routes, their order, and what is found on this machine."""
    return await models.listed(system)


@operation("models.use")
async def models_use(system: Loket, _emit: Emit, *, names: list[str], options: dict[str, Any]) -> dict[str, Any]:
    """Use these routes in this order."""
    if not names or not all(isinstance(name, str) for name in names):
        raise BadInput("model.names", "names must be a list of route names", "loket model use embedded")
    return await models.use(system, names, options)


@operation("models.pull")
async def models_pull(system: Loket, emit: Emit, *, file: str | None = None) -> dict[str, Any]:
    """Install the embedded model."""
    return await models.fetch(system, emit, file)


@operation("models.keys")
async def models_keys(system: Loket, _emit: Emit) -> dict[str, Any]:
    """Names of the keys in the vault."""
    return {"keys": list(system.vault.names())}


@operation("models.key")
async def models_key(system: Loket, _emit: Emit, *, name: str, value: str) -> dict[str, Any]:
    """Put a key into the vault."""
    await asyncio.to_thread(system.vault.put, name, value)
    return {"name": name}
