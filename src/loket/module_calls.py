"""Operations of installed tools and skills as capabilities: `inventory.lookup` for agents, plans and clients.

They come and go with their modules, without a restart: a call that has begun goes on with the version that it found.
Performing one starts a child of the run that asks, whose id follows from (run, ordinal): performed again after a crash,
the call finds the child that it started, so an operation with an effect is never done twice by that.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from loket.children import ASKED, Children, failed_ask, reason_of, used, within
from loket.contracts import (
    OWNER,
    Answer,
    BadInput,
    Call,
    Capability,
    Ending,
    Failed,
    Json,
    Limits,
    ModuleRef,
    OnUncertain,
    Principal,
    RunRequest,
    RunStatus,
    Sender,
    Usage,
    command,
    from_dict,
)
from loket.ids import derived_id, new_id
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.registry import Check, Registry
from loket.kernel.state import RunState
from loket.packages.change import Change, What
from loket.packages.manifest import Manifest, Operation
from loket.packages.table import suggestion
from loket.store.kernel import KernelDatabase

KINDS = ("tool", "skill")
"""Kinds of modules whose operations are capabilities. An agent is asked, and a channel relays."""

TIME_S = 300.0
"""Seconds that an operation may take; what its run waits for the owner does not count."""

LONGEST_S = 30 * 24 * 3_600.0
"""Seconds after which a call is given up whatever it waits for."""


class ModuleCalls:
    """Puts modules' operations into the registry, and performs them. `follow` goes to `Installed.watch`.

    `now` gives seconds since 1970. Made before the engine; `bind` gives it the rest. Used on the event loop.
    """

    _engine: Engine
    _database: KernelDatabase
    _children: Children

    def __init__(
        self,
        registry: Registry,
        grants: Grants,
        compile_check: Callable[[Mapping[str, Json]], Check],
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._grants = grants
        self._compile = compile_check
        self._now = now
        self._modules: dict[str, tuple[ModuleRef, Manifest]] = {}

    def bind(self, engine: Engine, database: KernelDatabase) -> None:
        """What is there only after the registry."""
        self._engine = engine
        self._database = database
        self._children = Children(engine, database)

    # Which there are

    def follow(self, name: str, change: Change) -> None:
        """Take up a change of the installed modules. Raises `BadInput` where its operations cannot be capabilities."""
        manifest, source = change.package.manifest, f"module:{name}"
        self._modules.pop(name, None)
        if change.what is not What.REMOVED:
            self._modules[name] = (change.ref, manifest)
        if name not in self._modules or manifest.kind not in KINDS or not manifest.operations:
            self._registry.drop(source)
            return
        known = [capability_of(manifest, one) for one in manifest.operations]
        performing = [partial(self._perform, change.ref, one) for one in manifest.operations]
        try:
            self._registry.put(source, known, {one.id: done for one, done in zip(known, performing, strict=True)})
        except BadInput:
            self._registry.drop(source)
            raise

    # Performing one for a run

    async def _perform(self, ref: ModuleRef, operation: Operation, call: Call) -> Answer:
        """Run the operation as a child of the run that asks, and wait for its answer.

        Raises `Failed` where it gives none, with what it used and saw.
        """
        child = derived_id(call.run, call.ordinal)
        asker = self._engine.unfinished()[call.run]
        ending: Ending | Usage | None = await self._children.over(child)
        if ending is None:
            if child not in self._engine.unfinished():
                await self._children.start(asker, self._child(asker, ref, operation, call, child))
            ending = await self._children.ending(asker, child, TIME_S)
        return _answered(call.capability, child, ending)

    def _child(self, asker: RunState, ref: ModuleRef, operation: Operation, call: Call, child: str) -> RunRequest:
        """The run of a call. What the owner calls directly is in the owner's words."""
        sender = asker.request
        typed = sender.module is None and sender.principal == OWNER
        return RunRequest(
            id=child,
            root=sender.root,
            agent=ref.id,
            principal=_on_behalf(sender, ref.id),
            module=replace(ref, limits=within(ref.limits, asker)),
            conversation=f"{ASKED}module:{child}",
            operation=operation.name,
            args=dict(call.args),
            labels=call.labels_of(),
            accepted=self._now(),
            parent=sender.id,
            depth=sender.depth + 1,
            words=_typed(call.args) if typed else sender.words,
            rights=self.rights(ref, operation),
        )

    def rights(self, ref: ModuleRef, operation: Operation) -> dict[str, Mapping[str, Json]]:
        """What a run of an operation may do: what its module was granted, and of that what its effect says.

        One that says that it changes nothing can change nothing, whatever its module was granted.
        """
        held = self._grants.rights(ref)
        if operation.effect.changes:
            return held
        return {name: constraints for name, constraints in held.items() if not self._changes(name)}

    def _changes(self, name: str) -> bool:
        entry = self._registry.get(name)
        return entry is None or entry.capability.effect.changes

    # Performing one by itself

    async def operate(
        self,
        module: str,
        operation: str,
        args: Mapping[str, Json],
        *,
        conversation: str,
        message: str | None = None,
        sender: Sender,
    ) -> Mapping[str, Json]:
        """Run an operation of an installed module, of any kind, as a run of its own (see `loket.contracts.Operate`).

        Raises `BadInput` for what is not there or does not fit its schema, and what the run ended with.
        """
        request = self.request(module, operation, args, conversation=conversation, sender=sender)
        run = await self._engine.submit(request, message)
        ending = await self._engine.result(run)
        if ending.status is RunStatus.DONE and ending.answer is not None:
            _ref, wanted = self.operation(module, operation)
            wrong = self._compile(wanted.answer)(dict(ending.answer))
            if wrong is None:
                return ending.answer
            said = f"{module}.{operation} answered with what its schema does not allow: {wrong}"
            raise Failed("answer.invalid", said, "mend the module, or the schema in its loket.toml", blame="module")
        error = from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
        error.run = run
        raise error

    def request(
        self, module: str, operation: str, args: Mapping[str, Json], *, conversation: str, sender: Sender
    ) -> RunRequest:
        """A run of an operation, not submitted yet. Raises `BadInput`."""
        ref, wanted = self.operation(module, operation)
        wrong = self._compile(wanted.arguments)(dict(args))
        if wrong is not None:
            remedy = f"its arguments are in the [[operation]] of {module}'s loket.toml"
            raise BadInput("arguments.invalid", f"{module}.{operation}: {wrong}", remedy)
        now = self._now()
        run = new_id(now)
        return RunRequest(
            id=run,
            root=run,
            agent=ref.id,
            principal=sender.principal,
            module=ref,
            conversation=conversation,
            operation=wanted.name,
            args=dict(args),
            labels=sender.labels,
            accepted=now,
            words=sender.words,
            rights=self.rights(ref, wanted),
        )

    def operation(self, module: str, operation: str) -> tuple[ModuleRef, Operation]:
        """An operation of an installed module. Raises `BadInput`."""
        ref, manifest = self.manifest(module)
        found = {one.name: one for one in manifest.operations}
        if operation not in found:
            near = suggestion(operation, found) or f"it has: {', '.join(sorted(found)) or 'none'}"
            raise BadInput("operation.unknown", f"{module} has no operation {operation[:80]!r}", near)
        return ref, found[operation]

    def manifest(self, module: str) -> tuple[ModuleRef, Manifest]:
        """An installed module. Raises `BadInput` (`agent.unknown`)."""
        if module not in self._modules:
            near = suggestion(module, self._modules) or command("agents") or None
            raise BadInput("agent.unknown", f"there is no module {module[:80]!r}", near)
        return self._modules[module]

    def modules(self) -> list[tuple[ModuleRef, Manifest]]:
        """All installed modules, by id."""
        return [self._modules[name] for name in sorted(self._modules)]


def capability_of(manifest: Manifest, operation: Operation) -> Capability:
    """The capability that an operation is.

    Its critical arguments are those that the manifest names; else all of an operation that changes something, and none
    of one that reads.
    """
    properties = operation.arguments.get("properties")
    named = tuple(properties) if isinstance(properties, Mapping) else ()
    critical = operation.critical
    if critical is None:
        critical = named if operation.effect.changes else ()
    return Capability(
        id=f"{manifest.id}.{operation.name}",
        summary=operation.summary,
        effect=operation.effect,
        arguments=operation.arguments,
        answer=operation.answer or {"type": "object"},
        critical=critical,
        on_uncertain=OnUncertain.DEDUPE,
        timeout_s=LONGEST_S,
        answer_kb=max(manifest.limits.answer_kb, Limits().answer_kb),
        waits=True,
    )


def _on_behalf(sender: RunRequest, module: str) -> Principal:
    """For whom a child runs: the agent that asks; of a direct call whoever made it, the owner as its module."""
    if sender.module is not None:
        return Principal("agent", sender.agent)
    return Principal("agent", module) if sender.principal == OWNER else sender.principal


def _typed(args: Mapping[str, Json]) -> str:
    """Arguments as the owner's words, one a line."""
    return "\n".join(one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in args.values())


def _answered(capability: str, run: str, ending: Ending | Usage) -> Answer:
    """What whoever asked gets. Raises `Failed` where there is no answer."""
    remedy = f"loket runs show {run}"
    module = capability.partition(".")[0]
    labels: tuple[str, ...] = (f"module:{module}",)
    if isinstance(ending, Usage):
        said = f"{capability} gave no answer within {TIME_S:g} s (run {run})"
        raise failed_ask("module.timeout", said, remedy, ending, labels)
    labels = tuple(sorted({*ending.labels, *labels}))
    if ending.answer is not None:
        return Answer(ending.answer, labels, used(ending))
    refused = ending.status is RunStatus.REFUSED and ending.error is not None
    code, said = "module.failed", f"{capability} failed (run {run}): {reason_of(ending)}"
    if refused and ending.error is not None:
        code, said = "module.refused", f"{capability} refused: {ending.error['message']}"
        remedy = ending.error.get("remedy") or remedy
    raise failed_ask(code, said, remedy, used(ending), labels)
