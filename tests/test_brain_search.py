"""Recall: which memories are found, in which order, and that no question breaks it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loket.contracts import OWNER, BadInput, Call, Refusal
from loket.evaluation import evaluate
from loket.providers import brain_query as query
from loket.providers import brain_search
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases


class Brain:
    """One agent's brain: adds items, searches."""

    def __init__(self, store: AgentDatabases) -> None:
        self._now = 1_700_000_000.0
        self._provider = BrainProvider(store, self._tick)
        self._ordinal = 0

    def add(self, *items: str | dict[str, Any], conversation: str = "") -> None:
        made = [{"text": item} if isinstance(item, str) else item for item in items]
        self._provider.add(self._call("brain.add", {"items": made}, conversation))

    def texts(self, question: str, **args: Any) -> list[str]:
        return [memory["text"] for memory in self.search(question, **args)]

    def search(self, question: str, **args: Any) -> list[dict[str, Any]]:
        answer = self._provider.search(self._call("brain.search", {"query": question, **args}, ""))
        return list(answer.value["memories"])

    def _call(self, capability: str, args: dict[str, Any], conversation: str) -> Call:
        self._ordinal += 1
        return Call("run", self._ordinal, "main", conversation, OWNER, capability, args, ("owner",))

    def _tick(self) -> float:
        self._now += 1
        return self._now


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentDatabases]:
    store = AgentDatabases(tmp_path, BRAIN_MIGRATIONS)
    yield store
    store.close()


@pytest.fixture
def brain(store: AgentDatabases) -> Brain:
    return Brain(store)


def test_any_word_is_enough(brain: Brain) -> None:
    """A memory with one of the question's words is found; the more of them, the better."""
    brain.add("the cat sleeps", "the cat eats fish", "dogs bark")
    assert brain.texts("cat fish unicorn") == ["the cat eats fish", "the cat sleeps"]


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("We went to Paris", "Where did they go?"),
        ("Two children were playing", "a child that plays"),
        ("She bought the tickets", "buying a ticket"),
        ("He doesn't swim", "swimming"),
        ("Café Zürich was closed", "cafe zurich"),
        ("They\u2019ve chosen a name", "choose names"),
        ("彼は東京に住んでいる", "東京"),
        ("Ana lives in Utrecht", "Where does Ana live?"),
    ],
)
def test_other_forms_of_a_word_are_found(brain: Brain, text: str, question: str) -> None:
    """Inflected and irregular forms, marks and unspaced scripts are matched."""
    brain.add(text, "nothing to see")
    assert brain.texts(question)[:1] == [text]


@pytest.mark.parametrize("field", ["speaker", "note", "gist", "subject", "key"])
def test_every_field_is_searched(brain: Brain, field: str) -> None:
    """Speaker, note, gist, subject and key are found as the text is."""
    brain.add({"text": "first", field: "kangaroo"}, {"text": "second"})
    assert brain.texts("kangaroos") == ["first"]


def test_dates_are_searched(brain: Brain) -> None:
    """A memory is found by the month, year and weekday in which it happened."""
    brain.add(
        {"text": "a walk", "happened": "2023-05-08T10:00:00Z"}, {"text": "a swim", "happened": "2022-01-01T00:00:00Z"}
    )
    assert brain.texts("what was in May 2023") == ["a walk"]
    assert brain.texts("Monday") == ["a walk"]


def test_an_answer_is_found_by_its_question(brain: Brain) -> None:
    """The two memories before, in the same conversation, count as context; those of others do not."""
    brain.add("Which instrument do you play?", conversation="one")
    brain.add("Something unrelated", conversation="two")
    brain.add("The cello, since I was six", conversation="one")
    assert brain.texts("instrument") == ["Which instrument do you play?", "The cello, since I was six"]


def test_whom_the_question_names_comes_first(brain: Brain) -> None:
    """Among equals, the memory of the speaker, or about the subject, that the question names is better."""
    brain.add({"text": "I bake bread", "speaker": "Ana Silva"}, {"text": "I bake bread too", "speaker": "Ben"})
    assert brain.texts("What does Ben bake?")[0] == "I bake bread too"
    assert brain.texts("What does Ana bake?")[0] == "I bake bread"
    brain.add({"text": "bakes cake", "subject": "Cleo"}, {"text": "bakes cake", "subject": "Dora"})
    assert brain.search("What cake does Dora bake?")[0]["subject"] == "Dora"


def test_a_question_is_a_worse_answer_than_a_statement(brain: Brain) -> None:
    """What only asks stands behind what says, with the same words."""
    brain.add("My boat is green.", "Is my boat green?")
    assert brain.texts("green boat") == ["My boat is green.", "Is my boat green?"]


def test_scores_fall_and_none_is_below_zero(brain: Brain) -> None:
    """The order is that of the scores."""
    brain.add(*[f"tea number {number} {'tea ' * (number % 4)}" for number in range(30)])
    scores = [memory["score"] for memory in brain.search("tea number", limit=30)]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == 30
    assert scores[-1] >= 0


@pytest.mark.parametrize("question", ["", "   ", "what is it?", "?!", "\U0001f600", "\x00"])
def test_a_question_without_words_lists_the_newest(brain: Brain, question: str) -> None:
    """Nothing to look for: the newest memories, without a score."""
    brain.add("one", "two", "three")
    found = brain.search(question, limit=2)
    assert [memory["text"] for memory in found] == ["three", "two"]
    assert {memory["score"] for memory in found} == {0.0}


def test_filters_narrow_the_search(brain: Brain) -> None:
    """Kinds, subject and key leave only what fits them, with and without words."""
    brain.add(
        {"text": "tea in the morning", "kind": "fact", "subject": "Ana", "key": "drink"},
        {"text": "tea was sold out", "kind": "episode", "subject": "Ana"},
        {"text": "brew tea for four minutes", "kind": "procedure"},
    )
    assert brain.texts("tea", kinds=["procedure", "lesson"]) == ["brew tea for four minutes"]
    assert len(brain.texts("tea", subject="ANA")) == 2
    assert brain.texts("tea", subject="ana", key="DRINK") == ["tea in the morning"]
    assert brain.texts("", subject="ana", kinds=["episode"]) == ["tea was sold out"]
    assert brain.texts("tea", subject="nobody") == brain.texts("", subject="\u0301") == []


def test_many_corrections_do_not_hide_the_truth(brain: Brain) -> None:
    """Hundreds of superseded facts that match better do not keep the live one from being found."""
    for number in range(120):
        brain.add({"text": f"Ana city city city {number}", "subject": "Ana", "key": "city"})
    brain.add({"text": "the city is far away from here, and that is a long story", "speaker": "Ben"})
    assert brain.texts("Ana city", limit=5) == ["Ana city city city 119", brain.texts("far away")[0]]


def test_a_time_of_belief_that_cannot_be_read_is_refused(brain: Brain) -> None:
    """`as_of` is named in the refusal."""
    with pytest.raises(Refusal, match="as_of"):
        brain.search("tea", as_of="once")


QUERIES = [
    '"',
    '"tea',
    'tea" OR',
    "NEAR(tea",
    "tea AND",
    "NOT tea",
    "text : tea",
    "{text} tea",
    "^tea",
    "tea*",
    "-tea",
    "tea'; DROP TABLE memory",
    "(((",
    "a" * 4000,
    "tea " * 1000,
    "\x00tea\x00",
    "\ud800 tea",
    "_ __ tea",
    "\u0e01\u0e34",
    "½ ² tea",
    "\U0001f469\u200d\U0001f52c tea",
    "%s %(x)s {0}",
    "ﬁsh ǅ ß İ",
]


@pytest.mark.parametrize("question", QUERIES)
def test_no_question_is_a_query_language(brain: Brain, question: str) -> None:
    """Quotes, operators, zero bytes, emoji and halves of characters are words or nothing, never an error."""
    brain.add("tea and biscuits", "fish")
    found = brain.texts(question)
    assert found == ["fish", "tea and biscuits"] or "tea" not in question or found == ["tea and biscuits"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=60), st.text(min_size=1, max_size=60))
def test_any_text_can_be_stored_and_asked(store: AgentDatabases, question: str, text: str) -> None:
    """Whatever the text, it is stored as it was, and asking for it never fails."""
    with store.open("main") as connection:
        connection.pragma("synchronous", "off")
    brain = Brain(store)
    brain._provider.add(
        Call(
            f"run {question} {text}".encode().hex(),
            1,
            "main",
            "c",
            OWNER,
            "brain.add",
            {"items": [{"text": text, "note": question}]},
            (),
        )
    )
    brain.search(question)
    found = brain.search(text, limit=200)
    assert not query.terms(text) or text in [memory["text"] for memory in found]


def test_a_large_brain_finds_what_a_small_one_does(brain: Brain) -> None:
    """Where only rows with a rare word or two frequent ones are scored, the best are the same, and none is missing."""
    words = "river stone light music garden winter yellow paper".split()  # noqa: SIM905
    for start in range(0, 600, 60):
        items = [
            {"text": " ".join(words[(n * k) % 8] for k in (1, 3, 5)) + f" item{n}", "speaker": ("Ana", "Ben")[n % 2]}
            for n in range(start, start + 60)
        ]
        brain.add(*items)
    questions = ["river stone item77", "item5 Ana", "garden winter music item401 river", "Ben", "music"]
    whole = [brain.search(question, limit=5) for question in questions]
    kept = brain_search.SCORED
    try:
        for brain_search.SCORED in (100, 300):
            large = [brain.search(question, limit=5) for question in questions]
            assert [found[0] for found in large] == [found[0] for found in whole]
            assert {len(found) for found in large} == {5}
    finally:
        brain_search.SCORED = kept


def conversations(**changes: Any) -> list[dict[str, Any]]:
    talk = {
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [
            {"speaker": "Ana", "dia_id": "D1:1", "text": "I adopted a dog called Pixel."},
            {"speaker": "Ben", "dia_id": "D1:2", "text": "How lovely!", "blip_caption": "a brown puppy"},
        ],
        "session_2_date_time": "12:05 am on 1 June, 2023",
        "session_2": [{"speaker": "Ben", "dia_id": "D2:1", "text": "I moved to Ghent."}],
    }
    questions = [
        {"question": "What is Ana's dog called?", "category": 4, "evidence": ["D1:1"]},
        {"question": "Where did Ben move?", "category": 1, "evidence": ["D2:1; D:1:2", "D9:9", "nonsense"]},
        {"question": "Who is the pup in the picture?", "category": 3, "evidence": ["D7:7"]},
        {"question": "Not asked", "category": 5, "evidence": ["D1:1"]},
    ]
    observation = {"session_2_observation": {"Ben": [["Ben relocated.", "D2:1"]]}}
    return [{"sample_id": "c1", "conversation": talk, "qa": questions, "observation": observation, **changes}]


def test_an_evaluation_counts_what_is_found(tmp_path: Path) -> None:
    """Questions with valid evidence are asked; malformed evidence is mended or dropped, and counted."""
    path = tmp_path / "set.json"
    path.write_text(json.dumps(conversations()))
    seen: list[tuple[int, int]] = []
    result = evaluate(path, lambda done, total: seen.append((done, total)), gists=True)
    assert (result["n"], result["repaired"], result["dropped"]) == (2, 1, 3)
    assert result["categories"]["4"] == {"n": 1, "r5": 1.0, "r10": 1.0, "r20": 1.0, "mrr": 1.0}
    assert result["categories"]["3"]["n"] == 0
    assert result["conversations"]["c1"]["n"] == 2
    assert result["gists"]["n"] == 2
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(
    "content",
    [
        "not json",
        "{}",
        "[1]",
        "[{}]",
        json.dumps(conversations(qa=[{"question": "x"}])),
        json.dumps(conversations(conversation={"session_1": []})),
    ],
)
def test_a_file_in_another_format_is_bad_input(tmp_path: Path, content: str) -> None:
    """The error names the path and says what is expected."""
    path = tmp_path / "set.json"
    path.write_text(content)
    with pytest.raises(BadInput, match=r"set\.json") as caught:
        evaluate(path)
    assert caught.value.remedy


def test_a_file_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    """A missing file is named."""
    with pytest.raises(BadInput, match="missing"):
        evaluate(tmp_path / "missing.json")
