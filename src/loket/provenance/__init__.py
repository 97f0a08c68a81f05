"""Argument provenance: for each critical argument of a call, whether the owner named it, selected it, or neither.

This file is the public face. The engine is pure: the request, the owner and what clean reads found go in, findings
come out.
"""

from loket.provenance.answers import Reading
from loket.provenance.judge import Judge, judge, worst, writes
from loket.provenance.needed import wanted
from loket.provenance.owner import Owner
from loket.provenance.request import Request

__all__ = ["Judge", "Owner", "Reading", "Request", "judge", "wanted", "worst", "writes"]
