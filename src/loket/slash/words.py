"""Which commands there are, and what of a text is one: pure functions.

A text is a command where its first word is exactly a slash and the name of one that is known. `/etc/hosts is wrong` is
a message, as its first word is no such name; `/rememberr` is neither: nothing but a slip of the pen looks like that.
"""

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass

NAME = re.compile(r"/([A-Za-z][A-Za-z0-9-]{0,30})")
_NEAR = 0.7
"""How alike (0 to 1) a name must be to a known one to be a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Own:
    """A command of Loket's own: how it is typed after the slash, and what it does. `owner`: for the owner alone."""

    name: str
    arguments: str
    summary: str
    owner: bool = False

    @property
    def usage(self) -> str:
        """As a person types it."""
        return f"/{self.name} {self.arguments}".strip()


OWN = (
    Own("help", "", "this list"),
    Own("remember", "TEXT", "keep it as a fact"),
    Own("recall", "WORDS", "what I remember about it; without words, the newest"),
    Own("forget", "NUMBER", "remove a memory and its history"),
    Own("correct", "NUMBER TEXT", "put a memory right"),
    Own("lesson", "TEXT", "what to do another way from now on"),
    Own("tools", "", "what I may use"),
    Own("skills", "", "the skills that I know of"),
    Own("runs", "", "the newest runs, those that go on first"),
    Own("stop", "[RUN]", "end a run; without one, those of this conversation"),
    Own("approve", "[ID]", "let a call that waits happen, once", owner=True),
    Own("deny", "[ID] [WHY]", "refuse a call that waits", owner=True),
    Own("status", "", "how things are"),
)
"""In the order of `/help`."""

BY_NAME = {one.name: one for one in OWN}


def typed(text: str) -> tuple[str, str] | None:
    """The name in small letters and the rest of what may be a command; None for what can be none."""
    words = text.strip().split(maxsplit=1)
    found = NAME.fullmatch(words[0]) if words else None
    return (found[1].lower(), words[1] if len(words) > 1 else "") if found is not None else None


def nearest(name: str, known: Collection[str]) -> list[str]:
    """The known names that a slip of the pen may have meant, best first."""
    return difflib.get_close_matches(name, known, n=3, cutoff=_NEAR)


def is_number(text: str) -> bool:
    """Whether a text is the number of a memory."""
    return text.isascii() and text.isdigit() and 0 < int(text[:19]) < 1 << 63
