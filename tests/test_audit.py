"""The audit: what is signed once cannot be changed, cut, reordered or removed without being seen."""

import base64
import datetime as dt
import hashlib
import json
import re
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import KEY, open_kernel
from live import loket, prepare, serving
from loket.audit import Auditor, Proved, key_of, open_note, parse_key, sign, verify_export
from loket.audit.auditor import Verdict
from loket.audit.export import Asked
from loket.audit.merkle import EMPTY, Range, Tree, is_consistent, is_included, leaf, node
from loket.audit.rows import linked, public_text
from loket.contracts import BadInput, Damaged, Failed, RowKind
from loket.kernel.journal import ERASED, Journal

SEED = b"a" * 32
OTHER = b"b" * 32
NOON = 1_795_000_000.25
DAY = 86_400
ROOT = Path(__file__).parents[1]


# The tree


def rows_of(count: int) -> list[bytes]:
    return [hashlib.sha256(str(number).encode()).digest() for number in range(count)]


def naive_root(rows: Sequence[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, to the letter."""
    if not rows:
        return EMPTY
    if len(rows) == 1:
        return leaf(rows[0])
    k = 1
    while k * 2 < len(rows):
        k *= 2
    return node(naive_root(rows[:k]), naive_root(rows[k:]))


def naive_path(index: int, rows: Sequence[bytes]) -> list[bytes]:
    """PATH of RFC 6962, section 2.1.1."""
    if len(rows) == 1:
        return []
    k = 1
    while k * 2 < len(rows):
        k *= 2
    if index < k:
        return [*naive_path(index, rows[:k]), naive_root(rows[k:])]
    return [*naive_path(index - k, rows[k:]), naive_root(rows[:k])]


def naive_subproof(old: int, rows: Sequence[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 6962, section 2.1.2."""
    if old == len(rows):
        return [] if whole else [naive_root(rows)]
    k = 1
    while k * 2 < len(rows):
        k *= 2
    if old <= k:
        return [*naive_subproof(old, rows[:k], whole=whole), naive_root(rows[k:])]
    return [*naive_subproof(old - k, rows[k:], whole=False), naive_root(rows[:k])]


def test_the_tree_is_that_of_certificate_transparency() -> None:
    """Roots that the reference implementations of RFC 6962 use for their tests, for one and for eight leaves."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
    tree = Tree(bytes.fromhex(text) for text in inputs)
    assert EMPTY.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert tree.root(1).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert tree.root(8).hex() == "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 130))
def test_the_right_edge_and_the_whole_tree_have_the_naive_root(count: int) -> None:
    """At every size on the way, too."""
    rows, edge = rows_of(count), Range()
    tree = Tree(rows)
    for size, row in enumerate(rows):
        assert edge.root() == tree.root(size) == naive_root(rows[:size])
        edge.append(row)
    assert edge.root() == tree.root() == naive_root(rows)
    assert edge.size == tree.size == count


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_an_inclusion_proof_is_the_naive_one_and_proves_one_row_at_one_place(data: st.DataObject) -> None:
    """Another row, place, size, root or proof is refused."""
    size = data.draw(st.integers(1, 100))
    index = data.draw(st.integers(0, size - 1))
    rows = rows_of(size + data.draw(st.integers(0, 40)))
    tree = Tree(rows)
    proof, root = tree.inclusion(index, size), tree.root(size)
    assert proof == naive_path(index, rows[:size])
    assert is_included(rows[index], index, size, root, proof)
    assert not is_included(b"x" * 32, index, size, root, proof)
    other = data.draw(st.integers(-2, size + 2).filter(lambda n: n != index))
    assert not is_included(rows[index], other, size, root, proof)
    assert not is_included(rows[index], index, size, EMPTY, proof)
    assert not is_included(rows[index], index, size, root, [*proof, EMPTY])
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not is_included(rows[index], index, size, root, proof[:place] + proof[place + 1 :])
        assert not is_included(rows[index], index, size, root, [*proof[:place], EMPTY, *proof[place + 1 :]])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_consistency_proof_is_the_naive_one_and_holds_for_no_other_history(data: st.DataObject) -> None:
    """A tree of which a row was changed is not consistent with the one before, whatever proof is given."""
    new = data.draw(st.integers(1, 100))
    old = data.draw(st.integers(1, new))
    rows = rows_of(new)
    tree = Tree(rows)
    proof = tree.consistency(old, new)
    assert proof == (naive_subproof(old, rows, whole=True) if old < new else [])
    assert is_consistent(old, tree.root(old), new, tree.root(new), proof)
    changed = data.draw(st.integers(0, old - 1))
    other = Tree([*rows[:changed], b"y" * 32, *rows[changed + 1 :]])
    for tried in (proof, other.consistency(old, new)):
        assert not is_consistent(old, tree.root(old), new, other.root(), tried)
        assert not is_consistent(old, other.root(old), new, tree.root(), tried)
    assert not is_consistent(old, tree.root(old), new, tree.root(new), [*proof, EMPTY])
    if old < new:
        assert not is_consistent(old, tree.root(old), 4 * new, tree.root(new), proof)
    if proof:
        place = data.draw(st.integers(0, len(proof) - 1))
        assert not is_consistent(old, tree.root(old), new, tree.root(), proof[:place] + proof[place + 1 :])


def test_proofs_of_what_is_not_there_are_errors() -> None:
    """Rows and sizes beyond the tree; and every tree begins with the empty one."""
    tree = Tree(rows_of(5))
    for index, size in ((5, 5), (0, 6), (-1, 3), (3, 3)):
        with pytest.raises(IndexError):
            tree.inclusion(index, size)
    for old, new in ((3, 2), (-1, 4), (2, 6)):
        with pytest.raises(IndexError):
            tree.consistency(old, new)
    assert is_consistent(0, EMPTY, 5, tree.root(), tree.consistency(0, 5))
    assert not is_consistent(0, tree.root(1), 5, tree.root(), [])
    assert not is_consistent(6, tree.root(), 5, tree.root(), [])


# The note


def test_a_checkpoint_is_a_signed_note_of_a_transparency_log() -> None:
    """Origin, size, root, time, a blank line, and a signature that the bare algorithm accepts."""
    made, text = sign(SEED, 7, b"r" * 32, NOON)
    body, _, signature = text.partition("\n\n")
    assert body.splitlines() == [made.origin, "7", base64.b64encode(b"r" * 32).decode(), f"time {made.time}"]
    name, data = re.fullmatch(r"\u2014 (\S+) (\S+)\n", signature).groups()  # type: ignore[union-attr] - it is one
    key = key_of(SEED)
    assert name == made.origin == f"loket/{hashlib.sha256(key.raw).hexdigest()[:32]}"
    raw = base64.b64decode(data)
    assert raw[:4] == hashlib.sha256(name.encode() + b"\n\x01" + key.raw).digest()[:4]
    Ed25519PublicKey.from_public_bytes(key.raw).verify(raw[4:], (body + "\n").encode())
    assert open_note(text, key) == made
    assert parse_key(f"{key}\n") == key


def test_the_checkpoint_in_the_documents_is_one() -> None:
    """Signed by the key of these tests."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"((?:^    .*\n)+\n^    \u2014 .*\n)", page, re.MULTILINE)
    assert open_note(textwrap.dedent(shown), key_of(SEED)).size == 20852


def test_signatures_of_witnesses_are_passed_over() -> None:
    """A note may carry lines of others, before and after ours."""
    made, text = sign(SEED, 7, b"r" * 32, NOON)
    body, _, ours = text.partition("\n\n")
    witness = f"\u2014 witness.example/w1 {base64.b64encode(b'w' * 76).decode()}\n"
    assert open_note(f"{body}\n\n{witness}{ours}{witness}", key_of(SEED)) == made
    with pytest.raises(Damaged) as caught:
        open_note(f"{body}\n\n{witness}", key_of(SEED))
    assert caught.value.code == "audit.signature"


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_character_of_a_checkpoint_can_be_changed(data: st.DataObject) -> None:
    """Each change is refused; none is taken for another statement."""
    made, text = sign(SEED, 1234, b"r" * 32, NOON)
    place = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("0123456789abcdefABC+/= \n\u2014").filter(lambda one: one != text[place]))
    changed = text[:place] + new + text[place + 1 :]
    with pytest.raises((BadInput, Damaged)):
        assert open_note(changed, key_of(SEED)) != made


def test_a_checkpoint_of_another_home_and_a_forged_one_are_told_apart() -> None:
    """Another key is another home; our name over another key's signature is a forgery."""
    _, foreign = sign(OTHER, 7, b"r" * 32, NOON)
    with pytest.raises(Damaged) as caught:
        open_note(foreign, key_of(SEED))
    assert caught.value.code == "audit.foreign"
    ours, theirs = key_of(SEED), key_of(OTHER)
    forged = foreign.replace(theirs.origin, ours.origin)
    with pytest.raises(Damaged) as caught:
        open_note(forged, ours)
    assert caught.value.code == "audit.signature"


@pytest.mark.parametrize("text", ["", "hello", "a\n1\nb\n\nc\n", "\n\n\n", "loket/" + "0" * 32 + "\n-1\n\n"])
def test_what_is_no_checkpoint_is_wrong_input(text: str) -> None:
    """With a remedy."""
    with pytest.raises(BadInput) as caught:
        open_note(text, key_of(SEED))
    assert caught.value.remedy


def test_a_key_whose_parts_disagree_is_refused() -> None:
    """The home's id and the hash follow from the key."""
    ours, theirs = str(key_of(SEED)).split("+", 2), str(key_of(OTHER)).split("+", 2)
    for mixed in ([theirs[0], *ours[1:]], [ours[0], theirs[1], ours[2]], [*ours[:2], theirs[2]], ours[:2]):
        with pytest.raises(BadInput) as caught:
            parse_key("+".join(mixed))
        assert caught.value.code == "audit.key"


# The journal


class Home:
    """A journal with its audit, in one folder."""

    def __init__(self, folder: Path, *, seed: bytes = SEED, runs: tuple[str, ...] = ("r1", "r2")) -> None:
        self.folder = folder
        self.path = folder / "kernel.db"
        self.time = NOON
        self.seed = seed
        self.database = open_kernel(self.path, runs=runs)
        self.journal = Journal(self.database, KEY, lambda: self.time)

    @property
    def auditor(self) -> Auditor:
        return Auditor(
            database=self.database,
            path=self.path,
            journal=self.journal,
            seal_key=KEY,
            seed=lambda: self.seed,
            folder=self.folder / "audit",
            now=lambda: self.time,
        )

    def fill(self, count: int, word: str = "hello") -> None:
        """Add so many calls, in turn of two runs, a minute apart."""
        for ordinal in range(count):
            self.time += 60
            facts = {"capability": "kv.get", "ü": [ordinal, 2.5]}
            self.journal.append(f"r{1 + ordinal % 2}", ordinal, RowKind.CALL, facts, json.dumps({"answer": word}))
        self.journal.sync()

    def tamper(self, *statements: str) -> None:
        """What somebody does who can write to the file."""
        connection = apsw.Connection(str(self.path))
        for trigger in ("update", "delete"):
            connection.execute(f"DROP TRIGGER IF EXISTS journal_append_only_{trigger}")
        for statement in statements:
            connection.execute(statement).fetchall()
        connection.close()

    def seal_again(self, key: bytes = KEY) -> None:
        """What somebody does who has the seal's key, too: chain and seal are made anew."""
        connection = apsw.Connection(str(self.path))
        prev, seq = bytes(32), 0
        rows = list(connection.execute("SELECT seq, run, ordinal, kind, at, facts, commitment FROM journal ORDER BY 1"))
        for place, (old, *public, commitment) in enumerate(rows, 1):
            seq, prev = place, linked(prev, public_text(place, *public), commitment)
            connection.execute("UPDATE journal SET seq = ?, hash = ? WHERE seq = ?", (place, prev, old))
        seal = Journal(self.database, key, lambda: 0.0)._seal(seq, prev)
        connection.execute("UPDATE seal SET seq = ?, hash = ?, seal = ?", (seq, prev, seal))
        connection.close()

    def close(self) -> None:
        self.database.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    made.close()


def reasons(verdict: Verdict) -> str:
    return "\n".join(
        [one["reason"] for one in verdict.checkpoints if not one["ok"]] + [f.reason for f in verdict.faults]
    )


def test_a_journal_that_grew_holds_against_every_earlier_checkpoint(home: Home) -> None:
    """Kept ones and given ones; the root is the naive one over the rows' hashes."""
    given: dict[str, str] = {}
    for number in range(5):
        home.fill(7)
        made, given[f"usb-{number}"] = home.auditor.checkpoint()
        assert made.size == 7 * (number + 1)
        assert made.root == naive_root([row.hash for row in home.journal.rows()])
    home.fill(3)
    verdict = home.auditor.verify(given)
    assert verdict.ok, reasons(verdict)
    assert verdict.survey.size == 38
    assert [one["size"] for one in verdict.checkpoints] == [7, 14, 21, 28, 35] * 2


def test_an_empty_journal_has_a_checkpoint_too(home: Home) -> None:
    """Its root is that of the empty tree; what comes after it is consistent."""
    made, _ = home.auditor.checkpoint()
    assert (made.size, made.root) == (0, EMPTY)
    home.fill(3)
    assert home.auditor.verify({}).ok


TAMPERED: dict[str, tuple[tuple[str, ...], str, str]] = {
    "facts changed": (
        ("UPDATE journal SET facts = replace(facts, 'kv.get', 'kv.set') WHERE seq = 4",),
        "row 4 does not follow",
        "rows up to 10 were changed",
    ),
    "kind changed to none that there is": (
        ("UPDATE journal SET kind = 'odd' WHERE seq = 4",),
        "row 4 does not follow",
        "rows up to 10 were changed",
    ),
    "row removed": (("DELETE FROM journal WHERE seq = 4",), "row 4 is missing", "rows up to 10 were changed"),
    "tail cut": (("DELETE FROM journal WHERE seq > 8",), "the journal ends at row 8", "it has 8 rows, and had 10"),
    "rows swapped": (
        (
            "UPDATE journal SET seq = -1 WHERE seq = 4",
            "UPDATE journal SET seq = 4 WHERE seq = 5",
            "UPDATE journal SET seq = 5 WHERE seq = -1",
        ),
        "row 4 does not follow",
        "rows up to 10 were changed",
    ),
    "all removed": (("DELETE FROM journal", "DELETE FROM seal"), "", "it has 0 rows, and had 10"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_what_somebody_did_to_the_file_is_named(home: Home, what: str) -> None:
    """Without the seal's key: chain or seal say it, and so do the checkpoints where the hashes are touched."""
    statements, said, by_checkpoint = TAMPERED[what]
    home.fill(10)
    _, kept = home.auditor.checkpoint()
    home.tamper(*statements)
    verdict = home.auditor.verify({"usb": kept})
    assert not verdict.ok
    assert said in reasons(verdict)
    touched = "changed" not in what
    assert (by_checkpoint in reasons(verdict)) == touched
    assert all(one["ok"] != touched for one in verdict.checkpoints)


REBUILT = {
    "facts changed": "rows up to 10 were changed",
    "row removed": "it has 9 rows, and had 10",
    "tail cut": "it has 8 rows, and had 10",
    "rows swapped": "rows up to 10 were changed",
}


@pytest.mark.parametrize("what", REBUILT)
def test_with_the_seals_key_a_journal_can_be_rebuilt_and_a_checkpoint_says_so(home: Home, what: str) -> None:
    """Chain and seal are as good as new then: an earlier checkpoint tells, also if the home's own were deleted."""
    home.fill(10)
    _, text = home.auditor.checkpoint()
    for kept in (home.folder / "audit" / "checkpoints").iterdir():
        kept.unlink()
    home.tamper(*TAMPERED[what][0])
    home.seal_again()
    assert home.auditor.verify({}).ok, "nothing in the home knows better"
    verdict = home.auditor.verify({"usb": text})
    assert verdict.faults == []
    assert REBUILT[what] in verdict.checkpoints[0]["reason"]


def test_without_the_seals_key_a_rebuilt_journal_is_found_without_any_checkpoint(home: Home) -> None:
    """The chain is made anew, the seal cannot be."""
    home.fill(10)
    home.tamper(*TAMPERED["facts changed"][0])
    home.seal_again(OTHER)
    assert reasons(home.auditor.verify({})) == "the seal is not the home's"


def test_a_changed_value_is_named_by_its_row(home: Home) -> None:
    """Values are not in the tree, their commitments are."""
    home.fill(6)
    home.auditor.checkpoint()
    home.tamper("UPDATE journal SET value = zeroblob(length(value)) WHERE seq = 3")
    verdict = home.auditor.verify({})
    assert [(f.seq, f.reason) for f in verdict.faults] == [(3, "the value of row 3 was changed")]
    assert all(one["ok"] for one in verdict.checkpoints)


def test_a_kept_checkpoint_that_is_forged_or_foreign_or_no_text_is_named(home: Home) -> None:
    """By the name of its file; the others still count."""
    home.fill(5)
    home.auditor.checkpoint()
    kept = home.folder / "audit" / "checkpoints"
    (kept / "2026-01-01T000000Z-1.txt").write_text(sign(OTHER, 1, b"x" * 32, NOON)[1])
    (kept / "2026-01-02T000000Z-1.txt").write_bytes(b"\xff\xfe")
    verdict = home.auditor.verify({})
    assert [one["ok"] for one in verdict.checkpoints] == [False, False, True]
    assert "2026-01-01T000000Z-1.txt: it is of another home" in reasons(verdict)
    assert "2026-01-02T000000Z-1.txt: this is no checkpoint" in reasons(verdict)


def test_a_kept_checkpoint_that_cannot_be_read_stops_the_audit(home: Home) -> None:
    """A folder in its place stands for it: nothing is passed over in silence."""
    (home.folder / "audit" / "checkpoints" / "2026-01-01T000000Z-1.txt").mkdir(parents=True)
    for act in (home.auditor.checkpoint, lambda: home.auditor.verify({})):
        with pytest.raises(Failed) as caught:
            act()
        assert caught.value.code == "audit.kept"


def test_a_given_file_that_is_no_checkpoint_is_wrong_input_and_a_foreign_one_a_fault(home: Home) -> None:
    """The first was a slip of the owner's, the second is what the audit is for."""
    home.fill(2)
    with pytest.raises(BadInput) as caught:
        home.auditor.verify({"notes.txt": "milk\nbread\n"})
    assert "notes.txt" in caught.value.message
    verdict = home.auditor.verify({"usb": sign(OTHER, 2, b"x" * 32, NOON)[1]})
    assert not verdict.ok
    assert "usb: it is of another home" in reasons(verdict)


def test_nothing_is_signed_over_a_history_that_is_another_than_before(home: Home) -> None:
    """Two histories of one home are never signed, and a broken seal is not either."""
    home.fill(10)
    home.auditor.checkpoint()
    home.tamper("DELETE FROM journal WHERE seq > 8")
    with pytest.raises(Damaged) as caught:
        home.auditor.checkpoint()
    assert caught.value.code == "audit.inconsistent"
    home.seal_again()
    with pytest.raises(Damaged) as caught:
        home.auditor.checkpoint()
    assert "the journal was cut" in caught.value.message
    assert len(list((home.folder / "audit" / "checkpoints").iterdir())) == 1


def test_another_key_in_the_vault_signs_nothing(home: Home) -> None:
    """The public key is kept with the first checkpoint, and has to be the vault's."""
    home.fill(2)
    home.auditor.checkpoint()
    assert parse_key((home.folder / "audit" / "audit.pub").read_text()) == key_of(SEED)
    home.seed = OTHER
    with pytest.raises(Damaged):
        home.auditor.checkpoint()
    for kept in (home.folder / "audit" / "checkpoints").iterdir():
        kept.unlink()
    with pytest.raises(Damaged) as caught:
        home.auditor.checkpoint()
    assert caught.value.code == "audit.key"
    assert "audit.pub holds another key" in reasons(home.auditor.verify({}))


def test_kept_files_are_private_and_are_never_written_again(home: Home) -> None:
    """One of the same second and size is the same; a later one is another file."""
    home.fill(2)
    home.auditor.checkpoint()
    folder = home.folder / "audit"
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.rglob("*")))
    home.auditor.checkpoint()
    home.fill(1)
    home.auditor.checkpoint()
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert len(after) == len(before) + 1
    assert before.items() <= after.items()


def test_a_day_gets_one_checkpoint(home: Home) -> None:
    """However often it is looked; the next day gets its own."""
    home.fill(2)
    assert [home.auditor.daily() for _ in range(3)] == [True, False, False]
    home.time += DAY
    assert home.auditor.daily()
    assert len(list((home.folder / "audit" / "checkpoints").iterdir())) == 2


def test_since_looks_at_later_rows_one_by_one_and_at_all_hashes(home: Home) -> None:
    """A fact changed before is for a whole audit to find; a row removed before is found by the roots."""
    home.fill(10)
    home.auditor.checkpoint()
    later = home.time
    home.fill(5)
    home.tamper("UPDATE journal SET facts = replace(facts, 'kv.get', 'kv.set') WHERE seq IN (4, 12)")
    verdict = home.auditor.verify({}, later + 1)
    assert verdict.survey.first == 11
    assert [fault.seq for fault in verdict.faults] == [12]
    assert [fault.seq for fault in home.auditor.verify({}).faults] == [4, 12]
    nothing = home.auditor.verify({}, later + DAY)
    assert (nothing.survey.first, nothing.ok) == (0, True)
    home.tamper("DELETE FROM journal WHERE seq = 4")
    assert "rows up to 10 were changed" in reasons(home.auditor.verify({}, later + DAY))


def test_the_journal_goes_on_while_it_is_audited(home: Home) -> None:
    """Rows that come meanwhile are no fault, and a checkpoint over what there was holds."""
    home.fill(50)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            home.fill(3)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(15):
            home.auditor.checkpoint()
            verdict = home.auditor.verify({})
            assert verdict.ok, reasons(verdict)
    finally:
        stop.set()
        writer.join()
    assert home.auditor.verify({}).survey.size > 50


def erase(home: Home, run: str) -> None:
    home.journal.append("", 0, RowKind.NOTE, {"what": ERASED, "principal": "owner", "why": "runs", "runs": [run]}, "{}")
    home.journal.sync()
    home.database.destroy_keys([run])


def test_erasure_leaves_every_checkpoint_and_export_true(home: Home, tmp_path: Path) -> None:
    """Values are not in the tree; without the owner's note a missing key is a fault."""
    home.fill(10)
    _, before = home.auditor.checkpoint()
    home.auditor.export(tmp_path / "before.jsonl", Asked(values=True))
    erase(home, "r1")
    verdict = home.auditor.verify({"usb": before})
    assert verdict.ok, reasons(verdict)
    home.auditor.export(tmp_path / "after.jsonl", Asked(values=True))
    proved = verify_export(tmp_path / "after.jsonl", key_of(SEED), {"usb": before})
    assert proved.ok, proved.faults
    assert (proved.rows, proved.erased, proved.values) == (11, 5, 6)
    assert verify_export(tmp_path / "before.jsonl", key_of(SEED)).values == 10
    home.journal.append("", 0, RowKind.NOTE, {"what": ERASED, "runs": ["r2"]}, "{}")
    assert "it was erased, and can be read" in reasons(home.auditor.verify({}))


def test_a_key_that_is_missing_without_a_note_is_named(home: Home) -> None:
    """Values of a run that nobody can read, and no word of the owner's."""
    home.fill(4)
    home.database.destroy_keys(["r2"])
    assert "no erasure in the journal says why" in reasons(home.auditor.verify({}))


# Exports


def exported(home: Home, name: str = "audit.jsonl", **asked: Any) -> Path:
    target = home.folder / name
    home.auditor.export(target, Asked(**asked))
    return target


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines))
    return path


def places(lines: Sequence[dict[str, Any]]) -> list[int]:
    return [place for place, line in enumerate(lines) if line["type"] == "row"]


SELECTIONS: dict[str, dict[str, Any]] = {
    "all": {},
    "all with values": {"values": True},
    "a run": {"runs": ("r2",)},
    "a run with values": {"runs": ("r2",), "values": True},
    "two runs": {"runs": ("r2", "r1")},
    "since": {"since": NOON + 60 * 8},
    "a run since": {"runs": ("r1",), "since": NOON + 60 * 8},
}


@pytest.mark.parametrize("what", SELECTIONS)
def test_an_export_proves_itself_with_nothing_but_the_file(home: Home, what: str) -> None:
    """Every selection, with all earlier checkpoints; what was said is in it only where that was asked for."""
    home.fill(12, "secret word")
    _, kept = home.auditor.checkpoint()
    home.fill(9, "secret word")
    path = exported(home, **SELECTIONS[what])
    assert path.stat().st_mode & 0o077 == 0
    proved = verify_export(path, key_of(SEED), {"usb": kept})
    assert proved.ok, proved.faults
    expected = [row for row in home.journal.rows() if Asked(**SELECTIONS[what]).takes(row.run, row.at)]
    assert proved.rows == len(expected) > 0
    assert sorted(proved.earlier) == [12, 21]
    assert ("secret word" in path.read_text()) == ("values" in what)
    assert proved.values == (len(expected) if "values" in what else 0)


@pytest.mark.parametrize("what", ["all with values", "a run with values"])
def test_each_change_to_an_export_is_named(home: Home, what: str) -> None:
    """A changed fact, value, commitment, hash; a removed, doubled or swapped row; another count; a cut file."""
    home.fill(12)
    lines = lines_of(exported(home, **SELECTIONS[what]))
    rows = places(lines)
    one = rows[2]
    file = home.folder / "changed.jsonl"

    def changed(**new: Any) -> Proved:
        return verify_export(write_lines(file, [*lines[:one], lines[one] | new, *lines[one + 1 :]]), key_of(SEED))

    assert verify_export(write_lines(file, lines), key_of(SEED)).ok
    assert "was changed" in changed(public=lines[one]["public"].replace("kv.get", "kv.set")).faults[0]
    assert "the value of row" in changed(value=lines[one]["value"].replace("hello", "help!")).faults[0]
    for name in ("commitment", "hash", "prev"):
        assert changed(**{name: "00" * 32}).faults
        assert "cannot be read" in changed(**{name: "odd"}).faults[0]
    swapped = [*lines[:one], lines[one + 1], lines[one], *lines[one + 2 :]]
    for other in (lines[:one] + lines[one + 1 :], [*lines[: one + 1], *lines[one:]], swapped, lines[:-1]):
        assert not verify_export(write_lines(file, other), key_of(SEED)).ok
    assert not verify_export(write_lines(file, [*lines, {"type": "row"}]), key_of(SEED)).ok
    assert not verify_export(write_lines(file, [*lines, {"type": "odd"}]), key_of(SEED)).ok
    assert not verify_export(write_lines(file, [*lines, 7]), key_of(SEED)).ok


def test_a_file_that_was_cut_and_counted_again_is_named(home: Home) -> None:
    """The count in the first line is signed by nobody; the tree is."""
    home.fill(12)
    lines = lines_of(exported(home))
    cut = [lines[0] | {"rows": 11}, *lines[1:-1]]
    (fault,) = verify_export(write_lines(home.folder / "cut.jsonl", cut), key_of(SEED)).faults
    assert "these rows are not the 12 that were signed" in fault


def test_a_false_proof_from_an_earlier_checkpoint_is_named(home: Home) -> None:
    """It proves nothing of that checkpoint then, either."""
    home.fill(5)
    _, kept = home.auditor.checkpoint()
    home.fill(6)
    lines = lines_of(exported(home, runs=("r1",)))
    place = next(place for place, line in enumerate(lines) if line["type"] == "earlier")
    lines[place]["proof"][0] = "00" * 32
    proved = verify_export(write_lines(home.folder / "false.jsonl", lines), key_of(SEED), {"usb": kept})
    assert "the journal is not what was signed" in proved.faults[0]
    assert "has no proof from 5 rows on" in proved.compared[0]["reason"]


def test_an_export_that_names_another_key_than_signed_it_is_named(home: Home) -> None:
    """The key in the first line is what somebody without a key of his own would take."""
    home.fill(2)
    lines = lines_of(exported(home))
    lines[0]["key"] = str(key_of(OTHER))
    path = write_lines(home.folder / "named.jsonl", lines)
    assert "names another key" in verify_export(path, key_of(SEED)).faults[0]
    with pytest.raises(Damaged):
        verify_export(path)


def test_a_chain_that_was_broken_when_it_was_signed_is_named(home: Home) -> None:
    """Each row has the hash that it says, and was signed; the second one is chained to another than the first."""
    links = [bytes(32), b"x" * 32]
    publics = [f'[{seq},"r1",{seq},"call",1.5,{{}}]' for seq in (1, 2)]
    hashes = [linked(prev, public, b"c" * 32) for prev, public in zip(links, publics, strict=True)]
    _, text = sign(SEED, 2, naive_root(hashes), NOON)
    head = {"type": "loket-audit", "format": 1, "key": str(key_of(SEED)), "checkpoint": text, "complete": True}
    rows = [
        {"type": "row", "public": public, "commitment": (b"c" * 32).hex(), "prev": prev.hex(), "hash": own.hex()}
        for public, prev, own in zip(publics, links, hashes, strict=True)
    ]
    path = write_lines(home.folder / "broken.jsonl", [{**head, "rows": 2}, *rows])
    assert verify_export(path).faults == ["line 3: row 2 does not follow from the row before it"]
    assert "row 2 does not follow" in run_documented(path)


def documented() -> str:
    """The program in the documents."""
    page = (ROOT / "docs" / "audit.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return str(program)


def run_documented(file: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", documented(), str(file)], capture_output=True, text=True, check=False, cwd=file.parent
    )
    return done.stdout or done.stderr


def test_a_row_of_another_journal_has_no_place_in_a_selection(home: Home, tmp_path: Path) -> None:
    """Rows that are sound by themselves, and were never signed."""
    (tmp_path / "other").mkdir()
    other = Home(tmp_path / "other")
    home.fill(12)
    other.fill(12, "invented")
    ours, theirs = (lines_of(exported(one, runs=("r1",), values=True)) for one in (home, other))
    place = places(ours)[3]
    mixed = [*ours[:place], theirs[places(theirs)[3]], *ours[place + 1 :]]
    proved = verify_export(write_lines(tmp_path / "mixed.jsonl", mixed), key_of(SEED))
    assert any("is not in the journal that was signed" in fault for fault in proved.faults)
    other.close()


def test_an_export_of_a_rebuilt_journal_does_not_hold_against_a_kept_checkpoint(home: Home, tmp_path: Path) -> None:
    """Whoever has all keys can sign another history, and cannot make it that of an earlier checkpoint."""
    (tmp_path / "rebuilt").mkdir()
    rebuilt = Home(tmp_path / "rebuilt")
    home.fill(6)
    _, kept = home.auditor.checkpoint()
    rebuilt.fill(6, "invented")
    rebuilt.auditor.checkpoint()
    rebuilt.fill(6, "invented")
    for asked in ({}, {"runs": ("r1",)}):
        path = exported(rebuilt, f"{len(asked)}.jsonl", **asked)
        assert verify_export(path, key_of(SEED)).ok
        proved = verify_export(path, key_of(SEED), {"usb": kept})
        assert not proved.ok
        assert "rows up to 6 were changed" in proved.compared[0]["reason"]
    lines = lines_of(exported(rebuilt, "no.jsonl", runs=("r1",)))
    lines = [line for line in lines if line["type"] != "earlier"]
    proved = verify_export(write_lines(tmp_path / "less.jsonl", lines), None, {"usb": kept})
    assert "has no proof from 6 rows on" in proved.compared[0]["reason"]
    rebuilt.close()


def test_an_export_that_is_older_than_a_checkpoint_says_so(home: Home) -> None:
    """It cannot say anything of what came later."""
    home.fill(4)
    path = exported(home)
    home.fill(4)
    _, kept = home.auditor.checkpoint()
    assert "had 8 rows" in verify_export(path, None, {"usb": kept}).compared[0]["reason"]


def test_an_export_with_a_foreign_key_is_refused_where_the_key_is_known(home: Home) -> None:
    """Somebody signs an invented journal with a key of his own: the file holds by itself, and is not ours."""
    home.fill(4)
    home.seed = OTHER
    path = exported(home)
    assert verify_export(path).key == key_of(OTHER)
    with pytest.raises(Damaged) as caught:
        verify_export(path, key_of(SEED))
    assert caught.value.code == "audit.foreign"


@pytest.mark.parametrize("text", ["", "{}", "[]", "milk", '{"type":"loket-audit","format":2}', "\xff"])
def test_what_is_no_export_is_wrong_input(tmp_path: Path, text: str) -> None:
    """With a remedy; a file that is not there, too."""
    (tmp_path / "x").write_text(text)
    for name in ("x", "missing"):
        with pytest.raises(BadInput) as caught:
            verify_export(tmp_path / name)
        assert caught.value.remedy


def test_an_export_replaces_nothing(home: Home) -> None:
    """A file that is there stays; a folder that is not there is named."""
    home.fill(2)
    path = exported(home)
    before = path.read_bytes()
    for target in (path, home.folder / "missing" / "x"):
        with pytest.raises(BadInput):
            home.auditor.export(target, Asked())
    assert path.read_bytes() == before
    assert not list(home.folder.glob(".audit*"))


@pytest.mark.parametrize("what", SELECTIONS)
def test_an_export_can_be_verified_by_what_is_written_about_it(home: Home, what: str) -> None:
    """The program in the documents, which knows nothing of Loket, accepts exports and finds what was changed."""
    run = run_documented
    home.fill(12)
    home.auditor.checkpoint()
    home.fill(9)
    erase(home, "r1")
    path = exported(home, **SELECTIONS[what])
    lines = lines_of(path)
    count = len(places(lines))
    assert run(path) == f"{key_of(SEED).origin}: {count} of 22 rows, 2 earlier checkpoints: all proved\n"
    last = places(lines)[-1]
    changed = lines[last] | {"public": lines[last]["public"].replace("[2", "[3")}
    file = home.folder / "changed.jsonl"
    assert "was changed" in run(write_lines(file, [*lines[:last], changed, *lines[last + 1 :]]))
    if SELECTIONS[what].keys() <= {"values"}:
        assert "are not all" in run(write_lines(file, lines[:-1]))
    foreign = sign(OTHER, 22, b"x" * 32, NOON)[1]
    assert "the home's id is not" in run(write_lines(file, [lines[0] | {"checkpoint": foreign}, *lines[1:]]))
    forged = foreign.replace(key_of(OTHER).origin, key_of(SEED).origin)
    assert "InvalidSignature" in run(write_lines(file, [lines[0] | {"checkpoint": forged}, *lines[1:]]))
    earlier = next(place for place, line in enumerate(lines) if line["type"] == "earlier")
    broken = lines[earlier] | {"proof": ["00" * 32, *lines[earlier]["proof"][1:]]}
    assert "earlier" in run(write_lines(file, [*lines[:earlier], broken, *lines[earlier + 1 :]]))


def test_what_is_hashed_here_is_what_the_kernel_hashes(home: Home) -> None:
    """Two ways to one formula: of rows that the kernel wrote, floats and other letters included."""
    home.fill(5)
    prev = bytes(32)
    for row in home.journal.rows():
        public = public_text(row.seq, row.run, row.ordinal, row.kind.value, row.at, row.facts)
        assert linked(prev, public, row.commitment) == row.hash
        assert json.loads(public)[4] == row.at
        prev = row.hash


# The commands


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("audit") / "home")


def test_the_commands_do_it_with_a_server_and_without_and_offline(root: Path, tmp_path: Path) -> None:
    """Checkpoint, export and verify; the running server made the day's checkpoint by itself; exit codes tell."""
    out, file = tmp_path / "usb.checkpoint", tmp_path / "audit.jsonl"
    loket(root, "audit", "checkpoint", "--out", str(out))
    with serving(root):
        until = time.monotonic() + 120
        kept = root / "audit" / "checkpoints"
        today = dt.datetime.now(dt.UTC).date().isoformat()
        while not list(kept.glob(f"{today}T*")) and time.monotonic() < until:
            time.sleep(0.1)
        assert list(kept.glob(f"{today}T*"))
        held = loket(root, "audit", "verify", "--against", str(out), "--json")
        assert held["ok"], held
        loket(root, "audit", "export", str(file), "--since", "7d")
    alone = loket(root, "audit", "verify", "--against", str(out), "--since", "2020-01-01", "--json")
    assert alone["ok"], alone
    assert alone["key"] == (root / "audit" / "audit.pub").read_text().strip()
    nowhere = tmp_path / "nowhere"
    words = ("audit", "verify", "--export", str(file), "--key", str(root / "audit" / "audit.pub"))
    assert loket(nowhere, *words, "--against", str(out), "--json")["ok"]
    assert "the key is the file's own" in loket(nowhere, "audit", "verify", "--export", str(file))
    assert not nowhere.exists()
    loket(root, "audit", "checkpoint", "--out", str(out), code=2)
    printed = loket(root, "audit", "checkpoint")
    assert printed.startswith(f"{alone['home']}\n")
    assert f"Public key: {alone['key']}" in printed


def test_a_restored_home_holds_against_the_checkpoints_before_its_backup(root: Path, tmp_path: Path) -> None:
    """Kept ones come back with it, the key too, and it goes on signing as the same home."""
    out, new = tmp_path / "usb.checkpoint", tmp_path / "restored"
    signed = loket(root, "audit", "checkpoint", "--out", str(out), "--json")
    loket(root, "backup", str(tmp_path / "backup"))
    loket(new, "restore", str(tmp_path / "backup"))
    held = loket(new, "audit", "verify", "--against", str(out), "--json")
    assert held["ok"], held
    assert held["home"] == signed["home"]
    assert len(held["checkpoints"]) >= 2
    assert loket(new, "audit", "checkpoint", "--json")["key"] == signed["key"]


def test_a_home_that_was_cut_fails_the_command_and_says_how(root: Path, tmp_path: Path) -> None:
    """Exit code 1, and the sentence; rubbish is wrong usage."""
    out = tmp_path / "usb.checkpoint"
    loket(root, "audit", "checkpoint", "--out", str(out))
    loket(root, "audit", "verify", "--since", "yesterday", code=2)
    loket(root, "audit", "verify", "--against", str(tmp_path / "missing"), code=2)
    loket(root, "audit", "verify", "--key", "x", code=2)
    loket(root, "audit", "export", str(tmp_path / "x"), "--run", "nobody", code=2)
    connection = apsw.Connection(str(root / "kernel.db"))
    connection.execute("DROP TRIGGER journal_append_only_delete")
    connection.execute("DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
    connection.close()
    said = loket(root, "audit", "verify", "--against", str(out), code=1)
    assert "the journal was cut" in said
    assert "its seal says row" in said
    assert "nothing is signed" in loket(root, "audit", "checkpoint", code=1)
