"""A row about the policy alone: what a decision costs that was made before."""

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence

from loket.app import Loket
from loket.bench.place import Place, system_at
from loket.bench.rows import Peer, Taken
from loket.contracts import Finding, Json, Origin, Principal, Question, RunRequest
from loket.testing.models import InstantModel

BATCH = 100
"""Decisions of one sample."""

_FRESH = 300
_NAMED = Finding(Origin.NAMED, "the owner wrote it")
_SEEN = ("capability:brain.search", "capability:net.fetch", "host:example.org", "owner", "private")
_FETCH: tuple[str, dict[str, Json], dict[str, Finding]] = (
    "net.fetch",
    {"url": "https://example.org/"},
    {"url": Finding(Origin.UNTRUSTED, "a model made it")},
)
_CALLS: tuple[tuple[str, dict[str, Json], dict[str, Finding]], ...] = (
    ("kv.get", {"key": "measure"}, {}),
    ("brain.search", {"query": "bicycle"}, {}),
    ("fs.write", {"path": "notes/today.md", "text": "Ana called."}, {"path": _NAMED}),
    _FETCH,
    ("agent.ask", {"agent": "weather", "text": "Will it rain?"}, {"agent": _NAMED}),
)
"""Calls of the stock agent: reads and effects, with and without critical arguments."""


def policy_decision(place: Place, n: int) -> Taken:
    """About `n` decisions of the home's own policy on five kinds of calls; beside them such that nobody asked before.

    A decision is new where what the rules look at is: here another set of labels that the run has seen.
    """
    return asyncio.run(_policy_decision(place, n))


async def _policy_decision(place: Place, n: int) -> Taken:
    async with system_at(place.home("policy-decision"), InstantModel(lambda _: "ok"), 1) as (system, names):
        questions = [_question(system, names[0], *call, _SEEN) for call in _CALLS]
        decide = system.policy.decide
        for question in questions:
            decide(question)
        asked = itertools.cycle(questions)
        samples = [_batch(decide, list(itertools.islice(asked, BATCH))) for _ in range(max(1, n // BATCH))]
        name, args, findings = _FETCH
        fresh = [
            _question(system, names[0], name, args, findings, (*_SEEN, f"kind{number}:x"))
            for number in range(min(_FRESH, n))
        ]
        first = [_batch(decide, [question]) for question in fresh]
    return Taken(samples, (Peer("the same policy, asked for the first time", "microseconds", first),), n=n)


def _batch(decide: Callable[[Question], object], questions: Sequence[Question]) -> float:
    """Mean microseconds of a decision."""
    started = time.perf_counter()
    for question in questions:
        decide(question)
    return (time.perf_counter() - started) / len(questions) * 1e6


def _question(
    system: Loket,
    agent: str,
    name: str,
    args: dict[str, Json],
    findings: dict[str, Finding],
    seen: tuple[str, ...],
) -> Question:
    module = system.installed.module(agent)[0]
    who = Principal("agent", agent)
    run = RunRequest("r", "r", agent, who, module, "talk", "message", {}, ("owner",), system.now(), words="Go on")
    capability = system.registry.find(name).capability
    return Question(who, run, capability, args, dict.fromkeys(args, ("owner",)), findings, seen)
