"""Clients of other protocols as principals: each has grants of its own, and what it does passes the counter as runs.

Towards the kernel a client is a module `client:NAME` of the publisher `client`; what stands for its bytes is the
digest of its token's id. So grants, constraints and execution tokens hold for it with no rule of their own, and a new
token of an old name starts with nothing.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from loket.app import Loket
from loket.calling import MOST, PUBLISHER
from loket.contracts import (
    BadInput,
    Grant,
    Json,
    Labels,
    Limits,
    ModuleRef,
    Principal,
    RunRequest,
)
from loket.ids import new_id
from loket.narrowing import check_constraints
from loket.store.accounts import Accounts

PREFIX = "client:"
"""Begins a client's name where modules are named too: in `loket grants` and in remedies."""

LOCAL = "local"
"""The client that a program of the owner's own machine is, unless it is started with another name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LIMITS = Limits(calls=MOST)


@dataclass(frozen=True, slots=True)
class Client:
    """A client: its name, and what tells it from others of that name (a token's id; empty for a local program)."""

    name: str
    token: str = ""
    ref: ModuleRef = field(init=False)
    principal: Principal = field(init=False)
    labels: Labels = field(init=False)
    agent: str = field(init=False)
    """Under which name it keeps memories, files and values of its own."""

    def __post_init__(self) -> None:
        told = f"client token {self.token}" if self.token else f"client local {self.name}"
        digest = hashlib.sha256(told.encode()).hexdigest()
        who = f"mcp/{self.name}"
        place = f"client-{hashlib.sha256(self.name.encode()).hexdigest()[:16]}"
        values = {
            "ref": ModuleRef(PUBLISHER, f"{PREFIX}{self.name}", "1", digest, _LIMITS),
            "principal": Principal("client", who),
            "labels": (f"client:{who}",),
            "agent": place,
        }
        for name, value in values.items():
            object.__setattr__(self, name, value)


def local(name: str) -> Client:
    """A program of this machine. Raises `BadInput` for a name that is none."""
    if not _NAME.fullmatch(name):
        raise BadInput(
            "client.name",
            f"the name {name[:80]!r} is not made of 1 to 64 letters, digits, dots, hyphens and underscores",
            "loket mcp --client editor",
        )
    return Client(name)


def request(
    system: Loket,
    client: Client,
    capability: str,
    args: Mapping[str, Json],
    *,
    agent: str | None = None,
    conversation: str | None = None,
) -> RunRequest:
    """A run of a client that makes one call; on the data of `agent`, else on the client's own.

    Without a conversation it stands alone, so that it waits for no other call.
    """
    now = system.now()
    run = new_id(now)
    return RunRequest(
        id=run,
        root=run,
        agent=agent or client.agent,
        principal=client.principal,
        module=client.ref,
        conversation=conversation or run,
        operation=capability,
        args=args,
        labels=client.labels,
        accepted=now,
        rights=system.grants.rights(client.ref),
    )


def granted(system: Loket, client: Client) -> dict[str, Mapping[str, Json]]:
    """What a client may use now: capability to constraints. Nothing where its token was never granted anything."""
    if not system.grants.accepted(PUBLISHER, client.ref.id, client.ref.digest):
        return {}
    return dict(system.grants.rights(client.ref))


# The owner's decisions


def named(word: str) -> str | None:
    """The client's name in `client:NAME`; None for the id of a module."""
    return word.removeprefix(PREFIX) if word.startswith(PREFIX) else None


def known(system: Loket, name: str) -> list[Client]:
    """The clients of this name: the program of this machine, and the one with a token. Raises `BadInput`."""
    store = Accounts(system.home.gateway)
    try:
        tokens = [Client(name, row["id"]) for row in store.tokens() if row["name"] == name]
    finally:
        store.close()
    return [local(name), *tokens]


def allow(system: Loket, name: str, capability: str, constraints: Mapping[str, Json], *, add: bool = False) -> Grant:
    """Grant a capability to the clients that have this name now. Raises `BadInput`, `Refusal`."""
    held = known(system, name)
    about = system.registry.find(capability).capability
    check_constraints(about, constraints)
    at = system.now()
    accepted = [client for client in held if system.grants.accepted(PUBLISHER, client.ref.id, client.ref.digest)]
    if len(accepted) < len(held):  # the name means somebody new, who does not get what others were granted
        for old in system.grants.held(PUBLISHER, f"{PREFIX}{name}"):
            system.grants.revoke(PUBLISHER, old.module, old.capability)
    for client in held:
        if client not in accepted:
            system.grants.accept(PUBLISHER, client.ref.id, client.ref.digest, at)
    mine = [grant for grant in system.grants.held(PUBLISHER, f"{PREFIX}{name}") if grant.capability == capability]
    if add and mine:
        constraints = about.widened(mine[0].constraints, constraints)
    grant = Grant(PUBLISHER, f"{PREFIX}{name}", capability, constraints, "owner", at, "granted by command")
    system.grants.allow(grant)
    return grant
