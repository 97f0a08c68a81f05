"""Lessons: what went wrong before, recalled before it is tried again."""

import re
from typing import Any

from loket_guest.counter import call

_CAPABILITY = re.compile(r"[a-z][a-z0-9_]*(\.[a-z0-9_]+)+(@\d+)?")

_QUERY = 4_000
"""Characters of a topic that are looked for."""


def lessons(about: str, limit: int = 5) -> list[dict[str, Any]]:
    """Recall lessons about a capability (`lessons("net.fetch")`, the newest first) or a topic in words (best first).

    Each is a memory as `brain.search` answers it: its `text` says what was tried, why it did not work (a line that
    begins with `Because: `) and what to do instead (`Instead: `). Lessons that Loket drew from an error, and has not
    found to hold no longer, have the `source` `host:lessons`; `procedure` is the kind of several drawn together.

    Needs a grant for `brain.search`. Raises `Refused` as `call` does.
    """
    wanted: dict[str, Any] = {"query": about[:_QUERY], "kinds": ["lesson", "procedure"], "limit": limit}
    if _CAPABILITY.fullmatch(about):
        wanted |= {"query": "", "subject": about}
    found: list[dict[str, Any]] = call("brain.search", **wanted)["memories"]
    return found
