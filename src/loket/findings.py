"""Where critical values come from in a running system: the judge of provenance on what a run has read so far.

The judge (`loket.provenance`) is pure. Here it gets the owner's words of the run's root, the answers that the run got,
clean reads of its own through local capabilities that the run's module was granted, and what the owner has decided
before: grants that name a value exactly. Its own reads are part of deciding: no module
sees them, and the finding says in words what they found.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from loket.contracts import (
    OWNER,
    Answer,
    Call,
    Capability,
    Effect,
    Finding,
    Grant,
    Json,
    LoketError,
    Match,
    Origin,
    RunView,
    host_granted,
    host_names,
)
from loket.kernel.constraints import keep
from loket.kernel.grants import Grants
from loket.kernel.refs import resolve
from loket.kernel.registry import Registry
from loket.provenance import Judge, Owner, Reading, Request, wanted, writes
from loket.provenance.words import fold

NEEDED = "request"
"""The name under which a finding says that the request cannot need the capability at all."""

_KEPT = frozenset({"fs"})
"""Families whose answers say by their labels whose words they are."""

_OWNERS = frozenset({str(OWNER)})
"""Labels of a file that nobody but the owner had a hand in; one that the owner put there has none."""

_OWN = frozenset({"brain", "kv", "fs", "llm"})
"""Families whose effects stay in the agent's own stores, which keep labels: they need no reads of the judge's own."""


_OWNER = Owner(identities=_OWNERS)
_OTHERS = frozenset({"host", "mcp", "sender", "client"})
"""Kinds of labels of what other people wrote."""
_READ_BACK = {"fs.write": ("fs.read", "path"), "kv.set": ("kv.get", "key"), "kv.delete": ("kv.get", "key")}
"""What a call replaces, and the read that shows it."""


class Findings:
    """A judge for `Labelling`. `owner` says who the owner is."""

    def __init__(
        self,
        registry: Registry,
        grants: Grants,
        owner: Callable[[], Owner] = lambda: _OWNER,
    ) -> None:
        self._registry = registry
        self._grants = grants
        self._owner = owner

    def __call__(self, run: RunView, capability: Capability, args: Mapping[str, Json]) -> Mapping[str, Finding]:
        """One finding for each critical argument that is present, and one for `request` where it cannot need this."""
        if run.request.module is None:
            return {}
        judge = self._judge(run)
        found: dict[str, Finding] = judge.judge(capability, args)
        found |= {name: Finding(Origin.BOUNDED, "absent") for name in capability.critical if name not in args}
        for name, finding in list(found.items()):
            if name in args and finding.origin in (Origin.UNTRUSTED, Origin.BOUNDED):
                found[name] = self._else(run, judge, capability, name, args) or finding
            if name in args:
                found[name] = replace(found[name], record=judge.record(capability, name, args[name]))
        if capability.data.wanted and not wanted(judge.request, capability):
            delegated = "somebody else's words may" if judge.request.delegates else "nothing in the request does"
            origin = Origin.BOUNDED if judge.request.delegates else Origin.UNTRUSTED
            found[NEEDED] = Finding(origin, f"the owner's words do not ask for {capability.id}; {delegated}")
        return found

    def wants(self, capability: Capability) -> bool:
        """Whether a call has to be looked at: its critical arguments, or that it changes what others could read."""
        return bool(capability.critical) or (capability.effect.changes and capability.family not in _OWN)

    # The judge of a run

    def _judge(self, run: RunView) -> Judge:
        known = run.memo.get("judge")
        if not isinstance(known, _Judged):
            request = Request(run.request.words)
            judge = Judge(request, self._owner(), self._reads(run), lambda name, args: self._read(run, name, args))
            known = run.memo["judge"] = _Judged(judge)
        fresh = [self._reading(run, recorded) for recorded in run.history[known.taken :]]
        known.taken = len(run.history)
        known.judge.add([reading for reading in fresh if reading is not None])
        return known.judge

    def _reading(self, run: RunView, recorded: Any) -> Reading | None:
        """A call of the run, for the judge.

        What stores answer with labels of their own is left out: the judge reads that itself, and sees whose it is.
        """
        entry = self._registry.get(recorded.capability)
        if recorded.answer is None or entry is None:
            return None
        capability = entry.capability
        if capability.family in _KEPT and not capability.effect.changes:
            return None
        if not capability.data.rows and not writes(capability):
            return None  # a read that lists nothing says nothing to the judge, however long its answer
        try:
            args = resolve(json.loads(recorded.args), run.history)
        except LoketError:
            return None
        return Reading(capability, args, json.loads(recorded.answer), recorded.ordinal)

    def _reads(self, run: RunView) -> list[Capability]:
        """Granted capabilities that list records and answer at once."""
        granted = {grant.capability for grant in self._held(run)}
        return [
            known
            for known in self._registry.all()
            if known.id in granted
            and known.data.rows
            and known.effect in (Effect.READ, Effect.PRIVATE)
            and not known.waits
        ]

    def _read(self, run: RunView, name: str, args: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A read of the judge's own, within the grant; None where it is not allowed or fails."""
        entry = self._registry.get(name)
        grant = next((grant for grant in self._held(run) if grant.capability == name), None)
        if grant is None or entry is None or entry.handler is None or entry.check_args(dict(args)) is not None:
            return None
        request = run.request
        call = Call(
            request.id, 0, request.agent, request.conversation, request.principal, name, args, run.exposed,
            constraints=grant.constraints, deadline_s=entry.capability.timeout_s,
        )  # fmt: skip
        try:
            keep(entry.capability, grant.module, grant.constraints, args)
            answer = entry.handler(call)
        except LoketError:
            return None
        if not isinstance(answer, Answer) or entry.check_answer(answer.value) is not None:
            return None
        return answer.value if name != "fs.read" or set(answer.labels) <= _OWNERS else None

    def _replaces(self, run: RunView, capability: Capability, args: Mapping[str, Json]) -> bool:
        """Whether a run that has read what others wrote would replace what came from the owner alone."""
        back = _READ_BACK.get(capability.id)
        if back is None or not any(label.partition(":")[0] in _OTHERS for label in run.exposed):
            return False
        name, argument = back
        entry, request = self._registry.find(name), run.request
        if entry.handler is None:
            return False
        given = {argument: args[argument]}
        call = Call(request.id, 0, request.agent, request.conversation, request.principal, name, given, run.exposed)
        try:
            answer = entry.handler(call)
        except LoketError:
            return False
        return isinstance(answer, Answer) and answer.value.get("found", True) and set(answer.labels) <= _OWNERS

    def _else(
        self, run: RunView, judge: Judge, capability: Capability, name: str, args: Mapping[str, Json]
    ) -> Finding | None:
        """What else is known of a value that the owner's words do not name or single out."""
        decided = self._decided(run, capability, name, args[name])
        if decided is not None:
            return decided
        titled = _titled(judge, args[name]) if name == "path" else None
        if titled is None and self._replaces(run, capability, args):
            return Finding(Origin.UNTRUSTED, "it would replace what came from nobody but the owner")
        return titled

    # What the owner has decided before

    def _held(self, run: RunView) -> list[Grant]:
        module = run.request.module
        return self._grants.held(module.publisher, module.id) if module is not None else []

    def _decided(self, run: RunView, capability: Capability, name: str, value: Json) -> Finding | None:
        for grant in self._held(run):
            if grant.capability != capability.id:
                continue
            if _names(capability, grant, name, value):
                return Finding(Origin.TRUSTED, "the owner's grant names it")
            texts = _hosts(capability, grant, name)
            if texts and host_granted(str(value), texts):
                return Finding(Origin.BOUNDED, "the owner granted this host; the rest of the address is the module's")
            if texts is not None and _names_host(run.request.words, value):
                return Finding(Origin.BOUNDED, "the owner named this host; the rest of the address is the module's")
        return None


def _hosts(capability: Capability, grant: Grant, name: str) -> list[str] | None:
    """The hosts that a grant names without a wildcard; None where the argument is no web address."""
    rules = [rule for rule in capability.constraints if rule.argument == name and rule.match is Match.HOST]
    if not rules:
        return None
    return [text for rule in rules for text in grant.constraints.get(rule.name, []) if "*" not in text]


def _names_host(words: str, url: Json) -> bool:
    """Whether the owner typed the host of an address, as a word of its own."""
    host = host_names(str(url))[0].partition(":")[0]
    return bool(host) and re.search(rf"(?<![\w.@-]){re.escape(host)}(?![\w-]|\.\w)", words, re.IGNORECASE) is not None


def _titled(judge: Judge, value: Json) -> Finding | None:
    """Whether a path is that of a file that the owner's words single out by its name ("my shopping list")."""
    why = judge.closure().values.get(("file", fold(value))) if isinstance(value, str) else None
    return Finding(Origin.SELECTED, why) if why is not None else None


class _Judged:
    """A run's judge, and how much of its history was taken in."""

    __slots__ = ("judge", "taken")

    def __init__(self, judge: Judge) -> None:
        self.judge = judge
        self.taken = 0


def _names(capability: Capability, grant: Grant, name: str, value: Json) -> bool:
    """Whether a grant's constraints name the value of an argument: itself, or the place that it begins with.

    A host that is granted does not: what follows it in an address can carry something to whoever can read it there.
    """
    for rule in capability.constraints:
        texts = grant.constraints.get(rule.name, [])
        if rule.argument != name or rule.match in (Match.PROVIDER, Match.HOST) or not isinstance(value, str):
            continue
        exact = [text for text in texts if "*" not in text]
        if rule.match is Match.EXACT and value in exact:
            return True
        if rule.match is Match.PREFIX and value.startswith(tuple(exact)) and exact:
            return True
    return False
