"""Users whom the owner makes, and roles: kept, and known to the policy at the next call."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from live import loket, prepare
from loket.app import Loket, running
from loket.contracts import OWNER, BadInput, Principal, RowKind
from loket.home import Home
from loket.operations import Operations
from loket.policy import Standing
from loket.roles import Users
from loket.store.users import UserTable
from loket.testing.models import InstantModel

ANA = Principal("user", "ana")


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Users]:
    made = Users(UserTable(tmp_path / "users.db"), lambda: 7.0)
    yield made
    made.close()


def test_a_user_has_the_roles_that_it_was_made_with(users: Users) -> None:
    """And is enabled, until it is disabled; one who was removed is a stranger."""
    users.add("ana", ["reader"])
    assert users.standing(ANA) == Standing(("reader",))
    users.enable("ana", enabled=False)
    assert users.standing(ANA) == Standing(("reader",), enabled=False)
    users.enable("ana", enabled=True)
    users.remove("ana")
    assert users.standing(ANA) == Standing((), enabled=False)


def test_those_whom_nobody_made_stand_for_what_they_are(users: Users) -> None:
    """A user that is unknown may do nothing; the owner, agents and others need no entry."""
    assert not users.standing(Principal("user", "eve")).enabled
    for principal in (OWNER, Principal("agent", "main"), Principal("host", "lessons"), Principal("sender", "a:b")):
        assert users.standing(principal) == Standing()


def test_agents_clients_and_senders_can_have_roles(users: Users) -> None:
    """The part after the first colon is the name, colons included."""
    for written in ("agent:main", "client:editor", "sender:mail:ana@x.example"):
        kind, _, who = written.partition(":")
        users.give(written, "reader")
        assert users.standing(Principal(kind, who)) == Standing(("reader",))
        users.take(written, "reader")
        assert users.standing(Principal(kind, who)) == Standing()


@pytest.mark.parametrize("principal", ["owner", "owner:", "host:loket", "user:eve", "agent:", "stranger:x", ""])
def test_some_can_have_no_role(users: Users, principal: str) -> None:
    """The owner needs none, Loket itself gets none, and a user has to be there."""
    with pytest.raises(BadInput):
        users.give(principal, "reader")


@pytest.mark.parametrize("name", ["", "Ana", "\u0430na", "a b", "-a", "a" * 65, "ana\n", "a/b", "a:b"])
def test_names_are_plain(users: Users, name: str) -> None:
    """No capitals, no letters of other scripts that look the same, nothing that a path or a principal is made of."""
    with pytest.raises(BadInput):
        users.add(name, [])
    with pytest.raises(BadInput):
        users.set_role(name, "")


def test_a_role_has_to_be_there(users: Users) -> None:
    """A slip is answered with the role that was meant, and the user is not made."""
    with pytest.raises(BadInput) as error:
        users.add("ana", ["raeder"])
    assert "'reader'" in (error.value.remedy or "")
    assert users.users() == []


def test_a_removed_role_is_nobodys(users: Users) -> None:
    """Those who had it lose it; one of the same name that is made later is another one."""
    users.set_role("editor", "may write")
    users.add("ana", ["reader", "editor"])
    users.remove_role("editor")
    assert users.standing(ANA) == Standing(("reader",))
    users.set_role("editor", "may write")
    assert users.standing(ANA) == Standing(("reader",))


_CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "enable", "disable", "give", "take", "drop"]),
        st.sampled_from(["ana", "bob"]),
        st.sampled_from(["reader", "editor"]),
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=40)
@given(_CHANGES)
def test_what_is_in_memory_is_what_is_on_the_disk(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, str, str]]
) -> None:
    """After any changes, failed ones included, a second reader of the file sees the same standings."""
    path = tmp_path_factory.mktemp("users") / "users.db"
    first = Users(UserTable(path), lambda: 7.0)
    first.set_role("editor", "")
    for what, name, role in changes:
        _change(first, what, name, role)
    second = Users(UserTable(path), lambda: 8.0)
    for name in ("ana", "bob"):
        assert first.standing(Principal("user", name)) == second.standing(Principal("user", name))
    assert first.users() == second.users()
    assert first.roles() == second.roles()
    first.close()
    second.close()


def _change(users: Users, what: str, name: str, role: str) -> None:
    does = {
        "add": lambda: users.add(name, [role]),
        "remove": lambda: users.remove(name),
        "enable": lambda: users.enable(name, enabled=True),
        "disable": lambda: users.enable(name, enabled=False),
        "give": lambda: users.give(f"user:{name}", role),
        "take": lambda: users.take(f"user:{name}", role),
        "drop": lambda: users.remove_role(role),
    }
    with contextlib.suppress(BadInput):  # nobody of this name, or no such role any more
        does[what]()


# On a home


async def perform(system: Loket, name: str, /, **args: Any) -> Any:
    return await Operations(system).perform(name, args, lambda _event: None)


async def _journaled(root: Path) -> None:
    async with running(Home(root), llm=InstantModel(lambda _messages: "")) as system:
        await perform(system, "users.add", name="ana", roles=["reader"])
        await perform(system, "users.enable", name="ana", enabled=False)
        await perform(system, "roles.give", role="reader", principal="agent:main")
        notes = [row for row in system.journal.rows("") if row.kind is RowKind.NOTE]
        what = [row.meta["what"] for row in notes if row.meta["what"].partition(".")[0] in ("user", "role")]
        assert what == ["user.add", "user.disable", "role.give"]
        assert not [row for row in notes if "ana" in row.facts]
        assert system.users.standing(ANA) == Standing(("reader",), enabled=False)


def test_the_owners_decisions_are_in_the_journal(tmp_path: Path) -> None:
    """Each change is a note; its facts name nobody."""
    asyncio.run(_journaled(prepare(tmp_path / "home")))


def test_users_and_roles_are_kept_from_command_to_command(tmp_path: Path) -> None:
    """Made, listed, disabled and removed, with real processes on one home."""
    home = prepare(tmp_path / "home")
    loket(home, "roles", "set", "editor", "--description", "may write")
    made = loket(home, "users", "add", "ana", "--role", "reader", "--role", "editor", "--json")
    assert made["roles"] == ["reader", "editor"]
    loket(home, "users", "disable", "ana")
    listed = loket(home, "users", "list", "--json")["users"]
    assert [(user["name"], user["enabled"], user["roles"]) for user in listed] == [("ana", False, ["editor", "reader"])]
    assert "no user" in loket(home, "users", "remove", "bob", code=2)


async def _operated(root: Path) -> None:
    async with running(Home(root), llm=InstantModel(lambda _messages: "")) as system:
        await perform(system, "roles.set", role="editor")
        await perform(system, "users.add", name="ana", roles=["editor"])
        await perform(system, "roles.take", role="editor", principal="user:ana")
        await perform(system, "roles.give", role="editor", principal="agent:main")
        roles = {role["name"]: role["members"] for role in (await perform(system, "roles.list"))["roles"]}
        assert roles == {"reader": [], "editor": ["agent:main"]}
        await perform(system, "roles.remove", role="editor")
        await perform(system, "users.remove", name="ana")
        assert (await perform(system, "users.list"))["users"] == []
        ending = await system.direct("main", "brain.search", {"query": ""})
        assert ending.answer is not None


def test_every_operation_on_users_and_roles_does_what_it_says(tmp_path: Path) -> None:
    """Give, take and remove; the owner's own calls need no entry."""
    asyncio.run(_operated(prepare(tmp_path / "home")))
