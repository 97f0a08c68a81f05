"""Which sandbox this machine has: bubblewrap if it works, else Landlock, else none."""

import ctypes
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from loket.contracts import Confine, Launcher, LoketError, Refusal
from loket.jail.launch import BubblewrapLauncher, LandlockLauncher
from loket.jail.syscalls import NUMBERS

INSTALL = "apt-get install bubblewrap"
"""What helps on Debian and Ubuntu; elsewhere the package has the same name."""

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/run/current-system/sw/bin"
_NESTED = (0, 8)
"""The version of bubblewrap from which it can turn off user namespaces."""
_OLDEST_LANDLOCK = 3
"""Before, Landlock cannot keep a file of the user from being cut to nothing."""
_CREATE_RULESET = 444
_TRIED_S = 20.0


@cache
def choose() -> Launcher:
    """The launcher of this machine, tried with one command; what is found stays until the process ends.

    Takes some 30 ms the first time. Raises `Refusal` (`jail.none`), and looks again at the next call then.
    """
    reasons = []
    for name, found in (("bubblewrap", bubblewrap), ("Landlock", landlock)):
        launcher = found()
        wrong = "it is not here" if launcher is None else _tried(launcher)
        if launcher is not None and wrong is None:
            return launcher
        reasons.append(f"{name}: {wrong}")
    raise Refusal(
        "jail.none",
        f"this machine has no process sandbox that works ({'; '.join(reasons)})",
        INSTALL,
        blame="machine",
    )


def bubblewrap() -> BubblewrapLauncher | None:
    """Bubblewrap, if it is installed, untried."""
    program = shutil.which("bwrap", path=_SYSTEM_PATH)
    if program is None or not _known():
        return None
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False, env={})
    numbers = said.stdout.removeprefix("bubblewrap").strip().split(".")
    return BubblewrapLauncher(Path(program), nested=tuple(_digits(numbers))[:2] >= _NESTED)


def landlock() -> LandlockLauncher | None:
    """Landlock, if the kernel has it in a version that holds files, untried."""
    version = ctypes.CDLL(None).syscall(_CREATE_RULESET, None, ctypes.c_long(0), ctypes.c_long(1))
    return LandlockLauncher(version) if version >= _OLDEST_LANDLOCK and _known() else None


def _known() -> bool:
    """Whether the filter knows this architecture."""
    return platform.system() == "Linux" and platform.machine() in NUMBERS


def _digits(numbers: list[str]) -> Iterator[int]:
    return (int(number) for number in numbers if number.isdigit())


def _tried(launcher: Launcher) -> str | None:
    """Why a command does not start in it; None if one does."""
    with tempfile.TemporaryDirectory(prefix="loket-jail-") as folder:
        try:
            launch = launcher.command(Confine(("/bin/sh", "-c", "exit 7"), Path(folder).resolve(), {}))
        except LoketError as error:
            return error.message
        try:
            return _status(launch.argv, dict(launch.environment))
        finally:
            launch.close()


def _status(argv: tuple[str, ...], environment: dict[str, str]) -> str | None:
    try:
        ended = subprocess.run(
            argv, env=environment, capture_output=True, text=True, timeout=_TRIED_S, check=False, start_new_session=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return None if ended.returncode == 7 else ended.stderr.strip() or f"it ended with {ended.returncode}"  # noqa: PLR2004
