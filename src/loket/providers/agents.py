"""Agents ask each other: `agent.ask`."""

from collections.abc import Mapping

from loket.contracts import Answer, Call, Delegate, Handler

_TIMEOUT_S = 300.0


class AgentsProvider:
    """Performs `agent.ask` through `delegate`, which runs the agent that is asked."""

    id = "agents"

    def __init__(self, delegate: Delegate) -> None:
        self._delegate = delegate

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler; it waits."""
        return {"agent.ask": self.ask}

    async def start(self) -> None:
        """Nothing to start: runs belong to the engine."""

    async def close(self) -> None:
        """Nothing to close."""

    async def ask(self, call: Call) -> Answer:
        """Answers `text` and `run`, the id of the run that gave it.

        Raises `Refusal` for an agent that is not there or waits for this run, `Failed` (`agent.timeout`,
        `agent.failed`) where no answer came.
        """
        seconds = min(float(call.args.get("timeout_s", _TIMEOUT_S)), call.deadline_s)
        return await self._delegate.ask(call, call.args["agent"], call.args["text"], seconds)
