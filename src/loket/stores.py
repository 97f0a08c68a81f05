"""The stores of a home, opened together and closed together: what a running system keeps on the disk."""

from collections.abc import Callable
from dataclasses import dataclass

from loket.config import Config
from loket.home import Home
from loket.kernel.grants import Grants
from loket.kernel.journal import Journal
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.providers.fs import FS_MIGRATIONS
from loket.providers.kv import KV_MIGRATIONS
from loket.providers.plan import PLAN_MIGRATIONS
from loket.providers.vault import FileVault
from loket.store.agents import AgentDatabases
from loket.store.bus import Bus
from loket.store.channels import ChannelStore
from loket.store.kernel import KernelDatabase
from loket.store.mcp import McpTable
from loket.store.proposals import Proposals
from loket.store.schedules import ScheduleStore
from loket.store.users import UserTable

AGENT_MIGRATIONS = (
    *BRAIN_MIGRATIONS,
    *KV_MIGRATIONS[:2],
    *FS_MIGRATIONS[:2],
    KV_MIGRATIONS[2],
    FS_MIGRATIONS[2],
    *PLAN_MIGRATIONS,
)
"""Of an agent's file. Their order is for good, as a file knows its version by their number: new ones go to the end."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The kernel's database with the journal and the grants on it, a file for each agent, and those of other parts."""

    database: KernelDatabase
    journal: Journal
    grants: Grants
    brains: AgentDatabases
    bus: Bus
    channels: ChannelStore
    proposals: Proposals
    users: UserTable
    mcp: McpTable
    schedules: ScheduleStore

    def close(self) -> None:
        """Close every file; the kernel's last, as what the others close may still be written there."""
        for store in (
            self.brains,
            self.bus,
            self.channels,
            self.proposals,
            self.users,
            self.schedules,
            self.mcp,
            self.database,
        ):
            store.close()


def open_stores(home: Home, config: Config, vault: FileVault, now: Callable[[], float], vfs: str | None) -> Stores:
    """Open the stores of a prepared home through the VFS of SQLite that is named. Raises `Damaged`."""
    database = KernelDatabase(home.database, vault.master.subkey("run-keys"), vfs)
    journal = Journal(database, home.journal_key(), now)
    return Stores(
        database=database,
        journal=journal,
        grants=Grants(
            journal,
            database,
            grants=database.grants(),
            accepted=database.accepted(),
            revoked=database.revoked(),
        ),
        brains=AgentDatabases(
            home.brains,
            AGENT_MIGRATIONS,
            limit=config.open_brains,
            vfs=vfs,
            key=lambda agent: vault.master.subkey(f"brain:{agent}"),
            encrypted=config.brains_encrypted,
        ),
        bus=Bus(home.bus, now, vfs),
        channels=ChannelStore(home.channels, vfs),
        proposals=Proposals(home.proposals, vfs),
        users=UserTable(home.users, vfs),
        mcp=McpTable(home.root / "mcp.db", vfs),
        schedules=ScheduleStore(home.schedules, vfs),
    )
