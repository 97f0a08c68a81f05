"""What the measurements were made on: the processor and the versions that matter, and nothing that names a machine."""

import os
import platform
import re
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loket import __version__
from loket.bench.place import Place
from loket.bench.rows import tidy

_SYNCS = 40


def machine(place: Place) -> dict[str, Any]:
    """Facts by name: `processor`, `cores`, `memory_gb`, `system`, `load`, `sync_ms` and versions.

    `load` is that of the last minute, before anything is measured; `sync_ms` the median of a write of 4 KiB and fsync.
    """
    import apsw

    return {
        "processor": _processor(),
        "cores": _cores(),
        "memory_gb": _memory_gb(),
        "system": f"{platform.system()} {platform.machine()}",
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "sync_ms": _sync_ms(place.root),
        "loket": __version__,
        "python": platform.python_version(),
        "sqlite": apsw.sqlite_lib_version(),
        "wasmtime": version("wasmtime"),
    }


def _processor() -> str:
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (ValueError, OSError):
        return None


def _sync_ms(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        times = []
        for _ in range(_SYNCS):
            started = time.perf_counter()
            file.write(bytes(4096))
            file.flush()
            os.fsync(file.fileno())
            times.append((time.perf_counter() - started) * 1000)
    return tidy(statistics.median(times))
