"""Approvals: what the policy leaves to the owner is asked, kept, and answered once.

A run that asks holds nothing while it waits. Its question is on the disk before anyone hears of it, so that the same
call after a restart is the same question. An approval is bound to the call's fingerprint: other arguments are another
question. The owner's word is a note in the journal; the values are encrypted with the run's key and go with it.

No capability reaches this: whoever decides comes through the gateway or the command line, and is a person.
"""

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from loket import approval_words as words
from loket.contracts import (
    Asked,
    BadInput,
    Capability,
    Damaged,
    Finding,
    Lease,
    LoketError,
    Origin,
    Principal,
    Question,
    Refusal,
    RowKind,
    RunRequest,
    Verdict,
)
from loket.ids import new_id
from loket.kernel.journal import Journal
from loket.store.approvals import ALLOWED, DENIED, EXPIRED, OPEN, PASSED, WITHDRAWN, ApprovalRows, Kept
from loket.store.kernel import request_of

TIMEOUT_S = 72 * 3600.0
MOST_OPEN = 100
"""Questions of one agent that wait at the same time."""

_REASON = 2000
"""Characters of a reason that an owner gives."""

_RULE = 20_000
"""Characters of a rule that an owner gives."""

_PLAIN = (
    "id",
    "run",
    "root",
    "agent",
    "capability",
    "ordinal",
    "status",
    "asked",
    "until",
    "decided",
    "used",
    "erased",
)

_PEOPLE = ("owner", "user")
"""Kinds of principals that may decide."""


class Scope(StrEnum):
    """How far an approval reaches."""

    ONCE = "once"
    """This call alone."""
    RUN = "run"
    """In this run, the same capability with the same critical arguments, where the same rules ask."""
    RULE = "rule"
    """This call, and a rule of the policy for those that are like it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A question that waits, without what was asked: whose, its id, and which capability."""

    run: str
    approval: str
    capability: str


@dataclass(frozen=True, slots=True)
class Ruling:
    """The owner's word: `rule` is the rule's text where that is not the one that was proposed."""

    verdict: Verdict
    by: Principal
    scope: Scope = Scope.ONCE
    reason: str = ""
    rule: str | None = None


class OwnerApprovals:
    """Keeps what the owner was asked and said: the `Approvals` of a home. Thread-safe.

    `rule` proposes a rule for a question, `narrower` says whether a rule allows nothing beyond a question,
    `save_rule` adds one to the policy under a name. `headless` says that nobody can be asked.
    """

    def __init__(
        self,
        rows: ApprovalRows,
        journal: Journal,
        *,
        capability: Callable[[str], Capability],
        rule: Callable[[Question], str],
        narrower: Callable[[str, Question], bool],
        save_rule: Callable[[str, str], object],
        now: Callable[[], float],
        timeout_s: float = TIMEOUT_S,
        headless: bool = False,
        most_open: int = MOST_OPEN,
    ) -> None:
        self._rows = rows
        self._journal = journal
        self._capability = capability
        self._rule = rule
        self._narrower = narrower
        self._save_rule = save_rule
        self._now = now
        self._timeout_s = timeout_s
        self._headless = headless
        self._most_open = most_open
        self._lock = threading.RLock()
        self._hearing: set[Callable[[Waiting], None]] = set()

    # For the counter

    def claim(self, asked: Asked) -> Lease | float:
        """The lease for a call, or until when its run waits (see `Approvals`).

        Raises `Refusal`: `approval.denied`, `approval.timeout`, `approval.headless`, `approval.flood`.
        """
        with self._lock:
            known = self._rows.of_run(asked.question.run.id)
            here = [row for row in known if row.ordinal == asked.ordinal and row.status != WITHDRAWN]
            same = [row for row in here if words.said(row)["fingerprint"] == asked.fingerprint]
            if same:
                return self._settled(same[-1], asked)
            for row in here:
                if row.status in (OPEN, ALLOWED):
                    self._journal.also(self._rows.close(row, WITHDRAWN))
            covered = self._covered(known, asked)
            return self._ask(asked) if covered is None else covered

    def _settled(self, row: Kept, asked: Asked) -> Lease | float:
        """What the owner has said to exactly this call."""
        ruling = row.decision
        if ruling is not None:
            if ruling["verdict"] != Verdict.ALLOW.value:
                raise words.denied(ruling, asked)
            return Lease(row.id, words.public(ruling["by"]), self._rows.use(row, self._now()))
        if row.status != OPEN:
            raise words.late(asked, self._timeout_s)
        if self._headless:
            raise words.headless(asked)
        if row.until <= self._now():
            self._journal.also(self._rows.close(row, EXPIRED))
            raise words.late(asked, self._timeout_s)
        return row.until

    def _covered(self, known: Sequence[Kept], asked: Asked) -> Lease | None:
        """What the owner's word on an earlier call of the run means for this one; None where it means nothing.

        A refusal, and silence, count for the rest of the run: asking again until it is approved leads nowhere.
        """
        cover = words.cover(asked)
        for row in reversed(known):
            if row.status in (OPEN, WITHDRAWN) or words.said(row)["cover"] != cover:
                continue
            ruling = row.decision
            if ruling is None:
                raise words.late(asked, self._timeout_s)
            if ruling["verdict"] != Verdict.ALLOW.value:
                raise words.denied(ruling, asked)
            if ruling["scope"] == Scope.RUN.value:
                return self._again(row, ruling, asked)
        return None

    def _again(self, row: Kept, ruling: Mapping[str, Any], asked: Asked) -> Lease:
        """A lease of its own, for a call that an approval for the whole run covers."""
        at = self._now()
        origin = ruling.get("from", row.id)
        own = replace(
            self._question(asked, at), status=ALLOWED, decided=row.decided, used=at, decision={**ruling, "from": origin}
        )
        return Lease(own.id, words.public(ruling["by"]), self._rows.insert(own))

    def _ask(self, asked: Asked) -> float:
        """Put a question to the owner: it is on the disk when this returns."""
        if self._headless:
            raise words.headless(asked)
        agent, at = asked.question.run.agent, self._now()
        if self._rows.count_open(at, agent) >= self._most_open:
            raise words.flood(asked, self._most_open)
        row = self._question(asked, at)
        self._journal.also(self._rows.insert(row))
        self._journal.sync()
        for hear in tuple(self._hearing):
            hear(Waiting(row.run, row.id, row.capability))
        return row.until

    def _question(self, asked: Asked, at: float) -> Kept:
        request = asked.question.run
        capability = asked.question.capability.id
        return Kept(
            id=new_id(at),
            run=request.id,
            root=request.root,
            agent=request.agent,
            capability=capability,
            ordinal=asked.ordinal,
            status=OPEN,
            asked=at,
            until=at + self._timeout_s,
            said=words.content(asked),
        )

    # For the owner

    def decide(self, ids: Sequence[str], ruling: Ruling) -> list[Kept]:
        """Write the owner's word on open questions down, all of them or none; it is on the disk when this returns.

        Raises `BadInput` (`approval.unknown`, `approval.closed`, `approval.rule`, `approval.arguments`), `Refusal`
        (`approval.principal`) for whoever is no person.
        """
        _check(ids, ruling)
        with self._lock:
            rows = [self._must_wait(self.find(identity)) for identity in dict.fromkeys(ids)]
            text = self._saved(rows[0], ruling) if ruling.scope is Scope.RULE else None
            at = self._now()
            for row in rows:
                self._note(row, ruling, text, at)
            self._journal.sync()
            return [self.find(row.id) for row in rows]

    def _note(self, row: Kept, ruling: Ruling, rule: str | None, at: float) -> None:
        """The decision's row in the journal, without values or names, and in its transaction the decision itself."""
        allowed = ruling.verdict is Verdict.ALLOW
        what = "rule" if ruling.scope is Scope.RULE else ruling.verdict.value
        facts = {
            "what": f"approval.{what}",
            "principal": ruling.by.public,
            "approval": row.id,
            "run": row.run,
            "capability": row.capability,
            **({"scope": ruling.scope.value} if allowed else {}),
        }
        decision = {
            "verdict": ruling.verdict.value,
            "scope": ruling.scope.value,
            "by": str(ruling.by),
            "reason": ruling.reason,
            **({"rule": rule} if rule is not None else {}),
        }
        statement = self._rows.decide(row, ALLOWED if allowed else DENIED, at, decision)
        self._journal.append("", 0, RowKind.NOTE, facts, "{}", (statement,))

    def _saved(self, row: Kept, ruling: Ruling) -> str:
        """Save the rule that the owner wants; its text. Raises `BadInput` where it would allow more than was asked."""
        question = self.question(row)
        proposed = self._rule(question)
        text = proposed if ruling.rule is None else ruling.rule
        if text != proposed and not self._narrower(text, question):
            raise BadInput(
                "approval.rule",
                f"the rule would allow more than approval {row.id} asks for, or forbids it",
                f"loket approvals show {row.id} has the widest rule that is possible; narrow that one",
            )
        self._save_rule(f"approval-{row.id}", text)
        return text

    def _must_wait(self, row: Kept) -> Kept:
        if row.status == OPEN:
            return row
        how = {
            ALLOWED: "is approved already",
            DENIED: "is denied already",
            EXPIRED: "was not answered in time, so it is denied",
            WITHDRAWN: "was withdrawn: the call came again with other arguments",
            PASSED: "is over: its run has gone on or has ended",
        }[row.status]
        raise BadInput("approval.closed", f"approval {row.id} {how}", "loket approvals list shows which ones wait")

    def find(self, identity: str) -> Kept:
        """A question by its id or the beginning of it.

        Raises `BadInput` (`approval.unknown`, `approval.ambiguous`).
        """
        found = self._rows.beginning(identity) if identity else []
        if len(found) > 1 and identity not in found:
            raise BadInput("approval.ambiguous", f"several approvals start with {identity!r}", "give more of the id")
        row = self._rows.one(identity if identity in found else found[0], self._now()) if found else None
        if row is None:
            raise BadInput("approval.unknown", f"there is no approval {identity!r}", "loket approvals list")
        return row

    def listed(self, *, run: str | None, agent: str | None, every: bool, limit: int) -> list[Kept]:
        """Questions: those that wait, oldest first, or with `every` the newest of all first.

        With `run` those of a run and of the runs that came of it, oldest first.
        """
        now = self._now()
        if run is not None:
            of = [row for row in self._rows.of_runs(run, now) if agent in (None, row.agent)]
            return [row for row in of if every or row.status == OPEN][:limit]
        return self._rows.newest(now, agent, limit) if every else self._rows.open(now, agent, limit)

    def concerned(self, rows: Sequence[Kept], ruling: Ruling) -> list[str]:
        """The runs that a decision lets go on; after a rule, those too that wait for the same capability and may."""
        runs = [row.run for row in rows]
        if ruling.scope is Scope.RULE:
            runs += self._rows.waiting(self._now(), rows[0].agent, rows[0].capability)
        return list(dict.fromkeys(runs))

    @contextlib.contextmanager
    def heard_by(self, hear: Callable[[Waiting], None]) -> Iterator[None]:
        """Tell `hear` of each question once it is on the disk, on whatever thread asks it, until the context ends."""
        self._hearing.add(hear)
        try:
            yield
        finally:
            self._hearing.discard(hear)

    def open_of(self, runs: Collection[str]) -> list[Waiting]:
        """The questions of exactly these runs that wait, those of the first run first."""
        now = self._now()
        found = [row for run in runs for row in self._rows.of_runs(run, now) if row.run == run]
        return [Waiting(row.run, row.id, row.capability) for row in found if row.status == OPEN]

    def shown(self, row: Kept) -> dict[str, Any]:
        """A question as every door shows it, as a JSON object: what cannot be read any more is None."""
        said: Mapping[str, Any] = row.said or {}
        plain = {name: getattr(row, name) for name in _PLAIN}
        origins = {name: _origin(*found) for name, found in said.get("findings", {}).items()}
        return {
            **plain,
            **{name: said.get(name) for name in ("conversation", "principal", "args", "reason")},
            **self._about(row.capability),
            "critical": said.get("critical", []),
            "labels": said.get("labels", {}),
            "origins": origins,
            "rules": said.get("rules", []),
            "seen": said.get("exposed", []),
            "decision": dict(row.decision) if row.decision is not None else None,
            **({"unreadable": row.unreadable} if row.unreadable is not None else {}),
        }

    def _about(self, capability: str) -> dict[str, Any]:
        """What a capability does, in words; of one that is there no more, nothing."""
        try:
            known = self._capability(capability)
        except Refusal:
            return {"summary": None, "effect": None}
        return {"summary": known.summary, "effect": known.effect.value}

    def question(self, row: Kept) -> Question:
        """The question as the policy was asked it. Raises `Damaged` where its run was erased."""
        said = words.said(row)
        request = self._request(row.run)
        return Question(
            principal=request.principal,
            run=request,
            capability=self._capability(row.capability),
            args=said["args"],
            labels={name: tuple(labels) for name, labels in said["labels"].items()},
            findings={name: Finding(Origin(found[0]), found[1]) for name, found in said["findings"].items()},
            exposed=tuple(said["exposed"]),
        )

    def proposed(self, row: Kept) -> str | None:
        """The rule that an approval as a rule would save; None where nothing waits, or no rule can be made of it."""
        if row.status != OPEN:
            return None
        with contextlib.suppress(LoketError):
            return self._rule(self.question(row))
        return None

    def _request(self, run: str) -> RunRequest:
        first = next(iter(self._journal.rows(run)), None)
        if first is None or first.erased:
            raise Damaged("approval.run", f"the start of run {run} cannot be read", "loket runs verify")
        return request_of(first)[0]


def _origin(origin: str, why: str, record: str = "") -> dict[str, str]:
    """Where a critical value comes from, and what it stands for where that is known."""
    return {"origin": origin, "why": why, **({"record": record} if record else {})}


def _check(ids: Sequence[str], ruling: Ruling) -> None:
    if ruling.by.kind not in _PEOPLE:
        raise Refusal("approval.principal", f"{ruling.by} is no person who could approve", "ask the owner")
    wrong = None
    if not ids:
        wrong = "no approval is named"
    elif ruling.verdict not in (Verdict.ALLOW, Verdict.DENY):
        wrong = f"{ruling.verdict.value} is no decision"
    elif ruling.verdict is Verdict.DENY and (ruling.scope is not Scope.ONCE or ruling.rule is not None):
        wrong = "a denial has no scope and no rule"
    elif ruling.scope is Scope.RULE and len(ids) > 1:
        wrong = "a rule is made from one question"
    elif ruling.rule is not None and (ruling.scope is not Scope.RULE or len(ruling.rule) > _RULE):
        wrong = f"a rule's text goes with the scope rule, and has at most {_RULE:,} characters"
    elif len(ruling.reason) > _REASON:
        wrong = f"the reason has {len(ruling.reason):,} characters; {_REASON:,} are allowed"
    if wrong is not None:
        raise BadInput("approval.arguments", wrong, "loket approvals approve --help")
