"""The error tree. Its branches are what the caller should do; every error says who is to blame and what would help.

* `Refusal`: ask for something else, or have the owner allow it (the remedy says how).
* `Failed`: the call was allowed and tried, and did not work; trying again may help.
* `RunEnded`: the run is over; a limit or a trap ended it.
* `BadInput`: what the owner or a file said is wrong; mend it.
* `Damaged`: stored state is not what was written; restore it.
"""

import shlex
from collections.abc import Mapping
from typing import Any


class LoketError(Exception):
    """Base of all errors that Loket raises on purpose.

    `code` is stable and dotted (`grant.missing`), `message` a sentence for a person, `remedy` the exact line or
    command that would help, `blame` one of `owner`, `module`, `provider`, `machine`.
    """

    kind = "failure"
    """Which branch it is, where it is written down."""
    blame = "machine"

    def __init__(self, code: str, message: str, remedy: str | None = None, *, blame: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy
        self.run: str | None = None
        """The run in which it happened, where that helps."""
        if blame is not None:
            self.blame = blame

    def as_dict(self) -> dict[str, Any]:
        """The error as an object: `kind`, `code`, `message`, `remedy`, `blame`."""
        return {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "blame": self.blame,
        }


class Refusal(LoketError):
    """The counter said no. The module gets it as a value and may go on."""

    kind = "refusal"
    blame = "module"

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str | None = None,
        *,
        rules: tuple[str, ...] = (),
        blame: str | None = None,
    ) -> None:
        super().__init__(code, message, remedy, blame=blame)
        self.rules = rules


class Failed(LoketError):
    """An allowed call was tried and did not work (a provider, a model, a disk)."""

    kind = "failure"
    blame = "provider"


class RunEnded(LoketError):
    """The run cannot go on: a limit was reached or the module trapped. Terminal."""

    kind = "ended"
    blame = "module"


class BadInput(LoketError):
    """What a person or a file said is wrong; the message names the field."""

    kind = "input"
    blame = "owner"


class Damaged(LoketError):
    """Stored state is not what was written (digest, chain or database check)."""

    kind = "damaged"


_BRANCHES: Mapping[str, type[LoketError]] = {
    branch.kind: branch for branch in (Refusal, Failed, RunEnded, BadInput, Damaged)
}


_LONGEST_WORD = 200
"""Characters of a word that is put into a command; a longer one is nothing that a person would look over."""


def command(*words: str) -> str | None:
    """A line `loket ...` for an owner to copy into a shell, each word quoted as it needs.

    Words come from modules too: with a `;` in one, a line that is not quoted would run whatever follows. None where a
    word is longer than 200 characters or cannot be printed, as nobody would see what the line does.
    """
    if not all(len(word) <= _LONGEST_WORD and word.isprintable() for word in words):
        return None
    return shlex.join(("loket", *words))


def from_dict(value: Mapping[str, Any]) -> LoketError:
    """Rebuild an error from `as_dict`; one of an unknown kind is a `Failed`."""
    branch = _BRANCHES.get(str(value.get("kind")), Failed)
    return branch(str(value["code"]), str(value["message"]), value.get("remedy"), blame=str(value.get("blame")))
