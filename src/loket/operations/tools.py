"""Tools: one operation of a module at a time, with exactly what it needs, or as agents call it."""

from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Refusal, command, from_dict
from loket.operations.table import Emit, operation
from loket.sandbox_run import run_sandbox


@operation("tools.run")
async def tools_run(
    system: Loket, _emit: Emit, *, tool: str, params: str, contexts: list[str] | None = None
) -> dict[str, Any]:
    """Run `module.operation` on arguments (JSON text) with these contexts and nothing else."""
    return await run_sandbox(system, tool, contexts or [], params)


@operation("tools.describe")
async def tools_describe(system: Loket, _emit: Emit, *, module: str) -> dict[str, Any]:
    """A tool or a skill with its operations and their schemas. Raises `BadInput` for any other module."""
    ref, manifest = system.module_calls.manifest(module)
    known = [system.registry.get(f"{module}.{one.name}") for one in manifest.operations]
    operations = [
        {
            "name": entry.capability.id.partition(".")[2],
            "summary": entry.capability.summary,
            "effect": entry.capability.effect.value,
            "arguments": entry.capability.arguments,
            "answer": entry.capability.answer,
        }
        for entry in known
        if entry is not None
    ]
    if not operations:
        raise BadInput("operation.unknown", f"{module} has no operations that can be called", command("agents"))
    return {"id": ref.id, "version": ref.version, "summary": manifest.summary, "operations": operations}


@operation("tools.call")
async def tools_call(
    system: Loket, _emit: Emit, *, module: str, operation: str, args: dict[str, Any], reads: bool = False
) -> dict[str, Any]:
    """Call an operation of a tool or a skill in the owner's name, through the counter; its answer.

    With `reads` one that changes something is refused: a program's token may look, and no more.
    """
    system.module_calls.operation(module, operation)
    name = f"{module}.{operation}"
    entry = system.registry.get(name)
    if entry is None:
        raise BadInput("operation.unknown", f"{name} cannot be called: it is no tool's and no skill's", "loket caps")
    wrong = entry.check_args(args)
    if wrong is not None:
        raise BadInput("arguments.invalid", f"{name}: {wrong}", f"loket caps {name}")
    if reads and entry.capability.effect.changes:
        effect = entry.capability.effect.value
        raise Refusal(
            "gateway.access", f"an API token is not enough for {name} ({effect})", "log in, or use the command line"
        )
    ending = await system.direct(module, name, args)
    if ending.answer is None:
        raise from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
    return dict(ending.answer)
