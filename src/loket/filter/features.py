"""The words of a text as numbers, for the classifier; the training script uses the very same function.

Feature hashing (Weinberger et al., 2009): a feature is a bucket, so that no vocabulary has to be loaded.
"""

import re
import zlib
from collections.abc import Iterable, Sequence

BUCKETS = 1 << 18
VERSION = 1
"""Of the features. Weights that were trained on other ones are refused."""

_WORD = re.compile(r"[^\W_]+|[<>{}\[\]|#*:!?]")
_FRONT = 8_000
_BACK = 2_000
"""Characters in which words are looked for."""
_HEAD = 320
_TAIL = 80
_LOUD = 4
"""Words in capitals in a row that count as shouting."""
_STEM = 5
"""Letters of a word that stand for its forms: enough for `ignore`, `ignoring`, and their German cousins."""


def words_of(text: str) -> Sequence[str]:
    """The words, and marks that carry meaning; of a long text the first 320 and the last 80."""
    if len(text) > _FRONT + _BACK:
        text = f"{text[:_FRONT]} {text[-_BACK:]}"
    words = _WORD.findall(text)
    return words if len(words) <= _HEAD + _TAIL else [*words[:_HEAD], *words[-_TAIL:]]


def features_of(text: str, names: Iterable[str] = ()) -> set[int]:
    """The buckets of a text: words, pairs, triples, beginnings of words and their pairs; `names` are found patterns."""
    crc = zlib.crc32
    buckets: set[int] = set()
    add = buckets.add
    last = before = stem = 0
    loud = 0
    for written in words_of(text):
        loud = loud + 1 if written.isupper() and len(written) > 1 else 0
        if loud == _LOUD:
            add(crc(b"loud", 0x33333333))
        word = written.lower()
        data = word.encode("utf-8", "surrogatepass")
        here = crc(data)
        add(here)
        add(crc(data, last ^ 0x5A5A))
        add(crc(data, before ^ 0xA5A5A5))
        short = word[:_STEM].encode("utf-8", "surrogatepass")
        add(crc(short, 0x77777777))
        add(crc(short, stem))
        before, last, stem = crc(data, last), here, crc(short, 0x1234567)
    for name in names:
        add(crc(name.encode(), 0x33333333))
    mask = BUCKETS - 1
    return {bucket & mask for bucket in buckets}
