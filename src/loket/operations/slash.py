"""Slash commands: which there are, for a list to choose from while somebody types."""

from typing import Any

from loket.app import Loket
from loket.operations.table import Emit, operation


@operation("slash.list")
async def slash_list(system: Loket, _emit: Emit) -> dict[str, Any]:
    """All commands: `name`, `usage`, `summary`, `owner` (for the owner alone) and `module` (None: Loket's own)."""
    return {"commands": system.slash.listed()}
