"""A text that leaves in pieces while it is written, redacted as if it were whole.

What a finding depends on is bounded, to both sides. So a stream keeps back what may still become part of one, and
gives out the rest. Ordinary prose is let go word by word: no finding contains two small letters, or letters of other
scripts, with a blank behind them, except values that are looked for by value, and of those the beginning is known.
"""

import re
from collections.abc import Callable, Sequence
from typing import Protocol

from loket.redaction import national, needles, personal, phones, tokens
from loket.redaction.found import UNSPACED, Found, mark

CONTEXT = 512
"""Characters that are kept of what has left: the word before a password, the digits before a number."""

HOLD = 2 * needles.SPAN + tokens.KEY_SPAN + tokens.SPAN + personal.SPAN + national.SPAN + phones.SPAN + CONTEXT
"""Characters that are held back at most: what the layers of findings can depend on, one behind the other."""

_STEP = 2048
"""Characters by which a text without any word grows before it is looked at again."""

_BREAK = re.compile(rf"(?:[^\W\d_A-Z]{{2}}[.,;:!?)]?\s(?<!\[redacted: )|[{UNSPACED}])")
"""Behind it a finding may begin; none goes across it."""

_KEY_START = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY|PuTTY-User-Key-File-")
_KEY_LINE = 300
"""Characters of the longest line in a private key's frame."""


class _Region(Protocol):
    """What a stream reads of a region."""

    @property
    def kind(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def agent(self) -> str | None: ...


class Stream:
    """Redacts a text that comes in pieces: all that `feed` and `end` give is what the whole text would have become.

    At most about `HOLD` characters are kept back, of ordinary prose a word or two. `found` and `canary` say what has
    been seen so far; offsets are those of the whole text.
    """

    def __init__(self, regions: Callable[[str], Sequence[_Region]], held: Callable[[str], int]) -> None:
        self._regions, self._held = regions, held
        self._buffer = ""
        self._before = 0
        """Characters of the whole text that are no longer in the buffer."""
        self._done = 0
        """How far the buffer has left."""
        self._seen = 0
        """How far the buffer was looked at."""
        self.found: list[Found] = []
        self.canary: str | None = None

    def feed(self, piece: str) -> str:
        """Take the next piece; gives what may leave by now, often nothing."""
        self._buffer += piece
        large = len(self._buffer) - self._done > HOLD + _STEP
        if not large and not _BREAK.search(self._buffer, max(self._done, self._seen - 4)):
            return ""
        until = max(self._free(), len(self._buffer) - HOLD if large else 0)
        self._seen = len(self._buffer)
        return self._give(until) if until > self._done else ""

    def end(self) -> str:
        """The rest. The stream is over."""
        return self._give(len(self._buffer))

    def _free(self) -> int:
        """Up to where no finding can change any more."""
        limit = min(self._held(self._buffer), self._key())
        last = 0
        for match in _BREAK.finditer(self._buffer, self._done):
            if match.end() > limit:
                break
            last = match.end()
        return last

    def _key(self) -> int:
        """Where a private key begins whose end may not be there yet."""
        for match in _KEY_START.finditer(self._buffer, self._done):
            key = next(iter(tokens.private_keys(self._buffer[match.start() :])), None)
            unfinished = key is None or match.start() + key[2] + _KEY_LINE > len(self._buffer)
            if unfinished and len(self._buffer) - match.start() < tokens.KEY_SPAN + _KEY_LINE:
                return match.start()
        return len(self._buffer)

    def _give(self, until: int) -> str:
        pieces: list[str] = []
        regions = self._regions(self._buffer)
        for region in regions:
            if region.start < until:
                pieces += self._pass(region)
        if self._done < until:
            pieces.append(self._buffer[self._done : until])
            self._done = until
        self._trim(until, regions)
        return "".join(pieces)

    def _pass(self, region: _Region) -> list[str]:
        """Go over a region: with its mark, or without where its beginning has left already."""
        self.canary = self.canary or region.agent
        start, end = self._before + region.start, self._before + region.end
        if region.start < self._done:
            if region.end > self._done:
                last = self.found[-1]
                self.found[-1] = Found(last.kind, last.start, end)
                self._done = region.end
            return []
        plain = self._buffer[self._done : region.start]
        self.found.append(Found(region.kind, start, end))
        self._done = region.end
        return [plain, mark(region.kind)]

    def _trim(self, until: int, regions: Sequence[_Region]) -> None:
        """Forget what is far behind, at a place that is in no region: half of one would look like something else."""
        cut = max(0, min(until - CONTEXT, *(region.start for region in regions if region.end > until), until))
        cut = min((region.start for region in regions if region.start < cut < region.end), default=cut)
        self._buffer = self._buffer[cut:]
        self._before += cut
        self._done -= cut
        self._seen -= cut
