"""The kernel and the contract are pinned: they change only with a reason in the changelog, and stay small."""

import shutil
from pathlib import Path

import pytest

from loket import pin

ROOT = Path(__file__).parents[1]

CEREMONY = """
The kernel, or the contract, is not what it is pinned as:
{found}
Both are frozen: modules and proofs of years ago rest on them. If this change belongs elsewhere (policy, wording, what
one capability does), take it out of the kernel. If it has to be, unfreeze it:

    python -m loket.pin "what the kernel has to do otherwise, and why nothing outside of it can"

That writes the pin anew and your reason into CHANGELOG.md; commit both with the change (docs/architecture.md, The pin).
"""


def test_the_kernel_and_the_contract_are_as_they_are_pinned() -> None:
    """Every file by its digest, every public signature by its text; what differs is named with the ceremony."""
    held, found = (ROOT / pin.PIN).read_text(encoding="utf-8"), pin.pinned(ROOT)
    assert held == found, CEREMONY.format(found="\n".join(pin.differences(held, found)) or "the pin was edited by hand")


def test_the_changelog_gives_the_reason_for_the_pin() -> None:
    """A pin that nobody has given a reason for is none."""
    held = (ROOT / pin.PIN).read_text(encoding="utf-8")
    reason = pin.reason_of(held, (ROOT / pin.CHANGELOG).read_text(encoding="utf-8"))
    assert reason is not None, f'python -m loket.pin "REASON" writes it: pin {pin.name_of(held)} has none'


def test_the_kernel_can_be_read_in_one_sitting() -> None:
    """At most 2,000 lines that are neither empty nor a comment, and no file of 500."""
    texts = [file.read_text(encoding="utf-8").splitlines() for file in (ROOT / pin.KERNEL).rglob("*.py")]
    assert sum(bool(line.strip()) and not line.lstrip().startswith("#") for text in texts for line in text) <= 2_000
    assert max(map(len, texts)) < 500


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The kernel, the contract and the changelog on their own."""
    shutil.copytree(ROOT / pin.KERNEL, tmp_path / pin.KERNEL, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "wit").mkdir()
    for name in (pin.CONTRACT, pin.CHANGELOG):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_a_changed_byte_a_new_file_and_a_changed_signature_are_found(tree: Path) -> None:
    """A comment is enough; what is public is named line by line."""
    held = pin.pinned(tree)
    counter = tree / pin.KERNEL / "counter.py"
    counter.write_text(counter.read_text(encoding="utf-8") + "# more\n", encoding="utf-8")
    assert pin.differences(held, pin.pinned(tree)) == [f"{pin.KERNEL}/counter.py: was changed"]
    (tree / pin.KERNEL / "more.py").write_text("def open_(door: str) -> None: ...\n", encoding="utf-8")
    (tree / pin.KERNEL / "waits.py").unlink()
    (tree / pin.CONTRACT).write_text("package loket:kernel@1.0.1;\n", encoding="utf-8")
    said = pin.differences(held, pin.pinned(tree))
    assert said[:3] == [
        f"{pin.KERNEL}/counter.py: was changed",
        f"{pin.KERNEL}/more.py: is new",
        "    + open_(door: str) -> None",
    ]
    assert f"{pin.KERNEL}/waits.py: is gone" in said
    assert f"{pin.CONTRACT}: was changed" in said


def test_pinning_takes_a_reason_and_writes_it_down(tree: Path) -> None:
    """Without one nothing is written; the same pin is not told twice, an older one stays where it is."""
    with pytest.raises(ValueError, match="reason"):
        pin.write(tree, "because")
    first = pin.write(tree, "The counter learned to count backwards.")
    assert pin.write(tree, "Nothing has changed since the last time.") == first
    (tree / pin.KERNEL / "waits.py").write_text("# nobody waits\n", encoding="utf-8")
    second = pin.write(tree, "Nobody waits any more, so the graph is gone.")
    changelog = (tree / pin.CHANGELOG).read_text(encoding="utf-8")
    of_both = [line for line in changelog.splitlines() if f"`{first}`" in line or f"`{second}`" in line]
    assert of_both[0] == f"- `{second}`: Nobody waits any more, so the graph is gone."
    assert len(of_both) == 2
    held = (tree / pin.PIN).read_text(encoding="utf-8")
    assert pin.reason_of(held, changelog) == "Nobody waits any more, so the graph is gone."


def test_signatures_are_what_others_can_use() -> None:
    """Names that begin with an underscore, bodies and docstrings are none of them."""
    source = '''
LIMIT = 5
_OWN = 6
kind: str = "a"

def act(one: int, *, two: str = "x") -> bool:
    """Act."""
    return True

async def wait() -> None: ...
def _hidden() -> None: ...

class Thing(Base):
    """A thing."""
    size: int
    _own: int

    def __init__(self, size: int) -> None: ...
    @property
    def big(self) -> bool: ...
    def _grow(self) -> None: ...
'''
    assert list(pin.signatures(source)) == [
        "LIMIT",
        "kind: str",
        "act(one: int, *, two: str='x') -> bool",
        "async wait() -> None",
        "class Thing(Base)",
        "Thing.size: int",
        "Thing.__init__(self, size: int) -> None",
        "Thing.big(self) -> bool",
    ]
