"""Tools: one operation of a module at a time, with exactly what it needs."""

from typing import Any

from loket.app import Loket
from loket.operations.table import Emit, operation
from loket.sandbox_run import run_sandbox


@operation("tools.run")
async def tools_run(
    system: Loket, _emit: Emit, *, tool: str, params: str, contexts: list[str] | None = None
) -> dict[str, Any]:
    """Run `module.operation` on arguments (JSON text) with these contexts and nothing else."""
    return await run_sandbox(system, tool, contexts or [], params)
