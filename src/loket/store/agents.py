"""The databases of agents: one file and one owning connection each, at most so many open at once.

One connection an agent, because SQLite's checkpoints are safest and quickest with a single owner, and because a lock
in this process is cheaper than one in the file. Considered: a connection a thread (three file descriptors each, and
writers that wait for each other in the file system).
"""

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import apsw

from loket.contracts import BadInput, Failed
from loket.store.cipher import LEFT, convert, discard_left, is_plain
from loket.store.copy import copy_database
from loket.store.database import open_database, storage_error

_STEPS = 20_000
"""Instructions of SQLite's machine between two looks at the clock: a few milliseconds at the most."""

AGENT_NAME = re.compile(r"[a-z][a-z0-9-]{1,40}")


class _Slot:
    """One agent's place among the open databases. The connection is opened by the first who holds the lock."""

    __slots__ = ("agent", "connection", "deadline", "lock", "path", "users")

    def __init__(self, agent: str, path: Path) -> None:
        self.agent = agent
        self.path = path
        self.lock = threading.RLock()
        self.users = 0
        self.deadline = math.inf
        self.connection: apsw.Connection | None = None

    def expired(self) -> bool:
        """Asked by SQLite while a statement runs; true ends it."""
        return time.monotonic() > self.deadline


class AgentDatabases:
    """Opens `<directory>/<agent>.db` on demand; safe to use from several threads.

    `migrations` bring a file to its newest schema (see `open_database`). At most `limit` files are open (three file
    descriptors each): the one that was used least recently is closed, never one in use; where all are in use, a caller
    waits for one. The same thread may open the same agent again while it holds it. A caller's statements are ended
    `limit_s` seconds after it got the connection: what a provider does here is under a time limit without a thread.

    `key` gives the key (32 bytes) of an agent's file. With `encrypted` files are encrypted with it; a file that is not
    as this setting says is encrypted or decrypted when it is opened next. Without `key` all files are plain.
    """

    def __init__(
        self,
        directory: Path,
        migrations: Sequence[str],
        limit: int = 64,
        vfs: str | None = None,
        *,
        limit_s: float = 10.0,
        key: Callable[[str], bytes] | None = None,
        encrypted: bool = False,
    ) -> None:
        if limit < 1:
            raise BadInput("agents.limit", f"limit is {limit}; it counts open files", "Give a limit of at least 1")
        self._directory = directory
        self._migrations = tuple(migrations)
        self._limit = limit
        self._vfs = vfs
        self._limit_s = limit_s
        self._key = key
        self._encrypted = encrypted and key is not None
        self._changed = threading.Condition()
        self._slots: OrderedDict[str, _Slot] = OrderedDict()
        self._closed = False

    def open(self, agent: str, limit_s: float | None = None) -> "Lease":
        """The agent's connection, for this caller alone until the context ends. `limit_s`: instead of the usual limit.

        Raises `BadInput` for a name that is no agent's, `Damaged` or `Failed` where the file cannot be used; errors of
        SQLite that leave the context come out as those two as well.
        """
        return Lease(self, agent, limit_s)

    def path(self, agent: str) -> Path:
        """Where the agent's file is, or would be. Raises `BadInput` for a name that is no agent's."""
        if not AGENT_NAME.fullmatch(agent):
            raise BadInput(
                "agent.name",
                f"{agent!r} is no name of an agent",
                "Use 2 to 41 small letters, digits and hyphens, a letter first",
            )
        return self._directory / f"{agent}.db"

    def copy(self, agent: str, target: Path) -> None:
        """Copy the agent's file, as it is at one moment, to a new file; encrypted with the same key if it is so.

        Nobody else has the agent meanwhile. Raises as `open` does, and `Failed` where the copy cannot be written.
        """
        with self.open(agent) as connection:
            key = self._key(agent) if self._key is not None and self._encrypted else None
            copy_database(connection, target, key=key)

    def remove(self, agent: str) -> bool:
        """Delete the agent's file with all that it holds, once nobody uses it; whether there was one."""
        path = self.path(agent)
        with self._changed:
            self._changed.wait_for(lambda: not self._in_use(agent))
            slot = self._slots.pop(agent, None)
            if slot is not None:
                _close(slot)
            existed = path.exists()
            for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}{LEFT}"):
                path.with_name(name).unlink(missing_ok=True)
            self._changed.notify_all()
        return existed

    def close(self) -> None:
        """Close every file, each once nobody uses it. Opening is an error from now on."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not any(slot.users for slot in self._slots.values()))
            while self._slots:
                _close(self._slots.popitem()[1])

    def claim(self, agent: str) -> _Slot:
        """Take a place among the open files. For `Lease`."""
        with self._changed:
            slot = self._slots.get(agent)
            if slot is None:
                self._make_room(agent)
                # While this thread waited for room, another may have opened the same agent.
                slot = self._slots.get(agent) or self._slots.setdefault(agent, _Slot(agent, self.path(agent)))
            self._refuse_when_closed()
            self._slots.move_to_end(agent)
            slot.users += 1
            return slot

    def connect(self, slot: _Slot, limit_s: float | None = None) -> apsw.Connection:
        """The place's connection, opened where it is not. For `Lease`, which holds the place's lock."""
        if slot.connection is None:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            slot.connection = self._opened(slot)
            slot.connection.set_progress_handler(slot.expired, _STEPS)
        slot.deadline = time.monotonic() + (self._limit_s if limit_s is None else limit_s)
        return slot.connection

    def _opened(self, slot: _Slot) -> apsw.Connection:
        """The agent's file, opened as the setting wants it: encrypted or decrypted first where it is not so."""
        discard_left(slot.path)
        plain = is_plain(slot.path)
        if self._key is None or (plain is not False and not self._encrypted):
            return open_database(slot.path, migrations=self._migrations, vfs=self._vfs)
        key = self._key(slot.agent)
        if plain == self._encrypted:
            convert(slot.path, old=None if plain else key, new=key if plain else None)
        return open_database(
            slot.path, migrations=self._migrations, vfs=self._vfs, key=key if self._encrypted else None
        )

    def release(self, slot: _Slot) -> None:
        """Give a place back. For `Lease`."""
        with self._changed:
            slot.users -= 1
            if not slot.users:
                self._changed.notify_all()

    def _make_room(self, agent: str) -> None:
        """Close idle files, oldest use first, until one more fits. The condition's lock is held."""
        while not self._closed and agent not in self._slots and len(self._slots) >= self._limit:
            idle = next((slot for slot in self._slots.values() if not slot.users), None)
            if idle is None:
                self._changed.wait()
            else:
                _close(self._slots.pop(idle.agent))

    def _in_use(self, agent: str) -> bool:
        slot = self._slots.get(agent)
        return slot is not None and slot.users > 0

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise Failed("agents.closed", "The agents' databases are closed", "Start Loket again", blame="machine")


class Lease:
    """A context in which one caller has an agent's connection."""

    __slots__ = ("_agent", "_limit_s", "_slot", "_store")

    def __init__(self, store: AgentDatabases, agent: str, limit_s: float | None = None) -> None:
        self._store = store
        self._agent = agent
        self._limit_s = limit_s
        self._slot: _Slot | None = None

    def __enter__(self) -> apsw.Connection:
        slot = self._store.claim(self._agent)
        slot.lock.acquire()
        try:
            connection = self._store.connect(slot, self._limit_s)
        except BaseException:
            slot.lock.release()
            self._store.release(slot)
            raise
        self._slot = slot
        return connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        slot = self._slot
        if slot is None:
            return
        self._slot = None
        slot.lock.release()
        self._store.release(slot)
        if isinstance(error, apsw.Error):
            raise storage_error(error, slot.path) from error


def _close(slot: _Slot) -> None:
    if slot.connection is not None:
        slot.connection.close()
        slot.connection = None
