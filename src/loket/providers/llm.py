"""`llm.complete`, `llm.extract` and `llm.models`: asks the models of the owner's chain, in order, until one answers.

A failed attempt is repeated on the same route where that may help (no connection, status 408, 409, 429 or 5xx, a
crashed worker), with exponential back-off and full jitter, and never sooner than the server's `Retry-After`. Then the
next route is asked. Nothing is made up: a tool call with arguments that are no JSON object is a failure, not a guess.

Where the server counts no tokens, four characters are taken for one; tokens of failed attempts are charged as well.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from loket.contracts import WITHDRAW, Answer, Call, Failed, Handler, Json, Labels, Secrets, Usage, join_labels
from loket.providers import llm_extract
from loket.providers.llm_backends import Backends, import_client
from loket.providers.llm_chat import AttemptFailed, Completion, Emit, estimate_tokens, without_tools
from loket.providers.llm_embedded import EmbeddedModel
from loket.providers.llm_settings import LlmSettings, Route

_BASE_S = 0.5
_MOST_S = 8.0
_LONGEST_WAIT_S = 30.0
_MILLION = 1_000_000
_NO_LABELS: Labels = ()


class LlmProvider:
    """The provider `llm`.

    `secrets` holds the keys that the routes name; `embedded` is the model for routes of that kind, closed with the
    provider; `compile_schema` checks what `llm.extract` gets. `sleep` and `chance` are for tests: they wait between
    attempts and choose how long.
    """

    id = "llm"

    def __init__(
        self,
        settings: LlmSettings,
        secrets: Secrets,
        embedded: EmbeddedModel | None = None,
        *,
        compile_schema: llm_extract.Compile,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._secrets = secrets
        self._compile = compile_schema
        self._sleep = sleep
        self._chance = chance
        self._backends = Backends(settings, secrets, embedded)
        self._retired: list[Backends] = []
        self._warming: asyncio.Task[Any] | None = None

    @property
    def settings(self) -> LlmSettings:
        """The settings in use."""
        return self._backends.settings

    @property
    def leaves(self) -> bool:
        """Whether a call can leave this machine."""
        return any(not route.local for route in self.settings.ordered())

    def handlers(self) -> Mapping[str, Handler]:
        """`llm.complete` and `llm.extract` (asynchronous), and `llm.models`."""
        return {"llm.complete": self._complete, "llm.extract": self._extract, "llm.models": self._models}

    async def start(self) -> None:
        """Begin to import the client in the background, where a route needs it; does not wait for it."""
        if self._warming is None and any(route.kind == "openai" for route in self.settings.ordered()):
            self._warming = asyncio.create_task(import_client())

    async def reconfigure(self, settings: LlmSettings, embedded: EmbeddedModel | None) -> None:
        """Use other settings from the next call on; calls in flight end on those that they started with."""
        old, self._backends = self._backends, Backends(settings, self._secrets, embedded)
        self._retired.append(old)
        await self.start()
        await old.retire(keep=embedded)

    async def warm(self) -> None:
        """Start the embedded model where it would be asked first, so that the first answer does not wait for it."""
        first = next(iter(self.settings.ordered()), None)
        embedded = self._backends.embedded
        if first is not None and first.kind == "embedded" and embedded is not None:
            await embedded.warm()

    async def close(self) -> None:
        """Close the connections and the embedded model's process."""
        if self._warming is not None:
            await asyncio.gather(self._warming, return_exceptions=True)
        for backends in (*self._retired, self._backends):
            await backends.close()

    def _models(self, _call: Call) -> Answer:
        return Answer(
            {
                "models": [
                    {"name": route.name, "local": route.local, "tools": route.tools, "context": route.context}
                    for route in self.settings.ordered()
                    if route.kind == "openai" or self._backends.embedded is not None
                ]
            }
        )

    async def _complete(self, call: Call) -> Answer:
        failures: list[AttemptFailed] = []
        spent = Usage()
        async with self._backends.used() as backends:
            routes = [route for route in backends.settings.ordered() if route.local or not _stays(call)]
            if not routes and backends.settings.ordered():
                raise _none_local()
            for route in routes:
                outcome, cost = await self._ask(backends, route, call)
                spent = _sum(spent, cost)
                if isinstance(outcome, Completion):
                    return _answer(route, backends.embedded, call.args, outcome, spent)
                failures.append(outcome)
        raise _all_failed(failures)

    async def _extract(self, call: Call) -> Answer:
        """Ask until an answer fits the schema. Raises `Refusal` for a wrong schema, `Failed` where none fits."""
        check = llm_extract.schema_of(call, self._compile)
        complaint: str | None = None
        spent, labels = Usage(), _NO_LABELS
        for _ in range(llm_extract.ATTEMPTS):
            asked = replace(call, args=llm_extract.request(call, complaint), emit=lambda _piece: None)
            answer = await self._complete(asked)
            spent, labels = _sum(spent, answer.usage), join_labels(labels, answer.labels)
            value, complaint = llm_extract.read(str(answer.value["text"]), check)
            if value is not None:
                return Answer({"value": value, "model": answer.value["model"]}, labels, spent)
        raise Failed(
            "extract.unfit",
            f"no answer of the model fitted the schema in {llm_extract.ATTEMPTS} attempts; the last one: {complaint}",
            "ask for fewer or simpler fields, or use a larger model",
        )

    async def _ask(self, backends: Backends, route: Route, call: Call) -> tuple[Completion | AttemptFailed, Usage]:
        """Ask one route as often as it makes sense; the outcome and what all attempts cost."""
        spent = Usage()
        attempt = 0
        while True:
            outcome = await self._attempt(backends, route, call)
            spent = _sum(spent, _cost(route, call.args, outcome))
            if isinstance(outcome, Completion):
                return outcome, spent
            delay = self._delay(route, outcome, attempt)
            if delay is None:
                return outcome, spent
            await self._sleep(delay)
            attempt += 1

    def _delay(self, route: Route, failed: AttemptFailed, attempt: int) -> float | None:
        """Seconds before the next attempt; None where there is none.

        Full jitter: uniform between 0 and min(8 s, 0.5 s * 2^attempt) (M. Brooker, "Exponential Backoff And Jitter",
        AWS Architecture Blog, 2015), on top of what the server asked for.
        """
        most = 1 if failed.code == "model.bad_tool_call" else route.retries
        asked = failed.after_s or 0.0
        if not failed.again or attempt >= most or asked > _LONGEST_WAIT_S:
            return None
        return asked + self._chance(0.0, min(_MOST_S, _BASE_S * 2**attempt))

    async def _attempt(self, backends: Backends, route: Route, call: Call) -> Completion | AttemptFailed:
        pieces = _Pieces(call.emit) if call.args.get("stream") else None
        outcome = await _try(backends, route, call.args, pieces)
        if isinstance(outcome, AttemptFailed) and pieces is not None and pieces.shown:
            call.emit(WITHDRAW)
        return outcome


def _stays(call: Call) -> bool:
    """Whether the decision on a call obliges to a model on this machine."""
    return "local-model" in call.obligations


def _none_local() -> Failed:
    return Failed(
        "model.confidential",
        "this run has seen what is confidential, and every model that is set up runs elsewhere",
        "`loket model pull` installs one on this machine; `[confidential]` in config.toml says what is confidential",
        blame="owner",
    )


class _Pieces:
    """Hands pieces on and remembers that there were some. A NUL cannot pass: `WITHDRAW` is ours alone."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self.shown = False

    def __call__(self, piece: str) -> None:
        piece = piece.replace("\x00", "")
        if piece:
            self.shown = True
            self._emit(piece)


async def _try(
    backends: Backends, route: Route, args: Mapping[str, Json], emit: Emit | None
) -> Completion | AttemptFailed:
    try:
        async with asyncio.timeout(route.timeout_s):
            backend = await backends.of(route)
            return await backend.complete(args if route.tools else _plain(args), emit)
    except TimeoutError:
        return AttemptFailed(
            "model.timeout",
            f"route {route.name} gave no answer within {route.timeout_s:g} s",
            f"raise timeout_s under [models.routes.{route.name}], or use a smaller model",
            again=True,
        )
    except AttemptFailed as failed:
        return failed


def _answer(
    route: Route, embedded: EmbeddedModel | None, args: Mapping[str, Json], completion: Completion, spent: Usage
) -> Answer:
    host = urlsplit(route.base_url).hostname
    labels = {f"model:{route.name}"} | (set() if route.local or not host else {f"host:{host}"})
    tokens_in, tokens_out = _tokens(args, completion)
    model = embedded.name if embedded is not None and route.kind == "embedded" else route.model
    value = {
        "text": completion.text,
        "tool_calls": [dict(call) for call in completion.tool_calls],
        "model": model,
        "finish": completion.finish,
        "tokens": {"in": tokens_in, "out": tokens_out},
    }
    return Answer(value, tuple(sorted(labels)), replace(spent, model=model))


def _plain(args: Mapping[str, Json]) -> dict[str, Json]:
    """Make the same request for a model that knows no tools."""
    rest = {name: value for name, value in args.items() if name != "tools"}
    return {**rest, "messages": without_tools(args["messages"])}


def _tokens(args: Mapping[str, Json], completion: Completion) -> tuple[int, int]:
    """Tokens in and out: the server's count, or an estimate."""
    if completion.tokens_in is not None and completion.tokens_out is not None:
        return completion.tokens_in, completion.tokens_out
    asked = "".join(message["content"] for message in args["messages"]) + json.dumps(args.get("tools", []))
    calls = json.dumps(completion.tool_calls) if completion.tool_calls else ""
    return estimate_tokens(asked), estimate_tokens(completion.text + calls)


def _cost(route: Route, args: Mapping[str, Json], outcome: Completion | AttemptFailed) -> Usage:
    tokens_in, tokens_out = _tokens(args, outcome) if isinstance(outcome, Completion) else outcome.spent
    return Usage(tokens_in, tokens_out, (tokens_in * route.price_in + tokens_out * route.price_out) / _MILLION)


def _sum(one: Usage, other: Usage) -> Usage:
    tokens_in, tokens_out = one.tokens_in + other.tokens_in, one.tokens_out + other.tokens_out
    return Usage(tokens_in, tokens_out, one.money + other.money, model=other.model or one.model)


def _all_failed(failures: list[AttemptFailed]) -> Failed:
    """One error for a whole chain: the code and remedy of the first route, and what happened on each."""
    if not failures:
        return Failed(
            "model.none",
            "no model is set up",
            "`loket model pull` installs the embedded one; `loket model use NAME` chooses a server or a service",
        )
    first = failures[0]
    return Failed(first.code, "; then ".join(failed.message for failed in failures), first.remedy)
