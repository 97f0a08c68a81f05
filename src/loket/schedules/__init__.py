"""Schedules: what agents are told, or what is done, at times, at intervals and when something happens.

`times` says when, `table` keeps what there is, `runner` performs it; `files`, `hooks` and `backups` are the triggers
and the work that need more than a clock. See `docs/schedules.md`.
"""

from loket.schedules.hooks import HEADER, sign
from loket.schedules.runner import Runner, System
from loket.schedules.table import Schedules, fired, shown
from loket.schedules.times import machine_zone

__all__ = ["HEADER", "Runner", "Schedules", "System", "fired", "machine_zone", "shown", "sign"]
