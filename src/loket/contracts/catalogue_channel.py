"""The catalogue's channels: writing to people first. What answers them needs no capability at all."""

from loket.contracts.capability import Capability, Constraint, Effect, Match, OnUncertain
from loket.contracts.records import ArgType, Data
from loket.contracts.shapes import closed, words

CHANNELS: tuple[Capability, ...] = (
    Capability(
        id="channel.send",
        summary="Write to somebody whom the owner has let in on a channel, without being asked",
        effect=Effect.EGRESS,
        arguments=closed(
            {
                "channel": words(41, about="the channel's name"),
                "to": words(200, about="the sender's id on the channel"),
                "text": words(20_000, about="the message"),
            },
            *("channel", "to", "text"),
        ),
        answer=closed({"queued": {"type": "integer", "description": "messages that are on their way"}}, "queued"),
        critical=("channel", "to", "text"),
        constraints=(Constraint("channels", "channel", Match.EXACT, required=True),),
        data=Data(
            types={"channel": ArgType("name"), "to": ArgType("address"), "text": ArgType("text")},
            wanted=(("send*", "write*", "tell*", "message*", "notify*", "remind*", "answer*", "reply*"),),
        ),
        on_uncertain=OnUncertain.REPEAT,
        examples=({"channel": "telegram", "to": "123456789", "text": "Dinner is ready"},),
    ),
)
