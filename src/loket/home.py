"""The home of a running system: where its files are, who holds it, and its settings.

`kernel.db`, `bus.db`, `schedules.db`,
`packages/<id>/<version>/`, `modules/<digest>.wasm`, `brains/<agent>.db`, `models/`, `cache/`,
`vault/`, `config.toml`, `logs/`; `token` and `server.json` let the owner's commands speak to the running server.
"""

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loket.contracts import BadInput, Failed
from loket.durable import write_private

DEFAULT_PORT = 1987


@dataclass(frozen=True, slots=True)
class Home:
    """Paths below one directory. `prepare` makes them, for their user alone."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "kernel.db"

    @property
    def bus(self) -> Path:
        return self.root / "bus.db"

    @property
    def gateway(self) -> Path:
        return self.root / "gateway.db"

    @property
    def proposals(self) -> Path:
        return self.root / "proposals.db"

    @property
    def channels(self) -> Path:
        return self.root / "channels.db"

    @property
    def schedules(self) -> Path:
        return self.root / "schedules.db"

    @property
    def packages(self) -> Path:
        return self.root / "packages"

    @property
    def modules(self) -> Path:
        return self.root / "modules"

    @property
    def brains(self) -> Path:
        return self.root / "brains"

    @property
    def policies(self) -> Path:
        """Files of rules, `*.cedar`."""
        return self.root / "policies"

    @property
    def users(self) -> Path:
        """Users and roles."""
        return self.root / "users.db"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def vault(self) -> Path:
        return self.root / "vault"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def config(self) -> Path:
        return self.root / "config.toml"

    @property
    def chat_history(self) -> Path:
        return self.root / "chat_history"

    @property
    def token(self) -> Path:
        return self.root / "token"

    @property
    def server(self) -> Path:
        return self.root / "server.json"

    def prepare(self) -> None:
        """Make the directories, 0700. Raises `BadInput` where the home cannot be used."""
        folders = (self.packages, self.modules, self.brains, self.models, self.cache, self.vault, self.logs)
        try:
            for folder in (self.root, *folders):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(
                "home.unusable",
                f"the home {self.root} cannot be used: {error.strerror}",
                "name another one with --home or LOKET_HOME",
            ) from None

    def secret(self, path: Path) -> str:
        """The hex secret in a file, made at first use. Only its user can read it."""
        try:
            return path.read_text().strip()
        except FileNotFoundError:
            value = secrets.token_hex(32)
            write_private(path, value.encode())
            return value

    def journal_key(self) -> bytes:
        """The key of the journal's seal, kept in the vault."""
        return bytes.fromhex(self.secret(self.vault / "journal.key"))

    def running(self) -> dict[str, Any] | None:
        """Where the running server says it listens (`port`, `pid`), or None."""
        try:
            said: dict[str, Any] = json.loads(self.server.read_text())
        except (OSError, ValueError):
            return None
        return said if isinstance(said.get("port"), int) else None


@contextlib.contextmanager
def hold(home: Home) -> Any:
    """Hold the home for this process alone. Raises `Failed` (`home.held`) where another one does.

    A lock of the system (`flock`), so that it ends with the process, however that ends.
    """
    try:
        import fcntl
    except ImportError:
        raise Failed(
            "home.lock",
            "this system has no flock, which keeps two kernels from one home",
            "run Loket on Linux or macOS",
        ) from None
    handle = os.open(home.root / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(
                "home.held",
                f"another Loket process holds {home.root}",
                "wait until it is done, or stop it; `loket up` serves many commands at once",
                blame="owner",
            ) from None
        yield
    finally:
        os.close(handle)
