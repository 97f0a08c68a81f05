"""How visitors are named toward A2A."""

from loket.gateway.access import Visitor

WELL_KNOWN = "/.well-known/agent-card.json"
_OWNER = "owner"


def sender_of(visitor: Visitor | None) -> str:
    """A visitor's name: the owner, or `a2a/TOKEN`; cards are asked for by nobody."""
    if visitor is None:
        return ""
    return f"a2a/{visitor.name}" if visitor.kind == "token" else _OWNER


def owner_says(name: str) -> bool:
    """Whether this name is the owner's own: no token's name looks like it."""
    return name == _OWNER
