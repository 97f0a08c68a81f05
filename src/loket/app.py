"""The composition root: the one file that knows every part, and puts them together with explicit arguments."""

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

from loket.calling import PUBLISHER as CLIENTS
from loket.calling import CallGuest
from loket.channels import ChannelProvider, Channels
from loket.channels import System as Relayed
from loket.clockwork import approved, system_of
from loket.commands import slash_of
from loket.config import Config, load_config
from loket.contracts import (
    OWNER,
    BadInput,
    Capability,
    Ending,
    Erasable,
    Guest,
    Json,
    Labels,
    LoketError,
    ModuleRef,
    Policy,
    Principal,
    Provider,
    RowKind,
    RunRequest,
    Sender,
)
from loket.contracts.catalogue import STOCK
from loket.delegation import Delegation, ending_of
from loket.erasure import Eraser
from loket.gate import make_gate
from loket.home import Home, hold
from loket.ids import new_id
from loket.installed import Installed
from loket.jail.choose import choose
from loket.kernel.engine import Engine
from loket.kernel.registry import Registry
from loket.kernel.state import RunState
from loket.lessons import Lessons
from loket.limits import WallTime
from loket.mcp import Servers
from loket.module_calls import ModuleCalls
from loket.orchestrator import PlanGuest
from loket.packages.change import Change, What
from loket.planning import Planning
from loket.providers.agents import AgentsProvider
from loket.providers.brain import BrainProvider
from loket.providers.exec import ExecProvider, exec_settings
from loket.providers.fs import FsProvider
from loket.providers.kv import KvProvider
from loket.providers.llm import LlmProvider
from loket.providers.llm_choice import embedded_model, model_settings
from loket.providers.message import MessageProvider
from loket.providers.net import NetProvider
from loket.providers.plan import PlanProvider
from loket.providers.schedule import ScheduleProvider
from loket.providers.vault import FileVault
from loket.quarantine import Quarantine
from loket.replay import Replayer
from loket.sandbox import WasmSandbox
from loket.schedules import Runner, Schedules, System
from loket.schemas import compile_check
from loket.skills import SkillProvider, Skills
from loket.slash import CommandGuest
from loket.store.kernel import request_of
from loket.stores import open_stores
from loket.tracing import Tracer
from loket.watching import Watching


class Loket:
    """A running system on one home. Made by `running`; used from one event loop."""

    def __init__(
        self,
        home: Home,
        config: Config,
        *,
        llm: Provider,
        vault: FileVault,
        now: Callable[[], float] = time.time,
        policy: Policy | None = None,
        more_capabilities: Sequence[Capability] = (),
        more_providers: Sequence[Provider] = (),
        vfs: str | None = None,
        idle_s: float | None = None,
    ) -> None:
        self.home = home
        self.config = config
        self.vault = vault
        self.llm = llm
        self.now = now
        self._stores = stores = open_stores(home, config, vault, now, vfs)
        self.database, self.journal, self.grants = stores.database, stores.journal, stores.grants
        self.brains, self.bus, self.proposals = stores.brains, stores.bus, stores.proposals
        self.delegation = Delegation(self.bus, self.message_to, now)
        self.planning = Planning(lambda agent: self.installed.module(agent)[0], compile_check, now)
        self.schedules = Schedules(
            stores.schedules, vault, folder=home.files, home=home.root, now=now, approved=approved(stores.database)
        )
        self.channels = Channels(stores.channels, vault)
        self._erasable: list[Erasable] = []
        self._providers: list[Provider] = [*self._own_providers(), llm, *more_providers]
        self.registry = Registry((*STOCK, *more_capabilities), self._providers, compile_check)
        self.sandbox = WasmSandbox(home.cache)
        self.installed = Installed(
            home,
            database=self.database,
            journal=self.journal,
            grants=self.grants,
            registry=self.registry,
            sandbox=self.sandbox,
            now=now,
        )
        self.mcp = Servers(
            stores.mcp,
            vault,
            self.registry,
            compile_check,
            folder=home.root / "mcp",
            logs=home.logs,
            launcher=choose,
            note=self._noted,
            now=now,
        )
        self.module_calls = ModuleCalls(self.registry, self.grants, compile_check, now)
        self._put_gate(policy)
        self._put_behind(idle_s)
        self.runner = Runner(self.schedules, self._clockwork(), now)
        self.channels.bind(self._relayed())
        for follows in (self.module_calls.follow, self.skills.follow, self._module_changed, self.channels.follow):
            self.installed.watch(follows)
        self.unreadable_runs: list[str] = []
        """Unfinished runs that could not go on at the start, because nobody can read them; the others went on."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._messages: dict[tuple[str, str], asyncio.Future[str]] = {}

    def _own_providers(self) -> list[Provider]:
        """Who performs Loket's own capabilities but the models'; those that keep what runs said can erase it."""
        self.brain = BrainProvider(self.brains, self.now)
        values, plans = KvProvider(self.brains), PlanProvider(self.planning, self.brains, self.now)
        self._files = files = FsProvider(self.home.files, self.brains, now=self.now)
        messages = MessageProvider(self.delegation, self.bus)
        clockwork = ScheduleProvider(self.schedules, self._stores.schedules, self.now)
        self._erasable += [self.brain, values, files, messages, plans, clockwork]
        net, agents = NetProvider(self.vault), AgentsProvider(self.delegation)
        self.skills = Skills(self.home.root / "skills", self.now, self._granted)
        programs = ExecProvider(self.home.files, exec_settings(self.config.exec), choose)
        late = (ChannelProvider(self.channels), SkillProvider(self.skills))
        return [self.brain, values, files, net, agents, messages, plans, clockwork, programs, *late]

    def _put_gate(self, policy: Policy | None) -> None:
        """The counter with all that stands around it, and the engine that runs modules in front of it."""
        gate = make_gate(
            self.home,
            self.config,
            self._stores,
            self.registry,
            vault=self.vault,
            llm=self.llm,
            agents=self.installed.names,
            on_leak=self._leaked,
            now=self.now,
            policy=policy,
        )
        self.users, self.policy, self.approvals = gate.users, gate.policy, gate.approvals
        self.leaving, self.limits, self.counter = gate.leaving, gate.limits, gate.counter
        self.tokens = gate.tokens
        self.watching = Watching(lambda: self.engine.unfinished().keys())
        self.engine = Engine(
            counter=gate.counter,
            journal=self.journal,
            grants=self.grants,
            records=self.database,
            tokens=gate.tokens,
            load=self._guest,
            now=self.now,
            workers=self.config.workers,
            on_ended=self._ended,
            on_event=self.watching.tell,
            meter=gate.limits,
        )
        self._wall = WallTime(
            self.engine.unfinished, gate.limits.wall_of, lambda run, limit: self.engine.stop(run, limit=limit)
        )
        self.delegation.bind(self.engine, self.database, self.grants)
        self.module_calls.bind(self.engine, self.database)
        self.slash = slash_of(
            module=lambda agent: self.installed.module(agent)[0],
            grants=self.grants,
            registry=self.registry,
            calls=self.module_calls,
            skills=self.skills.known,
            database=self.database,
            approvals=gate.approvals,
            engine=self.engine,
            events=self.watching.watch,
            finished=self.finished,
            now=self.now,
        )
        self.planning.bind(
            self.engine,
            self.database,
            self.grants,
            self.registry,
            gate.labelling,
            policy or gate.policy,
            gate.approvals,
        )

    def _put_behind(self, idle_s: float | None) -> None:
        """What works behind the answers: lessons, traces, quarantine, erasure, replay."""
        self.lessons = Lessons(
            perform=self.perform,
            journal=self.journal,
            unlearned=self.database.unlearned,
            unfinished=self.engine.unfinished,
            is_erased=self.database.is_erased,
            capability=lambda name: self.registry.find(name).capability,
            secrets=lambda: [value for name in self.vault.names() if (value := self.vault.get(name))],
            proposals=self.proposals,
            new_id=new_id,
            now=self.now,
            idle_s=idle_s,
        )
        self.quarantine = Quarantine(self.brains, self.bus, self.home.files, self.now, self._stores.schedules)
        self.tracer = Tracer(self.journal.rows, lambda after: self.database.rows("", after=after))
        self.eraser = Eraser(
            self.database,
            self.journal,
            (*self._erasable, self.quarantine),
            self.engine.unfinished,
            purge=self._purge,
            rules=self.proposals.rules_of,
            kept=self._files.kept,
            settle=self.lessons.settle,
        )
        self.replayer = Replayer(self.counter, self.journal, self._guest, request_of)

    def _clockwork(self) -> System:
        """What schedules need of all this."""
        return system_of(
            self.home,
            self.config,
            self._stores,
            self.engine,
            vault=self.vault,
            send=self.send,
            installed=lambda: [*self.installed.names(), *self.installed.unreadable],
            now=self.now,
        )

    def _relayed(self) -> Relayed:
        """What channels need of all this."""
        return Relayed(
            send=self.send,
            perform=self.perform,
            ending=self.finished,
            events=self.watching.watch,
            asked=lambda run: [one.approval for one in self.approvals.open_of([run])],
            leave=lambda value: self.leaving.answer(value, "channel"),
            check=self.installed.module,
            now=self.now,
        )

    def _module_changed(self, name: str, change: Change) -> None:
        """The schedules of a removed agent go with it."""
        if change.what is What.REMOVED:
            self.schedules.remove_agents([name])

    def _guest(self, module: ModuleRef) -> Guest:
        """A module, ready to run, plans of it too; a client's one call."""
        if module.publisher == CLIENTS:
            return CallGuest(module.digest)
        return CommandGuest(PlanGuest(self.installed.load(module)))

    def _purge(self, runs: Collection[str]) -> None:
        """Erase what hangs on runs outside the stores of the capabilities: what was typed is not kept by run."""
        self.proposals.purge(runs)
        self.home.chat_history.unlink(missing_ok=True)

    def _ended(self, run: RunState, ending: Ending) -> None:
        """A run has ended and its answer was given: it is traced, and what went wrong in it becomes a lesson."""
        self.tracer.ended(run.request.id)
        self.lessons.ended(run, ending)
        self._soon(self.installed.settle)
        self.runner.ended(run.request.id, run.request.agent)

    def _leaked(self, agent: str, where: Mapping[str, str]) -> None:
        """An agent's canary was about to leave: whatever it does ends, and the journal says why, and in which call."""
        facts = {"what": "canary.seen", "severity": "critical", "agent": agent, "principal": "host:loket", **where}
        self.journal.append("", 0, RowKind.NOTE, facts, "{}")
        for run, state in self.engine.unfinished().items():
            if state.request.agent == agent:
                self._soon(self.engine.stop, run, f"the canary of {agent} was about to leave")

    def _noted(self, what: str, said: Mapping[str, Json]) -> None:
        """Journal what happened outside any run, and was nobody's decision."""
        facts = {"what": what, "severity": "warning", "principal": "host:loket"}
        self.journal.append("", 0, RowKind.NOTE, facts, json.dumps(said, sort_keys=True, separators=(",", ":")))

    def _soon(self, work: Callable[..., object], *args: object) -> None:
        """Do something on the event loop, from any thread; nothing where it has ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *args)

    # Life

    async def start(self, *, resume: bool = True) -> int:
        """Start providers, load the list of modules, go on with unfinished runs; their number."""
        self._loop = asyncio.get_running_loop()
        for provider in self._providers:
            await provider.start()
        await self.installed.start()
        await self.mcp.start()
        if resume:
            with contextlib.suppress(LoketError):  # kept in `unfinished_erasure`, and tried again
                await asyncio.to_thread(self.eraser.resume)
        unfinished, self.unreadable_runs = self.database.unfinished_runs()
        resumed = self.engine.resume(unfinished) if resume else 0
        if self.limits.bounds_time:
            self._wall.start()
        self.delegation.stop_orphans()
        if resume:
            await self.lessons.start()
        return resumed

    @property
    def unfinished_erasure(self) -> str | None:
        """Why an erasure is not done everywhere, and what to do; None where all are."""
        error = self.eraser.interrupted
        return None if error is None else f"{error.message} ({error.remedy})"

    async def close(self) -> None:
        """Stop everything; works after a failed start too."""
        await self.channels.close()
        await self._wall.close()
        await self.lessons.close()
        await self.engine.close()
        await self.mcp.close()
        await asyncio.to_thread(self.tracer.close)
        for provider in reversed(self._providers):
            await provider.close()
        self.sandbox.close()
        self._stores.close()

    # Messages and calls

    async def send(
        self,
        agent: str,
        text: str,
        *,
        conversation: str = "main",
        message: str | None = None,
        sender: Sender | None = None,
    ) -> str:
        """Accept a message for an agent, the owner's without `sender`; its run's id (see `loket.contracts.Send`)."""
        if message is None:
            return await self._accept(agent, text, conversation, None, sender)
        key = (agent, message)
        if key in self._messages:
            return await asyncio.shield(self._messages[key])
        accepting = self._messages[key] = asyncio.get_running_loop().create_future()
        try:
            known = await asyncio.to_thread(self.database.run_of_message, agent, message)
            run = known or await self._accept(agent, text, conversation, message, sender)
        except BaseException:
            accepting.cancel()
            raise
        else:
            accepting.set_result(run)
            return run
        finally:
            del self._messages[key]

    def message_to(
        self, agent: str, text: str, conversation: str, more: Mapping[str, Json]
    ) -> tuple[ModuleRef, dict[str, Json]]:
        """An installed agent's module, and the arguments of a message to it. Raises `BadInput`."""
        ref, package = self.installed.module(agent)
        args = {
            "text": text,
            "conversation": conversation,
            "agent": agent,
            "persona": package.persona,
            "rules": "\n\n".join(filter(None, self._rules(agent, package.rules))),
            "tools": self._tools(ref),
            **more,
        }
        return ref, args

    def _granted(self, agent: str) -> set[str]:
        ref, _package = self.installed.module(agent)
        return {grant.capability for grant in self.grants.held(ref.publisher, ref.id)}

    def _rules(self, agent: str, own: str) -> tuple[str, str, str]:
        """What an agent is told beside its persona: its rules, the skills that it may read, and its canary."""
        return self.proposals.rules(agent, own), self.skills.words(agent), self.leaving.canary(agent)

    async def _accept(
        self, agent: str, text: str, conversation: str, message: str | None, sender: Sender | None
    ) -> str:
        command = await self.slash.request(agent, text, conversation=conversation, sender=sender)
        if command is not None:
            return await self.engine.submit(command, message)
        who = sender or Sender(Principal("agent", agent), (str(OWNER),), text)
        ref, args = self.message_to(agent, text, conversation, who.arguments)
        request = self._request(agent, who.principal, ref, conversation, "message", args, who.words, who.labels)
        return await self.engine.submit(request, message)

    def _tools(self, ref: ModuleRef) -> list[dict[str, Json]]:
        """What the agent may offer to a model: what was granted, but models, its own notes and the clockwork."""
        granted = {grant.capability for grant in self.grants.held(ref.publisher, ref.id)}
        unsaid = ("kv", "llm") if self.skills.words(ref.id) else ("kv", "llm", "skill")
        return [
            {"name": c.id, "description": c.summary, "parameters": c.arguments}
            for c in self.registry.all()
            if c.id in granted and not c.side and c.family not in unsaid
        ]

    async def direct(self, agent: str, capability: str, args: dict[str, Json]) -> Ending:
        """A call that the owner makes, through the counter like any other. Raises the error it ended with."""
        request = self._request(agent, OWNER, None, f"owner-{uuid.uuid4().hex[:8]}", capability, args)
        return await self.finished(await self.engine.submit(request))

    async def perform(self, request: RunRequest) -> Ending:
        """Have a run done; its ending."""
        return await self.finished(await self.engine.submit(request))

    def _request(
        self,
        agent: str,
        principal: Principal,
        module: ModuleRef | None,
        conversation: str,
        operation: str,
        args: dict[str, Json],
        words: str = "",
        labels: Labels = (str(OWNER),),
    ) -> RunRequest:
        run, now = new_id(self.now()), self.now()
        return RunRequest(
            id=run,
            root=run,
            agent=agent,
            principal=principal,
            module=module,
            conversation=conversation,
            operation=operation,
            args=args,
            labels=labels,
            accepted=now,
            words=words,
            rights=self.grants.rights(module) if module is not None else None,
        )

    async def finished(self, run: str) -> Ending:
        """Wait for the end of a run, unfinished or not. Raises `BadInput` where there is no such run."""
        try:
            return await self.engine.result(run)
        except KeyError:
            found = await asyncio.to_thread(self.database.run, run)
        if found is None or found["ended"] is None:
            raise BadInput("run.unknown", f"there is no finished run {run}", "loket runs list")
        return ending_of(found)


@contextlib.asynccontextmanager
async def running(
    home: Home, *, llm: Provider | None = None, resume: bool = True, **parts: Any
) -> AsyncIterator[Loket]:
    """Hold the home and run Loket on it until the context ends. `parts` go to `Loket`, for tests and benchmarks."""
    home.prepare()
    with hold(home):
        config = load_config(home.config)
        vault = FileVault(home.vault, keyring=config.vault_keyring)
        if llm is None:
            settings = await model_settings(home.root, config.models)
            embedded = embedded_model(home.root, settings, home.logs / "model.log")
            llm = LlmProvider(settings, vault, embedded, compile_schema=compile_check)
        system = Loket(home, config, llm=llm, vault=vault, **parts)
        try:
            sound = system.journal.broken is None  # else only looking at it is left
            await system.start(resume=resume and sound)
            if sound:
                await system.installed.ensure_stock_agent()
            yield system
        finally:
            await system.close()
