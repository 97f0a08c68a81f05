"""Who waits for whom: a run waits for the run before it in its conversation, and for the runs that it asked.

In the kernel because a cycle of waits would hold its runs for ever, and no single agent can see it.
"""

from loket.contracts import Refusal


class WaitGraph:
    """Edges from a waiting run to the run it waits for. Used from the event loop only."""

    def __init__(self) -> None:
        self._edges: dict[str, set[str]] = {}

    def add(self, waiter: str, on: str) -> None:
        """Add an edge. Raises `Refusal` (`wait.cycle`) where it would close a cycle."""
        if self._reaches(on, waiter):
            raise Refusal(
                "wait.cycle",
                f"run {waiter} would wait for run {on}, which waits for it",
                "let one of the two agents answer without asking the other",
            )
        self._edges.setdefault(waiter, set()).add(on)

    def done(self, run: str) -> None:
        """The run has ended: nobody waits for it, and it waits for nobody."""
        self._edges.pop(run, None)
        for waited in self._edges.values():
            waited.discard(run)

    def _reaches(self, start: str, goal: str) -> bool:
        seen: set[str] = set()
        stack = [start]
        while stack:
            node = stack.pop()
            if node == goal:
                return True
            if node not in seen:
                seen.add(node)
                stack.extend(self._edges.get(node, ()))
        return False
