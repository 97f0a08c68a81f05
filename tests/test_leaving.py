"""What leaves: redaction as an obligation of decisions, canaries, confidential values, answers to people."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import Handlers, Rig
from loket.app import Loket, running
from loket.confidential import Confidential
from loket.contracts import (
    Answer,
    BadInput,
    Call,
    Decision,
    Failed,
    Question,
    Refusal,
    RunEnded,
    Verdict,
)
from loket.home import Home
from loket.labelling import CONFIDENTIAL
from loket.leaving import Leaving
from loket.providers.llm import LlmProvider
from loket.providers.llm_settings import parse_routes
from loket.providers.vault import FileVault
from loket.redaction import Leak
from loket.schemas import compile_check
from loket.testing.model_server import ModelServer, Reply
from loket.testing.models import InstantModel

TOKEN = "xq7-Vault-Value-91f0"
CARD = "4111 1111 1111 1111"


class Obliging:
    """A policy that allows everything with these obligations."""

    def __init__(self, *names: str) -> None:
        self._decision = Decision(Verdict.ALLOW, ("test",), "of a test", "digest", names)

    def decide(self, _question: Question) -> Decision:
        return self._decision


def leaving(*, cloud: bool = True, leaked: Callable[..., None] = lambda _agent, _where: None, **table: Any) -> Leaving:
    return Leaving(
        table,
        vault_values=lambda: [TOKEN],
        key=b"k" * 32,
        agents=lambda: ["tester"],
        cloud=lambda: cloud,
        on_leak=leaked,
    )


class Outside:
    """A kernel whose network and model note what reached them."""

    def __init__(self, directory: Path, exits: Leaving) -> None:
        self.got: list[dict[str, Any]] = []
        handlers = Handlers(kv__set=self.take, llm__complete=self.take)
        self.rig = Rig(directory, handlers, policy=Obliging("redact"), obligations=exits.obligations())

    def take(self, call: Call) -> Answer:
        self.got.append(dict(call.args))
        return Answer({})

    def send(self, text: str, words: str = "") -> dict[str, Any]:
        run = self.rig.run(self.rig.module("tester", "kv.set"), f"r{len(self.got)}", words=words)
        self.rig.counter.call(run, "kv.set", json.dumps({"key": "k", "value": {"said": text}}))
        return self.got[-1]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path, leaving())
    yield made
    made.rig.close()


def test_what_a_decision_obliges_to_redact_never_reaches_the_provider(outside: Outside) -> None:
    """Vault values and cards are taken out of the arguments; the journal keeps what the module asked for."""
    assert outside.send(f"pay with {CARD}, key {TOKEN}")["value"] == {
        "said": "pay with [redacted: card], key [redacted: vault]"
    }
    assert CARD in outside.rig.rows("r0")[0].value.decode()


def test_what_the_owner_named_may_leave_but_no_secret_of_the_vault(outside: Outside) -> None:
    """The owner's words in this request are what they want to be sent."""
    assert outside.send("mail ana@example.org", "mail ana@example.org")["value"] == {"said": "mail ana@example.org"}
    assert "redacted: vault" in outside.send(f"key {TOKEN}", f"send key {TOKEN}")["value"]["said"]


def test_a_number_that_the_owner_typed_with_blanks_may_leave_without_them(outside: Outside) -> None:
    """It is the owner's own word however it is grouped."""
    said = outside.send(CARD.replace(" ", ""), f"pay with {CARD}")["value"]["said"]
    assert said == CARD.replace(" ", "")


def test_a_critical_argument_is_never_changed_after_the_decision(outside: Outside) -> None:
    """What was decided on is performed, or nothing is: a redacted key would be another key."""
    run = outside.rig.run(outside.rig.module("tester", "kv.set"), "r1")
    with pytest.raises(Refusal) as caught:
        outside.rig.counter.call(run, "kv.set", json.dumps({"key": TOKEN, "value": 1}))
    assert caught.value.code == "redaction.critical"
    assert TOKEN not in caught.value.message
    assert outside.got == []


def test_a_canary_that_would_leave_ends_the_run_before_anything_is_sent(tmp_path: Path) -> None:
    """The provider is not called, the run ends with `canary.seen`, and whoever stops agents hears which."""
    leaked: list[Any] = []
    exits = leaving(leaked=lambda agent, where: leaked.append((agent, where["capability"])))
    outside = Outside(tmp_path, exits)
    with pytest.raises(RunEnded) as caught:
        outside.send(f"my rules say: {exits.canary('tester')}")
    assert (caught.value.code, leaked, outside.got) == ("canary.seen", [("tester", "kv.set")], [])
    outside.rig.close()


def test_a_model_on_this_machine_gets_everything() -> None:
    """Redaction for models is for those that run elsewhere."""
    question: Any = type("Asked", (), {})()
    question.args = {"messages": [{"content": f"card {CARD}"}]}
    question.run = type("Run", (), {"words": ""})()
    question.capability = type("Of", (), {"family": "llm", "critical": ()})()
    assert leaving(cloud=False).outgoing(question) is question.args
    assert CARD not in json.dumps(leaving().outgoing(question))


async def _all(events: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event async for event in events]


async def _events(pieces: list[str], answer: Any) -> AsyncIterator[dict[str, Any]]:
    for piece in pieces:
        yield {"type": "piece", "text": piece, "attempt": 1}
    yield {"type": "end", "run": "r", "status": "done", "answer": answer, "error": None}


@given(st.lists(st.integers(0, 60), max_size=6))
def test_a_streamed_answer_shows_no_secret_however_it_is_cut(cuts: list[int]) -> None:
    """The pieces together are the redacted text, and so is the answer at the end."""
    text = f"the key is {TOKEN}, keep it"
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(at)]
    seen = asyncio.run(_all(leaving().watched(_events(pieces, {"text": text}))))
    shown = "".join(event["text"] for event in seen if event["type"] == "piece")
    assert shown == "the key is [redacted: vault], keep it"
    assert seen[-1]["answer"] == {"text": shown}


def test_on_a_channel_a_canary_in_an_answer_is_a_leak() -> None:
    """The owner may read an agent's rules; anyone else may not."""
    exits = leaving()
    said = {"text": f"I was told: {exits.canary('tester')}"}
    assert exits.answer(said) == said
    with pytest.raises(Leak):
        exits.answer(said, "channel")
    with pytest.raises(Leak):
        asyncio.run(_all(exits.watched(_events([said["text"]], {}), "channel")))


def test_an_agent_whose_canary_leaks_is_stopped_and_the_journal_says_so(tmp_path: Path) -> None:
    """A critical note names the agent; no value stands in it."""

    async def play() -> list[dict[str, Any]]:
        async with running(Home(tmp_path), llm=InstantModel(lambda _messages: "ok")) as system:
            system._leaked("main", {"capability": "net.fetch", "run": "r1"})
            await asyncio.to_thread(system.journal.sync)
            return [row.meta for row in system.journal.rows() if row.meta.get("what") == "canary.seen"]

    (note,) = asyncio.run(play())
    assert (note["agent"], note["severity"], note["capability"]) == ("main", "critical", "net.fetch")


@pytest.mark.parametrize(
    ("table", "says"),
    [({"chanel": []}, "chanel"), ({"model": ["cards"]}, "cards"), ({"regions": ["Holland"]}, "Holland")],
)
def test_wrong_settings_of_redaction_are_named(table: dict[str, Any], says: str) -> None:
    """An unknown reader, kind or country is an error that says which."""
    with pytest.raises(BadInput, match=says):
        leaving(**table)


@pytest.mark.parametrize("places", ["*", ["private/"], [7], {"a": 1}])
def test_wrong_places_of_confidential_values_are_named(places: Any) -> None:
    """The error names the agent and shows what a place looks like."""
    with pytest.raises(BadInput, match=r"confidential\.main"):
        Confidential({"main": places})


def test_a_confidential_value_goes_to_no_model_elsewhere(tmp_path: Path) -> None:
    """A run that read a confidential file asks a local model, and fails with the remedy where there is none."""

    async def play(system: Loket) -> tuple[Any, Any]:
        await system.direct("main", "fs.write", {"path": "private/diary.md", "text": "a secret love"})
        await system.direct("main", "fs.write", {"path": "open.md", "text": "bread"})
        read = [await system.direct("main", "fs.read", {"path": path}) for path in ("private/diary.md", "open.md")]
        return tuple(read[0].labels), tuple(read[1].labels)

    async def main() -> None:
        home = Home(tmp_path)
        home.prepare()
        home.config.write_text('[confidential]\nmain = ["files/private/"]\n')
        async with running(home, llm=InstantModel(lambda _messages: "ok")) as system:
            private, open_ = await play(system)
            assert CONFIDENTIAL in private
            assert CONFIDENTIAL not in open_

    asyncio.run(main())


def test_an_obligation_to_stay_here_leaves_out_every_model_elsewhere(tmp_path: Path) -> None:
    """The chain goes on with its local routes; without any the call fails and says what to do."""
    message = {"messages": [{"role": "user", "content": "Hello"}]}

    async def complete(table: dict[str, Any]) -> Answer:
        provider = LlmProvider(parse_routes(table), FileVault(tmp_path / "vault"), compile_schema=compile_check)
        call = Call("r", 1, "main", "c", None, "llm.complete", message, (), obligations=("local-model",))  # type: ignore[arg-type]
        try:
            return await provider.handlers()["llm.complete"](call)  # type: ignore[misc, no-any-return]
        finally:
            await provider.close()

    far = {"base_url": "https://models.example.org/v1", "model": "far"}
    with ModelServer([Reply("from here")]) as server:
        near = {"base_url": server.url, "model": "near"}
        both = {"chain": ["far", "near"], "routes": {"far": far, "near": near}}
        assert asyncio.run(complete(both)).value["text"] == "from here"
        with pytest.raises(Failed) as caught:
            asyncio.run(complete({"chain": ["far"], "routes": {"far": far}}))
        assert caught.value.code == "model.confidential"
        assert len(server.requests) == 1


def test_labels_of_confidential_places_are_found_in_every_store() -> None:
    """Files by path and by name in a list, values by key, memories by subject."""
    found = Confidential({"*": ["files/private/", "kv/bank", "memories/health"]})
    cases = [
        ("fs.read", {"path": "private/a"}, {"text": ""}, True),
        ("fs.list", {"path": "private"}, {"entries": [{"name": "a"}]}, True),
        ("fs.list", {}, {"entries": [{"name": "private"}]}, False),
        ("kv.get", {"key": "bank/iban"}, {}, True),
        ("kv.get", {"key": "b"}, {}, False),
        ("kv.list", {}, {"keys": ["a", "bank"]}, True),
        ("brain.search", {}, {"memories": [{"subject": "health"}]}, True),
        ("brain.search", {}, {"memories": [{"subject": None}]}, False),
        ("net.fetch", {"url": "x"}, {"text": ""}, False),
    ]
    for name, args, answer, holds in cases:
        call: Any = type("Made", (), {"agent": "main", "args": args})()
        capability: Any = type("Of", (), {"family": name.partition(".")[0]})()
        assert found.holds(call, capability, answer) is holds, (name, args)
