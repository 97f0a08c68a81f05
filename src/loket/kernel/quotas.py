"""Quotas: what a run, an agent and the owner may use of calls, tokens and money. Reserved before, settled after.

In the kernel because a limit that is only parsed is none. Calls are counted here; bytes, memory and CPU time where they
cross the border (counter and sandbox).
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from loket.contracts import Limits, Refusal, RunEnded, Usage


@dataclass(frozen=True, slots=True)
class Daily:
    """What may be used in a day (UTC); None: no bound."""

    tokens: int | None = None
    money: float | None = None


@dataclass(slots=True)
class Spent:
    """What was used, and what is reserved for calls in flight."""

    calls: int = 0
    tokens: int = 0
    money: float = 0.0
    held_tokens: int = 0
    others_tokens: int = 0
    """Of the tokens and the money, what other runs have counted on the day."""
    others_money: float = 0.0


@dataclass(frozen=True, slots=True)
class Reservation:
    """Tokens held for one call, to be given back by `Quotas.settle`."""

    agent: str
    spent: Spent
    tokens: int
    days: tuple[Spent, ...] = ()
    """The day's sums that hold the tokens: the call may end on another day."""


@dataclass(slots=True)
class Quotas:
    """Bounds per run (by its limits), per agent and per owner (by day).

    `today` names the day, `loaded` says what a day's journal already shows for an agent (None: all agents).
    """

    today: Callable[[], str]
    loaded: Callable[[str, str | None], tuple[int, float]]
    owner: Daily = Daily()
    agents: dict[str, Daily] = field(default_factory=dict)
    _days: dict[tuple[str, str | None], Spent] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def reserve(self, agent: str, spent: Spent, limits: Limits, tokens: int) -> Reservation:
        """Count a call and hold `tokens` for it.

        Raises `RunEnded` at the call limit, `Refusal` where tokens or money would go over a bound.
        """
        if spent.calls >= limits.calls:
            raise RunEnded(
                "limit.calls",
                f"the run made {limits.calls} calls, its limit",
                'raise calls under [limits] in the module\'s "loket.toml"',
            )
        days = self._hold(agent, spent, limits, tokens) if tokens else ()
        spent.calls += 1
        return Reservation(agent, spent, tokens, days)

    def _hold(self, agent: str, spent: Spent, limits: Limits, tokens: int) -> tuple[Spent, ...]:
        with self._lock:
            if spent.tokens + spent.held_tokens + tokens > limits.tokens:
                raise _over("tokens", "the run", limits.tokens, "raise tokens under [limits] of the module")
            if spent.money >= limits.money:
                raise _over("money", "the run", limits.money, "raise money under [limits] of the module")
            for name, bound in ((agent, self.agents.get(agent, Daily())), (None, self.owner)):
                self._check_day(name, bound, tokens)
            days = (self._day(agent), self._day(None))
            for held in (spent, *days):
                held.held_tokens += tokens
            return days

    def settle(self, reservation: Reservation, usage: Usage) -> None:
        """Give back what was held and count what was used."""
        if reservation.tokens == 0 and usage.tokens == 0 and usage.money == 0:
            return
        with self._lock:
            for held in (reservation.spent, *reservation.days):
                held.held_tokens -= reservation.tokens
            for spent in (reservation.spent, self._day(reservation.agent), self._day(None)):
                if spent is reservation.spent or not usage.counted:
                    spent.tokens += usage.tokens
                    spent.money += usage.money
                if usage.counted and spent is reservation.spent:
                    spent.others_tokens += usage.tokens
                    spent.others_money += usage.money

    def _day(self, agent: str | None) -> Spent:
        key = (self.today(), agent)
        if key not in self._days:
            self._days = {old: spent for old, spent in self._days.items() if old[0] == key[0] or spent.held_tokens}
            tokens, money = self.loaded(*key)
            self._days[key] = Spent(tokens=tokens, money=money)
        return self._days[key]

    def _check_day(self, agent: str | None, bound: Daily, tokens: int) -> None:
        whose = f"agent {agent}" if agent else "the owner"
        day = self._day(agent)
        if bound.tokens is not None and day.tokens + day.held_tokens + tokens > bound.tokens:
            raise _over("tokens", f"{whose} today", bound.tokens, "raise it under [limits] in config.toml, or wait")
        if bound.money is not None and day.money >= bound.money:
            raise _over("money", f"{whose} today", bound.money, "raise it under [limits] in config.toml, or wait")


def _over(what: str, whose: str, bound: float, remedy: str) -> Refusal:
    return Refusal(f"quota.{what}", f"the call would go over the bound of {bound:,} {what} for {whose}", remedy)
