"""Questions with the runs that wait for their answer."""

from typing import Any

from loket.app import Loket
from loket.children import ASKED


def chained(system: Loket, one: dict[str, Any]) -> dict[str, Any]:
    """A question with its `chain`: the run that asks, the one that waits for it, and so on; `run` and `agent`."""
    found = [{"run": one["run"], "agent": one["agent"]}]
    run = system.database.run(one["run"]) if one["run"] != one["root"] else None
    while run is not None and run["parent"] is not None and str(run["conversation"]).startswith(ASKED):
        run = system.database.run(run["parent"])
        found += [{"run": run["id"], "agent": run["agent"]}] if run is not None else []
    return {**one, "chain": found}
