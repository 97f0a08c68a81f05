"""The composition root: the one file that knows every part, and puts them together with explicit arguments."""

import asyncio
import contextlib
import datetime as dt
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from typing import Any

from loket.approvals import OwnerApprovals
from loket.confidential import Confidential
from loket.config import Config, load_config
from loket.contracts import (
    OWNER,
    BadInput,
    Capability,
    Ending,
    Guest,
    Json,
    LoketError,
    ModuleRef,
    Policy,
    Principal,
    Provider,
    RowKind,
    RunRequest,
)
from loket.contracts.catalogue import STOCK
from loket.delegation import Delegation, ending_of
from loket.erasure import Eraser
from loket.findings import Findings
from loket.home import Home, hold
from loket.ids import new_id
from loket.installed import Installed
from loket.kernel.counter import Counter
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.quotas import Daily, Quotas
from loket.kernel.registry import Registry
from loket.kernel.state import RunState
from loket.labelling import Labelling
from loket.leaving import Leaving
from loket.lessons import Lessons
from loket.limits import WallTime, home_meter
from loket.marking import Marking
from loket.orchestrator import PlanGuest
from loket.planning import Planning
from loket.policy import HomePolicy, approved_rule, narrower
from loket.providers.agents import AgentsProvider
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.providers.fs import FS_MIGRATIONS, FsProvider
from loket.providers.kv import KV_MIGRATIONS, KvProvider
from loket.providers.llm import LlmProvider
from loket.providers.llm_discover import default_settings, discover, embedded_path
from loket.providers.llm_embedded import EmbeddedModel
from loket.providers.llm_settings import EMBEDDED, LlmSettings, parse_routes
from loket.providers.message import MessageProvider
from loket.providers.net import NetProvider
from loket.providers.plan import PLAN_MIGRATIONS, PlanProvider
from loket.providers.vault import FileVault
from loket.quarantine import Quarantine
from loket.replay import Replayer
from loket.roles import Users
from loket.sandbox import WasmSandbox
from loket.schemas import compile_check
from loket.store.agents import AgentDatabases
from loket.store.bus import Bus
from loket.store.kernel import KernelDatabase, request_of
from loket.store.proposals import Proposals
from loket.store.users import UserTable
from loket.tokens import BiscuitTokens
from loket.tracing import Tracer

AGENT_MIGRATIONS = (
    *BRAIN_MIGRATIONS,
    *KV_MIGRATIONS[:2],
    *FS_MIGRATIONS[:2],
    KV_MIGRATIONS[2],
    FS_MIGRATIONS[2],
    *PLAN_MIGRATIONS,
)
"""Of an agent's file. Their order is for good, as a file knows its version by their number: new ones go to the end."""


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
        self.database = KernelDatabase(home.database, vault.master.subkey("run-keys"), vfs)
        self.journal = Journal(self.database, home.journal_key(), now)
        self.grants = Grants(
            self.journal,
            self.database,
            grants=self.database.grants(),
            accepted=self.database.accepted(),
            revoked=self.database.revoked(),
        )
        self.brains = AgentDatabases(
            home.brains,
            AGENT_MIGRATIONS,
            limit=config.open_brains,
            vfs=vfs,
            key=lambda agent: vault.master.subkey(f"brain:{agent}"),
            encrypted=config.brains_encrypted,
        )
        self.brain, values = BrainProvider(self.brains, now), KvProvider(self.brains)
        files = FsProvider(home.files, self.brains, now=now)
        self.bus = Bus(home.bus, now, vfs)
        self.delegation = Delegation(self.bus, self.message_to, now)
        messages = MessageProvider(self.delegation, self.bus)
        self.planning = Planning(lambda agent: self.installed.module(agent)[0], compile_check, now)
        plans = PlanProvider(self.planning, self.brains, now)
        self._providers: list[Provider] = [
            self.brain,
            values,
            files,
            NetProvider(vault),
            llm,
            AgentsProvider(self.delegation),
            messages,
            plans,
            *more_providers,
        ]
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
        tokens = BiscuitTokens(now)
        self.leaving = Leaving(
            config.redaction,
            vault_values=vault.values,
            key=vault.master.subkey("canaries"),
            agents=self.installed.names,
            cloud=lambda: bool(getattr(llm, "leaves", True)),
            on_leak=self._leaked,
        )
        self.users = Users(UserTable(home.users, vfs), now)
        self.policy = HomePolicy(home.policies, self.registry.all, members=self.users.standing, now=now)
        self.approvals = OwnerApprovals(
            self.database.approvals,
            self.journal,
            capability=lambda name: self.registry.find(name).capability,
            rule=approved_rule,
            narrower=narrower,
            save_rule=self.policy.save_rule,
            now=now,
            timeout_s=config.approval_timeout_h * 3600,
            headless=config.approval_headless == "deny",
            most_open=config.approval_open,
        )
        findings = Findings(self.registry, self.grants)
        labelling = Labelling(findings, Marking(Confidential(config.confidential)), findings.wants)
        self.limits = home_meter(
            config, self.database, self.journal, now=now, roles_of=self._roles_of, cost_of=_dearest(llm)
        )
        self.counter = Counter(
            meter=self.limits,
            registry=self.registry,
            grants=self.grants,
            policy=policy or self.policy,
            labeller=labelling,
            tokens=tokens,
            quotas=Quotas(self._today, self.database.used, Daily(config.tokens_per_day, config.money_per_day)),
            journal=self.journal,
            obligations=self.leaving.obligations(),
            approvals=self.approvals,
            now=now,
        )
        self.engine = Engine(
            counter=self.counter,
            journal=self.journal,
            grants=self.grants,
            records=self.database,
            tokens=tokens,
            load=self._guest,
            now=now,
            workers=config.workers,
            on_ended=self._ended,
            meter=self.limits,
        )
        self._wall = WallTime(
            self.engine.unfinished, self.limits.wall_of, lambda run, limit: self.engine.stop(run, limit=limit)
        )
        self.proposals = Proposals(home.proposals, vfs)
        self.lessons = Lessons(
            perform=self.perform,
            journal=self.journal,
            unlearned=self.database.unlearned,
            unfinished=self.engine.unfinished,
            is_erased=self.database.is_erased,
            capability=lambda name: self.registry.find(name).capability,
            secrets=lambda: [value for name in vault.names() if (value := vault.get(name))],
            proposals=self.proposals,
            new_id=new_id,
            now=now,
            idle_s=idle_s,
        )
        self.delegation.bind(self.engine, self.database, self.grants)
        self.planning.bind(
            self.engine,
            self.database,
            self.grants,
            self.registry,
            labelling,
            policy or self.policy,
            self.approvals,
        )
        self.quarantine = Quarantine(self.brains, self.bus, home.files, now)
        self.tracer = Tracer(self.journal.rows, lambda after: self.database.rows("", after=after))
        self.eraser = Eraser(
            self.database,
            self.journal,
            (self.brain, values, files, messages, plans, self.quarantine),
            self.engine.unfinished,
            purge=self._purge,
            rules=self.proposals.rules_of,
            kept=files.kept,
            settle=self.lessons.settle,
        )
        self.replayer = Replayer(self.counter, self.journal, self._guest, request_of)
        self.unreadable_runs: list[str] = []
        """Unfinished runs that could not go on at the start, because nobody can read them; the others went on."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._messages: dict[tuple[str, str], asyncio.Future[str]] = {}

    def _guest(self, module: ModuleRef) -> Guest:
        """A module, ready to run, plans of it too."""
        return PlanGuest(self.installed.load(module))

    def _purge(self, runs: Collection[str]) -> None:
        """Erase what hangs on runs outside the stores of the capabilities: what was typed is not kept by run."""
        self.proposals.purge(runs)
        self.home.chat_history.unlink(missing_ok=True)

    def _ended(self, run: RunState, ending: Ending) -> None:
        """A run has ended and its answer was given: it is traced, and what went wrong in it becomes a lesson."""
        self.tracer.ended(run.request.id)
        self.lessons.ended(run, ending)

    def _leaked(self, agent: str, where: Mapping[str, str]) -> None:
        """An agent's canary was about to leave: whatever it does ends, and the journal says why, and in which call."""
        facts = {"what": "canary.seen", "severity": "critical", "agent": agent, "principal": "host:loket", **where}
        self.journal.append("", 0, RowKind.NOTE, facts, "{}")
        for run, state in self.engine.unfinished().items():
            if state.request.agent == agent:
                self._soon(self.engine.stop, run, f"the canary of {agent} was about to leave")

    def _soon(self, work: Callable[..., object], *args: object) -> None:
        """Do something on the event loop, from any thread; nothing where it has ended."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work, *args)

    def _roles_of(self, principal: Principal) -> Collection[str]:
        return self.users.standing(principal).roles

    def _today(self) -> str:
        return dt.datetime.fromtimestamp(self.now(), dt.UTC).date().isoformat()

    # Life

    async def start(self, *, resume: bool = True) -> int:
        """Start providers, load the list of modules, go on with unfinished runs; their number."""
        self._loop = asyncio.get_running_loop()
        for provider in self._providers:
            await provider.start()
        await asyncio.to_thread(self.installed.read)
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
        await self._wall.close()
        await self.lessons.close()
        await self.engine.close()
        await asyncio.to_thread(self.tracer.close)
        for provider in reversed(self._providers):
            await provider.close()
        self.sandbox.close()
        self.brains.close()
        self.bus.close()
        self.proposals.close()
        self.users.close()
        self.database.close()

    # Messages and calls

    async def send(self, agent: str, text: str, *, conversation: str = "main", message: str | None = None) -> str:
        """Accept the owner's message for an agent; the run's id. The same `message` id is accepted only once."""
        if message is None:
            return await self._accept(agent, text, conversation, None)
        key = (agent, message)
        if key in self._messages:
            return await asyncio.shield(self._messages[key])
        accepting = self._messages[key] = asyncio.get_running_loop().create_future()
        try:
            known = await asyncio.to_thread(self.database.run_of_message, agent, message)
            run = known or await self._accept(agent, text, conversation, message)
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
            "rules": f"{self.proposals.rules(agent, package.rules)}\n\n{self.leaving.canary(agent)}".strip(),
            "tools": self._tools(ref),
            **more,
        }
        return ref, args

    async def _accept(self, agent: str, text: str, conversation: str, message: str | None) -> str:
        ref, args = self.message_to(agent, text, conversation, {})
        principal = Principal("agent", agent)
        request = self._request(agent, principal, ref, conversation, "message", args, words=text)
        return await self.engine.submit(request, message)

    def _tools(self, ref: ModuleRef) -> list[dict[str, Json]]:
        """What the agent may offer to a model: what was granted, but models, its own notes and the clockwork."""
        granted = {grant.capability for grant in self.grants.held(ref.publisher, ref.id)}
        return [
            {"name": c.id, "description": c.summary, "parameters": c.arguments}
            for c in self.registry.all()
            if c.id in granted and not c.side and c.family not in ("kv", "llm")
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
            labels=(str(OWNER),),
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


def _dearest(llm: Provider) -> Callable[[str, int], float | None]:
    """The most US dollars that so many tokens can cost with the models there are; None where nobody knows."""

    def cost(_capability: str, tokens: int) -> float | None:
        settings = getattr(llm, "settings", None)
        if settings is None:
            return None
        return tokens * max((max(one.price_in, one.price_out) for one in settings.ordered()), default=0.0) / 1e6

    return cost


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
            settings = await model_settings(home, config)
            llm = LlmProvider(settings, vault, embedded_model(home, settings), compile_schema=compile_check)
        system = Loket(home, config, llm=llm, vault=vault, **parts)
        try:
            sound = system.journal.broken is None  # else only looking at it is left
            await system.start(resume=resume and sound)
            if sound:
                await system.installed.ensure_stock_agent()
            yield system
        finally:
            await system.close()


async def model_settings(home: Home, config: Config) -> LlmSettings:
    """The models that the settings name; without settings, what is found on this machine."""
    if config.models:
        return parse_routes(config.models)
    return default_settings(home.root, await discover())


def embedded_model(home: Home, settings: LlmSettings) -> EmbeddedModel | None:
    """The embedded model that these settings mean, not started yet."""
    path = embedded_path(home.root, settings)
    if path is None:
        return None
    context = next((route.context for route in settings.routes if route.kind == "embedded"), EMBEDDED.context)
    return EmbeddedModel(path, context=context, log=home.logs / "model.log")
