"""Ids that no module can have, because they mean something else already."""

from loket.contracts import BadInput
from loket.contracts.catalogue import STOCK

RESERVED = frozenset({capability.family for capability in STOCK}) | frozenset(
    {
        *("agent", "agents", "brain", "channel", "clock", "exec", "fs", "host", "http", "kv", "llm", "local", "log"),
        *("loket", "mcp", "memory", "message", "module", "modules", "net", "owner", "pack", "package", "plan"),
        *("policy", "process", "random", "run", "runs", "schedule", "schedules", "secret", "shell", "skill", "skills"),
        *("system", "tool", "tools", "unsigned", "user", "vault", "wire"),
    }
)
"""Families of capabilities, those that may come, and words of Loket's own: a module's operations are capabilities whose
family is its id."""


def check_id(name: str) -> None:
    """Raises `BadInput` for a module's id that is a name of Loket's own."""
    if name in RESERVED:
        raise BadInput(
            "package.reserved",
            f'"{name}" is the name of a family of capabilities or of a part of Loket, and cannot be a module\'s id',
            f'choose another id in loket.toml, for example id = "my-{name}"',
        )
