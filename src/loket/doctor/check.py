"""What a check says, and what it may look at."""

from dataclasses import asdict, dataclass
from typing import Any

from loket.config import Config
from loket.home import Home
from loket.kernel.journal import Journal
from loket.providers.vault_key import MasterKey
from loket.store.agents import AgentDatabases

OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One finding. `fixed` says what was done about it."""

    name: str
    status: str
    detail: str
    remedy: str | None = None
    fixable: bool = False
    fixed: str | None = None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Patient:
    """The home, and the parts of the system that runs in this process, if one does."""

    home: Home
    config: Config
    brains: AgentDatabases | None
    running: Journal | None
    fix: bool
    given_port: int | None = None
    """The port that `--port` or LOKET_PORT names, which goes before that of the settings."""

    @property
    def port(self) -> int:
        """The port that `loket up` would take."""
        return self.config.port if self.given_port is None else self.given_port

    def brain_key(self, agent: str) -> bytes:
        """The key of an encrypted brain."""
        return self.master().subkey(f"brain:{agent}")

    def master(self) -> MasterKey:
        return MasterKey(self.home.vault, keyring=self.config.vault_keyring)


def sound(name: str, detail: str) -> Check:
    return Check(name, OK, detail)


def warning(name: str, detail: str, remedy: str | None) -> Check:
    return Check(name, WARNING, detail, remedy)


def failed(name: str, detail: str, remedy: str | None) -> Check:
    return Check(name, FAILED, detail, remedy)


def mendable(name: str, status: str, detail: str, remedy: str = "loket doctor --fix") -> Check:
    """A finding that `--fix` mends, and that nobody has mended yet."""
    return Check(name, status, detail, remedy, fixable=True)


def mended(name: str, detail: str, done: str) -> Check:
    """A finding that was mended just now."""
    return Check(name, OK, detail, None, fixable=True, fixed=done)
