"""The filter at the door: what tries to redefine an agent is flagged and labelled, on this machine and in milliseconds.

It is never the only defence. What an agent can do is decided at the counter, by where values come from; the filter
only tells owners and logs what a text looks like. Stages: `normalise`, `patterns`, separation (`fence`, `separate`),
and a classifier. A text's report never raises, except where the weights are damaged.
"""

from loket.filter.fence import delimiter_of, fence, separate
from loket.filter.normalise import Hidden, Normal, normalise
from loket.filter.patterns import find_patterns
from loket.filter.report import Mark, Report
from loket.filter.screen import Filter

__all__ = [
    "Filter",
    "Hidden",
    "Mark",
    "Normal",
    "Report",
    "delimiter_of",
    "fence",
    "find_patterns",
    "normalise",
    "separate",
]
