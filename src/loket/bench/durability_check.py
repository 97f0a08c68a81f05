"""What the durability campaign looks at afterwards: every promise of the journal, from the files of the home alone.

Nothing of the running system's memory is used: the home is opened again, its journal is checked and replayed, and each
store is compared with it in both directions: what the journal says was done is there once, and nothing else is there.
"""

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loket.app import Loket, running
from loket.bench.durability_work import AGENTS, Ledger, Message
from loket.contracts import Row, RowKind
from loket.home import Home
from loket.ids import derived_id
from loket.slash.guest import COMMAND
from loket.testing.models import InstantModel

_ENDED = (RowKind.CALL, RowKind.OUTCOME)
_STORING = ("brain.add", "brain.lesson", "brain.correct")


@dataclass(frozen=True, slots=True)
class Effect:
    """A call that was answered, as the journal has it."""

    run: str
    ordinal: int
    agent: str
    capability: str
    args: Mapping[str, Any]
    answer: Mapping[str, Any]


@dataclass
class Story:
    """A run as its rows tell it."""

    rows: list[Row]

    @property
    def start(self) -> dict[str, Any]:
        """Facts and value of the first row; empty where that is no start."""
        first = self.rows[0]
        return {**first.meta, **json.loads(first.value)} if first.kind is RowKind.START else {}

    def of(self, kind: RowKind) -> list[Row]:
        return [row for row in self.rows if row.kind is kind]

    def effects(self) -> Iterator[Effect]:
        """The calls that were answered, with their arguments."""
        intents = {row.ordinal: json.loads(row.value) for row in self.of(RowKind.INTENT)}
        agent = str(self.start.get("agent"))
        for row in self.rows:
            value = json.loads(row.value)
            if row.kind in _ENDED and "answer" in value:
                name = row.meta["capability"]
                args = value.get("args") or intents.get(row.ordinal, {}).get("args", {})
                yield Effect(row.run, row.ordinal, agent, name, args, value["answer"])


@dataclass
class Found:
    """What is in a home, and what is wrong with it."""

    ledger: Ledger
    stories: dict[str, Story] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.effects: list[Effect] = []

    def must(self, what: str, found: object, wanted: object) -> None:
        """Note a violation where two things differ."""
        if found != wanted:
            self.wrong.append(f"{what}: {found!r} instead of {wanted!r}")


async def examine(home: Home, ledger: Ledger) -> Found:
    """Every violation that is found in a home where nothing runs, all that was sent having been answered."""
    found = Found(ledger)
    found.wrong += ledger.broken
    async with running(home, llm=InstantModel(lambda _messages: ""), resume=False) as system:
        await asyncio.to_thread(_read, system, found)
        await asyncio.to_thread(_verify, system, found)
        _rows(found)
        _messages(system, found)
        _order(found)
        _marks(found)
        for agent in AGENTS:
            _memories(system, agent, found)
            _files(system, agent, found)
        _children(found)
    return found


def _read(system: Loket, found: Found) -> None:
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in system.journal.rows():
        if row.run:
            rows[row.run].append(row)
    found.stories = {run: Story(mine) for run, mine in rows.items()}
    found.effects = [effect for story in found.stories.values() for effect in story.effects()]


def _verify(system: Loket, found: Found) -> None:
    """The chain is whole, every run has ended, and replays to the same end."""
    ended = system.database.ended_runs()
    verdicts, faults = system.replayer.verify(ended)
    found.wrong += [f"the journal: {fault.reason}" for fault in faults]
    found.wrong += [f"run {verdict.run} does not replay: {verdict.reason}" for verdict in verdicts if not verdict.ok]
    found.must("runs that have not ended", sorted(found.stories.keys() - set(ended)), [])
    found.must("runs without rows", sorted(set(ended) - found.stories.keys()), [])


def _rows(found: Found) -> None:
    """One start and one end a run; one end a call; no effect without its intent, and no intent without its end."""
    for run, story in found.stories.items():
        found.must(f"starts of run {run}", len(story.of(RowKind.START)), 1)
        found.must(f"ends of run {run}", len(story.of(RowKind.END)), 1)
        ended = Counter(row.ordinal for row in story.rows if row.kind in _ENDED)
        found.must(f"ordinals of run {run}", sorted(ended.elements()), list(range(1, len(ended) + 1)))
        intents = {row.ordinal for row in story.of(RowKind.INTENT)}
        found.must(f"intents of run {run} without an end", sorted(intents - ended.keys()), [])
        outcomes = {row.ordinal for row in story.of(RowKind.OUTCOME)}
        found.must(f"outcomes of run {run} without an intent", sorted(outcomes - intents), [])


def _messages(system: Loket, found: Found) -> None:
    """Each message is one run; what was acknowledged is that run, what was answered is its answer."""
    runs: dict[tuple[str, str], list[str]] = defaultdict(list)
    for run, story in found.stories.items():
        said = _said(story.start)
        if said is not None:
            runs[(story.start["agent"], said)].append(run)
    for message in found.ledger.messages:
        mine = runs.get((message.agent, message.text), [])
        wanted = 1 if message.run is not None else min(len(mine), 1)
        found.must(f"runs of message {message.mark}", len(mine), wanted)
        if message.run is None:
            continue
        found.must(f"the run of message {message.mark}", mine[:1], [message.run])
        found.must(
            f"the key of {message.mark}", system.database.run_of_message(message.agent, message.mark), message.run
        )
        listed = system.database.run(message.run) or {}
        if message.answer is not None:
            answer = (listed.get("answer") or {}).get("text", listed.get("error"))
            found.must(f"the answer of {message.mark}", answer, message.answer)
        found.must(f"the status of {message.mark}", listed.get("status"), "done")


def _said(start: Mapping[str, Any]) -> str | None:
    """The text that a run was started with: a message's, or that of a command such as `/remember this`."""
    if start.get("operation") == COMMAND:
        return f"/{start['args']['command']} {start['args'].get('rest', '')}"
    return str(start["args"]["text"]) if start.get("operation") == "message" else None


def _order(found: Found) -> None:
    """In a conversation runs start and end in the order in which they were sent, and none begins before the last."""
    places: dict[tuple[str, str], list[Message]] = defaultdict(list)
    for message in found.ledger.messages:
        if message.run in found.stories:
            places[(message.agent, message.conversation)].append(message)
    for place, messages in places.items():
        seqs = [[row.seq for row in found.stories[str(message.run)].rows] for message in messages]
        starts, ends = [seq[0] for seq in seqs], [seq[-1] for seq in seqs]
        found.must(f"the order of acceptance in {place}", starts, sorted(starts))
        early = [m.mark for m, seq, end in zip(messages[1:], seqs[1:], ends, strict=False) if seq[1:2] < [end]]
        found.must(f"messages in {place} that were begun before the one before them had ended", early, [])
        found.must(f"the order of answers in {place}", ends, sorted(ends))


def _marks(found: Found) -> None:
    """Each effect that a message asked for happened once, by its mark, in the agent that it was for."""
    done = Counter(_names(found))
    texts = Counter(
        (s.start["agent"], s.start["args"].get("text")) for s in found.stories.values() if s.start.get("args")
    )
    for message in found.ledger.messages:
        if message.run is None:
            continue
        for name in ("keep", "write", "ask", "publish", "remember"):
            wanted = int(name in message.steps)
            found.must(f"{name} of message {message.mark}", done[(name, message.agent, message.mark)], wanted)
        asked = texts[(message.asks, f"asked {message.mark}")]
        found.must(f"runs of {message.asks} asked by {message.mark}", asked, int("ask" in message.steps))
        for agent in AGENTS:
            wanted = int("publish" in message.steps and agent != message.agent)
            found.must(f"runs of {agent} that heard {message.mark}", texts[(agent, f"heard {message.mark}")], wanted)


def _names(found: Found) -> Iterator[tuple[str, str, str]]:
    """Effects by what a message calls them, agent and mark."""
    for effect in found.effects:
        text = str(effect.args.get("text", ""))
        if effect.capability == "brain.add":
            item = effect.args["items"][0]
            word, _, mark = item["text"].partition(" ")
            if word == "kept":
                yield "keep", effect.agent, mark
            elif not mark and item["kind"] == "fact":
                yield "remember", effect.agent, word
        elif effect.capability == "fs.write":
            yield "write", effect.agent, text.partition(" ")[2]
        elif effect.capability == "agent.ask":
            yield "ask", effect.agent, text.partition(" ")[2]
        elif effect.capability == "message.publish":
            yield "publish", effect.agent, text.partition(" ")[2]


def _memories(system: Loket, agent: str, found: Found) -> None:
    """The brain holds the memories that the journal says were stored, each once, and no others."""
    wanted: Counter[Any] = Counter()
    for effect in found.effects:
        if effect.agent == agent and effect.capability in _STORING:
            items = effect.args.get("items") or [effect.args]
            ids = effect.answer.get("ids") or [effect.answer["id"]]
            wanted.update((effect.run, effect.ordinal, i, item["text"]) for i, item in zip(ids, items, strict=True))
    with system.brains.open(agent) as connection:
        there: Counter[Any] = Counter(connection.execute("SELECT run, ordinal, id, text FROM memory").fetchall())
    found.must(f"memories of {agent} beyond the journal", _some(there - wanted), [])
    found.must(f"memories of {agent} that are missing", _some(wanted - there), [])


def _files(system: Loket, agent: str, found: Found) -> None:
    """The folder holds the files that were written, with their texts, and no others; and each write is marked once."""
    writes = [effect for effect in found.effects if (effect.agent, effect.capability) == (agent, "fs.write")]
    root = system.home.files / agent
    there = {p.relative_to(root).as_posix(): p.read_text(encoding="utf-8") for p in _plain(root)}
    wanted = {str(effect.args["path"]): str(effect.args["text"]) for effect in writes}
    found.must(f"files of {agent} beyond the journal", _some(Counter(there.keys() - wanted.keys())), [])
    lost = [path for path, text in wanted.items() if there.get(path) != text]
    found.must(f"files of {agent} that are missing or differ", _some(Counter(lost)), [])
    with system.brains.open(agent) as connection:
        marked: Counter[Any] = Counter(connection.execute("SELECT run, ordinal FROM fs_applied").fetchall())
    found.must(f"marks of writes of {agent}", _some(marked - Counter((e.run, e.ordinal) for e in writes)), [])
    found.must(f"marks of writes of {agent}, missing", _some(Counter((e.run, e.ordinal) for e in writes) - marked), [])


def _plain(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()] if root.exists() else []


def _children(found: Found) -> None:
    """A run that was started by another one is what exactly one call says that it started."""
    wanted: Counter[str] = Counter()
    for effect in found.effects:
        if effect.capability == "agent.ask":
            child = derived_id(effect.run, effect.ordinal)
            wanted[child] += 1
            found.must(f"the answer of run {effect.run}, call {effect.ordinal}", effect.answer["run"], child)
        elif effect.capability == "message.publish":
            wanted.update(derived_id(effect.run, effect.ordinal, agent) for agent in effect.answer["delivered"])
    there = Counter(run for run, story in found.stories.items() if _started_by_agent(story))
    found.must("runs that no call started", _some(there - wanted), [])
    found.must("runs that were started and are missing", _some(wanted - there), [])


def _started_by_agent(story: Story) -> bool:
    return story.start.get("parent") is not None and str(story.start["principal"]).startswith("agent")


def _some(more: Counter[Any]) -> list[Any]:
    """The first of what was counted, so that a message stays readable."""
    return sorted(more.elements())[:5]


def counts(found: Sequence[Found]) -> dict[str, int]:
    """How much was examined: runs, calls and effects of all homes."""
    return {
        "messages": sum(one.ledger.acknowledged_count for one in found),
        "runs": sum(len(one.stories) for one in found),
        "effects": sum(effect.capability in _CHANGING for one in found for effect in one.effects),
    }


_CHANGING = frozenset({*_STORING, "fs.write", "agent.ask", "message.publish", "message.subscribe"})
