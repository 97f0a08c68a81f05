"""Starts one command in a sandbox, as whoever runs this: `jail_driver.py KIND JSON`, KIND being a launcher or `none`.

JSON has the fields of `Confine`, and `timeout_s`. Prints `status`, `out` and `err` of the command as JSON. An open file
and a terminal are left for the command to find, as a careless parent would.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loket.contracts import Confine
from loket.jail import choose


def main(kind: str, said: dict[str, Any]) -> None:
    timeout = said.pop("timeout_s", 30)
    marker = said.pop("marker", "")
    paths = {name: tuple(map(Path, said.pop(name, ()))) for name in ("readable", "writable")}
    argv, workspace = tuple(said.pop("argv")), Path(said.pop("workspace"))
    confine = Confine(argv, workspace, said.pop("environment"), **paths, **said)
    if kind == "none":
        os.chdir(workspace)
        sys.stdout.write(json.dumps(run(confine.argv, dict(os.environ), timeout, marker)))
        return
    launcher = {"bubblewrap": choose.bubblewrap, "landlock": choose.landlock}[kind]()
    assert launcher is not None, f"no {kind} on this machine; {choose.INSTALL}"
    launch = launcher.command(confine)
    try:
        sys.stdout.write(json.dumps(run(launch.argv, dict(launch.environment), timeout, marker)))
    finally:
        launch.close()


def run(argv: tuple[str, ...], environment: dict[str, str], timeout: float, marker: str) -> dict[str, Any]:
    _, terminal = os.openpty()
    with tempfile.TemporaryFile() as left:
        left.write(marker.encode())
        left.flush()
        os.set_inheritable(left.fileno(), True)
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=terminal,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            close_fds=False,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
    return {
        "pid": os.getpid(),
        "status": process.returncode,
        "out": out.decode(errors="replace"),
        "err": err.decode(errors="replace"),
    }


main(sys.argv[1], json.loads(sys.argv[2]))
