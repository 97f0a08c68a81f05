"""Time from the counter. `install` puts it into `time`, and `datetime` follows, being written in Python here."""

import sys
import time
from typing import Any

import _pydatetime

from loket_guest.counter import call, either_of

_NANO = 1_000_000_000


class _Last:
    """The latest reading that `time.monotonic` gave: it never goes back, even where the host's clock does."""

    seconds = 0.0


def install() -> None:
    """Route the clock of the standard library. Before the first operation the originals answer."""
    sys.modules["datetime"] = _pydatetime
    # Its C half takes dates of the C `datetime` only.
    sys.modules["_zoneinfo"] = None  # type: ignore[assignment]
    _readings()
    _calendar()
    time.sleep = either_of(_sleep, time.sleep)


def now() -> float:
    """Seconds since 1970-01-01T00:00Z."""
    seconds: float = call("clock.now")["seconds"]
    return seconds


def _steady() -> float:
    _Last.seconds = max(_Last.seconds, now())
    return _Last.seconds


def _sleep(seconds: float, /) -> None:
    if seconds < 0:
        raise ValueError("sleep length must be non-negative")
    call("clock.sleep", seconds=seconds)


def _readings() -> None:
    for name in ("time", "monotonic", "perf_counter", "process_time", "thread_time"):
        read = now if name == "time" else _steady
        for suffix, routed in (("", read), ("_ns", lambda read=read: round(read() * _NANO))):
            original = getattr(time, name + suffix, None)
            if original is not None:
                setattr(time, name + suffix, either_of(routed, original))
    for name in ("clock_gettime", "clock_gettime_ns"):
        scale = _NANO if name.endswith("_ns") else 1
        original = getattr(time, name, None)
        if original is not None:
            setattr(time, name, either_of(lambda _clock, scale=scale: type(scale)(round(now() * scale)), original))


def _calendar() -> None:
    """Route the functions of `time` that read the clock where their argument is left out."""
    localtime, gmtime, ctime, asctime, strftime = time.localtime, time.gmtime, time.ctime, time.asctime, time.strftime

    def seconds(given: Any) -> Any:
        return time.time() if given is None else given

    def moment(given: Any) -> Any:
        return localtime(time.time()) if given is None else given

    time.localtime = lambda given=None, /: localtime(seconds(given))
    time.gmtime = lambda given=None, /: gmtime(seconds(given))
    time.ctime = lambda given=None, /: ctime(seconds(given))
    time.asctime = lambda given=None, /: asctime(moment(given))
    time.strftime = lambda form, given=None, /: strftime(form, moment(given))
