"""Messages between agents: `message.send`, `message.publish`, `message.subscribe` and `message.unsubscribe`."""

from collections.abc import Collection, Mapping
from typing import Any

from loket.contracts import Answer, Call, Handler, Post, Topics


class MessageProvider:
    """Performs `message.*`: `post` delivers, `topics` keeps who subscribes to what."""

    id = "message"

    def __init__(self, post: Post, topics: Topics) -> None:
        self._post = post
        self._topics = topics

    def handlers(self) -> Mapping[str, Handler]:
        """Capability id to handler; those that deliver wait."""
        return {
            "message.send": self.send,
            "message.publish": self.publish,
            "message.subscribe": self.subscribe,
            "message.unsubscribe": self.unsubscribe,
        }

    async def start(self) -> None:
        """Nothing to start: runs belong to the engine."""

    async def close(self) -> None:
        """Nothing to close: the file belongs to whoever opened it."""

    async def send(self, call: Call) -> Answer:
        """Answers `run`, which will answer the message. Raises `Refusal` for an agent that is not there."""
        return Answer({"run": await self._post.send(call, call.args["agent"], call.args["text"])})

    async def publish(self, call: Call) -> Answer:
        """Answers `delivered`: the agents that got the message, each in a run of its own."""
        return Answer({"delivered": await self._post.publish(call, call.args["topic"], call.args["text"])})

    def subscribe(self, call: Call) -> Answer:
        """Answers `topics`: all that the agent subscribes to now. Raises `Refusal` where these are too many."""
        return Answer({"topics": self._topics.subscribe(call, call.args["topic"])}, self._topics.labels(call.agent))

    def unsubscribe(self, call: Call) -> Answer:
        """Answers `topics`: all that the agent still subscribes to."""
        return Answer({"topics": self._topics.unsubscribe(call, call.args["topic"])}, self._topics.labels(call.agent))

    # What a run left here

    def writes(self, capability: str, args: Mapping[str, Any], _answer: Mapping[str, Any]) -> list[str]:
        """The topic that a journaled call subscribed to."""
        return [args["topic"]] if capability == "message.subscribe" else []

    def reads(self, capability: str, _args: Mapping[str, Any], answer: Mapping[str, Any]) -> list[str]:
        """The topics that a journaled call showed."""
        return list(answer["topics"]) if capability in ("message.subscribe", "message.unsubscribe") else []

    def erase(self, agent: str, runs: Collection[str]) -> list[str]:
        """Erase the subscriptions that these runs of an agent made; their topics."""
        return self._topics.erase(agent, runs)
