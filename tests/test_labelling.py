"""Labels: where values come from, through references, stores, other runs and replay."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit import Handlers, Rig, begin, capability
from loket.contracts import Answer, Call, Effect, Labels, Recorded, Refusal, RunRequest, join_labels
from loket.kernel.state import recorded_from
from loket.labelling import Labelling, Sources, _labels
from loket.providers.brain import BrainProvider
from loket.providers.fs import FsProvider
from loket.providers.kv import KvProvider
from loket.store.agents import AgentDatabases
from loket.stores import AGENT_MIGRATIONS

PAGE = "host:evil.example"
"""The label of what the web answers here."""

TYPED = 'My sister is called Ana. Write "to Ana" below.'


class Web:
    """A provider whose every answer holds a text that was never seen before, and one that says what it is given."""

    id = "web"

    def __init__(self) -> None:
        self.made = 0

    def read(self, _call: Call) -> Answer:
        self.made += 1
        return Answer({"text": f"page-{self.made:04d}", "parts": [{"text": f"part-{self.made:04d}"}]}, (PAGE,))

    def echo(self, call: Call) -> Answer:
        return Answer({"text": json.dumps(call.args["value"])})


class Brained(Rig):
    """A kernel with the real stores of memories, values and files, and labels of its values."""

    def __init__(self, directory: Path) -> None:
        self.web = Web()
        self.stores = AgentDatabases(directory / "brains", AGENT_MIGRATIONS)
        super().__init__(
            directory,
            BrainProvider(self.stores, lambda: 0.0),
            KvProvider(self.stores),
            FsProvider(directory / "files", self.stores),
            Handlers(web__read=self.web.read, web__echo=self.web.echo),
            more=(capability("web.read", Effect.READ), capability("web.echo", Effect.READ)),
            labeller=Labelling(),
        )
        names = [known.id for known in self.registry.all()]
        self.agent = self.module("tester", *names)

    def begin(self, name: str, words: str = "") -> Any:
        return self.run(self.agent, name, words=words, args={"text": words})

    def ask(self, run: Any, name: str, **args: Any) -> Any:
        return json.loads(self.counter.call(run, name, json.dumps(args)))

    def close(self) -> None:
        self.stores.close()
        super().close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Brained]:
    rig = Brained(tmp_path)
    yield rig
    rig.close()


def test_an_answer_by_reference_is_not_seen_and_its_label_goes_where_it_is_used(rig: Brained) -> None:
    """The module gets a handle, the run takes no label on, and what the handle is passed to carries it."""
    run = rig.begin("r1")
    assert rig.ask(run, "web.read", **{"$as": "reference"}) == {"$ref": "r1"}
    assert PAGE not in run.exposed
    rig.ask(run, "kv.set", key="page", value={"$ref": "r1.parts[0].text"})
    assert PAGE not in run.exposed  # what was kept says nothing of it
    rig.ask(run, "kv.set", key="own", value="made by the module")
    assert PAGE not in run.history[2].labels

    later = rig.begin("r2")
    assert rig.ask(later, "kv.get", key="own")["value"] == "made by the module"
    assert PAGE not in later.exposed
    assert rig.ask(later, "kv.get", key="page")["value"] == "part-0001"
    assert PAGE in later.exposed


def test_what_the_owner_typed_stays_the_owners_after_a_page_was_read(rig: Brained) -> None:
    """One page does not taint every later memory: the owner's words and others are told apart, item by item."""
    run = rig.begin("r1", "My sister is called Ana")
    page = rig.ask(run, "web.read")["text"]
    items = [{"text": "My sister is called Ana", "kind": "fact"}, {"text": page}, {"text": f"{page} and more"}]
    rig.ask(run, "brain.add", items=items)
    later = rig.begin("r2")
    found = {m["text"]: m["labels"] for m in rig.ask(later, "brain.search", query="", limit=9)["memories"]}
    assert found["My sister is called Ana"] == ["owner"]
    assert PAGE in found[page]
    assert PAGE in found[f"{page} and more"]


def test_a_file_and_its_name_keep_the_labels_that_they_were_written_with(rig: Brained) -> None:
    """Reading a file, or listing its folder, brings the label of what it was made from."""
    run = rig.begin("r1", "notes/own.md")
    rig.ask(run, "fs.write", path="notes/own.md", text="notes/own.md")
    page = rig.ask(run, "web.read")["text"]
    rig.ask(run, "fs.write", path=f"web/{page}.md", text=page)
    for number, (name, args, tainted) in enumerate(
        [
            ("fs.read", {"path": "notes/own.md"}, False),
            ("fs.list", {"path": "notes"}, False),
            ("fs.read", {"path": f"web/{page}.md"}, True),
            ("fs.list", {"path": "web"}, True),
            ("fs.list", {}, True),
        ],
        2,
    ):
        later = rig.begin(f"r{number}")
        rig.ask(later, name, **args)
        assert (PAGE in later.exposed) is tainted, (name, args)


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("r9", "was not made yet"),
        ("r2", "was not made yet"),
        ("r1.nothing", "it has parts, text"),
        ("r1.parts[7]", "a list of 1"),
        ("r1.text.more", "a JSON str"),
        ("r1..text", "cannot be read"),
        ("x1", "cannot be read"),
        ("r0", "cannot be read"),
        (r'r1["\x"]', "cannot be read"),
        (7, "has nothing else"),
    ],
)
def test_a_wrong_reference_is_refused_and_says_what_there_is(rig: Brained, reference: Any, says: str) -> None:
    """The refusal names the reference, what is wrong with it, and what could have been meant."""
    run = rig.begin("r1")
    rig.ask(run, "web.read")
    with pytest.raises(Refusal) as caught:
        rig.ask(run, "kv.set", key="a", value={"$ref": reference})
    assert caught.value.code == "reference.invalid"
    assert says in caught.value.message


def test_a_reference_with_something_beside_it_is_refused(rig: Brained) -> None:
    """`$ref` stands alone, and there is one way of delivery."""
    run = rig.begin("r1")
    rig.ask(run, "web.read")
    with pytest.raises(Refusal, match="nothing else"):
        rig.ask(run, "kv.set", key="a", value={"$ref": "r1", "more": 1})
    with pytest.raises(Refusal, match="can only be"):
        rig.ask(run, "web.read", **{"$as": "value"})


STEP = st.tuples(
    st.sampled_from(["read", "set", "get", "write", "file", "list", "add", "search", "echo", "new"]),
    st.booleans(),
    st.integers(0, 20),
    st.sampled_from(["reference", "same", "wrapped", "own"]),
)


def _sent(run: Any, seen: list[str], pick: int, how: str) -> Any:
    """What the module sends: a reference, a text that it saw, one made from it, or one of its own."""
    answered = [r.ordinal for r in run.history if r.answer is not None]
    if how == "reference" and answered:
        return {"$ref": f"r{answered[pick % len(answered)]}"}
    if how in ("same", "wrapped") and seen:
        text = seen[pick % len(seen)]
        return text if how == "same" else f"<{text}>"
    return "a text of its own"


def _call(step: str, value: Any) -> tuple[str, dict[str, Any]]:
    calls: dict[str, tuple[str, dict[str, Any]]] = {
        "read": ("web.read", {}),
        "set": ("kv.set", {"key": "k", "value": value}),
        "get": ("kv.get", {"key": "k"}),
        "write": ("fs.write", {"path": "a/f.txt", "text": value}),
        "file": ("fs.read", {"path": "a/f.txt"}),
        "list": ("kv.list", {}),
        "add": ("brain.add", {"items": [{"text": "a text of its own"}, {"text": value}]}),
        "search": ("brain.search", {"query": "", "limit": 50}),
        "echo": ("web.echo", {"value": value}),
    }
    return calls[step]


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _texts(part)]


@given(st.lists(STEP, max_size=25))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_label_disappears_in_any_order_of_calls(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool, int, str]]
) -> None:
    """Whatever holds a text of the web says so: through references, memory, files, echoes and later runs.

    The texts of the web are unlike all others, so they are found again wherever they go, whole or inside others.
    """
    rig = Brained(tmp_path_factory.mktemp("labels"))
    number, seen = 1, list[str]()
    run = rig.begin("r1")
    for step, by_reference, pick, how in steps:
        if step == "new":
            number, seen = number + 1, []
            run = rig.begin(f"r{number}")
            continue
        name, args = _call(step, _sent(run, seen, pick, how))
        try:
            answer = rig.ask(run, name, **args, **({"$as": "reference"} if by_reference else {}))
        except Refusal:
            continue
        seen += _texts(answer)
    for name in (f"r{n}" for n in range(1, number + 1)):
        history, _open, _end = recorded_from(rig.rows(name))
        exposed: set[str] = set()
        for recorded in history:
            holds = "page-" in (recorded.answer or "") or "part-" in (recorded.answer or "")
            assert not holds or PAGE in recorded.labels, recorded
            exposed |= set() if recorded.by_reference else set(recorded.labels)
        assert name != run.request.id or exposed | {"owner"} == set(run.exposed)
    rig.close()


def test_the_labels_of_a_record_that_says_its_own_are_finer_than_the_answers(rig: Brained) -> None:
    """A memory that is passed on word for word has its own labels, not those of all that were found with it."""
    run = rig.begin("r1", "Ana lives in Utrecht")
    page = rig.ask(run, "web.read")["text"]
    rig.ask(run, "brain.add", items=[{"text": "Ana lives in Utrecht"}, {"text": page}])
    later = rig.begin("r2")
    rig.ask(later, "brain.search", query="", limit=9)
    assert PAGE in later.exposed
    rig.ask(later, "kv.set", key="where", value="Ana lives in Utrecht")
    rig.ask(third := rig.begin("r3"), "kv.get", key="where")
    assert PAGE not in third.exposed


def test_an_error_carries_the_labels_of_what_it_may_quote(rig: Brained) -> None:
    """A refusal or a failure that was caused by a value by reference taints the run as the value would."""
    run = rig.begin("r1")
    rig.ask(run, "web.read", **{"$as": "reference"})
    for name, args in [
        ("fs.write", {"path": {"$ref": "r1.text"}, "text": "x", "no": 1}),
        ("fs.read", {"path": {"$ref": "r1.text"}}),
        ("kv.set", {"key": "a", "value": {"$ref": "r1.text.more"}}),
    ]:
        assert PAGE not in run.exposed, name
        with pytest.raises(Refusal):
            rig.ask(run, name, **args)
        assert PAGE in run.exposed, name
        history, _open, _end = recorded_from(rig.rows("r1"))
        assert PAGE in history[-1].labels, name
        run = rig.begin("r1" + name)
        run.history[:] = [history[0]]
        run.position = 1


@pytest.mark.parametrize(
    "value",
    [
        ["M", "y"],
        [True, False, None],
        {"sister": 1},
        [1, 2],
        "sister",
        "is called Ana",
        ["fact", "episode"],
    ],
)
def test_pieces_spell_nothing_that_is_the_owners(rig: Brained, value: Any) -> None:
    """Letters, words, choices, numbers and yes or no carry what the run has seen: anything could be put together."""
    run = rig.begin("r1", TYPED)
    rig.ask(run, "web.read")
    rig.ask(run, "kv.set", key="a", value=value)
    later = rig.begin("r2")
    rig.ask(later, "kv.get", key="a")
    assert PAGE in later.exposed


@pytest.mark.parametrize("value", ["My sister is called Ana.", "to Ana", TYPED])
def test_whole_sentences_and_quotations_are_the_owners(rig: Brained, value: str) -> None:
    """What means what it says by itself stays the owner's, whatever else the run has read."""
    run = rig.begin("r1", TYPED)
    rig.ask(run, "web.read")
    rig.ask(run, "kv.set", key="a", value=value)
    later = rig.begin("r2")
    rig.ask(later, "kv.get", key="a")
    assert PAGE not in later.exposed


def test_what_follows_a_command_is_the_owners(rig: Brained) -> None:
    """`/remember TEXT` remembers the owner's text."""
    run = rig.begin("r1", "/remember Ana lives in Utrecht")
    rig.ask(run, "web.read")
    rig.ask(run, "brain.add", items=[{"text": "Ana lives in Utrecht", "kind": "fact", "speaker": "user"}])
    found = rig.ask(rig.begin("r2"), "brain.search", query="")["memories"]
    assert found[0]["labels"] == ["owner"]


@pytest.mark.parametrize("depth", [202, 300, 450])
@pytest.mark.parametrize("level", ["[{}]", '{{"a": {}}}', '[[], {{"a": {}}}]'])
def test_an_argument_that_is_nested_too_deeply_is_refused_by_its_name(rig: Brained, depth: int, level: str) -> None:
    """It is the module that is to blame, not the kernel, and the run goes on."""
    run = rig.begin("r1")
    nested = "1"
    for _ in range(depth):
        nested = level.format(nested)
    with pytest.raises(Refusal) as caught:
        rig.counter.call(run, "web.echo", f'{{"value": {nested}}}')
    assert (caught.value.code, caught.value.blame) == ("arguments.depth", "module")
    assert "the argument value of web.echo" in caught.value.message
    assert rig.ask(run, "web.echo", value=[[["fine"]]]) == {"text": '[[["fine"]]]'}


def test_references_that_add_up_to_something_deep_are_refused(rig: Brained) -> None:
    """Each of them stands for what is allowed, and what they make together is not."""
    run = rig.begin("r1")
    nested: Any = "x"
    for _ in range(150):
        nested = [nested]
    rig.ask(run, "kv.set", key="deep", value=nested)
    rig.ask(run, "kv.get", key="deep")
    value: Any = {"$ref": "r2.value"}
    for _ in range(100):
        value = [value]
    with pytest.raises(Refusal) as caught:
        rig.ask(run, "web.echo", value=value)
    assert (caught.value.code, caught.value.blame) == ("arguments.depth", "module")
    assert "the argument value of web.echo" in caught.value.message


SAID = st.sampled_from(["a page", "a memory", "the owner's", "of the request", "fixed", "", "ab"])
ANSWERS = st.recursive(
    SAID,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(SAID, inner, max_size=3)
        | st.builds(
            lambda part, labels: {"a": part, "labels": labels}, inner, st.lists(st.sampled_from("xyz"), unique=True)
        )
    ),
    max_leaves=12,
)
VALUES = st.recursive(
    SAID | st.none() | st.booleans() | st.integers() | st.just({"$ref": "r1"}) | st.just({"$ref": "r9.x"}),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SAID, inner, max_size=4),
    max_leaves=20,
)


@dataclass
class Seen:
    """What labels need to know of a run."""

    request: RunRequest
    history: list[Recorded]
    exposed: Labels = ("everything", "seen")
    memo: dict[str, Any] = field(default_factory=dict)


def texts(value: Any, labels: Labels, *, own: bool) -> Iterator[tuple[str, Labels]]:
    """Each text of an answer with its labels, in order: a memory's texts have those that it says."""
    if isinstance(value, str):
        yield value, labels
    elif isinstance(value, dict):
        said = value.get("labels") if own else None
        for part in value.values():
            yield from texts(part, tuple(said) if isinstance(said, list) else labels, own=own)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part, labels, own=own)


def looked_up(text: str, run: Seen) -> Labels:
    """The labels of where a text was said first."""
    if text == run.request.words:
        return ("owner",)
    said = [*texts(run.request.args, run.request.labels, own=False)]
    for held in run.history:
        said += texts(json.loads(held.answer or "null"), held.labels, own=held.capability.startswith("brain."))
    return next((labels for one, labels in said if one == text and len(text) > 2), run.exposed)


def slowly(value: Any, run: Seen, fixed: frozenset[str]) -> Labels:
    """The labels of a value, part by part, each text looked up in all that was said before."""
    if isinstance(value, str):
        return () if value in fixed or not value else looked_up(value, run)
    if isinstance(value, dict):
        if "$ref" in value:
            return run.history[0].labels if value["$ref"] == "r1" and run.history else run.exposed
        return join_labels((), *(slowly(part, run, fixed) for part in (*value, *value.values())))
    if isinstance(value, list):
        return join_labels((), *(slowly(part, run, fixed) for part in value))
    return () if value is None or isinstance(value, bool) else run.exposed


@settings(max_examples=300, deadline=None)
@given(st.lists(ANSWERS, max_size=4), VALUES, VALUES)
def test_labels_of_a_value_are_those_of_its_parts(answers: list[Any], first: Any, second: Any) -> None:
    """However it is built, in whatever order texts are looked for, and however many answers are read for it."""
    history = [
        Recorded(number, "brain.search" if number % 2 else "web.read", "{}", json.dumps(answer), None, None, (name,))
        for number, (answer, name) in enumerate(zip(answers, "abcd", strict=False), 1)
    ]
    request = replace(begin("r1"), words="the owner's", args={"text": "the owner's", "more": ["of the request"]})
    run = Seen(request, history)
    sources = Sources(run)
    sources.read(run)
    fixed = frozenset({"fixed"})
    for value in (first, second, first):
        assert _labels(value, sources, fixed) == slowly(value, run, fixed)
