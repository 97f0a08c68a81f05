"""Stage 4: logistic regression over hashed n-grams, with weights that come with Loket and need no library.

The file: `LOKETCLF`, the header's length (4 bytes, little-endian), the header in JSON, then for each of `models` one
signed byte a bucket. A text's probability is `1 / (1 + exp(-(scale * sum(weights of its buckets) / sqrt(number of its
buckets) + bias)))`. `benchmarks/train_classifier.py` writes it.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import Damaged
from loket.filter.features import BUCKETS, VERSION, features_of

MAGIC = b"LOKETCLF"
WEIGHTS = Path(__file__).parent / "weights.bin"
MODELS = ("prompt", "document")


@dataclass(frozen=True, slots=True)
class Model:
    """One classifier. `threshold` flags by itself, `supported` where a pattern says so too; both are probabilities."""

    weights: memoryview
    scale: float
    bias: float
    threshold: float
    supported: float

    def score(self, text: str, names: Iterable[str] = ()) -> float:
        """The probability (0 to 1) that a normalised text is an attack; `names` are the patterns found in it."""
        buckets = features_of(text, names)
        if not buckets:
            return 0.0
        weights = self.weights
        total = self.scale * sum([weights[bucket] for bucket in buckets]) / math.sqrt(len(buckets)) + self.bias
        return 1.0 / (1.0 + math.exp(-max(-60.0, min(60.0, total))))


@dataclass(frozen=True, slots=True)
class Classifier:
    """The two models of a weights file, and its header: version, digests, what it was trained on."""

    prompt: Model
    document: Model
    header: Mapping[str, Any]


def load(path: Path = WEIGHTS) -> Classifier:
    """Read a weights file. Raises `Damaged` where it is not there, changed, or made for other features."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _damaged(path, str(error.strerror)) from error
    start = len(MAGIC) + 4
    length = int.from_bytes(data[len(MAGIC) : start], "little")
    if data[: len(MAGIC)] != MAGIC or len(data) != start + length + len(MODELS) * BUCKETS:
        raise _damaged(path, "it is no weights file of this size")
    try:
        header = json.loads(data[start : start + length])
        tables = memoryview(data)[start + length :]
        if header["features"] != VERSION or header["sha256"] != hashlib.sha256(tables).hexdigest():
            raise _damaged(path, "its digest or its version differs")
        prompt, document = (_model(header["models"][name], tables, place) for place, name in enumerate(MODELS))
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(path, f"its header is not readable ({error})") from error
    return Classifier(prompt, document, header)


def _model(facts: Mapping[str, Any], tables: memoryview, place: int) -> Model:
    weights = tables[place * BUCKETS : (place + 1) * BUCKETS].cast("b")
    return Model(weights, *(float(facts[name]) for name in ("scale", "bias", "threshold", "supported")))


def _damaged(path: Path, what: str) -> Damaged:
    return Damaged("filter.weights", f"the classifier's weights {path.name} cannot be used: {what}", "reinstall Loket")
