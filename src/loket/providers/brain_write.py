"""What changes a brain. Every function here runs inside the caller's transaction."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import apsw

from loket.contracts import Call, Labels
from loket.providers import brain_query as query
from loket.providers.brain_rows import COLUMNS, digest, folded, seal

FIELDS = "text, speaker, date, note, gist, topic, context1, context2"
_INDEX = f"INSERT INTO recall (rowid, {FIELDS}) SELECT id, {FIELDS} FROM indexed WHERE id = ?"  # noqa: S608
_UNINDEX = f"INSERT INTO recall (recall, rowid, {FIELDS}) SELECT 'delete', id, {FIELDS} FROM indexed WHERE id = ?"  # noqa: S608

MERGED_PAGES = 32
"""Pages of the index that one change may rewrite so that it stays in few parts."""

_FOLDED = ("subject_folded", "key_folded")
_INSERT = (
    f"INSERT INTO memory ({', '.join((*COLUMNS, *_FOLDED, 'digest'))})"  # noqa: S608
    f" VALUES ({', '.join('?' * (len(COLUMNS) + len(_FOLDED) + 1))})"
)

_CHAIN = """
    WITH RECURSIVE
    later (id) AS (SELECT ?1 UNION SELECT m.replaced_by FROM memory AS m JOIN later USING (id)
        WHERE m.replaced_by IS NOT NULL),
    chain (id) AS (SELECT id FROM later UNION SELECT m.id FROM memory AS m JOIN chain AS c ON m.replaced_by = c.id)
    SELECT id FROM chain ORDER BY id
"""


@dataclass(frozen=True, slots=True)
class NewMemory:
    """A memory to be stored; times in seconds since 1970 UTC."""

    text: str
    kind: str
    created: float
    happened: float
    subject: str | None = None
    key: str | None = None
    speaker: str | None = None
    gist: str | None = None
    note: str | None = None
    corrects: str | None = None
    labels: Labels = ()


def insert(connection: apsw.Connection, call: Call, memory: NewMemory, *, replaces: int | None = None) -> int:
    """Store a memory and index it; its id.

    What it supersedes is closed first: `replaces`, and a live memory with the same subject and key.
    """
    subject, key = folded(memory.subject), folded(memory.key)
    closing = {replaces} if replaces is not None else set()
    closing |= _live(connection, subject, key)
    for old in closing:
        connection.execute("UPDATE memory SET closed = ? WHERE id = ?", (memory.created, old))
        connection.execute("UPDATE document SET past = 1 WHERE id = ?", (old,))
    identity = _next_id(connection)
    values = _values(identity, call, memory)
    connection.execute(_INSERT, (*values, subject, key, digest(values)))
    for old in closing:
        connection.execute("UPDATE memory SET replaced_by = ? WHERE id = ?", (identity, old))
        seal(connection, old)
    _add_document(connection, identity, call.conversation, memory)
    return identity


def tidy(connection: apsw.Connection) -> None:
    """Merge some of the index's parts, each of which every search has to read; bounded work, after each change."""
    connection.execute("INSERT INTO recall (recall, rank) VALUES ('merge', ?)", (MERGED_PAGES,))


def chain(connection: apsw.Connection, identity: int) -> list[int]:
    """A memory with all that it superseded and all that superseded it: ids, oldest first."""
    return [row[0] for row in connection.execute(_CHAIN, (identity,))]


class Erased(NamedTuple):
    """Ids of the memories that had words, and whether some of these linger in the index until `rebuild`."""

    ids: list[int]
    lingers: bool


def erase(connection: apsw.Connection, identities: Iterable[int], now: float, *, lingers: bool = False) -> Erased:
    """Remove the words of memories from the rows and the index. With `lingers` it is not looked whether some linger.

    What stays of each is a row without words: which run stored it, when, and that it was forgotten. The columns of
    other memories that showed it as context are indexed anew.
    """
    doomed = [i for i in identities if _is_remembered(connection, i)]
    touched = sorted(set(doomed).union(*(_shown_beside(connection, i) for i in doomed)))
    words = {word for i in doomed for word in _document_words(connection, i)}
    for other in touched:
        connection.execute(_UNINDEX, (other,))
    for old in doomed:
        connection.execute("DELETE FROM document WHERE id = ?", (old,))
        connection.execute(
            "UPDATE memory SET text = NULL, subject = NULL, key = NULL, speaker = NULL, gist = NULL, note = NULL,"
            " subject_folded = NULL, key_folded = NULL, conversation = '', labels = '[]',"
            " closed = coalesce(closed, ?1), forgotten = ?1 WHERE id = ?2",
            (now, old),
        )
        seal(connection, old)
    for other in touched:
        connection.execute(_INDEX, (other,))
    return Erased(doomed, lingers or any(_lingers(connection, word) for word in words))


def rebuild(connection: apsw.Connection) -> None:
    """Make the index anew from what is remembered: seconds, for a large brain."""
    connection.execute("INSERT INTO recall (recall) VALUES ('rebuild')")


def forget_source(connection: apsw.Connection, identity: int) -> None:
    """Keep of who asked for a memory only what kind of principal that was: a sender's name is personal."""
    shorter = "UPDATE memory SET source = substr(source, 1, instr(source, ':') - 1) WHERE id = ? AND instr(source, ':')"
    connection.execute(shorter, (identity,))
    if connection.changes():
        seal(connection, identity)


def _document_words(connection: apsw.Connection, identity: int) -> set[str]:
    """What was indexed of a memory, its date left out."""
    sql = "SELECT text || ' ' || speaker || ' ' || note || ' ' || gist || ' ' || topic FROM document WHERE id = ?"
    return {word for (words,) in connection.execute(sql, (identity,)) for word in str(words).split()}


def _lingers(connection: apsw.Connection, word: str) -> bool:
    """Whether a word that no memory has any more is still a signpost inside the index.

    FTS5 keeps the first term of each of its pages, or the part of it that tells it from the one before, in a table of
    its own (`recall_idx`, a byte before the term), from which its secure deletion removes nothing. Half a word counts.
    """
    if connection.execute("SELECT 1 FROM recall WHERE recall MATCH ? LIMIT 1", (query.match_any([word]),)).fetchone():
        return False
    letters = query.fold(word).encode()
    half = len(letters) // 2 + 1
    return bool(
        connection.execute(
            "SELECT 1 FROM recall_idx WHERE length(term) > ?1 AND substr(term, 2, ?1) = ?2 LIMIT 1",
            (half, letters[:half]),
        ).fetchone()
    )


def _values(identity: int, call: Call, memory: NewMemory) -> list[Any]:
    """The row of a new memory, in the order of `COLUMNS`."""
    return [
        identity,
        memory.kind,
        memory.corrects,
        memory.text,
        memory.subject,
        memory.key,
        memory.speaker,
        memory.gist,
        memory.note,
        call.conversation,
        memory.happened,
        str(call.principal),
        call.run,
        call.ordinal,
        json.dumps(memory.labels),
        memory.created,
        None,
        None,
        None,
    ]


def _next_id(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) + 1 FROM memory").get)


def _live(connection: apsw.Connection, subject: str | None, key: str | None) -> set[int]:
    """The live memory about this property of this subject: one id or none."""
    if subject is None or key is None:
        return set()
    rows = connection.execute(
        "SELECT id FROM memory WHERE subject_folded = ? AND key_folded = ? AND closed IS NULL", (subject, key)
    )
    return {row[0] for row in rows}


def _add_document(connection: apsw.Connection, identity: int, conversation: str, memory: NewMemory) -> None:
    before = [*_before(connection, identity, conversation), None, None]
    connection.execute(
        "INSERT INTO document"
        " (id, asks, dated, told_by, about, before1, before2, text, speaker, date, note, gist, topic)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            identity,
            query.question_share(memory.text),
            query.names_a_time(memory.text),
            folded(memory.speaker),
            folded(memory.subject),
            before[0],
            before[1],
            _words(memory.text),
            _words(memory.speaker),
            query.date_words(memory.happened),
            _words(memory.note),
            _words(memory.gist),
            _words(f"{memory.subject or ''} {memory.key or ''}"),
        ),
    )
    connection.execute(_INDEX, (identity,))


def _before(connection: apsw.Connection, identity: int, conversation: str) -> list[int]:
    """The last two memories of the conversation, the last first. Memories of no conversation have none."""
    if not conversation:
        return []
    rows = connection.execute(
        "SELECT id FROM memory WHERE conversation = ? AND id < ? ORDER BY id DESC LIMIT 2", (conversation, identity)
    )
    return [row[0] for row in rows]


def _shown_beside(connection: apsw.Connection, identity: int) -> set[int]:
    """The memories that have this one in a context column."""
    rows = connection.execute("SELECT id FROM document WHERE before1 = ?1 OR before2 = ?1", (identity,))
    return {row[0] for row in rows}


def _is_remembered(connection: apsw.Connection, identity: int) -> bool:
    row = connection.execute("SELECT forgotten IS NULL FROM memory WHERE id = ?", (identity,)).fetchone()
    return bool(row and row[0])


def _words(text: str | None) -> str:
    return " ".join(query.content_words(text)) if text else ""
