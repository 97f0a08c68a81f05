"""The doctor, inside of a running system."""

import asyncio
from typing import Any

from loket.app import Loket
from loket.doctor import all_sound, examine
from loket.operations.table import Emit, operation


@operation("doctor")
async def doctor(system: Loket, _emit: Emit, *, fix: bool = False) -> dict[str, Any]:
    """Look the home over, and mend what is safe. `checks`, and whether none failed: `ok`."""
    said = system.home.running()
    port = said["port"] if said is not None else None
    checks = await asyncio.to_thread(
        examine, system.home, brains=system.brains, journal=system.journal, fix=fix, port=port
    )
    return {"checks": checks, "ok": all_sound(checks)}
