"""Row about the process sandbox: what it adds to the start of a program."""

import subprocess
import time
from pathlib import Path

from loket.bench.place import Place
from loket.bench.rows import Peer, Taken
from loket.contracts import Confine, Launcher
from loket.jail.choose import bubblewrap, choose, landlock

_PLAIN = {"PATH": "/usr/bin:/bin"}


def launch(place: Place, n: int) -> Taken:
    """`n` starts of `/bin/true` in this machine's sandbox until it has ended and is cleared away, in ms.

    Beside it the same in each launcher that works here, and without any.
    """
    workspace = (place.root / "jail").resolve()
    workspace.mkdir(exist_ok=True)
    peers = [Peer("without a sandbox", "ms", [_plain() for _ in range(n)])]
    for name, other in (("bubblewrap", bubblewrap()), ("Landlock", landlock())):
        samples = [] if other is None else [_once(other, workspace) for _ in range(n)]
        peers.append(Peer(name, "ms", samples, "it is not on this machine"))
    return Taken([_once(choose(), workspace) for _ in range(n)], peers)


def _once(launcher: Launcher, workspace: Path) -> float:
    began = time.perf_counter()
    started = launcher.command(Confine(("/bin/true",), workspace, _PLAIN))
    try:
        subprocess.run(started.argv, env=dict(started.environment), check=True, start_new_session=True)
    finally:
        started.close()
    return (time.perf_counter() - began) * 1_000


def _plain() -> float:
    began = time.perf_counter()
    subprocess.run(["/bin/true"], env=_PLAIN, check=True, start_new_session=True)
    return (time.perf_counter() - began) * 1_000
