"""Quotas: what a run may use of calls, tokens and money. Reserved before, settled after.

In the kernel because a limit that is only parsed is none. Sums of a day, of agents and of people are the `Meter`'s;
bytes, memory and CPU time are bounded where they cross the border (counter and sandbox).
"""

from dataclasses import dataclass

from loket.contracts import Limits, Refusal, RunEnded, Usage


@dataclass(slots=True)
class Spent:
    """What a run used, and the tokens that are held for its call in flight."""

    calls: int = 0
    tokens: int = 0
    money: float = 0.0
    held_tokens: int = 0
    others_tokens: int = 0
    """Of the tokens and the money, what other runs have counted on the day."""
    others_money: float = 0.0


def count(spent: Spent, limits: Limits, refused: str = "") -> None:
    """Count a call, which may have been refused for this reason. Raises `RunEnded` at the call limit."""
    if spent.calls >= limits.calls:
        raise RunEnded(
            "limit.calls",
            f"the run made {limits.calls} calls, its limit{refused and f'; the last one was refused: {refused}'}",
            'raise calls under [limits] in the module\'s "loket.toml"',
        )
    spent.calls += 1


def reserve(spent: Spent, limits: Limits, tokens: int) -> int:
    """Count a call and hold `tokens` for it; they are given back by `settle`.

    Raises `RunEnded` at the call limit, `Refusal` where tokens or money would go over a bound.
    """
    if tokens and spent.calls < limits.calls:
        if spent.tokens + spent.held_tokens + tokens > limits.tokens:
            raise _over("tokens", limits.tokens)
        if spent.money >= limits.money:
            raise _over("money", limits.money)
    count(spent, limits)
    spent.held_tokens += tokens
    return tokens


def settle(spent: Spent, held: int, usage: Usage) -> None:
    """Give back what was held and count what was used."""
    spent.held_tokens -= held
    spent.tokens += usage.tokens
    spent.money += usage.money
    if usage.counted:
        spent.others_tokens += usage.tokens
        spent.others_money += usage.money


def _over(what: str, bound: float) -> Refusal:
    return Refusal(
        f"quota.{what}",
        f"the call would go over the bound of {bound:,} {what} for the run",
        f"raise {what} under [limits] of the module",
    )
