"""How a bound that is reached is said: which, whose, how much is used, when that ends, and what would raise it."""

import datetime as dt
from typing import Final

from loket.contracts import Refusal, RunEnded
from loket.limits.bounds import Held

CODES: Final = {
    "calls_per_minute": "limit.rate",
    "calls_per_hour": "limit.rate",
    "calls_per_day": "limit.rate",
    "tokens_per_day": "limit.tokens",
    "money_per_day": "limit.money",
    "mb_per_day": "limit.bytes",
    "cpu_s_per_day": "limit.cpu",
    "runs": "limit.runs",
    "run_wall_s": "limit.wall",
    "run_cpu_s": "limit.cpu",
    "run_mb": "limit.bytes",
}
"""The code with which each setting refuses a call or a run, or ends one."""

UNITS: Final = {
    "calls_per_minute": "calls a minute",
    "calls_per_hour": "calls an hour",
    "calls_per_day": "calls a day (UTC)",
    "tokens_per_day": "tokens a day (UTC)",
    "money_per_day": "US dollars a day (UTC)",
    "mb_per_day": "MiB of arguments and answers a day (UTC)",
    "cpu_s_per_day": "seconds of CPU time a day (UTC)",
    "runs": "unfinished runs at a time",
    "run_wall_s": "seconds from start to end of a run",
    "run_cpu_s": "seconds of CPU time of a run",
    "run_mb": "MiB of arguments and answers of a run",
}


def amount(value: float) -> str:
    """A number for people: whole ones with their thousands apart, others with at most six digits behind the point."""
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def moment(at: float) -> str:
    """A time (seconds since 1970), in UTC."""
    return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def over(held: Held, setting: str, used: float, in_flight: float, need: float, resets: float | None) -> Refusal:
    """The refusal of what would go over a bound; numbers in the setting's unit, `resets` in seconds since 1970."""
    flying = f", {amount(in_flight)} are held by calls in flight" if in_flight else ""
    when = f"; there is room again at {moment(resets)}" if resets is not None else ""
    return Refusal(
        CODES[setting],
        f"{_bound(held, setting)}: {amount(used)} are used{flying}, and this needs {amount(need)}{when}",
        held.line(setting) + (", or wait" if resets is not None else ", or wait for one of them to end"),
        blame="owner",
    )


def ended(held: Held, setting: str, used: float) -> RunEnded:
    """The end of a run that reached a bound of its own."""
    return RunEnded(
        CODES[setting], f"{_bound(held, setting)}, and this one is at {amount(used)}", held.line(setting), blame="owner"
    )


def _bound(held: Held, setting: str) -> str:
    return f"the bound of {held.holder} is {amount(held.bounds.given()[setting])} {UNITS[setting]}"
