"""Which sentences of a document the classifier looks at: those that may be requests, and few of them.

A classifier that reads whole pages flags most of them, as a page about software is full of imperatives.
"""

import re
from collections.abc import Iterator, Sequence

from loket.filter.report import Mark

SHORT = 4_000
"""Characters of a document (a mail, a message, a tool's answer) of which every sentence is looked at."""

_MOST = 60
_FEWEST = 3
"""Words of a sentence; fewer are a heading or a cell of a table."""
_SENTENCE = re.compile(r"[^.!?\n]{12,600}(?:[.!?]+|(?=\n)|$)")


def windows(text: str, marks: Sequence[Mark]) -> Iterator[tuple[int, int]]:
    """Start and end of the sentences to look at: all of a short text, of a long one those with a mark in them."""
    if len(text) <= SHORT:
        found = (one.span() for one in _SENTENCE.finditer(text))
        spans = (span for span in found if len(text[slice(*span)].split()) >= _FEWEST)
    else:
        spans = (_around(text, mark) for mark in marks)
    seen: set[tuple[int, int]] = set()
    for span in spans:
        if span not in seen:
            seen.add(span)
            yield span
        if len(seen) >= _MOST:
            return


def _around(text: str, mark: Mark) -> tuple[int, int]:
    """The sentence in which a mark begins, at most 600 characters of it."""
    start = max(text.rfind(end, max(0, mark.start - 300), mark.start) for end in "\n.!?") + 1
    start = max(start, mark.start - 300)
    ends = [place for end in "\n.!?" if (place := text.find(end, mark.end, mark.end + 300)) >= 0]
    return start, min(ends, default=min(len(text), mark.end + 300))
