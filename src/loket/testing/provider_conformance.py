"""A conformance suite for providers: whoever writes one proves with it that it keeps the promises behind the counter.

Give `check_provider` a function that makes a fresh provider on a directory, and example calls in an order in which they
work; it makes them through a real counter, alone, again, in parallel, and with arguments that mean harm. In a test of
pytest one line does it: `assert_provider(make, examples, tmp_path)`.
"""

import asyncio
import json
import re
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from loket.chain import check_chain
from loket.contracts import Capability, Failed, Json, LoketError, OnUncertain, Provider, Refusal, RunStatus
from loket.contracts.catalogue import STOCK
from loket.testing.guest_conformance import CheckResult, Unmet
from loket.testing.provider_hostile import hostile
from loket.testing.provider_rig import Outcome, Rig

MARK = "{mark}"
"""Stands in an example's texts for a word that is another one for each agent."""

AGENTS = ("ana", "budi", "citra", "dewi")
"""Who calls in parallel."""

_ROUNDS = 3
_CUT_S = 0.3
"""The time limit that is given to capabilities that wait, to see it kept."""
_GRACE_S = 2.0
_CHECK_S = 120.0
"""Seconds after which a check that does not come back has failed."""
_CODE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+")
_FAULTS = frozenset({"provider.crashed", "provider.answer", "limit.answer"})
"""Codes with which the counter answers in the place of a provider that broke a promise."""

Make: TypeAlias = Callable[[Path], Provider]


@dataclass(frozen=True, slots=True)
class Example:
    """A call that a provider has to perform.

    `refused` is the code with which it has to be refused or to fail. `other` are arguments whose effect differs from
    that of `args`, where the same effect twice cannot be told from one. `hangs` says that it never comes to an end by
    itself: it is made only where time limits are checked.
    """

    capability: str
    args: Mapping[str, Json]
    refused: str | None = None
    other: Mapping[str, Json] | None = None
    hangs: bool = False

    def text(self, mark: str = "mark", *, other: bool = False) -> str:
        """The arguments as JSON, with the word in the place of `{mark}`."""
        args = self.other if other and self.other is not None else self.args
        return json.dumps(args).replace(MARK, mark)


@dataclass(frozen=True, slots=True)
class Suite:
    """What the checks get: the provider's maker, its capabilities, examples and grants, and a directory for each."""

    make: Make
    examples: Sequence[Example]
    directory: Path
    capabilities: Sequence[Capability]
    grants: Mapping[str, Mapping[str, Json]] = field(default_factory=dict)

    @property
    def calls(self) -> list[Example]:
        """The examples that come to an end."""
        return [example for example in self.examples if not example.hangs]

    def capability(self, name: str) -> Capability:
        """Raises `Unmet` for one that nobody declared."""
        for known in self.capabilities:
            if known.id == name:
                return known
        raise Unmet(f"{name} is not declared")

    @asynccontextmanager
    async def rig(self, name: str, capabilities: Sequence[Capability] | None = None) -> Any:
        """A started provider behind a counter of its own."""
        rig = Rig(self.make, self.directory / name, capabilities or self.capabilities, self.grants)
        try:
            await rig.watched.start()
            yield rig
        finally:
            await rig.close()

    async def all(self, rig: Rig, run: str, agent: str = "ana") -> list[Outcome]:
        """Make the example calls in order."""
        mark = f"mark{agent}"
        return [await rig.call(e.capability, e.text(mark), run=run, agent=agent) for e in self.calls]


def check_provider(
    make: Make,
    examples: Sequence[Example],
    directory: Path,
    capabilities: Sequence[Capability] = STOCK,
    grants: Mapping[str, Mapping[str, Json]] | None = None,
) -> list[CheckResult]:
    """Run every check; one result each, in the order of `CHECKS`.

    `make` gives a provider that keeps all that it keeps below the directory, and lets go of it when it is closed.
    `directory` is empty; the checks work in folders of it. `grants` are the constraints of the grants by capability.
    """
    return [
        _result(name, check, Suite(make, examples, directory / f"check-{number}", capabilities, grants or {}))
        for number, (name, check) in enumerate(CHECKS.items(), 1)
    ]


def assert_provider(make: Make, examples: Sequence[Example], directory: Path, **more: Any) -> None:
    """Raise `AssertionError` with the checks that a provider does not pass; arguments as for `check_provider`."""
    failed = [
        f"{result.name}: {result.detail}"
        for result in check_provider(make, examples, directory, **more)
        if not result.ok
    ]
    if failed:
        raise AssertionError("\n".join(failed))


Check: TypeAlias = Callable[[Suite], Awaitable[str]]
"""Gives what else there is to say, or raises `Unmet`."""


def _result(name: str, check: Check, suite: Suite) -> CheckResult:
    """Run a check on a thread of its own, so that a provider that blocks for ever fails it and no more."""
    found = [CheckResult(name, False, f"it did not come back within {_CHECK_S:g} s")]

    def work() -> None:
        suite.directory.mkdir(parents=True)
        try:
            found[0] = CheckResult(name, True, asyncio.run(_run(check, suite)))
        except Unmet as unmet:
            found[0] = CheckResult(name, False, str(unmet))
        except Exception as error:  # noqa: BLE001 - whatever a provider lets out is what the check has found
            found[0] = CheckResult(name, False, f"{type(error).__name__} came out: {error}")

    thread = threading.Thread(target=work, name="loket-conformance", daemon=True)
    thread.start()
    thread.join(_CHECK_S)
    return found[0]


async def _run(check: Check, suite: Suite) -> str:
    return await check(suite)


# The checks


async def _declared(suite: Suite) -> str:
    """Handlers and catalogue agree, and the examples reach every handler."""
    provider = suite.make(suite.directory)
    try:
        names = set(provider.handlers())
        for name in sorted(names | {example.capability for example in suite.examples}):
            capability = suite.capability(name)
            if capability.side:
                raise Unmet(f"{name} is the kernel's own")
            if name not in names:
                raise Unmet(f"{name} has an example and no handler")
            if not any(example.capability == name and not example.refused for example in suite.examples):
                raise Unmet(f"{name} has no example that is answered")
    finally:
        await provider.close()
    return f"{len(names)} capabilities"


async def _answers(suite: Suite) -> str:
    """Examples and answers keep to their schemas, in time, and what is to be refused is."""
    async with suite.rig("answers") as rig:
        for example, outcome in zip(suite.calls, await suite.all(rig, "one"), strict=True):
            code = outcome.error.code if outcome.error else None
            if code != example.refused:
                raise Unmet(f"{example.capability} {example.text()[:200]}: {outcome.told}")
            limit = suite.capability(example.capability).timeout_s
            if outcome.seconds > limit:
                raise Unmet(f"{example.capability} took {outcome.seconds:.1f} s; its limit is {limit:g} s")
    return f"{len(suite.calls)} calls"


async def _lifecycle(suite: Suite) -> str:
    """Closing works before a start, after a failed start and twice; a new one goes on; no task is left behind."""
    await _closes(suite.make(_new(suite.directory / "unstarted")), "without a start")
    await _closes_after_failed_start(suite)
    provider = suite.make(_new(suite.directory / "twice"))
    await provider.start()
    await _closes(provider, "after a start")
    await _closes(provider, "a second time")
    async with suite.rig("again") as rig:
        before = await suite.all(rig, "one")
        await rig.restart()
        after = await suite.all(rig, "two")
        faults = [o.told for o in (*before, *after) if o.error is not None and o.error.code in _FAULTS]
        if faults:
            raise Unmet(f"after a close and a new start: {faults[0]}")
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        raise Unmet(f"{len(left)} tasks are left behind: {sorted(task.get_name() for task in left)}")
    return ""


def _new(directory: Path) -> Path:
    directory.mkdir()
    return directory


async def _closes(provider: Provider, when: str) -> None:
    try:
        await provider.close()
    except Exception as error:  # noqa: BLE001 - whatever a provider lets out is what the check has found
        raise Unmet(f"close {when}: {type(error).__name__}: {error}") from None


async def _closes_after_failed_start(suite: Suite) -> None:
    """A file stands where the provider's directory should be, so whatever it opens or makes there fails."""
    blocked = suite.directory / "blocked"
    blocked.write_bytes(b"")
    try:
        provider = suite.make(blocked / "provider")
    except (OSError, LoketError):
        return  # there is nothing to close
    try:
        await provider.start()
    except (OSError, LoketError):
        pass
    finally:
        await _closes(provider, "after a failed start")


async def _errors(suite: Suite) -> str:
    """What a provider raises is a `Refusal` or a `Failed` with code, message and remedy."""
    async with suite.rig("errors") as rig:
        await suite.all(rig, "one")
        await suite.all(rig, "two")
        for capability, args in _hostile(suite):
            await rig.call(capability, args, run="hostile")
        for capability, error in rig.watched.raised:
            _proper(capability, error, suite.directory)
    return f"{len(rig.watched.raised)} errors"


def _proper(capability: str, error: Exception, directory: Path) -> None:
    if not isinstance(error, Refusal | Failed):
        raise Unmet(f"{capability} let out {type(error).__name__}: {str(error)[:200]}")
    for name in ("code", "message", "remedy"):
        value = getattr(error, name)
        if not isinstance(value, str) or not value.strip():
            raise Unmet(f"{capability}: {error.code} has no {name}: {value!r}")
        if str(directory) in value:
            raise Unmet(f"{capability}: the {name} of {error.code} names a directory of this machine")
    if not _CODE.fullmatch(error.code):
        raise Unmet(f"{capability}: {error.code!r} is no dotted code")


def _hostile(suite: Suite) -> Iterator[tuple[str, str]]:
    """Hostile calls of each capability, made from its first example."""
    for example in {example.capability: example for example in reversed(suite.calls)}.values():
        yield from ((example.capability, args) for args in hostile(json.loads(example.text())))


async def _hostile_arguments(suite: Suite) -> str:
    """Arguments that mean harm get an answer or an error; and afterwards everything still works."""
    count = 0
    async with suite.rig("hostile") as rig:
        await suite.all(rig, "one")
        for capability, args in _hostile(suite):
            outcome = await rig.call(capability, args, run="hostile")
            if outcome.error is not None and (
                outcome.error.code in _FAULTS or not isinstance(outcome.error, Refusal | Failed)
            ):
                raise Unmet(f"{capability} {_short(args)}: {outcome.told}")
            count += 1
        for outcome in await suite.all(rig, "two"):
            if outcome.error is not None and outcome.error.code in _FAULTS:
                raise Unmet(f"afterwards: {outcome.told}")
    return f"{count} calls"


def _short(text: str) -> str:
    return ascii(text if len(text) <= 120 else f"{text[:120]}... ({len(text):,} characters)")  # noqa: PLR2004 - a line


async def _once(suite: Suite) -> str:
    """A deduplicated call that is performed again as the same (run, ordinal) changes nothing and answers the same."""
    count = 0
    async with suite.rig("once") as rig:
        for ordinal, example in enumerate(suite.calls, 1):
            first = await rig.call(example.capability, example.text(), run="one", ordinal=ordinal)
            if not _deduped(suite, example) or first.error is not None:
                continue
            seen = await _look(suite, rig)
            for when in ("at once", "after a new start"):
                second = await rig.call(example.capability, example.text(), run="one", ordinal=ordinal, again=True)
                if second.same != first.same:
                    raise Unmet(f"{example.capability}, {when}: {second.told} instead of {first.told}")
                if await _look(suite, rig) != seen:
                    raise Unmet(f"{example.capability}, {when}: performed again, it changed something")
                await rig.restart()
            count += 1
    return f"{count} calls made again" if count else "no capability is deduplicated"


async def _apart(suite: Suite) -> str:
    """Calls of two ordinals are two effects, and so are calls of two runs."""
    count = 0
    async with suite.rig("apart") as rig:
        for number, example in enumerate(suite.calls):
            ordinal = 2 * number + 1
            first = await rig.call(example.capability, example.text(), run="one", ordinal=ordinal)
            if not _deduped(suite, example) or first.error is not None:
                continue
            for what, run, place, other in (("ordinal", "one", ordinal + 1, True), ("run", "two", ordinal, False)):
                seen = await _look(suite, rig)
                second = await rig.call(example.capability, example.text(other=other), run=run, ordinal=place)
                if second.same == first.same and await _look(suite, rig) == seen:
                    raise Unmet(
                        f"{example.capability} by another {what} left no trace: it was taken for the same call, or the "
                        "example needs `other` arguments, or the examples need a read that shows the effect"
                    )
            count += 1
    return f"{count} calls" if count else "no capability is deduplicated"


def _deduped(suite: Suite, example: Example) -> bool:
    return suite.capability(example.capability).on_uncertain is OnUncertain.DEDUPE


async def _look(suite: Suite, rig: Rig) -> list[tuple[str | None, str | None]]:
    """What all examples that change nothing show now."""
    reads = [e for e in suite.calls if not suite.capability(e.capability).effect.changes]
    return [(await rig.call(e.capability, e.text(), run="look")).same for e in reads]


async def _limits(suite: Suite) -> str:
    """Examples and their answers fit, and arguments over the limit never reach the provider."""
    async with suite.rig("limits") as rig:
        for example, outcome in zip(suite.calls, await suite.all(rig, "one"), strict=True):
            if outcome.error is not None and outcome.error.code in ("limit.answer", "limit.args"):
                raise Unmet(outcome.told)
            before = len(rig.watched.performed)
            padding = " " * (suite.capability(example.capability).args_kb << 10)
            over = await rig.call(example.capability, example.text() + padding, run="over")
            if over.error is None or over.error.code != "limit.args" or len(rig.watched.performed) != before:
                raise Unmet(f"{example.capability} over its args_kb: {over.told}")
    return ""


async def _time_limits(suite: Suite) -> str:
    """A capability that waits is cut at its time limit, and the provider goes on."""
    short = [replace(c, timeout_s=_CUT_S) if c.waits else c for c in suite.capabilities]
    waiting = [example for example in suite.examples if suite.capability(example.capability).waits]
    async with suite.rig("time", short) as rig:
        for example in waiting:
            outcome = await rig.call(example.capability, example.text(), run="one")
            if outcome.seconds > _CUT_S + _GRACE_S:
                raise Unmet(f"{example.capability} was not cut at {_CUT_S} s: it took {outcome.seconds:.1f} s")
            if example.hangs and outcome.error is None:
                raise Unmet(f"{example.capability} was to hang, and answered {outcome.told}")
        for outcome in await suite.all(rig, "two"):
            if outcome.error is not None and outcome.error.code in _FAULTS:
                raise Unmet(f"afterwards: {outcome.told}")
    return f"{len(waiting)} calls that wait" if waiting else "no capability waits"


async def _replay(suite: Suite) -> str:
    """A run with all examples replays to the same answers, and nothing is performed."""
    async with suite.rig("replay") as rig:
        ending, _ = await rig.play([], "empty")
        performed = len(rig.watched.performed)
        calls = [(example.capability, example.text()) for example in suite.calls]
        ending, verdict = await rig.play(calls, "whole")
        if ending.status is not RunStatus.DONE:
            raise Unmet(f"the run ended as {ending.status.value}: {ending.error}")
        if not verdict.ok:
            raise Unmet(f"the replay differs: {verdict.reason}")
        if len(rig.watched.performed) - performed > len(calls):
            raise Unmet("calls were performed more than once")
        faults = check_chain(rig.journal)
        if faults:
            raise Unmet(f"the journal: {faults[0].reason}")
    return f"{verdict.calls} calls"


async def _parallel(suite: Suite) -> str:
    """Calls of several agents at the same time come out as they do alone, and show none of each other's words."""
    async with suite.rig("alone") as rig:
        alone = [_shown(outcomes) for outcomes in [await suite.all(rig, f"alone-{a}", a) for a in AGENTS]]
    if not any(shown for _code, shown in alone[0]):
        raise Unmet(f"no answer shows the word of its agent: use {MARK} in a text that an example reads back")
    for number in range(_ROUNDS):
        async with suite.rig(f"together-{number}") as rig:
            together = await asyncio.gather(*(suite.all(rig, f"run-{a}", a) for a in AGENTS))
        for agent, outcomes, expected in zip(AGENTS, together, alone, strict=True):
            for example, found, wanted in zip(suite.calls, _shown(outcomes), expected, strict=True):
                if found != wanted:
                    raise Unmet(f"{example.capability} of {agent}: {found} instead of {wanted}")
    return f"{len(AGENTS)} agents"


def _shown(outcomes: Sequence[Outcome]) -> list[tuple[str | None, tuple[str, ...]]]:
    """Of each outcome the error's code, and whose words are in the answer."""
    return [
        (
            outcome.error.code if outcome.error else None,
            tuple(f"mark of {agent}" for agent in AGENTS if f"mark{agent}" in (outcome.answer or "")),
        )
        for outcome in outcomes
    ]


CHECKS: Mapping[str, Check] = {
    "every handler is declared, and every one has an example": _declared,
    "every example is answered by its schema, or refused as it says": _answers,
    "it can be closed without a start, after a failed one, and twice; a new one goes on": _lifecycle,
    "what it raises are refusals and failures with code, message and remedy": _errors,
    "the same call made again changes nothing and answers the same": _once,
    "calls of two ordinals or two runs are two effects": _apart,
    "arguments and answers keep to their sizes": _limits,
    "a call that waits is cut at its time limit": _time_limits,
    "a run of all examples replays to the same answers": _replay,
    "hostile arguments get an answer or an error": _hostile_arguments,
    "calls of several agents at once do not mix": _parallel,
}
"""The checks by name, in order."""
