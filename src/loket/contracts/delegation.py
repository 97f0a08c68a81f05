"""What the providers of `agent.*` and `message.*` need of the running system."""

from collections.abc import Collection
from typing import Protocol

from loket.contracts.errors import Failed
from loket.contracts.run import Answer, Call, Labels, Usage


class Delegate(Protocol):
    """Has one agent work for another."""

    async def ask(self, call: Call, agent: str, text: str, timeout_s: float) -> Answer:
        """Run an agent on a text as a child of the call's run, and wait for its answer: `text` and `run`.

        The same call, made again, finds the same child. Raises `Refusal` for an agent that cannot be asked, and
        `Failed` where it gave no answer or none in time.
        """


class Post(Protocol):
    """Delivers messages between agents; the same call, made again, delivers nothing twice."""

    async def send(self, call: Call, agent: str, text: str) -> str:
        """Start a run of an agent with a text; its id. Raises `Refusal` where it cannot be started."""

    async def publish(self, call: Call, topic: str, text: str) -> list[str]:
        """Start a run of each agent that subscribes to a topic; who got it. Raises `Refusal` at the depth limit."""


class Topics(Protocol):
    """Who subscribes to which topics, on the disk. The same (run, ordinal) changes nothing twice."""

    def subscribe(self, call: Call, topic: str) -> list[str]:
        """Subscribe the call's agent; all its topics. Raises `Refusal` where it has too many."""

    def unsubscribe(self, call: Call, topic: str) -> list[str]:
        """Take a subscription of the call's agent back; the topics that are left."""

    def labels(self, agent: str) -> Labels:
        """Where the topics of an agent came from, together."""

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Erase the subscriptions that these runs of an agent made; their topics."""


class FailedAsk(Failed):
    """An agent that was asked gave no answer. What it used is charged all the same, and its words carry labels."""

    usage = Usage()
    labels: Labels = ()
