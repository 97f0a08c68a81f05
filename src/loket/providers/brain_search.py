"""Recall: the memories that match a question best.

Candidates come from FTS5's bm25 over all columns; a few facts that bm25 cannot know order them: whose memory it is,
whether it only asks, whether it names a time where one is asked for. Weights were chosen on five conversations of
LoCoMo, each one measured with those chosen on the other four; all of them lie on a plateau.

In a large brain, bm25 of every row that has one frequent word would take most of the time (the matching itself is
ten times quicker). There, rows are scored where they hold one of the question's rarer words or two of the frequent
ones, with all words counted; measured at 100,000 rows, the first ten are the same.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from loket.providers import brain_query as query
from loket.providers.brain_rows import SELECT, checked, folded, parse_time, public, read

BM25 = "bm25(recall, 1.0, 0.5, 0.7, 1.0, 0.6, 1.0, 0.4, 0.4)"
"""Weights of text, speaker, date, note, gist, topic and the two context columns."""
NAME_BOOST = 0.4
"""Share of the best score that is added where the question names the memory's speaker or subject."""
QUESTION_LOSS = 0.4
"""Share of its own score that a memory loses which only asks."""
TIME_GAIN = 0.2
"""Share of its own score that a memory gains which names a time, where the question asks for one."""
CANDIDATES = 64
"""Rows that are ordered, at least; twice the limit where that is more."""
SCORED = 4_000
"""Rows that frequent words may add to the scored ones; brains with fewer rows are scored whole."""

# A name is followed by the end or by a blank, and the exclamation mark is the next character after the blank.
_KNOWN = """
    SELECT w.value FROM json_each(?) AS w
    WHERE EXISTS (SELECT 1 FROM document WHERE told_by >= w.value AND told_by < w.value || '!')
        OR EXISTS (SELECT 1 FROM document WHERE about >= w.value AND about < w.value || '!')
"""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which memories may be found: an SQL condition on `memory AS m`, with its values."""

    condition: str
    values: tuple[Any, ...]
    plain: bool
    """Whether it is the ordinary one (what is believed now): the only one under which rows may be left unscored."""


class _Candidate(NamedTuple):
    id: int
    score: float
    asks: float
    dated: int
    speaker: str | None
    subject: str | None


def search(connection: apsw.Connection, args: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer to `brain.search`: memories, best first; the newest where the question has no words to look for.

    Raises `Refusal` for a time that cannot be read, `Damaged` for a row that is not what was written.
    """
    wanted = filter_of(args)
    limit = args.get("limit", 10)
    terms = query.terms(args["query"])
    if not terms:
        return _newest(connection, wanted, limit)
    ranked = _rank(connection, args["query"], _candidates(connection, terms, wanted, limit))
    return [public(found, score) for identity, score in ranked[:limit] if (found := read(connection, identity))]


def filter_of(args: dict[str, Any]) -> Filter:
    """The condition that the arguments of `brain.search` make. Raises `Refusal` for a time that cannot be read."""
    parts: list[str] = []
    values: list[Any] = []
    if "as_of" in args:
        moment = parse_time("as_of", args["as_of"])
        parts.append("m.created <= ?")
        values.append(moment)
        if not args.get("history"):
            parts.append("(m.closed IS NULL OR m.closed > ?)")
            values.append(moment)
    elif not args.get("history"):
        parts.append("m.closed IS NULL")
    plain = parts == ["m.closed IS NULL"]
    for field in ("subject", "key"):
        if field in args:
            plain = False
            parts.append(f"m.{field}_folded = ?")
            values.append(folded(args[field]))
    if "kinds" in args:
        plain = False
        places = ", ".join("?" * len(args["kinds"]))
        parts.append(f"(m.kind IN ({places}) OR m.corrects IN ({places}))")
        values += [*args["kinds"], *args["kinds"]]
    return Filter(" AND ".join(["m.forgotten IS NULL", *parts]), tuple(values), plain)


def _newest(connection: apsw.Connection, wanted: Filter, limit: int) -> list[dict[str, Any]]:
    sql = f"{SELECT} AS m WHERE {wanted.condition} ORDER BY id DESC LIMIT ?"
    return [public(checked(row), 0.0) for row in connection.execute(sql, (*wanted.values, limit))]


def _candidates(connection: apsw.Connection, terms: Sequence[str], wanted: Filter, limit: int) -> list[_Candidate]:
    selected = _selection(connection, terms) if wanted.plain else None
    narrower = "AND +recall.rowid IN (SELECT rowid FROM recall WHERE recall MATCH ?)" if selected else ""
    sql = f"""
        SELECT r.id, r.score, d.asks, d.dated, d.told_by, d.about FROM (
            SELECT rowid AS id, -{BM25} AS score FROM recall
            WHERE recall MATCH ? {narrower}
                AND EXISTS (SELECT 1 FROM memory AS m WHERE m.id = recall.rowid AND {wanted.condition})
            ORDER BY {BM25} LIMIT ?
        ) AS r JOIN document AS d ON d.id = r.id
    """  # noqa: S608 - fixed texts; every value is bound
    bound = (query.match_any(terms), *([selected] if selected else []), *wanted.values, max(CANDIDATES, 2 * limit))
    return [_Candidate._make(row) for row in connection.execute(sql, bound)]


def _selection(connection: apsw.Connection, terms: Sequence[str]) -> str | None:
    """Which rows are worth scoring in a large brain, as an FTS5 expression; None where all are."""
    if len(terms) == 1 or _rows(connection, query.match_any(terms)) <= SCORED:
        return None
    counted = sorted((_rows(connection, query.match_any([term])), term) for term in terms)
    rare = [counted[0][1]]
    total = counted[0][0]
    for count, term in counted[1:]:
        total += count
        if total > SCORED:
            break
        rare.append(term)
    return query.match_selected(rare, [term for _, term in counted[len(rare) :]])


def _rows(connection: apsw.Connection, expression: str) -> int:
    """How many rows match, counted no further than needed."""
    sql = "SELECT count(*) FROM (SELECT 1 FROM recall WHERE recall MATCH ? LIMIT ?)"
    return int(connection.execute(sql, (expression, SCORED + 1)).get)


def _rank(connection: apsw.Connection, question: str, candidates: Sequence[_Candidate]) -> list[tuple[int, float]]:
    """Ids with their scores, best first, the newer first among equals."""
    best = max((candidate.score for candidate in candidates), default=0.0)
    known = _known_names(connection, question)
    gain = TIME_GAIN if query.asks_when(question) else 0.0
    scored = [
        (
            candidate.id,
            candidate.score * (1 - QUESTION_LOSS * candidate.asks + gain * candidate.dated)
            + NAME_BOOST * best * _is_named(known, candidate),
        )
        for candidate in candidates
    ]
    return sorted(scored, key=lambda pair: (-pair[1], -pair[0]))


def _known_names(connection: apsw.Connection, question: str) -> frozenset[str]:
    """The words of a question that are the name, or the first name, of a speaker or subject of this brain."""
    return frozenset(name for (name,) in connection.execute(_KNOWN, (json.dumps(query.names(question)),)))


def _is_named(known: frozenset[str], candidate: _Candidate) -> bool:
    return bool(known) and any(
        name is not None and (name in known or name.partition(" ")[0] in known)
        for name in (candidate.speaker, candidate.subject)
    )
