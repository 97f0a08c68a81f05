"""Redaction: what must not leave is taken out of everything that leaves, and canaries are reported."""

from loket.redaction.canary import canary
from loket.redaction.found import KINDS, Found, Leak, Redacted
from loket.redaction.needles import Needles
from loket.redaction.redactor import Plain, Redactor, plain_all
from loket.redaction.settings import READERS, kinds_for, regions_of
from loket.redaction.stream import Stream

__all__ = [
    "KINDS",
    "READERS",
    "Found",
    "Leak",
    "Needles",
    "Plain",
    "Redacted",
    "Redactor",
    "Stream",
    "canary",
    "kinds_for",
    "plain_all",
    "regions_of",
]
