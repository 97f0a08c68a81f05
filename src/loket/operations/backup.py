"""Backup: a copy of the home, taken while it is used."""

import asyncio
from pathlib import Path
from typing import Any

from loket.app import Loket
from loket.backup import Parts, take
from loket.contracts import BadInput
from loket.operations.table import Emit, operation


@operation("backup")
async def backup(system: Loket, emit: Emit, *, folder: str, models: bool = False, keys: bool = True) -> dict[str, Any]:
    """Back the home up into a new folder (an absolute path). `folder`, `keys`, `files`, `bytes`, `created`."""
    target = Path(folder)
    if not target.is_absolute():
        raise BadInput("backup.folder", f"{folder} is not an absolute path", "name the folder from the root on")
    loop = asyncio.get_running_loop()
    parts = Parts(system.brains.copy, keyring=system.config.vault_keyring, models=models, keys=keys)

    def told(event: dict[str, Any]) -> None:
        loop.call_soon_threadsafe(emit, event)

    return await asyncio.to_thread(take, system.home, target, parts, told)
