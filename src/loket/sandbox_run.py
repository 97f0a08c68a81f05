"""Runs one operation of a module with exactly the contexts that the owner names, and nothing else.

The run is one like any other: it goes through the engine and the counter and stands in the journal. Its rights are the
union of what the contexts allow, so its execution token carries just these; what else the module tries is refused with
`token.rights`, also where it has a grant. Grants are still needed: a context never gives a module what it was not
granted.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from loket.app import Loket
from loket.contracts import (
    BadInput,
    Ending,
    Failed,
    Json,
    LoketError,
    ModuleRef,
    Principal,
    RunRequest,
    RunStatus,
    Verdict,
    command,
    from_dict,
)
from loket.ids import new_id
from loket.packages.manifest import Context, Manifest, Operation
from loket.packages.table import suggestion
from loket.schemas import compile_check

Rights: TypeAlias = Mapping[str, Mapping[str, Json]]


async def run_sandbox(system: Loket, tool: str, contexts: Sequence[str], params: str) -> dict[str, Any]:
    """Run `module.operation` on arguments (JSON text): `run`, `tool`, `contexts`, `rights`, `answer` and `refused`.

    `refused` lists the calls that the module was not allowed: `capability`, `code`, `message`, `remedy`.

    Raises `BadInput` for an unknown tool or context and for arguments that do not fit the operation's schema, `Failed`
    for an answer that does not fit it, and whatever the run ended with, with the run's id.
    """
    ref, manifest, wanted = _found(system, tool)
    rights = union([_context(manifest, name) for name in contexts])
    args = _arguments(tool, wanted, params)
    request = _request(system, ref, wanted.name, args, rights)
    ending = await system.perform(request)
    refused = await asyncio.to_thread(_refused, system, request.id)
    for one in refused:
        one["remedy"] = _remedy(one, manifest, (tool, contexts, params))
    shown = {"run": request.id, "tool": tool, "contexts": list(contexts), "rights": rights}
    return {**shown, "answer": _answer(tool, wanted, request.id, ending, refused), "refused": refused}


def _answer(
    tool: str, wanted: Operation, run: str, ending: Ending, refused: Sequence[Mapping[str, Json]]
) -> Mapping[str, Json]:
    """What the run answered. Raises what it ended with, and `Failed` for what does not fit the schema."""
    error: LoketError | None = None
    if ending.status is not RunStatus.DONE or ending.answer is None:
        said = dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
        known = [one["remedy"] for one in refused if (one["code"], one["message"]) == (said["code"], said["message"])]
        error = from_dict({**said, "remedy": known[0]} if known else said)
    elif (wrong := compile_check(wanted.answer)(dict(ending.answer))) is not None:
        message = f"{tool} answered with what its schema does not allow: {wrong}"
        error = Failed("answer.invalid", message, "mend the module, or the schema in its loket.toml", blame="module")
    if error is not None:
        error.run = run
        raise error
    return ending.answer or {}


def union(contexts: Sequence[Context]) -> dict[str, dict[str, Json]]:
    """Capability to constraints: what at least one of the contexts allows, and nothing that none of them does.

    Raises `BadInput` (`context.conflict`) where no constraints say exactly that.
    """
    rights: dict[str, dict[str, Json]] = {}
    for context in contexts:
        for capability, constraints in context.allows.items():
            held = rights.get(capability)
            rights[capability] = dict(constraints) if held is None else _either(context.id, held, constraints)
    return rights


def _either(context: str, first: Mapping[str, Json], second: Mapping[str, Json]) -> dict[str, Json]:
    """Constraints that allow what one of two does: those that are wider already, or of one name with both lists."""
    for wide, narrow in ((first, second), (second, first)):
        if all(set(narrow.get(name, [None])) <= set(texts) for name, texts in wide.items()):
            return dict(wide)
    differing = {name for name in first.keys() | second.keys() if first.get(name) != second.get(name)}
    if len(differing) > 1 or first.keys() != second.keys():
        raise BadInput(
            "context.conflict",
            f"{context} and another context narrow the same capability in more than one way, which cannot be joined",
            "run it once with each of them",
        )
    name = differing.pop()
    return {**first, name: list(dict.fromkeys([*first[name], *second[name]]))}


def _found(system: Loket, tool: str) -> tuple[ModuleRef, Manifest, Operation]:
    """The module and the operation that a tool's name means. Raises `BadInput`."""
    module, dot, operation = tool.partition(".")
    if not dot or not module or not operation:
        raise BadInput("tool.name", f"{tool!r} is no MODULE.OPERATION", "--tool-name inventory.lookup")
    ref, package = system.installed.module(module)
    known = {one.name: one for one in package.manifest.operations}
    if operation not in known:
        near = suggestion(operation, known) or f"it has: {', '.join(sorted(known)) or 'none'}"
        raise BadInput("operation.unknown", f"{module} has no operation {operation!r}", near)
    return ref, package.manifest, known[operation]


def _context(manifest: Manifest, name: str) -> Context:
    """A context that a module declares. Raises `BadInput`."""
    known = {context.id: context for context in manifest.contexts}
    if name not in known:
        near = suggestion(name, known) or f"it has: {', '.join(sorted(known)) or 'none'}"
        raise BadInput("context.unknown", f"{manifest.id} has no context {name!r}", near)
    return known[name]


def _arguments(tool: str, wanted: Operation, params: str) -> dict[str, Json]:
    """The decoded arguments. Raises `BadInput` that names the path, the value and what was expected."""
    try:
        args = json.loads(params)
    except (ValueError, RecursionError) as error:
        raise BadInput("arguments.invalid", f"the arguments of {tool} are no JSON: {error}", _EXAMPLE) from None
    wrong = compile_check(wanted.arguments)(args)
    if wrong is not None:
        raise BadInput("arguments.invalid", f"{tool}: {wrong}", f"its arguments: {_shown(wanted.arguments)}")
    return dict(args)


_EXAMPLE = '--input-params \'{"sku": "XYZ-900", "location": "WH-A"}\''


def _shown(schema: Mapping[str, Json]) -> str:
    required = schema.get("required", [])
    names = [name if name in required else f"[{name}]" for name in schema.get("properties", {})]
    return ", ".join(names) or "any object"


def _request(system: Loket, ref: ModuleRef, operation: str, args: dict[str, Json], rights: Rights) -> RunRequest:
    """A run of the owner's: the arguments are what was typed, so they are the owner's words."""
    now = system.now()
    run = new_id(now)
    return RunRequest(
        id=run,
        root=run,
        agent=ref.id,
        principal=Principal("agent", ref.id),
        module=ref,
        conversation=f"sandbox-{run}",
        operation=operation,
        args=args,
        labels=("owner",),
        accepted=now,
        words=json.dumps(args, ensure_ascii=False),
        rights=rights,
    )


def _refused(system: Loket, run: str) -> list[dict[str, Json]]:
    """The calls that were refused, in their order."""
    found = []
    for row in system.journal.rows(run):
        if row.ordinal and row.meta.get("decision") == Verdict.DENY.value:
            value = json.loads(row.value)
            said = {name: value["error"].get(name) for name in ("code", "message", "remedy")}
            found.append({"capability": value.get("capability", row.meta["capability"]), **said})
    return found


def _remedy(refused: Mapping[str, Json], manifest: Manifest, asked: tuple[str, Sequence[str], str]) -> str | None:
    """What would allow a refused call: for what the token does not allow, the same command with one more context."""
    if refused["code"] != "token.rights":
        said: str | None = refused["remedy"]
        return said
    tool, contexts, params = asked
    for context in manifest.contexts:
        if refused["capability"] in context.allows and context.id not in contexts:
            named = [word for name in [*contexts, context.id] for word in ("--context", name)]
            return command("run-sandbox", "--tool-name", tool, *named, "--input-params", params)
    return f"no other context of {manifest.id} allows it"
