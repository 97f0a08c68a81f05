"""Where critical values come from in a kernel with real stores: own reads, grants, and what would be replaced."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from loket.contracts import Call, Grant, Origin
from loket.findings import Findings
from loket.labelling import Labelling
from test_labelling import PAGE, Brained

OWNERS = "Rent: NL91ABNA0417164300\n"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Brained]:
    rig = Brained(tmp_path)
    findings = Findings(rig.registry, rig.grants)
    rig.counter._labeller = Labelling(findings, looks=findings.wants)
    (tmp_path / "files" / "tester" / "bills").mkdir(parents=True)
    (tmp_path / "files" / "tester" / "bills" / "rent.txt").write_text(OWNERS)
    yield rig
    rig.close()


def origin(run: Any, name: str) -> Origin:
    """The origin of an argument of the run's last call."""
    return Origin(run.facts.findings[name].origin)


def test_a_run_that_read_the_web_does_not_replace_what_the_owner_wrote(rig: Brained) -> None:
    """The path is untrusted then; for a new file, or in a run that read nothing, it is as good as any."""
    clean = rig.begin("r1", "Tidy my bills")
    rig.ask(clean, "fs.write", path="bills/new.txt", text="x")
    assert origin(clean, "path") is Origin.BOUNDED
    tainted = rig.begin("r2", "Tidy my bills")
    rig.ask(tainted, "web.read")
    rig.ask(tainted, "fs.write", path="notes.txt", text="x")
    assert origin(tainted, "path") is Origin.BOUNDED
    rig.ask(tainted, "fs.write", path="bills/rent.txt", text="pay somebody else")
    assert origin(tainted, "path") is Origin.UNTRUSTED


def test_a_path_that_the_owner_named_may_be_replaced(rig: Brained) -> None:
    """The owner's words lead there."""
    run = rig.begin("r1", "Write what the page says into bills/rent.txt")
    rig.ask(run, "web.read")
    rig.ask(run, "fs.write", path="bills/rent.txt", text="x")
    assert origin(run, "path") is Origin.NAMED


def test_a_file_with_other_peoples_words_endorses_nothing(rig: Brained) -> None:
    """Labels of a file are looked at before an account in it counts as the owner's."""
    findings = Findings(rig.registry, rig.grants)
    run = rig.begin("r1", "Read bills/rent.txt")
    seen = findings._read(run, "fs.read", {"path": "bills/rent.txt"})
    assert seen is not None
    assert seen["text"] == OWNERS
    poisoned = rig.begin("r2", "Write bills/rent.txt")
    page = rig.ask(poisoned, "web.read")["text"]
    rig.ask(poisoned, "fs.write", path="bills/rent.txt", text=page)
    assert PAGE in poisoned.exposed
    assert findings._read(rig.begin("r3", "Read bills/rent.txt"), "fs.read", {"path": "bills/rent.txt"}) is None


def test_a_grant_that_names_a_value_makes_it_trusted_and_a_wildcard_does_not(rig: Brained) -> None:
    """The owner's own list is the owner's word; `*.example` names nobody."""
    for texts, found in ((["bills/"], Origin.TRUSTED), (["*"], Origin.UNTRUSTED)):
        rig.grants.allow(Grant("local", "tester", "brain.forget", {}, "owner", 0.0))
        rig.grants.allow(Grant("local", "tester", "message.send", {"agents": [*texts, "ana"]}, "owner", 0.0))
        run = rig.begin(f"r-{texts[0]}", "Hello")
        findings = Findings(rig.registry, rig.grants)
        known = rig.registry.find("fs.write").capability
        rig.grants.allow(Grant("local", "tester", "fs.write", {"paths": texts}, "owner", 0.0))
        decided = findings._decided(run, known, "path", "bills/x.txt")
        assert (decided.origin if decided else Origin.UNTRUSTED) is found


def test_the_judge_never_performs_an_effect(rig: Brained) -> None:
    """Its own reads are reads: no call with ordinal 0 changes anything."""
    performed: list[Call] = []
    for entry in rig.registry._entries.values():
        if entry.handler is not None and entry.capability.effect.changes:
            name = entry.capability.id
            handler = entry.handler
            object.__setattr__(entry, "handler", lambda call, inner=handler: (performed.append(call), inner(call))[1])
            assert name
    run = rig.begin("r1", "Forget where Ana lives and write plan.md")
    rig.ask(run, "web.read")
    rig.ask(run, "fs.write", path="plan.md", text="x")
    rig.ask(run, "kv.set", key="a", value="x")
    assert [call.ordinal for call in performed] == [2, 3]
