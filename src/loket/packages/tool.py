"""Runs a tool that builds or fetches, as a process of its own and never through a shell."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def run_tool(
    command: Sequence[str],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    given: str = "",
) -> "subprocess.CompletedProcess[str] | None":
    """What it answered and said (as UTF-8; what is none is replaced), or None where it did not end in time.

    It is killed then. `given` is what it reads; `environment` and `folder` are this process's where they are left out.
    Raises `OSError` where it cannot be started.
    """
    try:
        return subprocess.run(
            command,
            input=given,
            env=environment,
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
