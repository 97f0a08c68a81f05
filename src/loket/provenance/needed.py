"""Which capabilities a request can need: what its words do not ask for is refused without a question."""

import re
from functools import lru_cache

from loket.contracts import Capability
from loket.provenance.request import Request

_NO_VERB = frozenset(
    [
        "the",
        "a",
        "an",
        "that",
        "this",
        "these",
        "those",
        "his",
        "her",
        "my",
        "your",
        "our",
        "their",
        "its",
        "from",
        "in",
        "of",
        "following",
        "last",
        "any",
    ]
)
"""Words after which `message`, `text` or `mail` is a thing and no deed."""


@lru_cache(maxsize=4_096)
def _pattern(word: str) -> re.Pattern[str]:
    stem = re.escape(word.removeprefix("!").removesuffix("*"))
    return re.compile(
        rf"(?:(?P<before>[\w']+)\s+)?(?<![\w@./-]){stem}" + (r"\w*" if word.endswith("*") else r"(?![\w@])")
    )


def _said(request: Request, word: str) -> bool:
    """Whether the request says a word; `!message` asks for it as a deed, `pay*` for all that begin so."""
    found = _pattern(word).finditer(request.folded)
    return any(not word.startswith("!") or (match.group("before") or "") not in _NO_VERB for match in found)


def wanted(request: Request, capability: Capability) -> bool:
    """Whether a request may need a capability: it says a word of each group that the capability declares."""
    return all(any(_said(request, word) for word in group) for group in capability.data.wanted)
