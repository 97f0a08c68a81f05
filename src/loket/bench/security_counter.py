"""A gate for the replay that is the real thing: the counter with labels, provenance, the default policy and approvals.

One kernel serves all runs of a suite; each run has a module with a grant of every tool, and the tools themselves are
the provider. What the owner would be asked is noted, and answered as the replay says.
"""

import contextlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from loket.contracts import (
    Answer,
    Asked,
    Call,
    Capability,
    Failed,
    Finding,
    Grant,
    Lease,
    Limits,
    ModuleRef,
    Principal,
    Refusal,
    RunRequest,
    Verdict,
)
from loket.findings import Findings
from loket.kernel.counter import Counter
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Registry
from loket.kernel.state import RunState
from loket.labelling import Labelling
from loket.policy import HomePolicy
from loket.provenance import Owner
from loket.schemas import compile_check
from loket.store.kernel import KernelDatabase
from loket.tokens import BiscuitTokens

Read = Callable[[str, Mapping[str, Any]], Mapping[str, Any] | None]

_DIGEST = "d" * 64
_KEY = b"k" * 32
_LIMITS = Limits(calls=10_000, args_kb=4096)
_ASKED = "bench.asked"
_DRY = "bench.dry"


class Tools:
    """The tools of a suite as a provider: each call goes to the gate of its run."""

    id = "dojo"

    def __init__(self, capabilities: Sequence[Capability]) -> None:
        self._names = [capability.id for capability in capabilities]
        self.gates: dict[str, CounterGate] = {}

    def handlers(self) -> Mapping[str, Callable[[Call], Answer]]:
        return dict.fromkeys(self._names, self._perform)

    async def start(self) -> None:
        """Nothing to start."""

    async def close(self) -> None:
        """Nothing to close."""

    def _perform(self, call: Call) -> Answer:
        gate = self.gates[call.run]
        if call.ordinal == 0:  # a read of the judge's own
            found = gate.read(call.capability, call.args)
            if found is None:
                raise Failed("bench.read", "there is nothing to read")
            return Answer(found)
        return Answer(gate.perform())


class Yes:
    """The owner, who says yes where the replay says so, and is noted to have been asked."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    def claim(self, asked: Asked) -> Lease | float:
        """A lease, or the refusal by which the gate knows that somebody was asked."""
        gate = self._tools.gates[asked.question.run.id]
        gate.asked = True
        if not gate.yes:
            raise Refusal(_ASKED, "the owner is not here")
        return Lease("bench", "owner", ("SELECT 1", ()))


class Kernel:
    """One kernel for all runs of a suite, with Loket's own policy, labels and findings."""

    def __init__(self, directory: Path, capabilities: Sequence[Capability]) -> None:
        self.tools = Tools(capabilities)
        self.database = KernelDatabase(directory / "kernel.db", _KEY)
        self.journal = Journal(self.database, _KEY, time.time)
        grants = Grants(self.journal, self.database)
        grants.accept("bench", "dojo", _DIGEST, 0.0)
        for capability in capabilities:
            grants.allow(Grant("bench", "dojo", capability.id, {}, "owner", 0.0))
        registry = Registry(capabilities, [self.tools], compile_check)
        self.owners: dict[str, Owner] = {}
        self._tokens = BiscuitTokens(time.time)
        self._current = Owner()
        findings = Findings(registry, grants, lambda: self._current)
        self.counter = Counter(
            registry=registry,
            grants=grants,
            policy=HomePolicy(directory / "policies", registry.all),
            labeller=Labelling(findings, looks=findings.wants),
            tokens=self._tokens,
            journal=self.journal,
            obligations={"redact": _Through()},
            approvals=Yes(self.tools),
            now=time.time,
        )

    def begin(self, run: str, words: str) -> RunState:
        """A run of a module that may use every tool, at the owner's words."""
        module = ModuleRef("bench", "dojo", "1", _DIGEST, _LIMITS)
        who = Principal("agent", "dojo")
        args = {"text": words}
        request = RunRequest(
            run, run, "dojo", who, module, run, "message", args, ("owner",), time.time(), words=words
        )  # fmt: skip
        self.journal.also(self.database.run_started(request, None))
        return RunState(request, json.dumps(args), self._tokens.mint(request, 3600.0), bytes(32), ("owner",))

    def call(self, run: RunState, owner: Owner, capability: str, args: Mapping[str, Any]) -> Any:
        """Through the counter, as that owner's."""
        self._current = owner
        return json.loads(self.counter.call(run, capability, json.dumps(args)))

    def close(self) -> None:
        self.database.close()


class _Through:
    """The obligation to redact, where nothing leaves this process."""

    def before(self, question: Any) -> Mapping[str, Any]:
        args: Mapping[str, Any] = question.args
        return args

    def after(self, answer: Answer) -> Answer:
        return answer


class CounterGate:
    """One run behind the counter. Its decisions are the counter's, and so is its history."""

    def __init__(self, kernel: Kernel, run: str, words: str, owner: Owner, read: Read) -> None:
        self._kernel = kernel
        self._owner = owner
        self.read = read
        self.yes = False
        self.asked = False
        self.findings: Mapping[str, Finding] = {}
        self._result: Callable[[], Mapping[str, Any]] | None = None
        self._run = kernel.begin(run, words)
        kernel.tools.gates[run] = self

    def perform(self) -> Mapping[str, Any]:
        """What the tool answers. Raises `Failed` where the gate is only asked what it would decide."""
        if self._result is None:
            raise Failed(_DRY, "the call was let through, and is not made")
        return self._result()

    def decide(self, capability: Capability, args: Mapping[str, Any]) -> Verdict:
        """What the counter does with a call that is not made in the end."""
        return self._call(capability, args, None, yes=False)[0]

    def call(
        self, capability: Capability, args: Mapping[str, Any], perform: Callable[[], Any], *, yes: bool
    ) -> tuple[Verdict, Any]:
        """Make a call; the verdict, and the result where it was made."""
        return self._call(capability, args, perform, yes=yes)

    def _call(
        self, capability: Capability, args: Mapping[str, Any], perform: Callable[[], Any] | None, *, yes: bool
    ) -> tuple[Verdict, Any]:
        self.yes, self.asked = yes, False
        self._result = None if perform is None else lambda: {"result": perform()}
        try:
            answer = self._kernel.call(self._run, self._owner, capability.id, args)["result"]
        except Refusal as refusal:
            verdict = Verdict.ASK if refusal.code == _ASKED else Verdict.DENY
            # what the owner would then do by hand is done, and the run does not see it
            return verdict, perform() if yes and perform is not None else None
        except Failed:
            answer = None
        finally:
            self.findings = self._run.facts.findings if self._run.facts is not None else {}
        return (Verdict.ASK if self.asked else Verdict.ALLOW), answer


@contextlib.contextmanager
def through_counter() -> Iterator[Callable[..., CounterGate]]:
    """A `MakeGate` whose gates are runs of real kernels, one for each set of tools."""
    kernels: dict[tuple[str, ...], Kernel] = {}
    number = itertools.count()
    with tempfile.TemporaryDirectory(prefix="loket-security-") as place:

        def make(words: str, owner: Owner, capabilities: Sequence[Capability], read: Read) -> CounterGate:
            key = tuple(capability.id for capability in capabilities)
            if key not in kernels:
                directory = Path(place) / str(len(kernels))
                directory.mkdir()
                kernels[key] = Kernel(directory, capabilities)
            return CounterGate(kernels[key], f"r{next(number)}", words, owner, read)

        try:
            yield make
        finally:
            for kernel in kernels.values():
                kernel.close()
