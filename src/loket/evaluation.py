"""Measures recall on a set of conversations with questions, through the brain's real handlers.

The format is LoCoMo's (`locomo10.json` of snap-research/locomo): a list of conversations, each with sessions of turns,
a date per session, questions with the turns that hold the answer, and one-line observations of turns. Recall at k is
the share of a question's evidence turns among the first k memories, averaged over the questions; MRR is the mean of
1 / rank of the first evidence turn. One brain a conversation, one memory a turn.
"""

import datetime as dt
import itertools
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import OWNER, Answer, BadInput, Call
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases

CATEGORIES = (1, 2, 3, 4)
"""Several memories, time, open domain, one memory. Category 5 has no answer to find."""
DEPTH = 200
"""Memories asked for with each question."""
CUTS = (5, 10, 20)
BATCH = 64

_EVIDENCE = re.compile(r"D:?(\d+):(\d+)")
_CLEAN_EVIDENCE = re.compile(r"D\d+:\d+")
_SESSION = re.compile(r"session_(\d+)")
_MONTHS = "january february march april may june july august september october november december"
_DATE = re.compile(r"(\d+):(\d+) (am|pm) on (\d+) (\w+), (\d+)")


@dataclass(frozen=True, slots=True)
class _Turn:
    id: str
    session: int
    happened: str
    item: Mapping[str, Any]
    """An item of `brain.add`, its gist left out."""


@dataclass(frozen=True, slots=True)
class _Question:
    text: str
    category: int
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Conversation:
    id: str
    turns: Sequence[_Turn]
    gists: Mapping[str, str]
    questions: Sequence[_Question]
    repaired: int
    dropped: int


def evaluate(path: Path, progress: Callable[[int, int], None] | None = None, *, gists: bool = False) -> dict[str, Any]:
    """Measure recall on the file at `path`; `progress` gets (questions asked, questions in all).

    Answers `n` (questions), `r5`, `r10`, `r20`, `mrr`; `categories` (by number as text) and `conversations` (by id)
    with the same figures each; `repaired` and `dropped` (evidence that was malformed, or names no turn). With `gists`,
    the observations are stored as write-time gists in a second pass, and `gists` holds the same figures of that.

    Raises `BadInput` for a file that is not in the format.
    """
    conversations = _load(path)
    asked = itertools.count(1)
    total = sum(len(c.questions) for c in conversations) * (2 if gists else 1)

    def step() -> None:
        if progress is not None:
            progress(next(asked), total)

    result = {
        **_measure(conversations, step, gists=False),
        "repaired": sum(c.repaired for c in conversations),
        "dropped": sum(c.dropped for c in conversations),
    }
    return {**result, "gists": _measure(conversations, step, gists=True)} if gists else result


def _measure(conversations: Sequence[_Conversation], step: Callable[[], None], *, gists: bool) -> dict[str, Any]:
    """The figures of all conversations in brains of their own."""
    scores: list[tuple[str, int, dict[str, float]]] = []
    with tempfile.TemporaryDirectory(prefix="loket-eval-") as folder:
        store = AgentDatabases(Path(folder), BRAIN_MIGRATIONS, limit=2)
        try:
            for number, conversation in enumerate(conversations):
                brain = _Brain(store, f"conversation-{number}")
                brain.fill(conversation, gists=gists)
                for question in conversation.questions:
                    scores.append((conversation.id, question.category, _score(brain.ask(question.text), question)))
                    step()
        finally:
            store.close()
    return {
        **_mean(score for _, _, score in scores),
        "categories": {str(c): _mean(score for _, category, score in scores if category == c) for c in CATEGORIES},
        "conversations": {c.id: _mean(score for name, _, score in scores if name == c.id) for c in conversations},
    }


class _Brain:
    """One conversation's brain, behind the handlers that a module reaches."""

    def __init__(self, store: AgentDatabases, agent: str) -> None:
        self._agent = agent
        self._clock = itertools.count(1.0)
        self._ordinals = itertools.count(1)
        self._provider = BrainProvider(store, lambda: next(self._clock))
        self._turns: dict[int, str] = {}

    def fill(self, conversation: _Conversation, *, gists: bool) -> None:
        for session, group in itertools.groupby(conversation.turns, key=lambda turn: turn.session):
            turns = list(group)
            for start in range(0, len(turns), BATCH):
                batch = turns[start : start + BATCH]
                items = [_item(turn, conversation.gists if gists else {}) for turn in batch]
                answer = self._provider.add(self._call("brain.add", {"items": items}, f"session-{session}"))
                self._turns.update(zip(answer.value["ids"], (turn.id for turn in batch), strict=True))

    def ask(self, question: str) -> list[str]:
        """The turns that are recalled, best first."""
        answer: Answer = self._provider.search(self._call("brain.search", {"query": question, "limit": DEPTH}, ""))
        return [self._turns[memory["id"]] for memory in answer.value["memories"]]

    def _call(self, capability: str, args: Mapping[str, Any], conversation: str) -> Call:
        return Call(
            run="evaluation",
            ordinal=next(self._ordinals),
            agent=self._agent,
            conversation=conversation,
            principal=OWNER,
            capability=capability,
            args=args,
            labels=("owner",),
        )


def _item(turn: _Turn, gists: Mapping[str, str]) -> dict[str, Any]:
    return {**turn.item, "gist": gists[turn.id]} if turn.id in gists else dict(turn.item)


def _score(found: Sequence[str], question: _Question) -> dict[str, float]:
    ranks = [rank for rank, turn in enumerate(found, 1) if turn in question.evidence]
    recall = {f"r{k}": sum(rank <= k for rank in ranks) / len(question.evidence) for k in CUTS}
    return {**recall, "mrr": 1 / ranks[0] if ranks else 0.0}


def _mean(scores: Iterable[dict[str, float]]) -> dict[str, Any]:
    """The number of scores, `n`, and the mean of each figure (0 where there are none), to four digits."""
    given = list(scores)
    names = [*(f"r{k}" for k in CUTS), "mrr"]
    return {"n": len(given), **{n: round(sum(s[n] for s in given) / max(1, len(given)), 4) for n in names}}


def _load(path: Path) -> list[_Conversation]:
    try:
        return _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInput("eval.file", f"PATH: {path} cannot be read ({error})", "Give the path of a file") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(
            "eval.format",
            f"PATH: {path} is not in the format of LoCoMo ({type(error).__name__}: {error})",
            "Give a JSON list of conversations with `conversation` and `qa`, as in locomo10.json",
        ) from error


def _parse(text: str) -> list[_Conversation]:
    content = json.loads(text)
    if not isinstance(content, list):
        raise TypeError("it is no list")
    return [_conversation(number, value) for number, value in enumerate(content)]


def _conversation(number: int, value: Mapping[str, Any]) -> _Conversation:
    talk = value["conversation"]
    sessions = sorted(int(match[1]) for name in talk if (match := _SESSION.fullmatch(name)))
    turns = [turn for session in sessions for turn in _turns(session, talk)]
    known = {turn.id for turn in turns}
    questions: list[_Question] = []
    repaired = dropped = 0
    for question in value["qa"]:
        if question["category"] not in CATEGORIES:
            continue
        evidence, mended, lost = _evidence(question["evidence"], known)
        repaired += mended
        dropped += lost
        if evidence:
            questions.append(_Question(str(question["question"]), question["category"], evidence))
    return _Conversation(
        id=str(value.get("sample_id", number)),
        turns=turns,
        gists=_gists(value.get("observation", {})),
        questions=questions,
        repaired=repaired,
        dropped=dropped,
    )


def _turns(session: int, talk: Mapping[str, Any]) -> list[_Turn]:
    happened = _date(talk[f"session_{session}_date_time"])
    return [
        _Turn(
            id=turn["dia_id"],
            session=session,
            happened=happened,
            item={
                "text": turn["text"] or "-",
                "speaker": turn["speaker"],
                "happened": happened,
                **({"note": turn["blip_caption"]} if turn.get("blip_caption") else {}),
            },
        )
        for turn in talk[f"session_{session}"]
    ]


def _evidence(given: Sequence[str], known: set[str]) -> tuple[frozenset[str], int, int]:
    """The turns of a question's evidence, and how many entries were mended and how many ids dropped."""
    turns: set[str] = set()
    mended = lost = 0
    for entry in given:
        found = [f"D{int(session)}:{int(turn)}" for session, turn in _EVIDENCE.findall(entry)]
        mended += bool(found) and not _CLEAN_EVIDENCE.fullmatch(entry)
        lost += sum(turn not in known for turn in found) or not found
        turns.update(turn for turn in found if turn in known)
    return frozenset(turns), mended, lost


def _gists(observations: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, str]:
    """Turn to its observations, joined."""
    lines: dict[str, list[str]] = defaultdict(list)
    for session in observations.values():
        for text, where in itertools.chain.from_iterable(session.values()):
            for number, turn in _EVIDENCE.findall(" ".join([where] if isinstance(where, str) else where)):
                lines[f"D{int(number)}:{int(turn)}"].append(text)
    return {turn: " ".join(texts) for turn, texts in lines.items()}


def _date(text: str) -> str:
    """`1:56 pm on 8 May, 2023` in the form of RFC 3339, taken as UTC."""
    match = _DATE.fullmatch(text.strip().lower())
    if match is None:
        raise ValueError(f"{text!r} is no date of a session")
    hour, minute, half, day, month, year = match.groups()
    return dt.datetime(
        int(year),
        _MONTHS.split().index(month) + 1,
        int(day),
        int(hour) % 12 + (12 if half == "pm" else 0),
        int(minute),
        tzinfo=dt.UTC,
    ).isoformat()
