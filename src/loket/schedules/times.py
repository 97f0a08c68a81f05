"""When a schedule comes due: cron, an interval, once. Functions of a time; nothing here reads a clock.

All three answer the same question: the first due time after a given one, in seconds since 1970 UTC. So a schedule does
not drift, and a clock that jumps changes nothing but what "now" is.

Cron lives on local time. Where clocks change (a "jump"), an expression that names hours keeps to one run a day: a time
that the change skips comes as much later as the clock was put on (02:30 becomes 03:30), a time that happens twice
counts the first time. An expression for every hour follows the clock on the wall: skipped hours are skipped, doubled
ones doubled. That is what `cron` of Debian does but for the moment of a skipped time, which comes there at once.
"""

import datetime as dt
import functools
import os
import re
import zoneinfo
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from croniter import CroniterError, croniter

from loket.contracts import BadInput, Json

_HOURS = 24
_NEAR_S = 26 * 3600
"""Seconds around a time in which a change of clocks concerns it: zones have skipped a whole day."""
_FIELDS = 5
_ALIASES = frozenset({"@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually"})
_FIELD = re.compile(r"[0-9*/,#?L-]+|[0-9*/,#?L-]*(?:[A-Z]{3}[0-9*/,#?L-]*)+", re.IGNORECASE)
"""What a field may be: croniter also takes `R` for a random time, which would be another one at each look."""

_LONGEST_S = 10 * 366 * 86_400
"""Seconds of the longest interval."""


class Times(Protocol):
    """Due times."""

    def after(self, at: float) -> float | None:
        """The first due time later than `at`; None where there is none."""


@dataclass(frozen=True, slots=True)
class Once:
    """One due time."""

    at: float

    def after(self, at: float) -> float | None:
        return self.at if self.at > at else None


@dataclass(frozen=True, slots=True)
class Every:
    """Due at `anchor` and each `seconds` before and after it; whole numbers, so that nothing is rounded."""

    seconds: int
    anchor: int

    def after(self, at: float) -> float | None:
        due = self.anchor + (int(at - self.anchor) // self.seconds) * self.seconds
        while due <= at:
            due += self.seconds
        return float(due)


@dataclass(frozen=True, slots=True)
class Cron:
    """Due by a cron expression of five fields on the local time of a zone (IANA name)."""

    expression: str
    zone: str

    def after(self, at: float) -> float | None:
        jump = self._jump(at)
        found = self._search(at, jump)
        if found is not None and not jump:
            later = self._jump(found)
            found = self._search(at, later) if later else found
        return found

    def _jump(self, at: float) -> float:
        """Seconds by which local time changes near a time; nearly always 0."""
        offsets = [_local(at + more, self._zone) - (at + more) for more in (-_NEAR_S, 0, _NEAR_S)]
        return max(offsets) - min(offsets)

    def _search(self, at: float, jump: float) -> float | None:
        """The earliest time after `at` of all local matches that may come first, where clocks change by `jump`."""
        best: float | None = None
        for match in self._matches(_local(at, self._zone) - jump - 60):
            if best is not None and (not jump or match > _local(best, self._zone) + jump):
                break
            for instant in self._instants(match):
                if instant > at and (best is None or instant < best):
                    best = instant
        return best

    def _matches(self, local: float) -> Iterator[float]:
        """Matches later than a local time, as if that were UTC."""
        found = croniter(self.expression, dt.datetime.fromtimestamp(local, dt.UTC), ret_type=float)
        while True:
            try:
                yield found.get_next()
            except (CroniterError, OverflowError):  # there are no more within 50 years, or in the calendar
                return

    def _instants(self, local: float) -> tuple[float, ...]:
        """The real times of a local match: one, or none or two where clocks change."""
        first, second = (_instant(local, self._zone, fold) for fold in (0, 1))
        if first == second:
            return (first,)
        skipped = _local(first, self._zone) != local
        if _hourly(self.expression):
            return () if skipped else (first, second)
        return (first,)

    @property
    def _zone(self) -> zoneinfo.ZoneInfo:
        return zoneinfo.ZoneInfo(self.zone)


def _local(at: float, zone: zoneinfo.ZoneInfo) -> float:
    """The local time of a real one, as if it were UTC."""
    whole = dt.datetime.fromtimestamp(at // 1, zone)
    offset = whole.utcoffset()
    return at + (offset.total_seconds() if offset is not None else 0.0)


def _instant(local: float, zone: zoneinfo.ZoneInfo, fold: int) -> float:
    """The real time of a local one; one that clocks skip is as much later as they are put on (PEP 495)."""
    naive = dt.datetime.fromtimestamp(local, dt.UTC).replace(tzinfo=zone, fold=fold)
    return naive.timestamp()


@functools.lru_cache(maxsize=1024)
def _hourly(expression: str) -> bool:
    hours = croniter.expand(expression)[0][1]
    return "*" in hours or len(set(hours)) == _HOURS


def times_of(trigger: Mapping[str, Json], anchor: float) -> Times | None:
    """The due times of a trigger that `checked` has seen; None for one that waits for something else than a time."""
    if "cron" in trigger:
        return Cron(trigger["cron"], trigger["timezone"])
    if "every_s" in trigger:
        return Every(int(trigger["every_s"]), int(anchor))
    return Once(float(trigger["at_s"])) if "at_s" in trigger else None


def newest(times: Times, first: float, now: float, most: int) -> list[float]:
    """The last due times from `first` (which is one) up to `now`, at most so many, in order.

    Looks back further and further: a month of minutes is not gone through for the last hundred of them.
    """
    span = 3_600.0
    while True:
        start = max(first, now - span)
        found = [first] if start == first else []
        due = times.after(start)
        while due is not None and due <= now:
            found.append(due)
            due = times.after(due)
        if start == first or len(found) >= most:
            return found[-most:]
        span *= 4


# What an owner or an agent writes


def checked(trigger: Mapping[str, Any], now: float, zone: str) -> dict[str, Json]:
    """A trigger as it is kept: complete and sound. `zone` is the time zone where it names none.

    One of `cron` (with `timezone`), `every_s`, `at` (ISO 8601; kept beside `at_s`, seconds since 1970 UTC), `file` (a
    pattern below the agent's folder), `idle_s` and `webhook`. Raises `BadInput`.
    """
    kinds = [name for name in _CHECKS if name in trigger]
    if len(kinds) != 1:
        raise BadInput(
            "schedule.when",
            f"a schedule has exactly one of {', '.join(_CHECKS)}; this one has {', '.join(kinds) or 'none'}",
            '{"cron": "0 8 * * *", "timezone": "Europe/Berlin"}',
        )
    kind = kinds[0]
    for extra in sorted(trigger.keys() - {kind} - ({"timezone"} if kind in ("cron", "at") else set())):
        raise BadInput("schedule.when", f"{kind} takes no {extra}", f"leave {extra} out")
    return _CHECKS[kind](trigger, now, zone)


def _cron(trigger: Mapping[str, Any], now: float, zone: str) -> dict[str, Json]:
    expression = " ".join(str(trigger["cron"]).split())
    name = _zone_of(trigger, zone)
    fields = expression.split()
    sound = expression in _ALIASES or (len(fields) == _FIELDS and all(_FIELD.fullmatch(one) for one in fields))
    if not sound or not croniter.is_valid(expression):
        raise BadInput(
            "schedule.cron",
            f"{expression[:80]!r} is no cron expression of minute, hour, day, month and day of the week",
            '"30 8 * * mon-fri" is 08:30 from Monday to Friday',
        )
    if Cron(expression, name).after(now) is None:
        raise BadInput("schedule.never", f"{expression!r} never comes", "look at day and month")
    return {"cron": expression, "timezone": name}


def _every(trigger: Mapping[str, Any], _now: float, _zone: str) -> dict[str, Json]:
    return {"every_s": _seconds(trigger["every_s"], "every_s")}


def _idle(trigger: Mapping[str, Any], _now: float, _zone: str) -> dict[str, Json]:
    return {"idle_s": _seconds(trigger["idle_s"], "idle_s")}


def _seconds(value: Any, name: str) -> int:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and 1 <= value <= _LONGEST_S
    if not number or value != int(value):
        raise BadInput("schedule.seconds", f"{name} is {value!r}, and has to be a whole number from 1 on", "3600")
    return int(value)


def _at(trigger: Mapping[str, Any], now: float, zone: str) -> dict[str, Json]:
    text, name = str(trigger["at"]), _zone_of(trigger, zone)
    try:
        said = dt.datetime.fromisoformat(text)
        at = (said if said.tzinfo is not None else said.replace(tzinfo=zoneinfo.ZoneInfo(name))).timestamp()
        there = dt.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(name)).isoformat()
    except (ValueError, OverflowError):
        raise BadInput("schedule.at", f"{text[:80]!r} is no date with a time of day", "2026-11-22T08:00") from None
    if at <= now:
        raise BadInput("schedule.past", f"{text} is over", "name a time that is still to come")
    return {"at": there, "at_s": at, "timezone": name}


def _file(trigger: Mapping[str, Any], _now: float, _zone: str) -> dict[str, Json]:
    pattern = str(trigger["file"])
    parts = pattern.split("/")
    if not pattern.isprintable() or len(pattern) > 200 or any(part in ("", ".", "..") for part in parts):  # noqa: PLR2004 - as paths of `fs`
        raise BadInput(
            "schedule.file", f"{pattern[:80]!r} is no pattern of a path below the agent's folder", '"inbox/*.pdf"'
        )
    return {"file": pattern}


def _webhook(trigger: Mapping[str, Any], _now: float, _zone: str) -> dict[str, Json]:
    if trigger["webhook"] is not True:
        raise BadInput("schedule.when", "webhook is true, or left out", '{"webhook": true}')
    return {"webhook": True}


_CHECKS = {"cron": _cron, "every_s": _every, "at": _at, "file": _file, "idle_s": _idle, "webhook": _webhook}


def _zone_of(trigger: Mapping[str, Any], zone: str) -> str:
    """The name of a time zone. Raises `BadInput`."""
    name = str(trigger.get("timezone") or zone)
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise BadInput("schedule.timezone", f"there is no time zone {name[:80]!r}", "Europe/Berlin") from None
    return name


def machine_zone() -> str:
    """The IANA name of this machine's time zone; `UTC` where nobody says it."""
    named = os.environ.get("TZ", "").removeprefix(":")
    place = Path("/etc/localtime")
    found = str(place.resolve()).partition("zoneinfo/")[2] if place.is_symlink() else ""
    for name in (named, found.removeprefix("posix/"), _written_zone()):
        if name in zoneinfo.available_timezones():
            return name
    return "UTC"


def _written_zone() -> str:
    try:
        return Path("/etc/timezone").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
