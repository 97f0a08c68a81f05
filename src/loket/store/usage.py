"""What runs used on a day, read from the public facts of the journal: it outlives an erasure."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

DAY_S: Final = 86_400

_SELECT_USED: Final = """
    SELECT r.id, r.agent, r.root,
        sum(r.counts AND j.kind <> 'intent' AND j.kind <> 'end'),
        sum(coalesce((j.facts ->> '$.usage.in') + (j.facts ->> '$.usage.out'), 0)
            * (j.facts ->> '$.usage.elsewhere' IS NULL)),
        sum(coalesce(j.facts ->> '$.usage.money', 0.0) * (j.facts ->> '$.usage.elsewhere' IS NULL)),
        sum(iif(r.counts AND j.kind <> 'end', length(j.value), 0)),
        sum(iif(j.kind = 'end', coalesce(j.facts ->> '$.cpu_ms', 0.0), 0.0))
    FROM (SELECT *, module IS NOT NULL OR principal NOT IN ('owner', 'host') AS counts
          FROM (SELECT * FROM runs WHERE ended >= ?1 UNION ALL SELECT * FROM runs WHERE ended IS NULL)) AS r
        JOIN journal AS j ON j.run = r.id
    WHERE j.at >= ?1 AND j.at < ?2 AND (j.kind = 'end' OR j.kind IN ('call', 'intent', 'outcome')
        AND coalesce(j.facts ->> '$.decision', '') <> 'deny')
    GROUP BY r.id
"""


@dataclass(frozen=True, slots=True)
class RunUse:
    """What a run used on one day: calls that were allowed, model tokens, US dollars, bytes, milliseconds of CPU time.

    Bytes are those that the journal keeps: arguments, answers and their labels. CPU time is that of ended runs alone.
    Of what the owner or Loket itself did without a module, there are tokens and money alone.
    """

    run: str
    agent: str
    root: str
    calls: int
    tokens: int
    money: float
    size: int
    cpu_ms: float


def used_on(query: Callable[[str, tuple[object, ...]], list[Any]], day: int) -> list[RunUse]:
    """What each run used on a day, which is counted in days since 1970 (UTC); by the time of its rows.

    What an agent that was asked has used is in that agent's own run.
    """
    return [RunUse(*row) for row in query(_SELECT_USED, (day * DAY_S, (day + 1) * DAY_S))]
