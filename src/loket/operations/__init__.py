"""What an owner can do with a running system: each operation once, for the command line and for the gateway.

Operations take and return JSON values: functions of the system, a taker of events, and keyword arguments. A file is a
family of them.
"""

from loket.operations import (
    audit,
    backup,
    brains,
    bus,
    doctor,
    erase,
    grants,
    lessons,
    messages,
    models,
    modules,
    runs,
    status,
    vault,
    watch,
)
from loket.operations.table import Emit, Operations

__all__ = [
    "Emit",
    "Operations",
    "audit",
    "backup",
    "brains",
    "bus",
    "doctor",
    "erase",
    "grants",
    "lessons",
    "messages",
    "models",
    "modules",
    "runs",
    "status",
    "vault",
    "watch",
]
