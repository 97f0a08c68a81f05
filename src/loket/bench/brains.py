"""Rows about recall: searches in brains of two sizes, through the handler that the counter calls."""

import itertools
import re
import time
from collections.abc import Iterator
from typing import Any

import apsw

from loket.bench import words
from loket.bench.place import Place
from loket.bench.rows import Peer, Taken
from loket.contracts import OWNER, Call
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.store.agents import AgentDatabases

SEARCHES = 300
"""Searches of one row, after a tenth as many that warm it up."""
PEER_SEARCHES = 50
LIMIT = 10
_BATCH = 64
_TALK = 40
"""Memories of one conversation."""
_AGENT = "measured"


def search(place: Place, n: int) -> Taken:
    """Searches among `n` memories; beside them a plain FTS5 table with the same texts, asked for the same words."""
    store = AgentDatabases(place.home(f"brain-{n}").root / "brains", BRAIN_MIGRATIONS)
    try:
        samples = _search(BrainProvider(store, time.time), n)
    finally:
        store.close()
    name = "a plain FTS5 table with the same texts: the words of the question joined by OR, ordered by bm25"
    return Taken(samples, (Peer(name, "ms", _plain(n)),))


def _search(brain: BrainProvider, n: int) -> list[float]:
    told = zip(itertools.count(), words.memories(n), strict=False)
    for ordinal, batch in enumerate(_batched(told), start=1):
        items = [{"text": text, "kind": "episode", "speaker": "user" if i % 2 else "agent"} for i, text in batch]
        brain.add(_call("brain.add", ordinal, f"talk-{batch[0][0] // _TALK}", {"items": items}))
    samples = []
    for ordinal, question in enumerate(words.questions(SEARCHES + SEARCHES // 10)):
        call = _call("brain.search", ordinal, "now", {"query": question, "limit": LIMIT})
        started = time.perf_counter()
        brain.search(call)
        samples.append((time.perf_counter() - started) * 1000)
    return samples[SEARCHES // 10 :]


def _batched(told: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while batch := list(itertools.islice(told, _BATCH)):
        yield batch


def _call(capability: str, ordinal: int, conversation: str, args: dict[str, Any]) -> Call:
    return Call("bench", ordinal, _AGENT, conversation, OWNER, capability, args, (str(OWNER),))


def _plain(n: int) -> list[float]:
    """Milliseconds a search in a plain full-text index in memory."""
    connection = apsw.Connection(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE told USING fts5(text, tokenize = 'porter unicode61')")
        connection.executemany("INSERT INTO told VALUES (?)", ((text,) for text in words.memories(n)))
        samples = []
        for question in words.questions(PEER_SEARCHES):
            asked = " OR ".join(f'"{word}"' for word in re.findall(r"\w+", question))
            started = time.perf_counter()
            connection.execute(
                "SELECT rowid, text FROM told WHERE told MATCH ? ORDER BY bm25(told) LIMIT ?", (asked, LIMIT)
            ).fetchall()
            samples.append((time.perf_counter() - started) * 1000)
    finally:
        connection.close()
    return samples
