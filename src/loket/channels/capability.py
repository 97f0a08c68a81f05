"""`channel.send`: an agent or a schedule writes first, to somebody whom the owner has let in."""

from collections.abc import Mapping

from loket.channels import words
from loket.channels.manager import Channels
from loket.contracts import Answer, BadInput, Call, Handler, Refusal
from loket.store.channels import Fresh


class ChannelProvider:
    """Performs `channel.send`. What is sent is queued, and delivered as every answer is."""

    id = "channel"

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    def handlers(self) -> Mapping[str, Handler]:
        """`channel.send`, synchronous: it is queued, and waits for nobody."""
        return {"channel.send": self.send}

    async def start(self) -> None:
        """Nothing to start: channels start after all modules are there."""

    async def close(self) -> None:
        """Nothing to close: the running system closes the channels."""

    def send(self, call: Call) -> Answer:
        """Answers `queued`, the number of pieces. Raises `Refusal` where the one is not paired, or the channel is not.

        The same call (run and ordinal) is queued once, also after a crash.
        """
        name, to, text = call.args["channel"], call.args["to"], call.args["text"]
        store = self._channels.store
        pairing = store.pairing(name, to)
        if pairing is None:
            raise Refusal(
                "channel.not_paired",
                f"{to} is not paired on the channel {name}",
                "only who wrote first and was let in can be written to: loket channels pairings",
                blame="owner",
            )
        try:
            channel = self._channels.channel(name)
            spec = self._channels.spec(channel.module)
        except BadInput as error:
            raise Refusal(error.code, error.message, error.remedy, blame="owner") from None
        key = f"call:{call.run}:{call.ordinal}"
        pieces = [
            Fresh(f"{key}:{number}", pairing.conversation, piece, "", pairing.context, call.labels_of("text"))
            for number, piece in enumerate(words.split(text, spec.longest))
        ]
        store.queue(name, pieces, self._channels.system.now())
        self._channels.wake(name)
        return Answer({"queued": len(pieces)})
