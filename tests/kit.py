"""A real kernel on a real database, with providers of the test's own choice."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loket.contracts import (
    Answer,
    Approvals,
    Call,
    Capability,
    Effect,
    Ending,
    Failed,
    Grant,
    Handler,
    Host,
    Labeller,
    Limits,
    LoketError,
    ModuleRef,
    Obligation,
    OnUncertain,
    Policy,
    Principal,
    Refusal,
    RunRequest,
    Segment,
    Suspended,
)
from loket.contracts.catalogue import STOCK
from loket.kernel.counter import Counter
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Registry
from loket.kernel.state import RunState
from loket.policy import PlainLabeller, PlainPolicy
from loket.replay import Replayer
from loket.schemas import compile_check
from loket.store.kernel import KernelDatabase, request_of
from loket.tokens import BiscuitTokens
from loket.watching import Watching

KEY = b"k" * 32
SECRET = b"s" * 32
DIGEST = "d" * 64

ANY_OBJECT = {"type": "object"}


def capability(
    name: str,
    effect: Effect = Effect.READ,
    *,
    on_uncertain: OnUncertain = OnUncertain.REPEAT,
    waits: bool = False,
    timeout_s: float = 5.0,
) -> Capability:
    """A capability of a test's own, which takes and answers any object."""
    return Capability(
        name, "of a test", effect, ANY_OBJECT, ANY_OBJECT, on_uncertain=on_uncertain, waits=waits, timeout_s=timeout_s
    )


def open_kernel(path: Path, vfs: str | None = None, *, runs: tuple[str, ...] = ()) -> KernelDatabase:
    """A kernel's database; these runs are on its list, so that rows of theirs can be written."""
    database = KernelDatabase(path, SECRET, vfs)
    known = {run for (run,) in database._query("SELECT id FROM runs")}
    begun = [database.run_started(begin(run), None) for run in runs if run not in known]
    if begun:
        database.write((), begun, b"")
    return database


def begin(run: str, module: ModuleRef | None = None) -> RunRequest:
    """A request of an agent `tester`."""
    return RunRequest(run, run, "tester", Principal("agent", "tester"), module, "c", "go", {}, ("owner",), 0.0)


class Handlers:
    """A provider made of functions. Counts what it performs."""

    id = "test"

    def __init__(self, **handlers: Handler) -> None:
        self._handlers = {name.replace("__", "."): handler for name, handler in handlers.items()}

    def handlers(self) -> Mapping[str, Handler]:
        return self._handlers

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass
class Values:
    """An in-memory `kv` for tests that are not about storage: what was set, and how often each call was performed."""

    store: dict[str, Any] = field(default_factory=dict)
    performed: list[tuple[str, str, int]] = field(default_factory=list)

    def get(self, call: Call) -> Answer:
        self.performed.append((call.capability, call.run, call.ordinal))
        key = call.args["key"]
        return Answer({"found": key in self.store, "value": self.store.get(key)})

    def set(self, call: Call) -> Answer:
        self.performed.append((call.capability, call.run, call.ordinal))
        self.store[call.args["key"]] = call.args["value"]
        return Answer({})

    def provider(self) -> Handlers:
        return Handlers(kv__get=self.get, kv__set=self.set)


class Rig:
    """The kernel's parts on `directory/kernel.db`."""

    def __init__(
        self,
        directory: Path,
        *providers: Any,
        more: tuple[Capability, ...] = (),
        policy: Policy | None = None,
        now: Callable[[], float] = time.time,
        vfs: str | None = None,
        approvals: Callable[["Rig"], Approvals] | None = None,
        labeller: Labeller | None = None,
        obligations: Mapping[str, Obligation] | None = None,
    ) -> None:
        self.values = Values()
        self.database = KernelDatabase(directory / "kernel.db", SECRET, vfs)
        self.journal = Journal(self.database, KEY, now)
        self.grants = Grants(
            self.journal, self.database, grants=self.database.grants(), accepted=self.database.accepted()
        )
        self.tokens = BiscuitTokens(now)
        self.registry = Registry((*STOCK, *more), providers or [self.values.provider()], compile_check)
        self.approvals: Any = approvals(self) if approvals is not None else None
        self.counter = Counter(
            registry=self.registry,
            grants=self.grants,
            policy=policy or PlainPolicy(),
            labeller=labeller or PlainLabeller(),
            tokens=self.tokens,
            journal=self.journal,
            obligations=obligations or {},
            approvals=self.approvals,
            now=now,
        )

    def module(self, name: str = "tester", *granted: str, limits: Limits | None = None) -> ModuleRef:
        """A module that the owner accepted, with these grants."""
        self.grants.accept("local", name, DIGEST, 0.0)
        for capability_id in granted:
            self.grants.allow(Grant("local", name, capability_id, {}, "owner", 0.0))
        return ModuleRef("local", name, "1", DIGEST, limits or Limits())

    def run(self, module: ModuleRef | None, name: str = "r1", **more: Any) -> RunState:
        """A live run of a module that calls the counter itself."""
        request = replace(begin(name, module), **more)
        self.journal.also(self.database.run_started(request, None))
        return RunState(request, "{}", self.tokens.mint(request, 3600), b"s" * 32, ("owner",))

    def rows(self, run: str = "r1") -> list[Any]:
        return list(self.journal.rows(run))

    def close(self) -> None:
        self.database.close()


class Script:
    """A module written as a function of `call`, for tests of the engine alone; the sandbox has tests of its own."""

    digest = DIGEST

    def __init__(self, body: Callable[[Callable[..., Any], dict[str, Any]], Any]) -> None:
        self._body = body
        self.segments = 0

    def run(self, host: Host, _operation: str, args: str, _limits: Limits) -> Segment:
        self.segments += 1

        def call(name: str, **arguments: Any) -> Any:
            if host.stopped is not None:
                raise host.stopped
            return json.loads(host(name, json.dumps(arguments)))

        try:
            return Segment(answer=json.dumps(self._body(call, json.loads(args))))
        except Suspended:
            return Segment(suspended=True)
        except (Refusal, Failed) as error:
            return Segment(refusal=error)
        except LoketError as error:
            return Segment(ended=error)


class EngineRig(Rig):
    """A kernel with an engine; modules are scripts by name."""

    def __init__(self, directory: Path, *providers: Any, scripts: Mapping[str, Script], **more: Any) -> None:
        super().__init__(directory, *providers, **more)
        self.scripts = dict(scripts)
        self.watching = Watching(lambda: self.engine.unfinished().keys())
        self.engine = Engine(
            counter=self.counter,
            journal=self.journal,
            grants=self.grants,
            records=self.database,
            tokens=self.tokens,
            load=lambda module: self.scripts[module.id],
            now=time.time,
            workers=4,
            on_event=self.watching.tell,
        )
        self.replayer = Replayer(self.counter, self.journal, lambda module: self.scripts[module.id], request_of)

    def request(self, name: str, run: str, *, conversation: str = "", **more: Any) -> RunRequest:
        """A run of a script that may use every capability there is."""
        self.grants.accept("local", name, DIGEST, 0.0)
        for known in self.registry.all():
            self.grants.allow(Grant("local", name, known.id, {}, "owner", 0.0))
        args = more.pop("args", {})
        module = ModuleRef("local", name, "1", DIGEST, more.pop("limits", Limits()))
        place = conversation or run
        agent = Principal("agent", name)
        return RunRequest(run, run, name, agent, module, place, "go", args, ("owner",), time.time(), **more)

    async def ask(self, name: str, run: str, **more: Any) -> Ending:
        await self.engine.submit(self.request(name, run, **more))
        return await self.engine.result(run)
