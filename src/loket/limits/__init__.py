"""Rates, sums and loops: bounds per principal, role, agent and owner, in front of the kernel's own bounds of a run."""

from loket.limits.bounds import Bounds, Holder, Table, table_of
from loket.limits.home import home_meter
from loket.limits.meter import HomeMeter
from loket.limits.wall import WallTime

__all__ = ["Bounds", "Holder", "HomeMeter", "Table", "WallTime", "home_meter", "table_of"]
