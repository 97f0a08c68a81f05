"""A module that uses what the standard library knows of the outside: time, chance, output, files and more."""

import datetime  # noqa: ICN001 - the plain name
import logging
import os
import random
import secrets
import socket
import sys
import time
import traceback
import uuid
import warnings
import zoneinfo
from collections.abc import Callable
from datetime import datetime as moment
from random import random as chance
from typing import Any

from loket_guest import Refused, call, operation

BAKED = random.Random()  # noqa: S311 - not for secrets
FIXED = random.Random(7)  # noqa: S311 - not for secrets
WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")


@operation
def times() -> dict[str, Any]:
    """Read every clock."""
    return {
        "time": time.time(),
        "time_ns": time.time_ns(),
        "monotonic": time.monotonic(),
        "perf_counter": time.perf_counter(),
        "process_time": time.process_time(),
        "gmtime": time.gmtime().tm_year,
        "localtime": time.localtime().tm_year,
        "strftime": time.strftime("%Y-%m-%d"),
        "ctime": time.ctime(),
        "asctime": time.asctime(),
        "now": datetime.datetime.now().isoformat(),  # noqa: DTZ005 - the plain call
        "aware": moment.now(datetime.UTC).isoformat(),
        "utcnow": datetime.datetime.utcnow().isoformat(),  # noqa: DTZ003 - the plain call
        "today": datetime.date.today().isoformat(),  # noqa: DTZ011 - the plain call
        "epoch": time.gmtime(0).tm_year,
    }


@operation
def sleep(seconds: float) -> str:
    """Sleep, and say what the counter thought of it."""
    try:
        time.sleep(seconds)
    except Refused as refused:
        return refused.code
    return "slept"


@operation
def dates() -> dict[str, Any]:
    """Compute with dates, which needs no clock."""
    start = datetime.datetime(2026, 11, 21, 7, 30, tzinfo=datetime.UTC)
    return {
        "later": (start + datetime.timedelta(days=40)).isoformat(),
        "parsed": datetime.datetime.strptime("21.11.2026", "%d.%m.%Y").date().isoformat(),  # noqa: DTZ007
        "iso": datetime.datetime.fromisoformat("2026-11-21T07:30:00+02:00").timestamp(),
        "zone": start.astimezone(datetime.timezone(datetime.timedelta(hours=7))).isoformat(),
        "zoneinfo": start.astimezone(zoneinfo.ZoneInfo.no_cache("UTC")).isoformat() if UTC_IS_THERE else "no data",
    }


def _utc() -> bool:
    try:
        zoneinfo.ZoneInfo("UTC")
    except zoneinfo.ZoneInfoNotFoundError:
        return False
    return True


NOBODY_KNOWS = "bilptf"
UTC_IS_THERE = _utc()


@operation
def randoms() -> dict[str, Any]:
    """Draw from every source of chance."""
    return {
        "random": random.random(),  # noqa: S311 - not for secrets
        "chance": chance(),  # noqa: S311
        "choice": random.choice(WORDS),  # noqa: S311
        "shuffled": random.sample(range(10), 10),
        "gauss": random.gauss(0, 1),
        "fresh": random.Random().random(),  # noqa: S311
        "baked": BAKED.random(),
        "system": random.SystemRandom().randint(1, 1_000_000),
        "urandom": os.urandom(8).hex(),
        "token": secrets.token_hex(8),
        "uuid4": str(uuid.uuid4()),
        "uuid1": str(uuid.uuid1()),
    }


@operation
def first_chance() -> float:
    """Draw one number."""
    return random.random()  # noqa: S311


@operation
def seeded() -> list[float]:
    """Draw from generators with seeds of their own: no call is needed."""
    random.seed(42)
    return [random.random(), FIXED.random(), random.Random("x").random()]  # noqa: S311


@operation
def prints() -> None:
    """Write to every stream and to the log."""
    print("one", end=" ")  # noqa: T201
    print("line")  # noqa: T201
    print("two\nlines")  # noqa: T201
    sys.stderr.write("to stderr\n")
    logging.getLogger("guest").debug("too quiet")
    logging.getLogger("guest").info("told %d", 3)
    logging.warning("careful")  # noqa: LOG015 - the root logger is the point
    logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(message)s")
    logging.debug("now heard")  # noqa: LOG015
    warnings.warn("warned", stacklevel=1)
    print("no end of line", end="")  # noqa: T201


@operation
def logged_error() -> str:
    """Log an exception with its traceback."""
    try:
        call("no.such")
    except Refused:
        logging.exception("it failed")  # noqa: LOG015
        return traceback.format_exc()
    return ""


@operation
def words() -> list[str]:
    """List a set of words in the order that the hash seed gives."""
    return list(set(WORDS))


@operation
def identity() -> list[int]:
    """List what Python makes of a hash seed and of addresses."""
    return [hash("x"), id(WORDS), hash(object())]


@operation
def late() -> str:
    """Import in a function what is nowhere else imported."""
    import colorsys
    from fractions import Fraction

    return f"{colorsys.rgb_to_hsv(0, 0, 0)} {Fraction(1, 2)}"


@operation
def hidden() -> str:
    """Import under a name that nobody can see when the component is built."""
    return str(__import__(NOBODY_KNOWS[::-1]))


@operation
def both(args: dict[str, Any]) -> dict[str, Any]:
    """Take all arguments at once."""
    return args


@operation("keyword-only")
def keyword_only(*, place: str, days: int = 1) -> str:
    """Take arguments by keyword, under a name that is no Python word."""
    return f"{place} {days}"


@operation
def outside(what: str) -> str:
    """Touch what is not there."""
    return str(OUTSIDE[what]())


OUTSIDE: dict[str, Callable[[], Any]] = {
    "open": lambda: open("/x"),  # noqa: PTH123, SIM115 - the plain call
    "listdir": lambda: os.listdir("/"),  # noqa: PTH208 - the plain call
    "mkdir": lambda: os.mkdir("/x"),  # noqa: PTH102 - the plain call
    "environ": lambda: dict(os.environ),
    "input": input,
    "descriptor": lambda: os.write(1, b"x"),
    "socket": socket.socket,
    "connect": lambda: socket.create_connection(("127.0.0.1", 80)),
    "exit": lambda: sys.exit(3),
    "os_exit": lambda: os._exit(3),
    "resolution": lambda: time.clock_getres(time.CLOCK_MONOTONIC),
    "zone": lambda: zoneinfo.ZoneInfo("Asia/Jakarta"),
    "compile": lambda: compile("no python", "text", "exec"),
}
