"""What a process may have that runs beside Loket, and who starts it with exactly that."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Confine:
    """A command, and all that it gets of the machine; whatever is not named here is not there.

    `argv`: the command itself; a first word without a slash is looked up in the `PATH` of `environment` (or in
    `/usr/bin:/bin`). `readable` and `writable` are absolute paths beyond the system's own read-only folders (`/usr`
    and what belongs to it); `workspace` is a folder that exists, the command's current one, and writable. Nothing but
    `environment` is in its environment. `memory_mb` counts MiB, and `processes` counts threads too, of the command with
    all its children; `files` is the number of open files, and `cpu_s` the seconds of processor time, of each process.
    """

    argv: tuple[str, ...]
    workspace: Path
    environment: Mapping[str, str]
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False
    memory_mb: int = 512
    processes: int = 64
    files: int = 256
    cpu_s: int | None = None


def _nothing() -> None:
    """Nothing is left behind."""


@dataclass(frozen=True, slots=True)
class Launch:
    """One start of a confined command, as a plain command line: it enters the sandbox, and becomes the command.

    Start `argv` with exactly `environment`, as the leader of a new session (`start_new_session=True`), from a thread
    that lives as long as the command may (its end is the command's). Kill the process group, then call `close`, which
    ends whatever is left and takes away what the launch made on this machine; it may be called again. No descriptor
    but the three standard ones has to be passed on, and none of the parent's gets in.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    pass_fds: tuple[int, ...] = ()
    end: Callable[[], None] = _nothing

    def close(self) -> None:
        """End what is left of the command, and remove its control groups. Takes milliseconds."""
        self.end()


class Launcher(Protocol):
    """Makes launches in one kind of sandbox."""

    @property
    def kind(self) -> Literal["bubblewrap", "landlock"]: ...

    def command(self, confine: Confine) -> Launch:
        """Prepare one start.

        Raises `BadInput` (`jail.confine`) for what cannot be, and `Refusal` (`jail.limits`) where this machine could
        not hold the command to its limits.
        """
