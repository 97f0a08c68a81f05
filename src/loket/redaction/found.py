"""What redaction finds and gives back, and the mark that it leaves in the place of a value."""

import re
from dataclasses import dataclass

from loket.contracts import Json, RunEnded

KINDS = ("secret", "vault", "card", "iban", "national-id", "phone", "email", "canary")
"""What can be switched on. A finding of `secret` says which one: `secret.aws`."""

BARRIER = "\ufdd0"
"""Stands for each redacted character while the rest is searched: no pattern contains it, none goes across it.

It is one of Unicode's noncharacters, which no text has, and no letter, so that a mark beside a secret hides nothing.
"""

UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
"""Letters of scripts that put no blanks between words (Thai, Lao, Burmese, Khmer, Japanese, Chinese) and of Korean.

No finding by form has one in it, so a stream can let a text go after each.
"""

MARK = re.compile(r"\[redacted: (?:secret(?:\.[a-z]+)?|vault|card|iban|national-id|phone|email|canary)\]")


def mark(kind: str) -> str:
    """What stands in the place of a finding: `[redacted: card]`."""
    return f"[redacted: {kind}]"


@dataclass(frozen=True, slots=True)
class Found:
    """One redacted stretch: `start` and `end` are offsets, in characters, in the string at `path`.

    `path` is a JSON Pointer (RFC 6901) into the redacted value, `""` for a text of its own; for a stretch in a
    member's name it is the pointer of that member. The value itself is nowhere in it.
    """

    kind: str
    start: int
    end: int
    path: str = ""


@dataclass(frozen=True, slots=True)
class Redacted:
    """A value that may leave, what was taken out of it, and the agent whose canary was in it."""

    value: Json
    found: tuple[Found, ...] = ()
    canary: str | None = None


class Leak(RunEnded):
    """The canary of an agent was about to leave: its instructions are being copied out, so the agent stops."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            "canary.seen",
            f"a reference code that is planted in the instructions of {agent} was about to leave; nothing was sent",
            "look at what the run had read before it: a text there has told it to repeat its instructions",
        )
        self.agent = agent
