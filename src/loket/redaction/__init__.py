"""Redaction: what must not leave is taken out of everything that leaves, and canaries are reported."""

from loket.redaction.canary import canary
from loket.redaction.found import KINDS, Found, Leak, Redacted
from loket.redaction.redactor import Redactor
from loket.redaction.settings import READERS, kinds_for, regions_of
from loket.redaction.stream import Stream

__all__ = [
    "KINDS",
    "READERS",
    "Found",
    "Leak",
    "Redacted",
    "Redactor",
    "Stream",
    "canary",
    "kinds_for",
    "regions_of",
]
