"""What leaves: redaction and canaries at every exit, as obligations of decisions and around answers to people.

The policy says `redact` for calls that leave; the redactor for whoever reads it (a model that runs elsewhere, the
network, people on a channel) does it before the call is performed. The owner reads answers unredacted but for the
vault's values, which nobody is shown. An agent's canary stands among its rules; where it is about to leave, the run
ends and whoever stops agents is told.
"""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from loket.contracts import Answer, Effect, Json, Obligation, Question, Refusal
from loket.redaction import (
    Leak,
    Needles,
    Plain,
    Redacted,
    Redactor,
    Stream,
    canary,
    kinds_for,
    plain_all,
    regions_of,
)

OWNER_KINDS = ("vault",)
"""What is redacted for the owner on this machine, whose data it is, the rules of the agents included."""

LOCAL_MODEL = "local-model"
"""The obligation that a call of a model stays on this machine; the provider carries it out."""


class Leaving:
    """Redactors by reader. `table` is `[redaction]` of the settings; `key` makes the canaries of `agents`.

    `cloud` says whether a call of a model can leave this machine; `on_leak` hears of the agent whose canary was
    seen, and of the call in which it was.
    Raises `BadInput` for a wrong table.
    """

    def __init__(
        self,
        table: Mapping[str, Json],
        *,
        vault_values: Callable[[], Collection[str]],
        key: bytes,
        agents: Callable[[], Collection[str]],
        cloud: Callable[[], bool],
        on_leak: Callable[[str, Mapping[str, str]], None],
    ) -> None:
        self._key = key
        self._cloud = cloud
        self._on_leak = on_leak
        self._canaries: dict[str, str] = {}
        self._named: dict[str, tuple[str, Needles, Plain]] = {}
        """By reader: the last request's words, the values that were looked for in them, and what these words name."""
        regions = regions_of(table)
        kinds = {**kinds_for(table), "owner": OWNER_KINDS}
        self._redactors = {
            reader: Redactor(of, lambda: tuple(vault_values()), key, lambda: tuple(agents()), regions)
            for reader, of in kinds.items()
        }

    def obligations(self) -> Mapping[str, Obligation]:
        """By the names that policies use."""
        return {"redact": _Redact(self), LOCAL_MODEL: _LocalModel()}

    def canary(self, agent: str) -> str:
        """The line among an agent's rules that has no business anywhere else."""
        line = self._canaries.get(agent)
        if line is None:
            line = self._canaries[agent] = f"Reference of these rules, for nobody else: {canary(self._key, agent)}"
        return line

    def outgoing(self, question: Question) -> Mapping[str, Json]:
        """The arguments of a call as they may leave. Raises `Leak`."""
        reader = _reader(question)
        if reader == "model" and not self._cloud():
            return question.args
        redacted = self._redactors[reader].json(dict(question.args), self._named_in(question.run.words, reader))
        self._look(redacted.canary, question)
        value: Mapping[str, Json] = redacted.value
        for name in question.capability.critical:
            if name in value and value[name] != question.args[name]:
                raise Refusal(
                    "redaction.critical",
                    f"{name} of {question.capability.id} holds what may not leave",
                    "leave it out, or pass a secret by its name: {{secret:NAME}}",
                )
        return value

    def _named_in(self, words: str, reader: str) -> Plain:
        """What the owner named in a request: its words, and what would be redacted in them, which may have blanks."""
        redactor = self._redactors[reader]
        needles = redactor.needles()
        known = self._named.get(reader)
        if known is None or known[0] != words or known[1] is not needles:
            typed = [words[one.start : one.end] for one in redactor.text(words).found]
            known = self._named[reader] = (words, needles, plain_all([*words.split(), *typed]))
        return known[2]

    def answer(self, value: Json, reader: str = "owner") -> Json:
        """An answer as it is shown. Raises `Leak`."""
        redacted: Redacted = self._redactors[reader].json(value)
        self._look(redacted.canary)
        return redacted.value

    async def watched(
        self, events: AsyncIterator[dict[str, Any]], reader: str = "owner"
    ) -> AsyncIterator[dict[str, Any]]:
        """Events of a run as they are shown; pieces are held back for as long as a secret could go on in them."""
        stream = self._redactors[reader].stream()
        async for event in events:
            if event["type"] == "piece":
                text = stream.feed(event["text"])
                self._look(stream.canary)
                if text:
                    yield {**event, "text": text}
                continue
            if event["type"] == "withdrawn":
                stream = self._redactors[reader].stream()
            elif event["type"] == "end":
                last = self._last(stream)
                if last:
                    yield {"type": "piece", "text": last, "attempt": event.get("attempt", 1)}
                yield {**event, "answer": self.answer(event.get("answer"), reader)}
                continue
            yield event

    def _last(self, stream: Stream) -> str:
        text = stream.end()
        self._look(stream.canary)
        return text

    def _look(self, agent: str | None, question: Question | None = None) -> None:
        if agent is not None:
            where = {"capability": question.capability.id, "run": question.run.id} if question is not None else {}
            self._on_leak(agent, where)
            raise Leak(agent)


class _Redact:
    def __init__(self, leaving: Leaving) -> None:
        self._leaving = leaving

    def before(self, question: Question) -> Mapping[str, Json]:
        return self._leaving.outgoing(question)

    def after(self, answer: Answer) -> Answer:
        return answer


class _LocalModel:
    """Carried out by the provider of models, which sees it with the call."""

    def before(self, question: Question) -> Mapping[str, Json]:
        if question.capability.family != "llm":
            raise Refusal(
                "policy.obligation", f"{question.capability.id} cannot be kept on this machine", "mend the policy"
            )
        return question.args

    def after(self, answer: Answer) -> Answer:
        return answer


def _reader(question: Question) -> str:
    """Who reads what a call sends."""
    if question.capability.family == "llm":
        return "model"
    return "network" if question.capability.effect is Effect.FETCH else "channel"
