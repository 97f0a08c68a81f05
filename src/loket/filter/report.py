"""What the filter says about a text."""

from dataclasses import dataclass

NORMALISE = "normalise"
PATTERNS = "patterns"
CLASSIFIER = "classifier"

SUSPICIOUS = 0.5
"""A mark of at least this score makes a label; a weaker one is only told to the classifier, and to who reads marks."""

_LABELS = {NORMALISE: "suspect:hidden-text", PATTERNS: "suspect:pattern", CLASSIFIER: "suspect:classifier"}


@dataclass(frozen=True, slots=True)
class Mark:
    """One finding: the `stage` that made it, the finding's `name`, where it is, and a `score` from 0 to 1.

    `start` and `end` are characters of `Report.text`, `end` behind the last one. What is not in that text any more
    (characters that were taken out) is marked where it stood, with `start == end`.
    """

    stage: str
    name: str
    start: int
    end: int
    score: float = 1.0


@dataclass(frozen=True, slots=True)
class Report:
    """The filter's opinion of one text. It is advice: labels, colours and counters rest on it, never a permission.

    `text` is the normalised text, for screening and not for delivery. `score` is the classifier's probability (0 to 1)
    for a prompt, and the highest score of a mark for a document.
    """

    text: str
    marks: tuple[Mark, ...]
    score: float
    flagged: bool

    @property
    def labels(self) -> tuple[str, ...]:
        """The stages with a suspicious mark: `suspect:hidden-text`, `suspect:pattern`, `suspect:classifier`."""
        found = {mark.stage for mark in self.marks if mark.score >= SUSPICIOUS}
        return tuple(label for stage, label in _LABELS.items() if stage in found)
