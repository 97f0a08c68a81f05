"""The lists that commands read are compared with the journal: what was changed in them from outside is named."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from live import prepare
from loket.app import Loket, running
from loket.home import Home
from loket.ledger import compare
from loket.operations import Operations
from loket.testing.models import InstantModel


def reasons(root: Path) -> list[str]:
    return [fault.reason for fault in compare(root / "kernel.db")]


def change(root: Path, sql: str, *values: Any) -> None:
    connection = apsw.Connection(str(root / "kernel.db"))
    connection.execute(sql, values).fetchall()
    connection.close()


async def perform(system: Loket, name: str, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


async def talked(root: Path, erase: Sequence[int] = ()) -> list[str]:
    """Two runs of a real system, with grants that were given, widened and taken back; these of them are erased."""
    async with running(Home(root), llm=InstantModel(lambda _messages: "ok")) as system:
        runs = [str((await perform(system, "ask", agent="main", text=text))["run"]) for text in ("one", "two")]
        await perform(system, "grants.allow", agent="main", capability="fs.read", constraints={"paths": ["a/"]})
        await perform(
            system, "grants.allow", agent="main", capability="fs.read", constraints={"paths": ["b/"]}, add=True
        )
        await perform(
            system, "grants.allow", agent="main", capability="net.fetch", constraints={"hosts": ["a.example"]}
        )
        await perform(system, "grants.revoke", agent="main", capability="net.fetch")
        if erase:
            await perform(system, "erase", runs=[runs[number] for number in erase], only=True)
        assert (await perform(system, "runs.verify"))["ok"]
        return runs


@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("agent", "other", "agent is 'other' there, and 'main' in the journal"),
        ("status", "failed", "status is 'failed' there, and 'done' in the journal"),
        ("accepted", 1.0, "accepted is 1 there"),
        ("ended", 1.0, "ended is 1 there"),
        ("ended", None, "and has ended in the journal"),
        ("parent", "abc", "parent is 'abc' there, and 'None' in the journal"),
        ("root", "abc", "root is 'abc' there"),
        ("calls", 999, "calls is '999' there"),
        ("tokens", 5, "tokens is '5' there"),
        ("money", 2.5, "money is 2.5 there, and 0 in the journal"),
        ("digest", "d" * 64, "digest is 'dddd"),
        ("principal", "sender", "principal is 'sender' there, and 'agent' in the journal"),
        ("id", "zz", "the journal does not have this run"),
    ],
)
def test_a_changed_run_of_the_list_is_named(tmp_path: Path, column: str, value: Any, says: str, erased: bool) -> None:
    """Every public column, of erased runs too: theirs are compared with the facts that outlive an erasure."""
    root = prepare(tmp_path / "home")
    run = asyncio.run(talked(root, erase=[0] if erased else []))[0]
    assert reasons(root) == []
    change(root, f"UPDATE runs SET {column} = ? WHERE id = ?", value, run)  # noqa: S608 - a column of the test's own
    found = reasons(root)
    assert found
    assert all(reason.startswith("the list of runs was changed: ") for reason in found)
    assert says in found[0] or says in found[-1]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("UPDATE grants SET constraints = '{}' WHERE capability = 'fs.read'", "main has one for fs.read with other"),
        ("UPDATE grants SET constraints = 'x' WHERE capability = 'fs.read'", "main has one for fs.read with other"),
        ("DELETE FROM grants WHERE capability = 'fs.read'", "the one of main for fs.read is missing"),
        ("INSERT INTO grants VALUES ('loket', 'main', 'agent.ask', '{}', 'owner', 1.0, 'x')", "agent.ask that the"),
        ("INSERT INTO grants VALUES ('loket', 'main', 'net.fetch', '{}', 'owner', 1.0, 'x')", "net.fetch that the"),
    ],
)
def test_a_changed_grant_is_named(tmp_path: Path, sql: str, says: str) -> None:
    """Widened, dropped, made up, or one that the owner had taken back: the owner's notes in the journal decide."""
    root = prepare(tmp_path / "home")
    asyncio.run(talked(root))
    change(root, sql)
    found = reasons(root)
    assert len(found) == 1
    assert found[0].startswith("the list of grants was changed: ")
    assert says in found[0]


def test_verify_tells_of_it(tmp_path: Path) -> None:
    """`loket runs verify` fails, with the run and the row, although the chain holds."""
    root = prepare(tmp_path / "home")
    run = asyncio.run(talked(root))[1]
    change(root, "UPDATE runs SET calls = 999 WHERE id = ?", run)

    async def verified() -> Any:
        async with running(Home(root), llm=InstantModel(lambda _messages: "ok")) as system:
            return await perform(system, "runs.verify")

    result = asyncio.run(verified())
    assert not result["ok"]
    assert [fault["run"] for fault in result["journal"]["faults"]] == [run]


def test_a_run_that_goes_on_is_no_fault(tmp_path: Path) -> None:
    """Lists and rows are written together, and read at one moment."""
    root = prepare(tmp_path / "home")

    async def watched() -> list[list[str]]:
        async with running(Home(root), llm=InstantModel(lambda _messages: "ok")) as system:
            asking = [asyncio.create_task(perform(system, "ask", agent="main", text=str(n))) for n in range(12)]
            found = []
            while not all(task.done() for task in asking):
                found.append(await asyncio.to_thread(reasons, root))
            await asyncio.gather(*asking)
            return found

    found = asyncio.run(watched())
    assert found
    assert not any(found)


def test_a_note_or_a_row_that_cannot_be_read_does_not_end_the_comparison(tmp_path: Path) -> None:
    """Whoever changes the journal as well gets faults, not an error."""
    root = prepare(tmp_path / "home")
    run = asyncio.run(talked(root))[0]
    change(root, "DROP TRIGGER journal_append_only_update")
    change(root, "UPDATE journal SET facts = '{' WHERE run = ? AND kind = 'end'", run)
    change(root, "UPDATE journal SET facts = '[]' WHERE run = '' AND facts LIKE '%fs.read%'")
    found = reasons(root)
    assert any("its rows cannot be read" in reason for reason in found)
    assert any("main has one for fs.read" in reason for reason in found)
