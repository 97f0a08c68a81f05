"""The policy: what the rules are, what they say to a call, and what others would have said."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Decision, Finding, Question, Refusal, RowKind
from loket.operations.runs import run_id
from loket.operations.table import Emit, operation
from loket.policy import CedarPolicy, Kind, Rule, generate_rule
from loket.policy.cases import Bench, Case, question_of, read_cases
from loket.policy.cedar import verdict_of
from loket.policy.files import faults, load, packaged, read_folder
from loket.policy_replay import Change, Then, calls_of, replay

_DAY_S = 86_400
_MOST_CHANGES = 1_000
"""Changes that are listed; all are counted."""


@operation("policy.show")
async def policy_show(system: Loket, _emit: Emit, *, rule: str | None = None) -> dict[str, Any]:
    """The rules that hold, floor first, or one of them with its text; the digest, and why they do not hold."""
    policy = system.policy
    if isinstance(policy.current, CedarPolicy):
        rules = list(policy.current.rules.values())
    else:
        rules = await asyncio.to_thread(load, {}, policy.capabilities())
    if rule is not None:
        rules = [one for one in rules if rule in (one.id, one.file)]
        if not rules:
            raise BadInput("policy.unknown", f"there is no rule and no file {rule!r}", "loket policy show")
    error = policy.error.as_dict() if policy.error is not None else None
    return {"digest": policy.digest, "folder": str(policy.folder), "error": error, "rules": [*map(_shown, rules)]}


@operation("policy.check")
async def policy_check(system: Loket, _emit: Emit, *, files: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is wrong with the home's files, or with these (name to text) beside them."""
    own = await asyncio.to_thread(read_folder, system.policy.folder)
    texts = {**own, **_texts(files or {})}
    found = await asyncio.to_thread(lambda: list(faults(texts, system.policy.capabilities())))
    listed = [{"message": fault.message, "remedy": fault.remedy} for fault in found]
    return {"ok": not found, "files": sorted(texts), "faults": listed}


@operation("policy.add")
async def policy_add(
    system: Loket,
    _emit: Emit,
    *,
    name: str | None = None,
    text: str,
    replace: bool = False,
) -> dict[str, Any]:
    """Keep a file of rules under a name, or without one add a single rule to those that were approved."""
    policy = system.policy
    if name is None:
        rules = [await asyncio.to_thread(policy.save_rule, "added by command", text)]
    else:
        rules = await asyncio.to_thread(lambda: policy.put(name, text, replace=replace))
    await _note(system, "policy.add", [rule.id for rule in rules])
    return {"digest": policy.digest, "file": rules[0].file if rules else name, "rules": [*map(_shown, rules)]}


@operation("policy.remove")
async def policy_remove(system: Loket, _emit: Emit, *, name: str) -> dict[str, Any]:
    """Take away a file of the home's, or one rule."""
    gone = await asyncio.to_thread(system.policy.remove, name)
    await _note(system, "policy.remove", [rule.id for rule in gone] or [name])
    return {"removed": name, "digest": system.policy.digest}


async def _note(system: Loket, what: str, names: list[str]) -> None:
    facts = {"what": what, "principal": "owner", "policy": system.policy.digest, "names": names}
    system.journal.append("", 0, RowKind.NOTE, facts, "{}")
    await asyncio.to_thread(system.journal.sync)


@operation("policy.explain")
async def policy_explain(
    system: Loket,
    _emit: Emit,
    *,
    call: str | None = None,
    case: dict[str, Any] | None = None,
    files: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Which rules match a call, and what follows. `call` is RUN/ORDINAL; `case` has the keys of a policy test."""
    policy = await asyncio.to_thread(_policy_of, system, files)
    if call is not None:
        then = await asyncio.to_thread(_journaled, system, call)
        return {"then": _then_shown(then), **_explained(policy, then.question)}
    return _explained(policy, await asyncio.to_thread(_question, system, case or {}))


def _policy_of(system: Loket, files: dict[str, Any] | None, now: Callable[[], float] | None = None) -> CedarPolicy:
    """The home's policy, or what it would be with these files beside its own. Raises `BadInput`."""
    own = read_folder(system.policy.folder)
    return system.policy.made({**own, **_texts(files or {})}, now)


def _texts(files: dict[str, Any]) -> dict[str, str]:
    for name, text in files.items():
        if not isinstance(text, str):
            raise BadInput("policy.file", f"{name} is no text", "send the file's text")
    return files


def _question(system: Loket, given: dict[str, Any]) -> Question:
    try:
        case = Case(**{"module": _module_of(system, str(given.get("principal", ""))), **given})
    except TypeError as error:
        raise BadInput("policy.case", f"this is no call: {error}", "loket policy explain --help") from None
    return question_of(case, system.registry.find(case.capability).capability)


def _module_of(system: Loket, principal: str) -> str:
    """The installed module that an agent runs by; empty where none has this name."""
    found = [ref for ref, _package in system.installed.all() if principal == f"agent:{ref.id}"]
    return f"{found[0].publisher}/{found[0].id}" if found else ""


def _journaled(system: Loket, call: str) -> Then:
    run, _, ordinal = call.rpartition("/")
    name = run_id(system, run)
    found = calls_of(list(system.journal.rows(name)), lambda known: system.registry.find(known).capability)
    for then in found:
        if then is not None and str(then.ordinal) == ordinal:
            return then
    raise BadInput(
        "policy.call", f"the policy was not asked about a call {ordinal!r} of run {name}", f"loket runs show {name}"
    )


def _explained(policy: CedarPolicy, question: Question) -> dict[str, Any]:
    decision, matching = policy.decide(question), policy.matching(question)
    _verdict, deciding = verdict_of(matching, question.capability)
    names = {rule.id for rule in deciding}
    return {
        "capability": question.capability.id,
        "principal": str(question.principal),
        "origins": {name: _origin_shown(found) for name, found in question.findings.items()},
        **_decision_shown(decision),
        "matching": [{**_shown(rule), "decided": rule.id in names} for rule in matching],
        "allowing": generate_rule(question),
    }


def _origin_shown(found: Finding) -> list[str]:
    return [found.origin.value, found.why]


@operation("policy.test")
async def policy_test(
    system: Loket,
    _emit: Emit,
    *,
    text: str | None = None,
    name: str = "tests.toml",
    files: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run a file of policy tests on the home's rules; without one, Loket's own tests on Loket's own rules."""
    own = await asyncio.to_thread(read_folder, system.policy.folder)
    texts = {**own, **_texts(files or {})} if text is not None else {}
    rules = await asyncio.to_thread(load, texts, system.policy.capabilities())
    cases = read_cases(name, text if text is not None else packaged("default_tests.toml"))
    bench = Bench(rules, lambda known: system.registry.find(known).capability, system.now)
    try:
        results = await asyncio.to_thread(lambda: list(bench.run(cases)))
    except Refusal as unknown:
        raise BadInput("policy.test", f"{name}: {unknown.message}", unknown.remedy) from None
    wrong = [asdict(result) for result in results if result.wrong]
    return {"ok": not wrong, "cases": len(results), "wrong": wrong}


@operation("policy.replay")
async def policy_replay(
    system: Loket,
    emit: Emit,
    *,
    files: dict[str, Any],
    since_days: float = 7.0,
    agent: str | None = None,
    alone: bool = False,
) -> dict[str, Any]:
    """Decide the journaled calls of finished runs again, with these files beside the home's own (or `alone`).

    Nothing is saved. `changes` are the calls that would be decided otherwise than they were.
    """
    clock = [system.now()]
    own = {} if alone else await asyncio.to_thread(read_folder, system.policy.folder)
    policy = await asyncio.to_thread(system.policy.made, {**own, **_texts(files)}, lambda: clock[0])
    runs = await asyncio.to_thread(_runs_since, system, since_days, agent)
    loop = asyncio.get_running_loop()

    def progress(done: int) -> None:
        loop.call_soon_threadsafe(emit, {"type": "progress", "done": done, "total": len(runs)})

    def at(moment: float) -> None:
        clock[0] = moment

    def find(name: str) -> Any:
        return system.registry.find(name).capability

    outcome = await asyncio.to_thread(replay, runs, system.journal.rows, find, policy, at, progress)
    return {
        "policy": policy.digest,
        "runs": outcome.runs,
        "calls": outcome.calls,
        "unknown": outcome.unknown,
        "changed": len(outcome.changes),
        "changes": [_change_shown(change) for change in outcome.changes[:_MOST_CHANGES]],
    }


def _runs_since(system: Loket, days: float, agent: str | None) -> list[str]:
    """Finished runs that were accepted in the last days, in their order; erased ones left out."""
    now = system.now()
    older = set(system.database.accepted_before(now - days * _DAY_S, agent))
    return sorted(run for run in system.database.accepted_before(now + 1, agent) if run not in older)


def _change_shown(change: Change) -> dict[str, Any]:
    return {**_then_shown(change.then), "to": _decision_shown(change.decision)}


def _then_shown(then: Then) -> dict[str, Any]:
    return {
        "run": then.run,
        "ordinal": then.ordinal,
        "at": then.at,
        "agent": then.question.run.agent,
        "capability": then.question.capability.id,
        "from": {"verdict": then.verdict.value, "rules": list(then.rules)},
    }


def _decision_shown(decision: Decision) -> dict[str, Any]:
    return {
        "verdict": decision.verdict.value,
        "rules": list(decision.rules),
        "reason": decision.reason,
        "obligations": list(decision.obligations),
        "remedy": decision.remedy,
    }


def _shown(rule: Rule) -> dict[str, Any]:
    effect = "forbid" if rule.kind in (Kind.DENY, Kind.MUST_ASK) else "permit"
    return {
        "id": rule.id,
        "does": rule.kind.value,
        "effect": effect,
        "file": rule.file,
        "line": rule.line,
        "reason": rule.reason,
        "obligations": list(rule.obligations),
        "text": rule.text,
    }
