"""Users whom the owner made, and roles: who somebody is, for the policy.

A role is a name that rules speak of (`principal in Role::"reader"`); what it allows stands in the rules alone. Users
have roles, and so can agents, clients and senders. What is asked at each decision is kept in memory.
"""

import difflib
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from loket.contracts import BadInput, Principal, command
from loket.policy import Standing
from loket.store.users import UserTable

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KINDS = ("user", "agent", "client", "sender")
"""Kinds of principals that can have a role. The owner needs none, and Loket itself gets none."""

_LONGEST = 500
"""Characters of a role's description."""


class Users:
    """The users and roles of a home. Changes count from the next decision on. Thread-safe."""

    def __init__(self, table: UserTable, now: Callable[[], float]) -> None:
        self._table = table
        self._now = now
        self._lock = threading.Lock()
        self._standings: dict[Principal, Standing] = {}
        self._read()

    def close(self) -> None:
        self._table.close()

    def standing(self, principal: Principal) -> Standing:
        """The roles of a principal, and whether it may do anything: a user whom nobody made may not."""
        known = self._standings.get(principal)
        if known is not None:
            return known
        return _STRANGER if principal.kind == "user" else _PLAIN

    def users(self) -> list[dict[str, Any]]:
        """`name`, `enabled`, `made` (seconds since 1970), `roles`, by name."""
        held = self._held()
        return [{**user, "roles": held.get(f"user:{user['name']}", [])} for user in self._table.users()]

    def roles(self) -> list[dict[str, Any]]:
        """`name`, `description`, `members` (principals), by name."""
        members = self._table.members()
        return [{**role, "members": [p for p, name in members if name == role["name"]]} for role in self._table.roles()]

    def add(self, name: str, roles: Sequence[str]) -> None:
        """Make a user. Raises `BadInput` for a name that cannot be, or is there, and for a role that is not."""
        _check(name, "user")
        for role in roles:
            self._check_role(role)
        if not self._table.add_user(name, list(roles), self._now()):
            raise BadInput("user.exists", f"there is a user {name} already", "loket users list")
        self._read()

    def remove(self, name: str) -> None:
        """Remove a user. Raises `BadInput` where there is none."""
        if not self._table.drop_user(name):
            raise self._unknown(name)
        self._read()

    def enable(self, name: str, *, enabled: bool) -> None:
        """Enable or disable a user. Raises `BadInput` where there is none."""
        if not self._table.enable(name, enabled=enabled):
            raise self._unknown(name)
        self._read()

    def set_role(self, name: str, description: str) -> None:
        """Make a role, or describe it anew. Raises `BadInput`."""
        _check(name, "role")
        if len(description) > _LONGEST or not description.isprintable():
            raise BadInput(
                "role.description", f"a description has one line of at most {_LONGEST} characters", "--description TEXT"
            )
        self._table.set_role(name, description)

    def remove_role(self, name: str) -> None:
        """Remove a role, and take it from all who have it. Raises `BadInput` where there is none."""
        self._check_role(name)
        self._table.drop_role(name)
        self._read()

    def give(self, principal: str, role: str) -> None:
        """Give a role to a principal, written as `agent:main`. Raises `BadInput`."""
        kind, _, who = principal.partition(":")
        if kind not in _KINDS or not who:
            raise BadInput(
                "role.principal", f"{principal!r} can have no role", f"{', '.join(f'{kind}:NAME' for kind in _KINDS)}"
            )
        if kind == "user" and who not in [user["name"] for user in self._table.users()]:
            raise self._unknown(who)
        self._check_role(role)
        self._table.give(principal, role)
        self._read()

    def take(self, principal: str, role: str) -> None:
        """Take a role from a principal. Raises `BadInput` where it does not have it."""
        if not self._table.take(principal, role):
            raise BadInput("role.none", f"{principal} does not have the role {role!r}", "loket roles list")
        self._read()

    def _check_role(self, name: str) -> None:
        known = [role["name"] for role in self._table.roles()]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1) or known[:1]
            hint = f"there is {near[0]!r}; " if near else ""
            make = command("roles", "set", name, "--description", "TEXT")
            raise BadInput("role.unknown", f"there is no role {name!r}", f"{hint}{make or 'loket roles set NAME'}")

    @staticmethod
    def _unknown(name: str) -> BadInput:
        return BadInput("user.unknown", f"there is no user {name!r}", "loket users list")

    def _held(self) -> dict[str, list[str]]:
        held: dict[str, list[str]] = {}
        for principal, role in self._table.members():
            held.setdefault(principal, []).append(role)
        return held

    def _read(self) -> None:
        """Take in what the table says, in one step for those who ask meanwhile."""
        with self._lock:
            found: dict[Principal, Standing] = {}
            held = self._held()
            for principal, roles in held.items():
                kind, _, who = principal.partition(":")
                found[Principal(kind, who)] = Standing(tuple(roles))
            for user in self._table.users():
                roles = held.get(f"user:{user['name']}", [])
                found[Principal("user", user["name"])] = Standing(tuple(roles), user["enabled"])
            self._standings = found


_PLAIN = Standing()
_STRANGER = Standing((), enabled=False)


def _check(name: str, what: str) -> None:
    if not _NAME.fullmatch(name):
        raise BadInput(
            f"{what}.name", f"{name!r} is no name of a {what}", "small letters, digits, dots, hyphens: ana, read-only"
        )
