"""The durability campaign: a small one finds nothing lost and nothing done twice, and its checks find what is."""

import asyncio
import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
from typer.testing import CliRunner

from guests_fixture import share_compiled
from loket.app import running
from loket.bench import CAMPAIGN, Place, working_place
from loket.bench.durability import Outcome, campaign
from loket.bench.durability_check import Found, counts, examine
from loket.bench.durability_work import AGENTS, STEPS, Gone, Ledger, Message, SystemDoor, furnish, scripted, talk
from loket.cli.main import app
from loket.contracts import BadInput
from loket.home import Home
from loket.testing.model_server import ModelServer

SEED = 20_261_121


def place_with_cache(root: Path) -> Place:
    """A place that uses the compiled code which other tests keep."""
    share_compiled(root)
    return Place(root)


def test_nothing_is_lost_or_done_twice_in_a_small_campaign() -> None:
    """Eight kills of a real server and ten power losses, in mid-work: every promise stands, and much was done."""
    said: list[str] = []
    with working_place() as place:
        outcome = campaign(place_with_cache(place.root), 8, 10, SEED, said.append)
    assert outcome.violations == ()
    assert outcome.counted["messages"] >= 36
    assert outcome.counted["effects"] > outcome.counted["messages"]
    assert said[0] == f"seed {SEED}: 8 times kill -9, then 10 power losses"
    assert any("are left" in line for line in said)
    row = outcome.row()
    assert (row.name, row.unit, row.p50, row.target, row.met, row.n) == ("durability", "violations", 0, 0, True, 18)
    assert row.command == f"loket bench durability --kills 8 --losses 10 --seed {SEED}"
    assert {peer["name"]: peer["p50"] for peer in row.peers}.keys() == {
        *("kill -9", "power losses", "messages", "runs", "effects"),
    }


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, Ledger]]:
    """A home in which messages with all kinds of effects were answered, and the ledger of them."""
    home, ledger = place_with_cache(tmp_path_factory.mktemp("worked")).home("home"), Ledger("worked")

    async def work() -> None:
        async with running(home) as system:
            while not ({*STEPS, "remember"} <= {step for message in ledger.messages for step in message.steps}):
                await talk(ledger, SystemDoor(system), more=True)

    with ModelServer(scripted, models=("scripted",)) as model:
        asyncio.run(furnish(home, model.url))
        asyncio.run(work())
        yield home, ledger


@pytest.fixture
def copied(worked: tuple[Home, Ledger], tmp_path: Path) -> tuple[Home, Ledger]:
    """A copy of both, to be damaged."""
    home, ledger = worked
    shutil.copytree(home.root, tmp_path / "home", symlinks=True)
    return Home(tmp_path / "home"), copy.deepcopy(ledger)


def look(home: Home, ledger: Ledger) -> Found:
    return asyncio.run(examine(home, ledger))


def one(ledger: Ledger, step: str) -> Message:
    return next(message for message in ledger.messages if step in message.steps)


def test_a_home_in_which_all_was_answered_has_no_violation(copied: tuple[Home, Ledger]) -> None:
    """The checks find nothing where nothing is wrong, and they looked at messages, runs and effects of each kind."""
    found = look(*copied)
    assert found.wrong == []
    assert {effect.capability for effect in found.effects} >= {
        *("brain.add", "fs.write", "agent.ask", "message.publish", "message.subscribe")
    }
    assert counts([found])["messages"] == len(copied[1].messages)


def execute(path: Path, statement: str, *values: object) -> None:
    connection = apsw.Connection(str(path))
    connection.execute(statement, values)
    connection.close()


def brain(home: Home, message: Message, statement: str, *values: object) -> None:
    execute(home.brains / f"{message.agent}.db", statement, *values)


def unlock(home: Home) -> None:
    """What keeps the journal from being changed by mistake."""
    execute(home.database, "DROP TRIGGER journal_append_only_delete")
    execute(home.database, "DROP INDEX journal_end")


AGAIN = """INSERT INTO journal SELECT (SELECT max(seq) + 1 FROM journal), run, ordinal, kind, at, facts, value, salt,
    commitment, hash FROM journal WHERE run = ? AND kind = ? ORDER BY seq LIMIT 1"""
"""Writes one row of a run once more, at the end."""


def memory_doubled(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "keep")
    with apsw.Connection(str(home.brains / f"{message.agent}.db")) as connection:
        columns = ", ".join(name for _, name, *_ in connection.execute("PRAGMA table_info(memory)") if name != "id")
    select = f"SELECT (SELECT max(id) + 1 FROM memory), {columns} FROM memory WHERE text = ?"  # noqa: S608 - columns
    brain(home, message, f"INSERT INTO memory (id, {columns}) {select}", f"kept {message.mark}")


def memory_removed(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "remember")
    brain(home, message, "DELETE FROM memory WHERE text = ?", message.mark)


def file_removed(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "write")
    (home.files / message.agent / "notes" / f"{message.mark}.md").unlink()


def file_changed(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "write")
    (home.files / message.agent / "notes" / f"{message.mark}.md").write_text("written")


def file_added(home: Home, ledger: Ledger) -> None:
    (home.files / one(ledger, "write").agent / "notes" / "more.md").write_text("more")


def mark_of_a_write_removed(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "write")
    brain(home, message, "DELETE FROM fs_applied WHERE run = ?", message.run)


def mark_of_a_write_added(home: Home, ledger: Ledger) -> None:
    message = one(ledger, "write")
    brain(home, message, "INSERT INTO fs_applied VALUES (?, 99, 1)", message.run)


def end_removed(home: Home, ledger: Ledger) -> None:
    unlock(home)
    execute(home.database, "DELETE FROM journal WHERE run = ? AND kind = 'end'", ledger.messages[0].run)


def end_doubled(home: Home, ledger: Ledger) -> None:
    unlock(home)
    execute(home.database, AGAIN, ledger.messages[0].run, "end")


def outcome_doubled(home: Home, ledger: Ledger) -> None:
    execute(home.database, AGAIN, one(ledger, "write").run, "outcome")


def run_removed(home: Home, ledger: Ledger) -> None:
    unlock(home)
    run = one(ledger, "keep").run
    execute(home.database, "DELETE FROM journal WHERE run = ?", run)
    execute(home.database, "DELETE FROM runs WHERE id = ?", run)


def child_removed(home: Home, ledger: Ledger) -> None:
    unlock(home)
    parent = one(ledger, "ask").run
    execute(home.database, "DELETE FROM journal WHERE run IN (SELECT id FROM runs WHERE parent = ?)", parent)
    execute(home.database, "DELETE FROM runs WHERE parent = ?", parent)


def never_accepted(_home: Home, ledger: Ledger) -> None:
    ledger.messages.append(Message("m0000000000", AGENTS[0], "one", (), run="acknowledged"))


def never_ended(home: Home, ledger: Ledger) -> None:
    execute(home.database, "UPDATE runs SET ended = NULL, status = 'waiting' WHERE id = ?", ledger.messages[0].run)


def another_answer(_home: Home, ledger: Ledger) -> None:
    ledger.messages[0].answer = "another"


def another_order(_home: Home, ledger: Ledger) -> None:
    first = ledger.messages[0]
    place = (first.agent, first.conversation)
    second = next(n for n, m in enumerate(ledger.messages) if n and (m.agent, m.conversation) == place)
    ledger.messages[0], ledger.messages[second] = ledger.messages[second], first


def accepted_twice(home: Home, ledger: Ledger) -> None:
    """The same words once more under another id are a second run, with all that it does."""
    message = one(ledger, "write")

    async def again() -> None:
        async with running(home) as system:
            run = await system.send(message.agent, message.text, conversation=message.conversation, message="again")
            await system.finished(run)

    asyncio.run(again())


DAMAGE: dict[Callable[[Home, Ledger], None], str] = {
    memory_doubled: "memories of {agent} beyond the journal",
    memory_removed: "memories of {agent} that are missing",
    file_removed: "files of {agent} that are missing or differ",
    file_changed: "files of {agent} that are missing or differ",
    file_added: "files of {agent} beyond the journal",
    mark_of_a_write_removed: "marks of writes of {agent}, missing",
    mark_of_a_write_added: "marks of writes of {agent}:",
    end_removed: "ends of run",
    end_doubled: "ends of run",
    outcome_doubled: "ordinals of run",
    run_removed: "runs of message",
    child_removed: "runs that were started and are missing",
    never_accepted: "runs of message m0000000000: 0 instead of 1",
    never_ended: "runs that have not ended",
    another_answer: "the answer of",
    another_order: "the order of",
    accepted_twice: "runs of message",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_was_lost_or_doubled_is_found(damage: Callable[[Home, Ledger], None], copied: tuple[Home, Ledger]) -> None:
    """Each promise that is broken on purpose, in the files or in the ledger, is a violation by name."""
    home, ledger = copied
    damage(home, ledger)
    found = look(home, ledger)
    wanted = [DAMAGE[damage].format(agent=agent) for agent in AGENTS]
    assert any(sentence.startswith(tuple(wanted)) for sentence in found.wrong), found.wrong


def test_a_second_acceptance_and_another_answer_are_seen_by_whoever_sends() -> None:
    """What a client hears twice has to be the same; and nothing is heard once the power is gone."""
    ledger = Ledger("seen")
    (message, *_) = ledger.todo("north", "one", more=True)
    ledger.acknowledged(message, "a")
    ledger.acknowledged(message, "b")
    ledger.answered(message, "yes")
    ledger.answered(message, "no")
    assert [message.mark in sentence for sentence in ledger.broken] == [True, True]
    ledger.frozen = True
    with pytest.raises(Gone):
        ledger.acknowledged(message, "b")


def test_a_seed_gives_the_same_messages_again() -> None:
    """The schedule of what is sent follows from the seed alone."""

    def texts(seed: str) -> list[str]:
        ledger = Ledger(seed)
        return [message.text for agent in AGENTS for message in ledger.todo(agent, "one", more=True)]

    assert texts("1") == texts("1")
    assert texts("1") != texts("2")


def test_the_command_ends_with_1_and_the_line_that_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A violation is printed with the seed's command, and is a failure; a campaign without one is none."""
    none = CliRunner().invoke(app, ["bench", "durability", "--kills", "0", "--losses", "0", "--seed", "3", "--json"])
    assert none.exit_code == 0
    assert json.loads(none.stdout)["rows"][0]["command"] == "loket bench durability --kills 0 --losses 0 --seed 3"

    def lost(_place: Place, kills: int, losses: int, seed: int, _say: Callable[[str], None]) -> Outcome:
        return Outcome(kills, losses, seed, ("message m1 was never answered",), {"messages": 1}, 0.5)

    monkeypatch.setattr("loket.bench.durability.campaign", lost)
    found = CliRunner().invoke(app, ["bench", "durability", "--seed", "4"])
    assert found.exit_code == 1
    assert "message m1 was never answered" in found.stdout
    assert "Repeat: loket bench durability --kills 500 --losses 200 --seed 4" in found.stdout


def test_options_of_the_campaign_belong_to_it_alone() -> None:
    """They are refused for other rows, and the campaign is run by its name and by itself."""
    for words in (["turn", "--kills", "3"], ["durability", "turn"]):
        found = CliRunner().invoke(app, ["bench", *words])
        assert isinstance(found.exception, BadInput)
        assert found.exception.remedy == "loket bench durability"
    assert CAMPAIGN.n == 500
