"""Recall: the memories that match a question best.

Candidates come from FTS5's bm25 over all columns; a few facts that bm25 cannot know order them: whose memory it is,
whether it only asks, whether it names a time where one is asked for. Weights were chosen on five conversations of
LoCoMo, each one measured with those chosen on the other four; all of them lie on a plateau.

In a large brain, bm25 of every row that has one frequent word would take most of the time (the matching itself is
ten times quicker). There, rows are scored where they hold one of the question's rarer words or two of the frequent
ones, with all words counted. Measured: at 100,000 rows, 99 % of the first ten are the same, in a third of the time; on
LoCoMo's five conversations in one brain, recall is the same where 10 % of the rows may be scored for single words, and
0.7 points lower where 3 % may.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter
from typing import Any, NamedTuple

import apsw

from loket.providers import brain_query as query
from loket.providers.brain_rows import folded, parse_time, public, read_all

BM25 = "bm25(recall, 1.0, 0.5, 0.7, 1.0, 0.6, 1.0, 0.4, 0.4)"
"""Weights of text, speaker, date, note, gist, topic and the two context columns."""
NAME_BOOST = 0.4
"""Share of the best score that is added where the question names the memory's speaker or subject."""
QUESTION_LOSS = 0.4
"""Share of its own score that a memory loses which only asks."""
TIME_GAIN = 0.2
"""Share of its own score that a memory gains which names a time, where the question asks for one."""
CANDIDATES = 48
"""Rows that are ordered, at least; twice the limit where that is more."""
SCORED = 2_000
"""Rows that frequent words may add to the scored ones; brains with fewer rows are scored whole."""
PAIRED = 4
"""Frequent words, the rarest of them, of which two together select a row."""

# A name is followed by the end or by a blank, and the exclamation mark is the next character after the blank.
_KNOWN = """
    SELECT w.value FROM json_each(?) AS w
    WHERE EXISTS (SELECT 1 FROM document WHERE told_by >= w.value AND told_by < w.value || '!')
        OR EXISTS (SELECT 1 FROM document WHERE about >= w.value AND about < w.value || '!')
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which memories may be found.

    `condition` is SQL on `memory AS m`, empty where all may; `past` says whether superseded ones are among them.
    """

    condition: str
    values: tuple[Any, ...]
    past: bool


class _Candidate(NamedTuple):
    id: int
    score: float
    asks: float
    dated: int
    past: int
    speaker: str | None
    subject: str | None


def search(connection: apsw.Connection, args: dict[str, Any], conversation: str = "") -> list[dict[str, Any]]:
    """The answer to `brain.search`: memories, best first; the newest where the question has no words to look for.

    `conversation` is the one in which the search is made.

    Raises `Refusal` for a time that cannot be read, `Damaged` for a row that is not what was written.
    """
    wanted = filter_of(args, conversation)
    limit = args.get("limit", 10)
    question = args["query"]
    terms = query.terms(question)
    if not terms:
        return _newest(connection, wanted, limit)
    known = _known_names(connection, question)
    ranked = _rank(_candidates(connection, terms, known, wanted, limit), known, asks_when=query.asks_when(question))
    scores = dict(ranked[:limit])
    return [public(row, scores[row["id"]]) for row in read_all(connection, list(scores))]


def filter_of(args: dict[str, Any], conversation: str = "") -> Filter:
    """The condition that the arguments of `brain.search` make. Raises `Refusal` for a time that cannot be read."""
    parts: list[str] = []
    values: list[Any] = []
    past = bool(args.get("history"))
    if "as_of" in args:
        moment = parse_time("as_of", args["as_of"])
        parts.append("m.created <= ?" if past else "m.created <= ? AND (m.closed IS NULL OR m.closed > ?)")
        values += [moment] if past else [moment, moment]
        past = True
    for field in ("subject", "key"):
        if field in args:
            parts.append(f"m.{field}_folded = ?")
            values.append(folded(args[field]))
    if args.get("conversation"):
        parts.append("m.conversation = ?")
        values.append(conversation)
    if "kinds" in args:
        places = ", ".join("?" * len(args["kinds"]))
        parts.append(f"(m.kind IN ({places}) OR m.corrects IN ({places}))")
        values += [*args["kinds"], *args["kinds"]]
    return Filter(" AND ".join(parts), tuple(values), past)


def _newest(connection: apsw.Connection, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    parts = ["m.forgotten IS NULL", *([] if wanted.past else ["m.closed IS NULL"])]
    condition = " AND ".join([*parts, *([wanted.condition] if wanted.condition else [])])
    sql = f"SELECT id FROM memory AS m WHERE {condition} ORDER BY id DESC LIMIT ?"  # noqa: S608 - made of fixed texts
    ids = [identity for (identity,) in connection.execute(sql, (*wanted.values, limit))]
    return [public(row, 0.0) for row in read_all(connection, ids)]


def _candidates(
    connection: apsw.Connection, terms: Sequence[str], known: frozenset[str], wanted: Filter, limit: int
) -> list[_Candidate]:
    """The rows with the best bm25, enough of them for the limit where there are enough."""
    match, depth = query.match_any(terms), max(CANDIDATES, 2 * limit)
    if not wanted.condition and _size(connection) > SCORED:
        for selected in _selections(connection, [term for term in terms if term not in known]):
            found = _believed(_best(connection, match, selected, wanted, depth), wanted)
            if len(found) >= max(limit, CANDIDATES // 2):
                return found
    while True:
        rows = _best(connection, match, None, wanted, depth)
        found = _believed(rows, wanted)
        if len(found) >= limit or len(rows) < depth:
            return found
        depth *= 8


def _believed(rows: list[_Candidate], wanted: Filter) -> list[_Candidate]:
    return rows if wanted.past else [row for row in rows if not row.past]


def _best(
    connection: apsw.Connection, match: str, selected: str | None, wanted: Filter, depth: int
) -> list[_Candidate]:
    narrower = "AND +recall.rowid IN (SELECT rowid FROM recall WHERE recall MATCH ?)" if selected else ""
    if wanted.condition:
        # The condition is made of fixed texts; every value is bound.
        narrower += f" AND EXISTS (SELECT 1 FROM memory AS m WHERE m.id = recall.rowid AND {wanted.condition})"  # noqa: S608
    sql = f"""
        SELECT r.id, -r.cost, d.asks, d.dated, d.past, d.told_by, d.about FROM (
            SELECT rowid AS id, {BM25} AS cost FROM recall WHERE recall MATCH ? {narrower} ORDER BY cost LIMIT ?
        ) AS r JOIN document AS d ON d.id = r.id
    """  # noqa: S608
    bound = (match, *([selected] if selected else []), *wanted.values, depth)
    return [_Candidate._make(row) for row in connection.execute(sql, bound)]


def _selections(connection: apsw.Connection, words: Sequence[str]) -> Iterator[str]:
    """Which rows of a large brain are worth scoring, as FTS5 expressions over a question's words that are no names.

    Narrow ones first; the next one, and in the end all rows, where too few were found. Names are scored, but select no
    rows: a speaker's is in every row of his.
    """
    if words and _rows(connection, query.match_any(words)) <= SCORED:
        yield query.match_any(words)
        return
    counted = sorted(((_rows(connection, query.match_any([word])), word) for word in words), key=itemgetter(0))
    totals = accumulate(count for count, _ in counted)
    rare = [word for total, (_, word) in zip(totals, counted, strict=True) if total <= SCORED]
    frequent = [word for _, word in counted[len(rare) : len(rare) + PAIRED]]
    if selected := query.match_selected(rare, frequent):
        yield selected
    if frequent and not rare:
        yield query.match_any(frequent[:1])


def _size(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM memory").get)


def _rows(connection: apsw.Connection, expression: str) -> int:
    """How many rows match, counted no further than needed."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM recall WHERE recall MATCH ? LIMIT ?)"
    return int(connection.execute(sql, (expression, SCORED + 1)).get)


def _rank(candidates: Sequence[_Candidate], known: frozenset[str], *, asks_when: bool) -> list[tuple[int, float]]:
    """Ids with their scores, best first, the newer first among equals."""
    bonus = NAME_BOOST * max((candidate.score for candidate in candidates), default=0.0)
    gain = TIME_GAIN if asks_when else 0.0
    scored = [
        (
            candidate.id,
            candidate.score * (1 - QUESTION_LOSS * candidate.asks + gain * candidate.dated)
            + (bonus if known and _is_named(known, candidate) else 0.0),
        )
        for candidate in candidates
    ]
    return sorted(scored, key=lambda pair: (-pair[1], -pair[0]))


def _known_names(connection: apsw.Connection, question: str) -> frozenset[str]:
    """The words of a question that are the name, or the first name, of a speaker or subject of this brain."""
    return frozenset(name for (name,) in connection.execute(_KNOWN, (json.dumps(query.names(question)),)))


def _is_named(known: frozenset[str], candidate: _Candidate) -> bool:
    return _is_name(known, candidate.speaker) or _is_name(known, candidate.subject)


def _is_name(known: frozenset[str], name: str | None) -> bool:
    return name is not None and (name in known or name.partition(" ")[0] in known)
