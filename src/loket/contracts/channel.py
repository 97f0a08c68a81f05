"""What a channel module declares of its wire, and the messages that it makes of what comes over it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from loket.contracts.run import Json

CHANNEL_WIRES = ("poll", "webhook", "websocket", "mailbox")
"""How a channel reaches its other side: requests that wait, requests that come, a lasting connection, a mailbox."""

MAILBOX_FIELDS = ("imap", "smtp", "user", "password", "address")
"""The fields that a module with the wire `mailbox` has to declare: the host itself logs in with them."""


@dataclass(frozen=True, slots=True)
class ChannelField:
    """One thing that the owner says when a channel is added. `pattern` is a regular expression for the whole value."""

    name: str
    label: str
    secret: bool = False
    required: bool = True
    pattern: str = ""
    help: str = ""
    default: str = ""


@dataclass(frozen=True, slots=True)
class ChannelSignature:
    """How a webhook's request proves that it comes from who knows the secret in the field `secret`.

    `timestamped`: `t=SECONDS,v1=HEX`, HMAC-SHA256 of `SECONDS.BODY`, at most `within_s` seconds old. `body`:
    `sha256=HEX`, HMAC-SHA256 of the body, as many services send it.
    """

    kind: str
    header: str
    secret: str
    within_s: int = 300


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """The table `[channel]` of a manifest. `longest` is how many characters one outbound message may have."""

    wire: str
    hosts: tuple[str, ...]
    fields: tuple[ChannelField, ...]
    longest: int
    signature: ChannelSignature | None = None


@dataclass(frozen=True, slots=True)
class ChannelMessage:
    """One message from the wire. `id` names it for good; `context` comes back when it is answered.

    `direct`: nobody else reads the conversation, so a pairing code may be said there.
    """

    id: str
    sender: str
    conversation: str
    text: str
    name: str = ""
    reply_to: str = ""
    direct: bool = True
    context: Mapping[str, Json] = field(default_factory=dict)
