"""What `[limits]` of `config.toml` sets, and for whom: the bounds that hold for a run."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, NamedTuple

from loket.config import Config
from loket.contracts import Principal

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A key that TOML takes without quotes."""

MB: Final = 1 << 20


class Holder(NamedTuple):
    """Whose a bound is: `kind` is `owner`, `agent`, `principal` or `role`."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" if self.name else "all agents together"


OWNER_HOLDER: Final = Holder("owner")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one holder as the settings of the same names say; None: no bound."""

    calls_per_minute: float | None = None
    calls_per_hour: float | None = None
    calls_per_day: float | None = None
    tokens_per_day: float | None = None
    money_per_day: float | None = None
    """US dollars."""
    mb_per_day: float | None = None
    cpu_s_per_day: float | None = None
    runs: float | None = None
    """Unfinished at the same time."""
    run_wall_s: float | None = None
    run_cpu_s: float | None = None
    run_mb: float | None = None

    def given(self) -> dict[str, float]:
        """The bounds that are set, by setting."""
        found = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Held:
    """One holder with its bounds, and the table of `config.toml` in which they stand."""

    holder: Holder
    bounds: Bounds
    table: str

    def line(self, setting: str) -> str:
        """What would raise a bound."""
        return f"raise {setting} under [{self.table}] in config.toml and restart"


@dataclass(frozen=True, slots=True)
class Table:
    """Bounds of all together, and by agent, principal and role.

    In a name `*` stands for everyone who has no table of its own, each by itself; `sender:*` for the principals of that
    kind. A role's bounds are for all who have it together.
    """

    owner: Bounds = Bounds()
    agents: Mapping[str, Bounds] = field(default_factory=dict)
    principals: Mapping[str, Bounds] = field(default_factory=dict)
    roles: Mapping[str, Bounds] = field(default_factory=dict)

    @property
    def wall(self) -> bool:
        """Whether the time of any run is bounded."""
        every = (self.owner, *self.agents.values(), *self.principals.values(), *self.roles.values())
        return any(bounds.run_wall_s is not None for bounds in every)

    def holders(self, agent: str, asker: Principal | None, roles: Collection[str]) -> tuple[Held, ...]:
        """Whose bounds hold for what somebody has an agent do; the owner's and the agent's are always there."""
        found: list[Held | None] = [self.of(OWNER_HOLDER), self.of(Holder("agent", agent))]
        if asker is not None and self.principals:
            found.append(self._held(Holder("principal", str(asker))))
        found += [self._held(Holder("role", role)) for role in sorted(roles)]
        return tuple(held for held in found if held is not None)

    def of(self, holder: Holder) -> Held:
        """A holder with its bounds, which may be none."""
        return self._held(holder) or Held(holder, Bounds(), f"limits.{holder.kind}s.{_key(holder.name)}")

    def named(self) -> list[Held]:
        """Whoever has a table by name."""
        kinds = (("agent", self.agents), ("principal", self.principals), ("role", self.roles))
        every = [Holder(kind, name) for kind, table in kinds for name in table if not name.endswith("*")]
        return [self.of(holder) for holder in (OWNER_HOLDER, *every)]

    def _held(self, holder: Holder) -> Held | None:
        if holder.kind == "owner":
            return Held(holder, self.owner, "limits")
        table = {"agent": self.agents, "principal": self.principals, "role": self.roles}[holder.kind]
        name = next((name for name in _patterns(holder) if name in table), None)
        return None if name is None else Held(holder, table[name], f"limits.{holder.kind}s.{_key(name)}")


def _patterns(holder: Holder) -> tuple[str, ...]:
    """The names of tables that hold for somebody, the closest first."""
    if holder.kind == "principal":
        return (holder.name, f"{holder.name.partition(':')[0]}:*", "*")
    return (holder.name, "*")


def _key(name: str) -> str:
    """A name as a key of TOML."""
    return name if _BARE.fullmatch(name) else json.dumps(name)


def table_of(config: Config) -> Table:
    """The bounds that the settings give."""
    inner = {kind: {who: Bounds(**given) for who, given in of.items()} for kind, of in config.bounds_of.items()}
    owner = Bounds(tokens_per_day=config.tokens_per_day, money_per_day=config.money_per_day, **config.bounds)
    return Table(owner, **inner)
