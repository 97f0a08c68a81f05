"""Slash commands: which text is one, who may say it, and what it does, on a real system with no model."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import puppets
from guests_fixture import share_compiled
from loket.app import Loket, running
from loket.contracts import OWNER, Principal, RunStatus, Sender
from loket.home import Home
from loket.slash import OWN, needs_owner, typed
from test_agents import until

STRANGER = Sender(Principal("sender", "mail:eve"), ("sender:mail:eve",))


def paired(text: str) -> Sender:
    """The owner on a channel, as the door of channels says it."""
    return Sender(Principal("agent", "main"), (str(OWNER),), text)


def on_system(directory: Path, story: Callable[[Loket], Any]) -> Any:
    """Tell a story on a running system without a model."""

    async def told() -> Any:
        async with begun(directory) as system:
            return await story(system)

    return asyncio.run(told())


@contextlib.asynccontextmanager
async def begun(directory: Path) -> AsyncIterator[Loket]:
    home = directory / "home"
    if not home.exists():
        home.mkdir(mode=0o700)
        share_compiled(home)
        (home / "config.toml").write_text("[models]\nchain = []\n")
    async with running(Home(home)) as system:
        yield system


async def say(system: Loket, text: str, sender: Sender | None = None, agent: str = "main", **more: Any) -> Any:
    """The reply to a text, as every door gets it: through the run that answers."""
    ending = await system.finished(await system.send(agent, text, sender=sender, **more))
    return (ending.answer or {}).get("text", ending.error)


@given(st.text(max_size=40))
def test_only_an_exact_first_word_is_a_command(text: str) -> None:
    """Whatever the text is: a name is letters, digits and hyphens behind one slash, and nothing else of the word."""
    found = typed(text)
    if found is not None:
        name, rest = found
        assert text.split(maxsplit=1)[0].lower() == f"/{name}"
        assert not rest or text.rstrip().endswith(rest.rstrip())


@pytest.mark.parametrize("text", ["/etc/hosts is wrong", "/ help", "help", "//help", "", "/1st", "/remember: x"])
def test_what_only_looks_like_a_command_is_a_message(text: str) -> None:
    """A path, a blank after the slash, a colon behind the name."""
    assert typed(text) is None


def test_what_a_door_must_not_take_from_a_program_is_known_by_its_name() -> None:
    """Approvals are for the owner alone, however they are written."""
    assert [needs_owner(text) for text in ("/approve x", "  /DENY x", "/runs", "approve", "/approved")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_the_brain_is_reached_by_command_with_no_model(tmp_path: Path) -> None:
    """What was remembered is recalled and forgotten, with the speaker's labels, through the counter."""

    async def story(system: Loket) -> None:
        assert await say(system, "/remember my sister is Ana") == "Remembered as number 1."
        assert await say(system, "/recall sister", paired("/recall sister")) == "1. my sister is Ana"
        assert await say(system, "/remember the door code is 1", STRANGER) == "Remembered as number 2."
        found = await system.direct("main", "brain.search", {"query": "door"})
        assert found.answer is not None
        assert found.answer["memories"][0]["labels"] == ["sender:mail:eve"]
        assert await say(system, "/forget 1") == "Forgotten: 1."
        assert await say(system, "/recall sister") == "I remember nothing about that."
        run = system.database.runs("main", 1)[0]["id"]
        assert system.replayer.replay(run).ok

    on_system(tmp_path, story)


def test_help_tools_skills_runs_and_status_are_answered(tmp_path: Path) -> None:
    """Each command of the list has an answer, and /help names them all."""

    async def story(system: Loket) -> None:
        said = await say(system, "/help")
        assert all(f"- {one.usage}: " in said for one in OWN)
        assert "- brain.search: " in await say(system, "/tools")
        assert "loket skills add" in await say(system, "/skills")
        assert "done (main)" in await say(system, "/runs")
        assert "Waiting for you: 0" in await say(system, "/status")
        assert await say(system, "/rememberr x") == (
            "There is no command /rememberr. Did you mean /remember? /help lists them all."
        )
        assert [one["name"] for one in system.slash.listed()] == [one.name for one in OWN]

    on_system(tmp_path, story)


def test_approving_and_denying_is_for_the_owner_alone(tmp_path: Path) -> None:
    """A sender's word is refused and changes nothing; the owner's lets the run go on, from a channel too."""

    async def story(system: Loket) -> None:
        await puppets.install(system, tmp_path / "made", "pup", {})
        system.grants.revoke("local", "pup", "brain.forget")
        await system.send("main", "/remember one")
        await asyncio.to_thread(system.installed.allow, "pup", "brain.forget", {})
        waits = await system.send("pup", puppets.steps(("brain.forget", {"id": 1})), sender=STRANGER)
        await until(lambda: system.approvals.open_of([waits]))
        identity = system.approvals.open_of([waits])[0].approval
        refused = await say(system, f"/approve {identity}", STRANGER)
        assert refused["code"] == "slash.owner"
        assert system.approvals.open_of([waits])
        assert f"{identity}: pup wants brain.forget with id=1" in await say(system, "/approve")
        said = await say(system, f"/deny {identity} not that one", paired(f"/deny {identity} not that one"))
        assert said == f"Denied: brain.forget of pup ({identity})."
        await system.finished(waits)
        assert "approved already" not in await say(system, f"/approve {identity}")

    on_system(tmp_path, story)


def test_a_sender_stops_what_is_its_own_and_nothing_else(tmp_path: Path) -> None:
    """The owner stops any run; commands are answered while the conversation waits."""

    async def story(system: Loket) -> None:
        await puppets.install(system, tmp_path / "made", "pup", {})
        await asyncio.to_thread(system.installed.allow, "pup", "brain.forget", {})
        text = puppets.steps(("brain.forget", {"id": 1}))
        theirs = await system.send("pup", text, sender=STRANGER, conversation="a")
        others = await system.send(
            "pup", text, sender=Sender(Principal("sender", "x"), ("sender:x",)), conversation="b"
        )
        await until(lambda: system.approvals.open_of([theirs]) and system.approvals.open_of([others]))
        assert (await say(system, "/runs", STRANGER, "pup")).split()[0] == theirs
        assert "No run that goes on" in await say(system, f"/stop {others}", STRANGER, "pup")
        assert await say(system, "/stop", STRANGER, "pup", conversation="a") == f"Stopped: {theirs}."
        assert (await system.finished(theirs)).status is RunStatus.STOPPED
        assert await say(system, f"/stop {others}") == f"Stopped: {others}."

    on_system(tmp_path, story)
