"""The policy: a pure function of a question, outside the kernel."""

from loket.policy.labels import PlainLabeller
from loket.policy.plain import PlainPolicy

__all__ = ["PlainLabeller", "PlainPolicy"]
