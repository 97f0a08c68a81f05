"""The filter: all stages for one text. It flags and labels, and decides nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from loket.filter.classifier import WEIGHTS, Classifier, load
from loket.filter.normalise import Hidden, Normal, normalise
from loket.filter.patterns import find_patterns
from loket.filter.report import CLASSIFIER, NORMALISE, PATTERNS, SUSPICIOUS, Mark, Report
from loket.filter.windows import windows

_HIDDEN_ATTACK = 0.9


_QUOTES = frozenset("\"'`\u201c\u201e\u00ab\u2018\u300c")


class Filter:
    """Screens texts at the door; thread-safe. `weights` is another file of weights than the one that comes with Loket.

    The weights are read at the first text. `prompt` and `document` raise `Damaged` where the weights are, and nothing
    else on any text.
    """

    def __init__(self, weights: Path | None = None) -> None:
        self._path = weights or WEIGHTS
        self._loaded: Classifier | None = None

    @property
    def classifier(self) -> Classifier:
        """The classifier, read from its file at first use."""
        if self._loaded is None:
            self._loaded = load(self._path)
        return self._loaded

    def prompt(self, text: str) -> Report:
        """Screen what a client or a sender says to an agent.

        Flagged: the classifier is sure, or not sure of the opposite where there is a pattern, or an attack was hidden.
        """
        model = self.classifier.prompt
        normal = normalise(text)
        patterns = find_patterns(normal.text)
        marks = [*normal.marks, *self._hidden(normal), *patterns]
        score = model.score(normal.text, [mark.name for mark in (*normal.marks, *patterns)])
        supported = any(mark.score >= SUSPICIOUS and not _quoted(normal.text, mark) for mark in patterns)
        flagged = score >= (model.supported if supported else model.threshold)
        if flagged:
            marks.append(Mark(CLASSIFIER, "injection", 0, len(normal.text), max(score, SUSPICIOUS)))
        flagged = flagged or any(mark.stage == NORMALISE and mark.score >= SUSPICIOUS for mark in marks)
        return Report(normal.text, tuple(marks), score, flagged)

    def document(self, text: str) -> Report:
        """Screen text from elsewhere: a page, a file, a mail, an answer of a tool. Flagged: it has any label.

        The classifier's marks say "worded as a request to whoever reads it", which is no attack by itself: they colour
        an approval.
        """
        normal = normalise(text)
        marks = [*normal.marks, *self._hidden(normal), *find_patterns(normal.text)]
        marks += self._requests(normal.text, marks)
        score = max((mark.score for mark in marks), default=0.0)
        return Report(normal.text, tuple(marks), score, score >= SUSPICIOUS)

    def _requests(self, text: str, marks: Sequence[Mark]) -> Iterator[Mark]:
        patterns = [mark for mark in marks if mark.stage == PATTERNS]
        for start, end in windows(text, patterns):
            model = self.classifier.document
            names = [mark.name for mark in patterns if start <= mark.start < end]
            score = model.score(text[start:end], names)
            if score >= (model.supported if names else model.threshold):
                yield Mark(CLASSIFIER, "request", start, end, max(score, SUSPICIOUS))

    def _hidden(self, normal: Normal) -> Iterator[Mark]:
        """What was hidden and is an attack; that it was hidden is told by the marks of normalising."""
        for block in normal.hidden:
            if self._attacks(block):
                start, end = (min(place, len(normal.text)) for place in (block.start, block.end))
                yield Mark(NORMALISE, f"{block.name}-attack", start, end, _HIDDEN_ATTACK)

    def _attacks(self, block: Hidden) -> bool:
        said = normalise(block.text).text
        found = find_patterns(said)
        if any(mark.score >= SUSPICIOUS for mark in found):
            return True
        model = self.classifier.prompt
        return model.score(said, [mark.name for mark in found]) >= model.threshold


def _quoted(text: str, mark: Mark) -> bool:
    """Whether what was found is behind an opening quote: then the prompt is likely to speak about it."""
    return mark.start > 0 and text[mark.start - 1] in _QUOTES
