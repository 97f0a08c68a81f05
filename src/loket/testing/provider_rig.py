"""A real counter in front of one provider: kernel, journal and grants as in a running system.

It remembers what the provider performed and raised, can call the same (run, ordinal) again as after a crash, and can
take the provider down and make it anew on the same directory.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from loket.contracts import (
    Answer,
    Call,
    Capability,
    Decision,
    Ending,
    Failed,
    Grant,
    Handler,
    Host,
    Json,
    Limits,
    LoketError,
    ModuleRef,
    Principal,
    Provider,
    Question,
    Recorded,
    Refusal,
    RunRequest,
    Segment,
    Suspended,
    Verdict,
)
from loket.kernel.counter import Counter
from loket.kernel.engine import Engine
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Registry
from loket.kernel.state import RunState
from loket.kernel.text import canonical
from loket.policy import PlainLabeller
from loket.replay import Replayer
from loket.replay import Verdict as Replayed
from loket.schemas import compile_check
from loket.store.kernel import KernelDatabase, request_of
from loket.tokens import BiscuitTokens

_KEY = b"k" * 32
_DIGEST = "d" * 64
_LIMITS = Limits(calls=1_000_000, args_kb=1 << 20, answer_kb=1 << 20, tokens=10**12, money=1e9)


class Outcome(NamedTuple):
    """How a call came out: canonical JSON or an error, after so many seconds."""

    answer: str | None
    error: LoketError | None
    seconds: float

    @property
    def told(self) -> str:
        """The answer, or the code and the words of the error, shortened."""
        text = f"{self.error.code}: {self.error.message}" if self.error else str(self.answer)
        return text if len(text) <= 200 else f"{text[:200]}..."  # noqa: PLR2004 - characters of a readable line

    @property
    def same(self) -> tuple[str | None, str | None]:
        """What has to be equal where two calls came out alike."""
        return self.answer, self.error.code if self.error else None


class Watched:
    """A provider's handlers with a list of what they performed, and of all that they raised."""

    id = "watched"

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.performed: list[tuple[str, str, int]] = []
        self.raised: list[tuple[str, Exception]] = []
        self._waits: frozenset[str] = frozenset()

    def waiting(self, capabilities: Sequence[Capability]) -> None:
        """Say which capabilities wait: their handlers are coroutine functions."""
        self._waits = frozenset(capability.id for capability in capabilities if capability.waits)

    def handlers(self) -> Mapping[str, Handler]:
        """The provider's own, whichever provider it is at the time of the call."""
        return {name: self._async(name) if name in self._waits else self._sync(name) for name in self._own()}

    async def start(self) -> None:
        await self.provider.start()

    async def close(self) -> None:
        await self.provider.close()

    def _own(self) -> Mapping[str, Handler]:
        return self.provider.handlers()

    def _sync(self, name: str) -> Handler:
        def handler(call: Call) -> Any:
            self.performed.append((name, call.run, call.ordinal))
            try:
                return self._own()[name](call)
            except Exception as error:
                self.raised.append((name, error))
                raise

        return handler

    def _async(self, name: str) -> Handler:
        async def handler(call: Call) -> Answer:
            self.performed.append((name, call.run, call.ordinal))
            try:
                made: Any = self._own()[name](call)
                answer: Answer = await made if hasattr(made, "__await__") else made
            except Exception as error:
                self.raised.append((name, error))
                raise
            return answer

        return handler


class _AllowAll:
    """A policy is not what is tested here, and one would not know the capabilities of others."""

    def decide(self, _question: Question) -> Decision:
        return Decision(Verdict.ALLOW, ("conformance",), "a conformance suite", "conformance")


class Rig:
    """A counter on `directory/kernel.db` in front of the provider that `make` makes on `directory/provider`.

    `grants` are the constraints of the grants by capability; a capability that is not among them is granted without.
    """

    def __init__(
        self,
        make: Callable[[Path], Provider],
        directory: Path,
        capabilities: Sequence[Capability],
        grants: Mapping[str, Mapping[str, Json]],
    ) -> None:
        self.directory = directory
        self._make = make
        self._place = directory / "provider"
        self._place.mkdir(parents=True)
        self.watched = Watched(make(self._place))
        self.watched.waiting(capabilities)
        self.database = KernelDatabase(directory / "kernel.db", _KEY)
        self.journal = Journal(self.database, _KEY, time.time)
        self._grants = Grants(self.journal, self.database, grants=[], accepted=[])
        self._tokens = BiscuitTokens(time.time)
        self.registry = Registry(capabilities, [self.watched], compile_check)
        self.counter = self._counter()
        self._constraints = grants
        self._runs: dict[str, RunState] = {}
        self._modules: dict[str, ModuleRef] = {}

    def _counter(self) -> Counter:
        return Counter(
            registry=self.registry,
            grants=self._grants,
            policy=_AllowAll(),
            labeller=PlainLabeller(),
            tokens=self._tokens,
            journal=self.journal,
            obligations={},
            now=time.time,
        )

    async def restart(self) -> None:
        """Close the provider and start a new one on the same directory, as after a crash of the process."""
        await self.watched.close()
        self.watched.provider = self._make(self._place)
        await self.watched.start()

    async def close(self) -> None:
        await self.watched.close()
        self.database.close()

    def module(self, agent: str) -> ModuleRef:
        """The module of an agent, with a grant of everything that the provider performs."""
        if agent not in self._modules:
            self._grants.accept("local", agent, _DIGEST, 0.0)
            for capability in self.registry.all():
                constraints = self._constraints.get(capability.id, {})
                self._grants.allow(Grant("local", agent, capability.id, constraints, "owner", 0.0))
            self._modules[agent] = ModuleRef("local", agent, "1", _DIGEST, _LIMITS)
        return self._modules[agent]

    def request(self, agent: str, run: str) -> RunRequest:
        principal = Principal("agent", agent)
        return RunRequest(run, run, agent, principal, self.module(agent), "talk", "go", {}, ("owner",), time.time())

    def _state(self, agent: str, run: str) -> RunState:
        if run not in self._runs:
            request = self.request(agent, run)
            self.journal.also(self.database.run_started(request, None))
            token = self._tokens.mint(request, 3600)
            self._runs[run] = RunState(request, "{}", token, bytes(32), ("owner",))
        return self._runs[run]

    async def call(
        self, capability: str, args: str, *, run: str, agent: str = "ana", ordinal: int = 0, again: bool = False
    ) -> Outcome:
        """Call through the counter; `ordinal` 0 is the run's next one.

        `again` is what happens after a crash between an intent and its outcome: the same call is performed once more.
        """
        state = self._state(agent, run)
        state.history.clear()
        state.position = ordinal - 1 if ordinal else state.position
        if again:
            state.open = Recorded(ordinal, capability, canonical(json.loads(args)), None, None, None, ())
        started = time.perf_counter()
        try:
            answer = await asyncio.to_thread(self.counter.call, state, capability, args)
        except Suspended:
            await self.counter.finish(state)
            recorded = state.history[-1]
            return Outcome(recorded.answer, _error(recorded.error), time.perf_counter() - started)
        except LoketError as error:
            return Outcome(None, error, time.perf_counter() - started)
        return Outcome(answer, None, time.perf_counter() - started)

    async def play(self, calls: Sequence[tuple[str, str]], run: str) -> tuple[Ending, Replayed]:
        """A whole run of a module that makes these calls (capability, JSON) in order, and its replay."""
        script = _Script(calls)
        engine = Engine(
            counter=self.counter,
            journal=self.journal,
            grants=self._grants,
            records=self.database,
            tokens=self._tokens,
            load=lambda _module: script,
            now=time.time,
            workers=2,
        )
        try:
            ending = await engine.result(await engine.submit(self.request("ana", run)))
        finally:
            await engine.close()
        replayer = Replayer(self.counter, self.journal, lambda _module: script, request_of)
        return ending, await asyncio.to_thread(replayer.replay, run)


class _Script:
    """A module that makes calls in order, and answers with what came of each."""

    digest = _DIGEST

    def __init__(self, calls: Sequence[tuple[str, str]]) -> None:
        self._calls = calls

    def run(self, host: Host, _operation: str, _args: str, _limits: Limits) -> Segment:
        try:
            return Segment(answer=json.dumps({"outcomes": [self._one(host, *call) for call in self._calls]}))
        except Suspended:
            return Segment(suspended=True)
        except LoketError as error:
            return Segment(ended=error)

    @staticmethod
    def _one(host: Host, capability: str, args: str) -> Json:
        try:
            return json.loads(host(capability, args))
        except (Refusal, Failed) as error:
            return [error.code, error.message, error.remedy]


def _error(value: Mapping[str, Any] | None) -> LoketError | None:
    if value is None:
        return None
    branch = Refusal if value["kind"] == "refusal" else Failed
    return branch(value["code"], value["message"], value["remedy"])
