"""The agent's memory: provenance, supersession, forgetting, repeated effects, damage, and power cuts."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loket.contracts import Call, Damaged, Principal, Refusal
from loket.contracts.catalogue import BY_ID
from loket.providers.brain import BrainProvider
from loket.providers.brain_owner import check, export, history
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases

START = 1_763_700_000.0


class Brain:
    """Calls the provider as one agent, each call a second and an ordinal later than the one before.

    Arguments and answers are checked against the catalogue.
    """

    def __init__(self, store: AgentDatabases, agent: str = "main", conversation: str = "talk") -> None:
        self.store = store
        self.agent = agent
        self.conversation = conversation
        self.now = START
        self.ordinal = 0
        self.labels: tuple[str, ...] = ("owner",)
        self._handlers = BrainProvider(store, lambda: self.now).handlers()

    def __call__(self, verb: str, *, ordinal: int | None = None, run: str = "run", **args: Any) -> dict[str, Any]:
        self.now += 1
        self.ordinal += 1
        capability = BY_ID[f"brain.{verb}"]
        jsonschema_rs.validate(dict(capability.arguments), args)
        number = self.ordinal if ordinal is None else ordinal
        principal = Principal("agent", self.agent)
        call = Call(run, number, self.agent, self.conversation, principal, capability.id, args, self.labels)
        answer = self._handlers[capability.id](call)
        jsonschema_rs.validate(dict(capability.answer), dict(answer.value))
        self.answer_labels = answer.labels
        return dict(answer.value)

    def add(self, text: str, **fields: Any) -> int:
        return int(self("add", items=[{"text": text, **fields}])["ids"][0])

    def fact(self, subject: str, key: str, text: str) -> int:
        return self.add(text, kind="fact", subject=subject, key=key)

    def found(self, query: str = "", **args: Any) -> list[dict[str, Any]]:
        return list(self("search", query=query, **args)["memories"])

    def texts(self, query: str = "", **args: Any) -> list[str]:
        return [memory["text"] for memory in self.found(query, **args)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AgentDatabases]:
    store = AgentDatabases(tmp_path, BRAIN_MIGRATIONS)
    yield store
    store.close()


@pytest.fixture
def brain(store: AgentDatabases) -> Brain:
    return Brain(store)


def test_provenance_is_the_hosts(brain: Brain) -> None:
    """Who stored a memory, in which run, with which labels and when is written from the call, not from the item."""
    brain.labels = ("capability:net.fetch", "owner")
    brain("add", items=[{"text": "Ana lives in Utrecht"}], run="run-7")
    memory = brain.found("Utrecht")[0]
    assert (memory["source"], memory["run"], memory["labels"]) == ("agent:main", "run-7", list(brain.labels))
    assert memory["created"] == memory["happened"] == "2025-11-21T04:40:01.000000Z"
    assert (memory["replaced_by"], memory["closed"], memory["kind"]) == (None, None, "episode")


def test_recalled_memories_carry_their_labels(brain: Brain) -> None:
    """An answer has the labels of every memory in it, so that what came from outside stays marked."""
    brain.add("the owner likes tea")
    brain.labels = ("host:example.org",)
    brain.add("a page about tea")
    brain.found("tea")
    assert brain.answer_labels == ("host:example.org", "owner")
    brain.found("nothing of that kind")
    assert brain.answer_labels == ()


def test_when_it_happened_is_kept_with_its_zone(brain: Brain) -> None:
    """A time with an offset is stored as that moment."""
    brain.add("the meeting", happened="2024-02-29T23:30:00+02:00")
    assert brain.found("meeting")[0]["happened"] == "2024-02-29T21:30:00.000000Z"


@pytest.mark.parametrize("time", ["yesterday", "2024-13-01T00:00:00Z", "2024-01-01T00:00:00", ""])
def test_a_time_that_cannot_be_read_is_refused_by_name(brain: Brain, time: str) -> None:
    """The refusal names the field and shows the form; nothing of the call is stored."""
    with pytest.raises(Refusal, match="happened") as caught:
        brain._handlers["brain.add"](_call({"items": [{"text": "good"}, {"text": "bad", "happened": time}]}))
    assert "RFC 3339" in (caught.value.remedy or "")
    assert brain.texts() == []


def test_a_fact_supersedes_the_live_one_with_its_subject_and_key(brain: Brain) -> None:
    """The old fact is closed and points to the new one; only the new one is recalled, the history has both."""
    old = brain.fact("Ana", "city", "Ana lives in Utrecht")
    new = brain.fact(" ANA ", "City", "Ana lives in Ghent")
    assert brain.texts("where does Ana live") == ["Ana lives in Ghent"]
    assert "Ana lives in Utrecht" not in brain.texts("Utrecht")
    both = {memory["id"]: memory for memory in brain.found("Ana", history=True)}
    assert both[old]["replaced_by"] == new
    assert both[old]["closed"] == both[new]["created"]


def test_items_of_one_call_supersede_each_other(brain: Brain) -> None:
    """Two facts with the same subject and key in one call leave the last one live."""
    items = [{"text": text, "subject": "Ana", "key": "city"} for text in ("Utrecht", "Ghent", "Lyon")]
    brain("add", items=items)
    assert brain.texts() == ["Lyon"]
    assert brain.texts(history=True) == ["Lyon", "Ghent", "Utrecht"]


def test_a_subject_alone_supersedes_nothing(brain: Brain) -> None:
    """Memories about the same subject live side by side where no key says that they exclude each other."""
    brain.add("Ana sings", subject="Ana")
    brain.add("Ana paints", subject="Ana")
    assert len(brain.texts(subject="ana")) == 2


def test_a_correction_deletes_nothing(brain: Brain) -> None:
    """The new text is live, with the old one's subject, key and speaker; what was believed can still be asked."""
    old = brain.add("Ana lives in Utrecht", kind="fact", subject="Ana", key="city", speaker="owner")
    before = brain.found()[0]["created"]
    answer = brain("correct", id=old, text="Ana lives in Ghent", gist="she moved")
    assert answer == {"id": old + 1, "replaced": old}
    memory = brain.found("Ana")[0]
    assert (memory["text"], memory["kind"]) == ("Ana lives in Ghent", "correction")
    assert (memory["subject"], memory["key"], memory["speaker"]) == ("Ana", "city", "owner")
    assert brain.texts("Ana lives", as_of=before) == ["Ana lives in Utrecht"]
    assert brain.texts("Ana lives", as_of="2001-01-01T00:00:00Z") == []
    assert brain.texts(kinds=["fact"]) == brain.texts(kinds=["correction"]) == ["Ana lives in Ghent"]
    assert brain.texts(kinds=["lesson"]) == []


def test_a_superseded_memory_is_not_corrected_again(brain: Brain) -> None:
    """The refusal names the memory to correct instead."""
    first = brain.add("one")
    second = brain("correct", id=first, text="two")["id"]
    third = brain("correct", id=second, text="three")["id"]
    with pytest.raises(Refusal) as caught:
        brain("correct", id=first, text="four")
    assert f"memory {third}" in (caught.value.remedy or "")
    assert brain.texts() == ["three"]


@pytest.mark.parametrize("verb", ["correct", "forget"])
def test_a_memory_that_is_not_there_is_refused(brain: Brain, verb: str) -> None:
    """An unknown id is a refusal with a remedy, and nothing changes."""
    with pytest.raises(Refusal, match="no memory 99") as caught:
        brain(verb, id=99, **({"text": "x"} if verb == "correct" else {}))
    assert "brain.search" in (caught.value.remedy or "")


def test_forgetting_erases_a_memory_with_its_history(brain: Brain) -> None:
    """Predecessors and successors lose their words; rows without words stay, and are found by nothing."""
    first = brain.add("Ana has xanthelasma", subject="Ana", key="illness", speaker="Zebedee", note="quokka photo")
    second = brain("correct", id=first, text="Ana had xanthelasma once", gist="wombat")["id"]
    third = brain.fact("ana", "illness", "Ana is well")
    other = brain.add("Ana sings")
    assert brain("forget", id=second)["forgotten"] == [first, second, third]
    assert brain.texts("Ana", history=True) == brain.texts(history=True) == ["Ana sings"]
    with brain.store.open("main") as connection:
        rows = {row["id"]: row for row in export(connection)}
        assert check(connection) == []
    assert all(rows[first][field] is None for field in ("text", "subject", "key", "speaker", "gist", "note"))
    assert (rows[first]["source"], rows[first]["damaged"]) == ("agent:main", False)
    assert rows[first]["forgotten"] is not None
    assert rows[other]["forgotten"] is None
    assert brain("forget", id=first)["forgotten"] == []
    with pytest.raises(Refusal, match="forgotten"):
        brain("correct", id=third, text="x")


def test_a_forgotten_word_is_in_no_file(brain: Brain, tmp_path: Path) -> None:
    """No byte of the words is left: not in the rows, the index, the context of others, free pages or the log."""
    secrets = [f"zyx{number}qv" for number in range(40)]
    ids = []
    for number in range(400):
        ids.append(brain.add(f"plain talk {number} about the weather", speaker="Ana"))
        if number % 10 == 5:
            ids.append(brain.add(f"the word is {secrets[number // 10]} and", note=f"note {secrets[number // 10]}"))
    assert brain.texts(secrets[7])
    for number, secret in enumerate(secrets):
        (memory,) = [m for m in brain.found(secret) if secret in m["text"]]
        brain("forget", id=memory["id"])
        assert brain.texts(secret) == [], number
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert [secret for secret in secrets if secret.encode() in content] == []
    with brain.store.open("main") as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, recall, row)")
        assert not connection.execute("SELECT term FROM temp.words WHERE term LIKE 'zyx%'").fetchall()
        assert check(connection) == []


def test_forgetting_clears_the_context_of_the_next_two(brain: Brain) -> None:
    """A memory that was found by what was said before it is not found by that any more."""
    asked = brain.add("Did you see the pangolin?")
    brain.add("Yes, it was lovely")
    brain.add("We stayed until dark")
    assert len(brain.texts("pangolin")) == 3
    brain("forget", id=asked)
    assert brain.texts("pangolin") == []
    assert brain.texts("lovely")[0] == "Yes, it was lovely"


def test_a_lesson_says_what_failed_why_and_what_to_do(brain: Brain) -> None:
    """A lesson is one memory about its topic, found by each of its parts."""
    brain("lesson", text="The export failed", cause="the disk was full", remedy="check the space first", about="export")
    memory = brain.found("disk full")[0]
    assert memory["text"] == "The export failed\nBecause: the disk was full\nInstead: check the space first"
    assert (memory["kind"], memory["subject"]) == ("lesson", "export")
    assert brain.texts("space", kinds=["lesson"], subject="export") == [memory["text"]]


def test_a_repeated_effect_changes_nothing(brain: Brain) -> None:
    """Each effect, performed again with its run and ordinal, gets its stored answer and leaves the brain as it was."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("add", {"items": [{"text": "Ana lives in Utrecht", "subject": "Ana", "key": "city"}]}),
        ("correct", {"id": 1, "text": "Ana lives in Ghent"}),
        ("lesson", {"text": "ask first"}),
        ("forget", {"id": 3}),
    ]
    answers = [brain(verb, ordinal=number, **args) for number, (verb, args) in enumerate(calls, 1)]
    with brain.store.open("main") as connection:
        before = list(export(connection))
    assert [brain(verb, ordinal=number, **args) for number, (verb, args) in enumerate(calls, 1)] == answers
    with brain.store.open("main") as connection:
        assert list(export(connection)) == before


def test_an_effect_that_was_refused_is_not_remembered(brain: Brain) -> None:
    """After a refusal the same run and ordinal may still do something."""
    with pytest.raises(Refusal):
        brain("forget", id=1, ordinal=9)
    brain.add("x")
    assert brain("forget", id=1, ordinal=9) == {"forgotten": [1]}


def test_text_that_a_database_cannot_hold_is_mended(brain: Brain) -> None:
    """Half a surrogate pair, which JSON allows, becomes a question mark; a zero byte stays."""
    brain._handlers["brain.add"](_call({"items": [{"text": "broken \ud800 pear\x00tree", "speaker": "\udfff"}]}))
    assert brain.texts("pear") == ["broken ? pear\x00tree"]


@pytest.mark.parametrize("column", ["text", "labels", "source", "happened", "replaced_by"])
def test_a_changed_row_is_damaged(brain: Brain, column: str) -> None:
    """A row that is not what was written is reported by search, history and check, and marked in an export."""
    brain.add("apples")
    brain.add("pears")
    with brain.store.open("main") as connection:
        connection.pragma("foreign_keys", 0)
        connection.execute(f"UPDATE memory SET {column} = 12345 WHERE id = 1")  # noqa: S608 - a fixed name
    with pytest.raises(Damaged, match="Memory 1") as caught:
        brain.found("apples")
    assert "backup" in (caught.value.remedy or "")
    with brain.store.open("main") as connection:
        assert [row["damaged"] for row in export(connection)] == [True, False]
        assert check(connection) == ["memory 1: it is not what was written"]
        with pytest.raises(Damaged):
            history(connection, 1)


def test_check_notices_an_index_that_differs(brain: Brain) -> None:
    """The index is compared with what it was made from."""
    brain.add("apples")
    with brain.store.open("main") as connection:
        assert check(connection) == []
        connection.execute("UPDATE document SET text = 'pears'")
        assert any(line.startswith("index:") for line in check(connection))


def test_text_that_is_no_text_any_more_is_damaged(brain: Brain) -> None:
    """Bytes that are no UTF-8 are damage of that memory, in a search, an export and a check."""
    brain.add("apples")
    with brain.store.open("main") as connection:
        connection.execute("UPDATE memory SET text = CAST(x'a6ff' AS TEXT)")
    with pytest.raises(Damaged, match="Memory 1"):
        brain.found()
    with brain.store.open("main") as connection:
        assert list(export(connection)) == [{"id": 1, "damaged": True}]
        assert check(connection) == ["memory 1: it is not what was written"]


def test_check_survives_pages_that_were_overwritten(tmp_path: Path) -> None:
    """Whatever is written over a page, the check gives findings instead of an error of the driver."""
    store = AgentDatabases(tmp_path, BRAIN_MIGRATIONS)
    brain = Brain(store)
    brain("add", items=[{"text": f"memory {number} " * 40} for number in range(60)])
    store.close()
    path = tmp_path / "main.db"
    sound, dice = path.read_bytes(), random.Random(5)  # noqa: S311 - repeatable on purpose
    noticed = 0
    for _ in range(25):
        content = bytearray(sound)
        used = [at for at in range(4096, len(content), 64) if content[at : at + 64].count(0) < 16]
        at = dice.choice(used)
        content[at : at + 64] = dice.randbytes(64)
        path.write_bytes(content)
        connection = apsw.Connection(str(path))
        noticed += bool(check(connection))
        connection.close()
    assert noticed >= 20


def test_history_and_export_are_for_people(brain: Brain) -> None:
    """A history is the whole chain from any of its memories; an unknown id is a refusal."""
    first = brain.fact("Ana", "city", "Utrecht")
    second = brain.fact("Ana", "city", "Ghent")
    third = brain("correct", id=second, text="Lyon")["id"]
    brain.add("something else")
    with brain.store.open("main") as connection:
        for each in (first, second, third):
            assert [memory["text"] for memory in history(connection, each)] == ["Utrecht", "Ghent", "Lyon"]
        assert [row["id"] for row in export(connection)] == [1, 2, 3, 4]
        assert json.loads(json.dumps(list(export(connection))))[0]["replaced_by"] == second
        assert history(connection, 99) == []
    assert [memory["text"] for memory in brain("history", id=third)["memories"]] == ["Utrecht", "Ghent", "Lyon"]
    with pytest.raises(Refusal, match="no memory 99"):
        brain("history", id=99)


def test_an_export_comes_in_pages(brain: Brain) -> None:
    """Pages of an export follow each other without a gap, and the last one is empty; a damaged row is marked."""
    brain("add", items=[{"text": f"memory {number}"} for number in range(1, 8)])
    with brain.store.open("main") as connection:
        connection.execute("UPDATE memory SET text = 'changed' WHERE id = 4")
    pages = [brain("export", after=after, limit=3)["memories"] for after in (0, 3, 6, 7)]
    assert [[memory["id"] for memory in page] for page in pages] == [[1, 2, 3], [4, 5, 6], [7], []]
    assert [memory["id"] for memory in brain("export")["memories"] if memory["damaged"]] == [4]


def test_two_live_facts_of_one_kind_cannot_be_written(brain: Brain) -> None:
    """The rule of one live fact for each subject and key is the database's own, not only the code's."""
    brain.fact("Ana", "city", "Utrecht")
    brain.fact("Ana", "city", "Ghent")
    with brain.store.open("main") as connection, pytest.raises(apsw.ConstraintError):
        connection.execute("UPDATE memory SET closed = NULL")


steps = st.lists(
    st.one_of(
        st.tuples(st.just("fact"), st.sampled_from(["Ana", "ANA", "Ben"]), st.sampled_from(["city", "job", "City"])),
        st.tuples(st.just("plain"), st.none(), st.none()),
        st.tuples(st.just("correct"), st.integers(1, 12), st.none()),
        st.tuples(st.just("forget"), st.integers(1, 12), st.none()),
    ),
    max_size=14,
)
NUMBERS = iter(range(10_000))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_history_is_never_lost(store: AgentDatabases, steps: list[tuple[str, Any, Any]]) -> None:
    """After any series of changes every memory has its row and, unless forgotten, its text.

    At most one is live for each subject and key, what was superseded leads on, and the brain checks out.
    """
    brain = Brain(store, f"agent-{next(NUMBERS)}")
    with store.open(brain.agent) as connection:
        connection.pragma("synchronous", "off")
    stored: dict[int, str | None] = {}
    for number, (verb, first, second) in enumerate(steps):
        text = f"text {number}"
        try:
            if verb == "fact":
                stored[brain.fact(first, second, text)] = text
            elif verb == "plain":
                stored[brain.add(text)] = text
            elif verb == "correct":
                stored[brain("correct", id=first, text=text)["id"]] = text
            else:
                stored.update(dict.fromkeys(brain("forget", id=first)["forgotten"]))
        except Refusal:
            pass
    with store.open(brain.agent) as connection:
        rows = {row["id"]: row for row in export(connection)}
        assert check(connection) == []
    assert {identity: row["text"] for identity, row in rows.items()} == stored
    live = [row for row in rows.values() if row["closed"] is None]
    slots = [(row["subject"].lower(), row["key"].lower()) for row in live if row["key"]]
    assert len(slots) == len(set(slots))
    assert all(row["replaced_by"] in rows for row in rows.values() if row["closed"] and not row["forgotten"])
    assert sorted(brain.texts(limit=200)) == sorted(row["text"] for row in live)


WRITER = """
import sys, time
from pathlib import Path
from loket.contracts import OWNER, Call
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases

brain = BrainProvider(AgentDatabases(Path(sys.argv[1]), BRAIN_MIGRATIONS), time.time)
number = int(sys.argv[2])
while True:
    number += 1
    item = {"text": f"marker{number} was said", "subject": f"s{number % 7}", "key": "last"}
    call = Call(sys.argv[2], number, "main", "talk", OWNER, "brain.add", {"items": [item, {"text": "and more"}]}, ())
    brain.add(call)
    print(number, flush=True)
"""


def test_nothing_acknowledged_is_lost_to_a_kill(tmp_path: Path) -> None:
    """`kill -9` in mid-write, twelve times over: every acknowledged memory is there, whole, and the file is sound."""
    acknowledged: list[int] = []
    dice = random.Random(3)  # noqa: S311 - repeatable on purpose
    for turn in range(12):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(turn * 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            acknowledged += [int(process.stdout.readline()) for _ in range(dice.randrange(1, 25))]
            os.kill(process.pid, signal.SIGKILL)
            acknowledged += [int(line) for line in process.stdout.read().splitlines()]
    store = AgentDatabases(tmp_path, BRAIN_MIGRATIONS)
    brain = Brain(store)
    with store.open("main") as connection:
        assert check(connection) == []
        rows = list(export(connection))
    stored = {int(row["text"].split()[0].removeprefix("marker")) for row in rows if row["subject"]}
    assert set(acknowledged) <= stored
    assert len(stored) * 2 == len(rows)
    assert len([row for row in rows if row["subject"] and row["closed"] is None]) <= 7
    last = max(stored)
    assert brain.texts(f"marker{last}")[0] == f"marker{last} was said"
    store.close()


def _call(args: Mapping[str, Any]) -> Call:
    return Call("other", 1, "main", "", Principal("agent", "main"), "brain.add", args, ())
