"""What an owner can do with a running system: each operation once, for the command line and for the gateway.

Operations take and return JSON values: functions of the system, a taker of events, and keyword arguments. A file is a
family of them.
"""

from loket.operations import (
    approvals,
    audit,
    backup,
    brains,
    bus,
    clients,
    doctor,
    erase,
    grants,
    lessons,
    limits,
    messages,
    models,
    modules,
    plans,
    poison,
    policy,
    runs,
    status,
    tools,
    trace,
    users,
    vault,
    watch,
)
from loket.operations.table import Emit, Operations

__all__ = [
    "Emit",
    "Operations",
    "approvals",
    "audit",
    "backup",
    "brains",
    "bus",
    "clients",
    "doctor",
    "erase",
    "grants",
    "lessons",
    "limits",
    "messages",
    "models",
    "modules",
    "plans",
    "poison",
    "policy",
    "runs",
    "status",
    "tools",
    "trace",
    "users",
    "vault",
    "watch",
]
