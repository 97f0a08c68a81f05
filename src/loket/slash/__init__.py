"""Slash commands: what a person types instead of a message, answered with no model, the same on every surface.

The seam, for doors: `await slash(agent, text, conversation=..., sender=...)` is the reply, or None where the text is a
message. Whoever accepts messages as runs asks `await slash.request(...)` for the run that answers instead.
"""

from loket.slash.commands import Slash, System, needs_owner
from loket.slash.guest import CommandGuest
from loket.slash.words import OWN, Own, typed

__all__ = ["OWN", "CommandGuest", "Own", "Slash", "System", "needs_owner", "typed"]
