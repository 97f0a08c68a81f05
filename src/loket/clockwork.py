"""What schedules need of a running system: a way to send, to call, to back up, and to see what runs do."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from loket.backup import Parts, take
from loket.backup.take import SEAL
from loket.config import Config
from loket.contracts import OWNER, Json, RunRequest, Send
from loket.home import Home
from loket.ids import new_id
from loket.kernel.engine import Engine
from loket.providers.vault import FileVault
from loket.schedules import System
from loket.store.kernel import KernelDatabase
from loket.stores import Stores

_RECENT = 20
"""Runs of an agent that are looked at for when it did something last."""

_ALLOWED = "allowed"


def system_of(
    home: Home,
    config: Config,
    stores: Stores,
    engine: Engine,
    *,
    vault: FileVault,
    send: Send,
    installed: Callable[[], Collection[str]],
    now: Callable[[], float],
) -> System:
    """The running system as schedules see it."""
    database = stores.database

    async def act(agent: str, capability: str, args: Mapping[str, Json], conversation: str, message: str) -> str:
        """A call that the owner makes, accepted once for a message's id."""
        known = await asyncio.to_thread(database.run_of_message, agent, message)
        if known is not None:
            return known
        return await engine.submit(_direct(agent, capability, args, conversation, now()), message)

    def backup(target: Path, what: Mapping[str, Json]) -> Mapping[str, Json]:
        keyring = config.vault_keyring
        parts = Parts(stores.brains.copy, keyring=keyring, models=bool(what["models"]), keys=bool(what["keys"]))
        return take(home, target, parts, lambda _event: None)

    return System(
        send=send,
        act=act,
        ending=database.run,
        unfinished=engine.unfinished,
        recent=lambda agent: [(run["id"], run["accepted"], run["ended"]) for run in database.runs(agent, _RECENT)],
        take=backup,
        seal=lambda: vault.master.subkey(SEAL),
        installed=installed,
        stores=stores.brains,
        folder=home.files,
    )


def approved(database: KernelDatabase) -> Callable[[str, int], bool]:
    """Whether the owner approved a call of a run, which has used that up."""

    def look(run: str, ordinal: int) -> bool:
        kept = [one for one in database.approvals.of_run(run) if one.ordinal == ordinal]
        return any(one.status == _ALLOWED and one.used is not None for one in kept)

    return look


def _direct(agent: str, capability: str, args: Mapping[str, Json], conversation: str, at: float) -> RunRequest:
    run = new_id(at)
    return RunRequest(
        id=run,
        root=run,
        agent=agent,
        principal=OWNER,
        module=None,
        conversation=conversation,
        operation=capability,
        args=dict(args),
        labels=(str(OWNER),),
        accepted=at,
    )
