"""The counter: the one way in which anything is done.

`Counter.call` takes nine steps, in an order that never changes:

1. identify, 2. decode, 3. grant, 4. decide, 5. reserve, 6. record the intent, 7. perform, 8. oblige,
9. label, journal and settle.

It is in the kernel because it is the kernel: whatever could be left out of these steps would be a second way in. The
steps are mechanism; what is allowed is the policy's (step 4), what it means is the provider's (step 7). A replayed call
takes its answer from the journal and does none of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from loket.contracts import (
    Answer,
    Approvals,
    Asked,
    Call,
    Capability,
    Decision,
    Facts,
    Failed,
    FailedAsk,
    Grant,
    Handler,
    Json,
    Labeller,
    Labels,
    Lease,
    Limits,
    LoketError,
    Meter,
    Obligation,
    OnUncertain,
    Policy,
    Question,
    Recorded,
    Refusal,
    RowKind,
    RunEnded,
    Suspended,
    Tokens,
    Usage,
    Verdict,
    join_labels,
)
from loket.kernel import again, quotas, refs, rows, sides
from loket.kernel.arguments import fingerprint, longer, pieces, quoted, resolved, too_long
from loket.kernel.constraints import keep
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.kernel.registry import Check, Entry, Registry
from loket.kernel.state import Pending, RunState
from loket.kernel.text import canonical, decode_object


class Prepared(NamedTuple):
    """A call that passed steps 2 to 4."""

    entry: Entry
    args: Mapping[str, Json]
    """As the call is performed: references resolved, obligations carried out."""
    text: str
    """The arguments as the module sent them, as canonical JSON."""
    size: int
    """Characters of the arguments with references resolved."""
    grant: Grant | None
    facts: Facts
    decision: Decision
    by_reference: bool


class Counter:
    """Everything an agent, a person or another machine can do passes `call`. Thread-safe between runs."""

    def __init__(
        self,
        *,
        registry: Registry,
        grants: Grants,
        policy: Policy,
        labeller: Labeller,
        tokens: Tokens,
        journal: Journal,
        obligations: Mapping[str, Obligation],
        approvals: Approvals | None = None,
        meter: Meter | None = None,
        now: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._grants = grants
        self._policy = policy
        self._labeller = labeller
        self._tokens = tokens
        self._journal = journal
        self._obligations = obligations
        self._approvals = approvals
        self._meter = meter
        self._now = now

    def call(self, run: RunState, capability: str, args: str) -> str:
        """Ask for a capability with arguments as JSON text; the answer as JSON text.

        Raises `Refusal` (not allowed), `Failed` (tried, did not work), `RunEnded` (a limit ended the run), and
        `Suspended` where the answer takes time: the call then stands in `run.pending`, for `finish`, or in
        `run.asking` where the owner has to approve it, to be made again.
        """
        if not run.live:
            return again.answer(run, capability, args, self._side_check(capability), self._now)
        started = time.perf_counter()
        if self._meter is not None:
            self._meter.begin(run, capability, args)
        run.facts, run.policy, run.lease = None, "", ()
        try:
            self._tokens.check(run.token, run.request.id)  # 1. identify
            prepared = self._prepare(run, capability, args)  # 2. decode, 3. grant, 4. decide
            if prepared.entry.capability.side:
                return sides.answer(run, prepared.entry.capability.id, dict(prepared.args), prepared.text, self._now)
            held = self._reserve(run, prepared)  # 5. reserve
        except Refusal as refusal:
            self._refuse(run, capability, args, refusal, started)
            raise
        pending = self._record_intent(run, prepared, held)  # 6. record the intent
        if pending.handler is None or prepared.entry.capability.waits:
            run.pending = pending
            self._journal.sync()
            raise Suspended
        return self._settle(run, pending, self._perform(pending))  # 7. perform, 8. oblige, 9. label, journal, settle

    async def finish(self, run: RunState) -> None:
        """Do steps 7 to 9 of a call that waits; its answer is then in the run's history."""
        pending = run.pending
        if pending is None or pending.handler is None:
            raise Failed("kernel.pending", f"run {run.request.id} waits for nothing that can be performed")
        try:
            outcome = await self._perform_waiting(pending)
        except asyncio.CancelledError:  # what a model was asked for may have been used
            self._settle_quotas(run, pending, Usage(pending.held), "")
            raise
        try:
            self._settle(run, pending, outcome)
        except (Refusal, Failed):
            pass  # it is in the history, and the module gets it from there
        finally:
            run.pending = None

    def settle_by_owner(self, run: RunState, *, happened: bool) -> None:
        """The owner's word about an effect that may or may not have happened."""
        run.settled = "happened" if happened else "not"
        pending, run.pending = run.pending, None
        if pending is None or not happened:
            return
        error = Failed(
            "effect.uncertain",
            f"{pending.capability.id} was interrupted; the owner says that it happened, but its answer is lost",
            "go on without its answer",
            blame="machine",
        )
        self._outcome(run, pending, None, error, (), Usage())

    # Steps 2 to 4

    def _prepare(self, run: RunState, capability: str, args: str) -> Prepared:
        entry = self._registry.find(capability)
        if longer(args, entry.capability.args_kb << 10):
            raise too_long(entry.capability, args)
        given, text = decode_object(args, f"the argument of {capability}")
        decoded, size, by_reference = resolved(run, entry, given, text)
        wrong = entry.check_args(decoded)
        if wrong is not None:
            raise Refusal("arguments.invalid", f"{capability}: {wrong}", f"loket caps {capability} shows its arguments")
        grant = self._grant(run, capability)
        if grant is not None:
            self._keep(run, grant, entry.capability, decoded)
        facts = run.facts = self._labeller.of_call(run, entry.capability, given, decoded)
        request = run.request
        question = Question(
            request.principal, request, entry.capability, decoded, facts.labels, facts.findings, run.exposed
        )
        decision = self._decide(run, question)
        performed: Mapping[str, Json] = decoded
        for name in decision.obligations:
            performed = self._obligations[name].before(replace(question, args=performed))
        return Prepared(entry, performed, text, size, grant, facts, decision, by_reference)

    def _grant(self, run: RunState, capability: str) -> Grant | None:
        """The grant of the run's module; the owner's own calls need none."""
        module = run.request.module
        if module is None:
            return None
        return self._grants.find(module.publisher, module.id, module.digest, capability)

    def _keep(self, run: RunState, grant: Grant, capability: Capability, args: Mapping[str, Json]) -> None:
        """Check a call against its grant, and against what the run's token allows of it."""
        if grant.constraints or capability.constraints:
            keep(capability, grant.module, grant.constraints, args)
        rights = self._tokens.rights(run.token)
        narrowed = grant.constraints if rights is None else rights.get(capability.id)
        lacks = _lacking(capability, grant, narrowed, args) if narrowed != grant.constraints else None
        if lacks is not None:
            raise Refusal(
                "token.rights",
                f"the run's execution token {lacks}",
                "start a new run: what is granted while a run goes on counts from the next one",
            )

    def _decide(self, run: RunState, question: Question) -> Decision:
        """The policy's decision; a policy that fails, or obliges to what nobody can do, is a denial.

        Raises `Suspended` where the owner has to approve the call.
        """
        try:
            decision = self._policy.decide(question)
        except Exception as error:  # noqa: BLE001 - fail closed, whatever the policy does
            raise Refusal(
                "policy.failed", f"the policy could not decide ({type(error).__name__}: {error})", "mend the policy"
            ) from None
        run.policy = decision.policy
        unknown = [name for name in decision.obligations if name not in self._obligations]
        if decision.verdict is Verdict.ALLOW and not unknown:
            return decision
        if unknown:
            code, message = "policy.obligation", f"nobody can carry out the obligation {', '.join(unknown)}"
        elif decision.verdict is Verdict.ASK:
            if self._approvals is not None:
                return self._approved(self._approvals, run, question, decision)
            code, message = "policy.ask", f"the owner would have to approve: {decision.reason}"
        else:
            code, message = "policy.denied", decision.reason
        raise Refusal(code, message, decision.remedy, rules=decision.rules, blame="owner")

    def _approved(self, approvals: Approvals, run: RunState, question: Question, decision: Decision) -> Decision:
        """The decision with the owner's approval of exactly this call, which is used up with its first row."""
        asked = Asked(question, run.next_ordinal, fingerprint(question, run.next_ordinal), decision)
        lease = approvals.claim(asked)
        if not isinstance(lease, Lease):
            run.asking, run.asking_until = asked, lease
            raise Suspended
        run.lease = (lease.statement,)
        rules = (*decision.rules, f"approval:{lease.id}")
        return replace(decision, verdict=Verdict.ALLOW, rules=rules, reason=f"{lease.by} approved this call")

    # Step 5

    def _reserve(self, run: RunState, prepared: Prepared) -> int:
        tokens = _tokens_needed(prepared.entry.capability.id, prepared)
        if self._meter is not None:
            self._meter.admit(run, prepared.entry.capability, prepared.text, prepared.size, tokens)
        return quotas.reserve(run.spent, self._limits_of(run), tokens)

    def _settle_quotas(self, run: RunState, pending: Pending, usage: Usage, answer: str) -> None:
        quotas.settle(run.spent, pending.held, usage)
        if self._meter is not None:
            self._meter.settle(run, usage, answer)

    @staticmethod
    def _limits_of(run: RunState) -> Limits:
        return run.request.module.limits if run.request.module else Limits()

    # Step 6

    def _record_intent(self, run: RunState, prepared: Prepared, held: int) -> Pending:
        capability, opened = prepared.entry.capability, run.open
        attempt, handler = self._attempt(run, prepared)
        call = Call(
            run=run.request.id,
            ordinal=run.next_ordinal,
            agent=run.request.agent,
            conversation=run.request.conversation,
            principal=run.request.principal,
            capability=capability.id,
            args=prepared.args,
            labels=run.exposed,
            constraints=prepared.grant.constraints if prepared.grant else {},
            attempt=attempt,
            deadline_s=capability.timeout_s,
            derived=prepared.facts.labels,
            obligations=prepared.decision.obligations,
            emit=pieces(run, attempt),
        )
        pending = Pending(
            call,
            prepared.text,
            capability,
            prepared.decision,
            held,
            prepared.facts,
            handler,
            prepared.entry.check_answer,
            time.perf_counter(),
            prepared.by_reference,
        )
        if capability.effect.changes and not (opened and (handler is None or _deduped(capability.on_uncertain))):
            self._append(run, RowKind.INTENT, pending, None, (), None)
            self._journal.sync()
        return pending

    def _attempt(self, run: RunState, prepared: Prepared) -> tuple[int, Handler | None]:
        """Which attempt of a call this is, and who performs it: nobody where the owner has to say what happened."""
        opened, rule = run.open, prepared.entry.capability.on_uncertain
        if opened is None:
            return 1, prepared.entry.handler
        self._same_as_open(opened, prepared.entry.capability.id, prepared.text)
        if rule is OnUncertain.REPEAT:
            run.spent.tokens += opened.held  # both attempts are charged
        asks = rule is OnUncertain.ASK and run.settled is None
        return opened.attempt + 1, None if asks else prepared.entry.handler

    @staticmethod
    def _same_as_open(opened: Recorded, capability: str, args: str) -> None:
        if (opened.capability, opened.args) != (capability, args):
            raise RunEnded(
                "replay.diverged",
                f"after the crash the module asked for {capability}, and the journal has {opened.capability} there",
                "`loket runs show` has both; the module does not depend on its answers alone",
            )

    # Step 7

    def _perform(self, pending: Pending) -> Answer | LoketError:
        answer = self._handled(pending)
        return answer if isinstance(answer, LoketError) else self._checked(pending, answer)

    @staticmethod
    def _handled(pending: Pending) -> object:
        """What the handler returned, whatever it is, or the error that it raised."""
        try:
            return pending.handler(pending.call) if pending.handler is not None else None
        except (Refusal, Failed) as error:
            return error
        except Exception as error:  # noqa: BLE001 - a provider's crash is an error answer, never the kernel's
            return _crashed(pending, error)

    async def _perform_waiting(self, pending: Pending) -> Answer | LoketError:
        answer: object = self._handled(pending)
        if not isinstance(answer, Awaitable):
            return answer if isinstance(answer, LoketError) else self._checked(pending, answer)
        try:
            async with asyncio.timeout(pending.capability.timeout_s):
                answer = await answer
        except (Refusal, Failed) as error:
            return error
        except TimeoutError:
            return Failed(
                "provider.timeout",
                f"{pending.capability.id} gave no answer within {pending.capability.timeout_s:g} s",
                "try again, or ask for less",
            )
        except Exception as error:  # noqa: BLE001 - a provider's crash is an error answer, never the kernel's
            return _crashed(pending, error)
        return self._checked(pending, answer)

    @staticmethod
    def _checked(pending: Pending, answer: object) -> Answer | LoketError:
        """An answer that keeps to its schema and its size; anything else is the provider's failure."""
        name = pending.capability.id
        if not isinstance(answer, Answer):
            return Failed("provider.answer", f"the provider of {name} returned no answer", "mend the provider")
        wrong = pending.check_answer(answer.value)
        if wrong is not None:  # in the answer's own words: they carry its labels, and what it used is charged
            said = FailedAsk(
                "provider.answer", f"the provider of {name} answered wrongly: {wrong}", "mend the provider"
            )
            said.labels, said.usage = answer.labels, answer.usage
            return said
        return answer

    # Steps 8 and 9

    def _settle(self, run: RunState, pending: Pending, outcome: Answer | LoketError) -> str:
        if isinstance(outcome, LoketError):
            asked = outcome if isinstance(outcome, FailedAsk) else FailedAsk
            # what went in may be quoted in the message, whatever an answer could hold
            said = self._labels_of(pending, Answer({}, asked.labels))
            labels = join_labels(said, *pending.facts.labels.values())
            self._outcome(run, pending, None, outcome, labels, asked.usage)
            raise outcome
        for name in pending.decision.obligations:
            outcome = self._obligations[name].after(outcome)
        text = canonical(outcome.value)
        if longer(text, pending.capability.answer_kb << 10):
            over = Failed(
                "limit.answer",
                f"the answer of {pending.capability.id} takes {len(text):,} characters; "
                f"{pending.capability.answer_kb} KiB are allowed",
                "ask for less at a time",
            )
            self._outcome(run, pending, None, over, (), outcome.usage)
            raise over
        recorded = self._outcome(run, pending, text, None, self._labels_of(pending, outcome), outcome.usage)
        return refs.delivered(recorded) or text

    def _labels_of(self, pending: Pending, answer: Answer) -> Labels:
        return self._labeller.of_answer(pending.call, pending.capability, answer)

    def _outcome(
        self, run: RunState, pending: Pending, text: str | None, error: LoketError | None, labels: Labels, usage: Usage
    ) -> Recorded:
        changes = pending.capability.effect.changes
        self._settle_quotas(run, pending, usage, text or "")
        recorded = self._append(run, RowKind.OUTCOME if changes else RowKind.CALL, pending, text, labels, error, usage)
        run.remember(recorded)
        run.emit("call", rows.event(pending, error))
        return recorded

    def _append(
        self,
        run: RunState,
        kind: RowKind,
        pending: Pending,
        text: str | None,
        labels: Labels,
        error: LoketError | None,
        usage: Usage | None = None,
    ) -> Recorded:
        call = pending.call
        facts = rows.call_facts(run, kind, pending, error, usage)
        value = rows.call_value(run, kind, pending, text, labels, error)
        self._journal.append(run.request.id, call.ordinal, kind, facts, value, run.lease)
        run.lease = ()
        return Recorded(
            call.ordinal,
            call.capability,
            pending.text,
            text,
            error.as_dict() if error else None,
            run.recorded_sides() if kind is RowKind.OUTCOME and run.open else run.sides.record(),
            labels,
            call.attempt,
            pending.held,
            by_reference=pending.by_reference and text is not None,
        )

    def _refuse(self, run: RunState, capability: str, args: str, refusal: Refusal, started: float) -> None:
        """A refused call is one row, and counts: a module that swallows refusals ends at its call limit."""
        quotas.count(run.spent, self._limits_of(run), refusal.message)
        known = self._registry.get(capability)
        facts = rows.refusal_facts(run, known.capability if known else None, refusal, started)
        text, side = rows.safe(args), run.sides.record()
        labels = quoted(run, args)
        value = rows.refusal_value(None if known else capability, text, refusal, labels, run.facts, side)
        self._journal.append(run.request.id, run.next_ordinal, RowKind.CALL, facts, value)
        recorded = Recorded(run.next_ordinal, rows.named(capability), text, None, refusal.as_dict(), side, labels)
        run.remember(recorded)
        run.emit("call", {"capability": rows.named(capability), "decision": "deny", "reason": refusal.message})

    # The clock, randomness and logs

    def is_side(self, capability: str) -> bool:
        """Whether a capability's calls travel on the next row."""
        return self._side_check(capability) is not None

    def _side_check(self, capability: str) -> Check | None:
        """The check of a side capability's arguments; None for all others, unknown ones as well."""
        entry = self._registry.get(capability)
        return entry.check_args if entry is not None and entry.capability.side else None


def _lacking(
    capability: Capability, grant: Grant, narrowed: Mapping[str, Json] | None, args: Mapping[str, Json]
) -> str | None:
    """What a run's token does not allow of a call that is granted now; None where it allows it."""
    if narrowed is None:
        return f"does not allow {capability.id}"
    try:
        keep(capability, grant.module, narrowed, args)
    except Refusal as refusal:
        return f"allows less than is granted now: {refusal.message}"
    return None


def _deduped(rule: OnUncertain) -> bool:
    return rule is OnUncertain.DEDUPE


def _tokens_needed(capability: str, prepared: Prepared) -> int:
    """Tokens to hold for a call of a model: a quarter of the prompt's characters and all that may be written."""
    if capability not in ("llm.complete", "llm.extract"):
        return 0
    return prepared.size // 4 + int(prepared.args.get("max_tokens", 1024))


def _crashed(pending: Pending, error: Exception) -> Failed:
    return Failed(
        "provider.crashed",
        f"the provider of {pending.capability.id} failed: {type(error).__name__}: {error}",
        "look at the log; the call may be tried again",
    )
