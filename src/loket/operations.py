"""What an owner can do with a running system: each operation once, for the command line and for the gateway.

Operations take and return JSON values. `Operations.perform` decodes the arguments strictly, so that a wrong one is an
error that names it, whichever way it came.
"""

import asyncio
import inspect
import json
import types
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeAlias, get_args

from loket import __version__, models
from loket.app import LOCAL_PUBLISHER, Loket
from loket.contracts import BadInput, Ending, Grant, Row, RowKind, RunStatus, from_dict
from loket.packages.install import Package, read_package

Emit: TypeAlias = Callable[[dict[str, Any]], None]
"""Takes events while an operation runs: objects with a `type`."""

_MOST_RUNS = 10_000

P = ParamSpec("P")
Method: TypeAlias = Callable[..., Awaitable[Any]]

_TABLE: dict[str, Method] = {}


def operation(
    name: str,
) -> Callable[
    [Callable[Concatenate["Operations", Emit, P], Awaitable[Any]]],
    Callable[Concatenate["Operations", Emit, P], Awaitable[Any]],
]:
    """Declare an operation; its keyword arguments and their types are what `perform` accepts."""

    def declare(
        method: Callable[Concatenate["Operations", Emit, P], Awaitable[Any]],
    ) -> Callable[Concatenate["Operations", Emit, P], Awaitable[Any]]:
        _TABLE[name] = method
        return method

    return declare


class Operations:
    """The owner's operations on one system."""

    def __init__(self, system: Loket) -> None:
        self._system = system

    async def perform(self, name: str, args: dict[str, Any], emit: Emit) -> Any:
        """Do one operation. Raises `BadInput` for an unknown one or wrong arguments, and what the operation raises."""
        method = _TABLE.get(name)
        if method is None:
            raise BadInput(
                "operation.unknown", f"there is no operation {name!r}", f"known: {', '.join(sorted(_TABLE))}"
            )
        return await method(self, emit, **_decoded(name, method, args))

    # The system

    @operation("status")
    async def status(self, _emit: Emit) -> dict[str, Any]:
        """Version, home, agents, unfinished runs."""
        system = self._system
        return {
            "version": __version__,
            "home": str(system.home.root),
            "agents": [ref.id for ref, _ in system.modules()],
            "unfinished": len(await asyncio.to_thread(system.database.unfinished)),
        }

    @operation("agents")
    async def agents(self, _emit: Emit) -> dict[str, Any]:
        """Installed modules with what they may and what they ask for beyond it."""
        unreadable = [{"id": name, "error": error.as_dict()} for name, error in self._system.unreadable.items()]
        return {
            "agents": [self._agent(ref, package) for ref, package in self._system.modules()],
            "unreadable": unreadable,
        }

    def _agent(self, ref: Any, package: Package) -> dict[str, Any]:
        held = [grant.capability for grant in self._system.grants.held(ref.publisher, ref.id)]
        manifest = package.manifest
        return {
            "id": ref.id,
            "version": ref.version,
            "kind": manifest.kind,
            "publisher": ref.publisher,
            "summary": manifest.summary,
            "digest": ref.digest,
            "granted": held,
            "asks": [want.name for want in manifest.capabilities if want.name not in held],
        }

    @operation("caps")
    async def caps(self, _emit: Emit, *, name: str | None = None) -> dict[str, Any]:
        """The catalogue, or one capability with its schemas."""
        known = self._system.registry.all() if name is None else [self._system.registry.find(name).capability]
        shown = []
        for capability in known:
            entry: dict[str, Any] = {
                "id": capability.id,
                "effect": capability.effect.value,
                "summary": capability.summary,
                "critical": list(capability.critical),
                "on_uncertain": capability.on_uncertain.value,
            }
            if name is not None:
                entry |= {"arguments": capability.arguments, "answer": capability.answer}
            shown.append(entry)
        return {"capabilities": shown}

    # Messages

    @operation("ask")
    async def ask(
        self, emit: Emit, *, agent: str, text: str, conversation: str = "main", message: str | None = None
    ) -> dict[str, Any]:
        """Send a message and wait for the answer; events on the way. `run`, `answer`, `calls`, `tokens`."""
        if not text.strip():
            raise BadInput("ask.text", "the text is empty", 'loket ask main "Hello"')
        system = self._system
        run = await system.send(agent, text, conversation=conversation, message=message)
        emit({"type": "accepted", "run": run})
        async for event in system.engine.watch(run):
            emit(event)
        return await self.result_of(run, await system.finished(run))

    async def result_of(self, run: str, ending: Ending) -> dict[str, Any]:
        """A finished run as `ask` shows it. Raises the error that it ended with."""
        if ending.status is not RunStatus.DONE or ending.answer is None:
            error = from_dict(ending.error or {"code": "run.failed", "message": "the run failed", "blame": "machine"})
            error.run = run
            raise error
        rows = await asyncio.to_thread(lambda: list(self._system.journal.rows(run)))
        return {
            "run": run,
            "answer": str(ending.answer.get("text", json.dumps(ending.answer, ensure_ascii=False))),
            "calls": [_call_shown(row) for row in rows if row.kind in (RowKind.CALL, RowKind.OUTCOME)],
            "tokens": ending.tokens,
        }

    # Grants

    @operation("grants.list")
    async def grants_list(self, _emit: Emit, *, agent: str | None = None) -> dict[str, Any]:
        """All grants, or those of one module."""
        grants = [grant for grant in self._system.grants.all() if agent in (None, grant.module)]
        return {"grants": [_grant_shown(grant) for grant in grants]}

    @operation("grants.allow")
    async def grants_allow(
        self, _emit: Emit, *, agent: str, capability: str, constraints: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Grant a capability to an installed module; it counts from the next call on."""
        return _grant_shown(await asyncio.to_thread(self._system.allow, agent, capability, constraints or {}))

    @operation("grants.revoke")
    async def grants_revoke(self, _emit: Emit, *, agent: str, capability: str) -> dict[str, Any]:
        """Take a grant back; it counts from the next call on."""
        ref, _package = self._system.module(agent)
        if not await asyncio.to_thread(self._system.grants.revoke, ref.publisher, ref.id, capability):
            raise BadInput("grant.none", f"{agent} has no grant for {capability}", f"loket grants list {agent}")
        return {"agent": agent, "capability": capability, "revoked": True}

    # Runs

    def _run_id(self, prefix: str) -> str:
        found = self._system.database.matching(prefix)
        if not prefix or not found:
            raise BadInput("run.unknown", f"there is no run {prefix!r}", "loket runs list")
        if len(found) > 1 and prefix not in found:
            raise BadInput("run.ambiguous", f"several runs start with {prefix}", "give more of its id")
        return prefix if prefix in found else found[0]

    @operation("runs.list")
    async def runs_list(
        self, _emit: Emit, *, agent: str | None = None, limit: int = 20, status: str | None = None
    ) -> dict[str, Any]:
        """The newest runs first."""
        if not 1 <= limit <= _MOST_RUNS:
            raise BadInput("runs.limit", f"limit is {limit}; from 1 to {_MOST_RUNS} is possible", "--limit 20")
        states = self._system.engine.unfinished()
        runs = await asyncio.to_thread(self._system.database.runs, agent, limit, status)
        for run in runs:
            if run["id"] in states:
                run["status"] = states[run["id"]].status.value
        return {"runs": runs}

    @operation("runs.show")
    async def runs_show(self, _emit: Emit, *, run: str) -> dict[str, Any]:
        """A run with all its journal rows, in order."""
        name = self._run_id(run)
        facts = self._system.database.run(name) or {}
        rows = await asyncio.to_thread(lambda: [_row_shown(row) for row in self._system.journal.rows(name)])
        return {**facts, "rows": rows}

    @operation("runs.replay")
    async def runs_replay(self, _emit: Emit, *, run: str) -> dict[str, Any]:
        """Run the module again on the journal: the same calls, the same answer?"""
        verdict = await asyncio.to_thread(self._system.replayer.replay, self._run_id(run))
        return {"run": verdict.run, "calls": verdict.calls, "ok": verdict.ok, "reason": verdict.reason}

    @operation("runs.verify")
    async def runs_verify(self, emit: Emit, *, run: str | None = None) -> dict[str, Any]:
        """Check the journal's chain and replay one run, or all that are finished."""
        database = self._system.database
        runs = [self._run_id(run)] if run is not None else await asyncio.to_thread(database.ended_runs)
        loop = asyncio.get_running_loop()

        def progress(done: int) -> None:
            loop.call_soon_threadsafe(emit, {"type": "progress", "done": done, "total": len(runs)})

        verdicts, faults = await asyncio.to_thread(self._system.replayer.verify, runs, progress)
        failed = [{"run": v.run, "reason": v.reason} for v in verdicts if not v.ok]
        broken = [{"row": fault.seq, "run": fault.run, "reason": fault.reason} for fault in faults[:100]]
        return {
            "verified": sum(verdict.ok for verdict in verdicts),
            "failed": len(failed),
            "failures": failed,
            "journal": {"ok": not faults, "faults": broken},
            "ok": not failed and not faults,
        }

    @operation("runs.stop")
    async def runs_stop(self, _emit: Emit, *, run: str) -> dict[str, Any]:
        """End an unfinished run."""
        name = self._run_id(run)
        if not self._system.engine.stop(name):
            raise BadInput("run.finished", f"run {name} is not unfinished", "loket runs list")
        ending = await self._system.finished(name)
        return {"run": name, "status": ending.status.value}

    @operation("runs.settle")
    async def runs_settle(self, _emit: Emit, *, run: str, happened: bool) -> dict[str, Any]:
        """Say whether an effect that was interrupted happened; the run goes on."""
        name = self._run_id(run)
        self._system.engine.settle(name, happened=happened)
        return {"run": name, "happened": happened}

    # Modules

    @operation("module.inspect")
    async def module_inspect(self, _emit: Emit, *, folder: str) -> dict[str, Any]:
        """What a folder's module is and asks for, and what it holds already; nothing is changed."""
        package = await asyncio.to_thread(read_package, Path(folder), self._system.stock_wasm())
        manifest = package.manifest
        held = {grant.capability for grant in self._system.grants.held(LOCAL_PUBLISHER, manifest.id)}
        wants = [{"name": w.name, "reason": w.reason, "held": w.name in held} for w in manifest.capabilities]
        return {
            "id": manifest.id,
            "version": manifest.version,
            "kind": manifest.kind,
            "summary": manifest.summary,
            "digest": package.digest,
            "publisher": LOCAL_PUBLISHER,
            "wants": wants,
        }

    @operation("module.install")
    async def module_install(self, _emit: Emit, *, folder: str, grant: list[str] | None = None) -> dict[str, Any]:
        """Install a folder's module and grant these of the capabilities that it asks for."""
        ref = await self._system.install(Path(folder), LOCAL_PUBLISHER, grant or [], "owner")
        return self._agent(*self._system.module(ref.id))

    @operation("module.remove")
    async def module_remove(self, _emit: Emit, *, agent: str, revoke: bool = False) -> dict[str, Any]:
        """Remove a module and its grants; its brain and its journal stay. A revoked one may never run again."""
        ref, _package = self._system.module(agent)
        sharing = [other.id for other, _ in self._system.modules() if other.digest == ref.digest and other.id != agent]
        if revoke and sharing:
            raise BadInput(
                "module.shared", f"{', '.join(sharing)} runs on the same bytes as {agent}", "remove it without --revoke"
            )
        await self._system.remove(agent)
        if revoke:
            await asyncio.to_thread(self._system.grants.revoke_digest, ref.digest, self._system.now())
        return {"agent": agent, "removed": True, "revoked": revoke}

    # Brains

    async def _direct(self, agent: str, capability: str, args: dict[str, Any]) -> dict[str, Any]:
        self._system.module(agent)
        ending = await self._system.direct(agent, capability, {k: v for k, v in args.items() if v is not None})
        if ending.answer is None:
            raise from_dict(ending.error or {})
        return dict(ending.answer)

    @operation("brain.search")
    async def brain_search(
        self, _emit: Emit, *, agent: str, query: str, limit: int = 10, as_of: str | None = None, history: bool = False
    ) -> dict[str, Any]:
        """Find memories."""
        args = {"query": query, "limit": limit, "as_of": as_of, "history": history}
        return await self._direct(agent, "brain.search", args)

    @operation("brain.add")
    async def brain_add(
        self,
        _emit: Emit,
        *,
        agent: str,
        text: str,
        kind: str = "fact",
        subject: str | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Remember something for an agent."""
        item = {"text": text, "kind": kind, "subject": subject, "key": key}
        return await self._direct(agent, "brain.add", {"items": [{k: v for k, v in item.items() if v is not None}]})

    @operation("brain.correct")
    async def brain_correct(self, _emit: Emit, *, agent: str, id: int, text: str) -> dict[str, Any]:  # noqa: A002 - the capability's word
        """Correct a memory."""
        return await self._direct(agent, "brain.correct", {"id": id, "text": text})

    @operation("brain.forget")
    async def brain_forget(self, _emit: Emit, *, agent: str, id: int) -> dict[str, Any]:  # noqa: A002 - the capability's word
        """Forget a memory."""
        return await self._direct(agent, "brain.forget", {"id": id})

    @operation("brain.history")
    async def brain_history(self, _emit: Emit, *, agent: str, id: int) -> dict[str, Any]:  # noqa: A002 - the capability's word
        """A memory with what it superseded and what superseded it."""
        return await self._direct(agent, "brain.history", {"id": id})

    @operation("brain.export")
    async def brain_export(self, emit: Emit, *, agent: str) -> dict[str, Any]:
        """All memories of an agent, with every column."""
        memories: list[dict[str, Any]] = []
        while page := (await self._direct(agent, "brain.export", {"after": memories[-1]["id"] if memories else 0}))[
            "memories"
        ]:
            memories.extend(page)
            emit({"type": "progress", "done": len(memories), "total": None})
        return {"memories": memories}

    # Models

    @operation("models.list")
    async def models_list(self, _emit: Emit) -> dict[str, Any]:
        """Routes, their order, and what is found on this machine."""
        return await models.listed(self._system)

    @operation("models.use")
    async def models_use(self, _emit: Emit, *, names: list[str], options: dict[str, Any]) -> dict[str, Any]:
        """Use these routes in this order."""
        if not names or not all(isinstance(name, str) for name in names):
            raise BadInput("model.names", "names must be a list of route names", "loket model use embedded")
        return await models.use(self._system, names, options)

    @operation("models.pull")
    async def models_pull(self, emit: Emit, *, file: str | None = None) -> dict[str, Any]:
        """Install the embedded model."""
        return await models.fetch(self._system, emit, file)

    @operation("models.keys")
    async def models_keys(self, _emit: Emit) -> dict[str, Any]:
        """Names of the keys in the vault."""
        return {"keys": list(self._system.vault.names())}

    @operation("models.key")
    async def models_key(self, _emit: Emit, *, name: str, value: str) -> dict[str, Any]:
        """Put a key into the vault."""
        await asyncio.to_thread(self._system.vault.put, name, value)
        return {"name": name}


def _decoded(name: str, method: Method, args: dict[str, Any]) -> dict[str, Any]:
    wanted = {p.name: p for p in inspect.signature(method).parameters.values() if p.kind is p.KEYWORD_ONLY}
    for key in args.keys() - wanted.keys():
        raise BadInput(
            "arguments.unknown", f"{name} takes no argument {key}", f"it takes {', '.join(wanted) or 'none'}"
        )
    for key, parameter in wanted.items():
        if key not in args:
            if parameter.default is parameter.empty:
                raise BadInput("arguments.missing", f"{name} needs the argument {key}", f"add {key}")
        elif not _fits(args[key], parameter.annotation):
            kind = getattr(parameter.annotation, "__name__", str(parameter.annotation))
            raise BadInput("arguments.type", f"{key} of {name} must be of the type {kind}", "send JSON of that type")
    return args


def _fits(value: Any, kind: Any) -> bool:
    return any(type(value) is base or (base is float and type(value) is int) for base in _bases(kind))


def _bases(kind: Any) -> Iterator[type]:
    if isinstance(kind, types.UnionType):
        for part in get_args(kind):
            yield from _bases(part)
    else:
        yield getattr(kind, "__origin__", kind)


def _call_shown(row: Row) -> dict[str, Any]:
    meta = row.meta
    return {**{key: meta[key] for key in ("capability", "decision", "reason", "ms")}, "error": meta.get("error")}


def _grant_shown(grant: Grant) -> dict[str, Any]:
    return {
        "agent": grant.module,
        "publisher": grant.publisher,
        "capability": grant.capability,
        "constraints": dict(grant.constraints),
        "by": grant.granted_by,
        "at": grant.granted,
        "reason": grant.reason,
    }


def _row_shown(row: Row) -> dict[str, Any]:
    return {
        "seq": row.seq,
        "ordinal": row.ordinal,
        "kind": row.kind.value,
        "at": row.at,
        **{key: value for key, value in row.meta.items() if value not in (None, "", [], {})},
        "value": json.loads(row.value),
        "hash": row.hash.hex(),
    }
