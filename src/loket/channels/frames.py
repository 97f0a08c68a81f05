"""What the host and a channel module say to each other.

The host keeps the wire; the sealed module translates. Each translation is one run of one operation:

- `inbound(frame)`: in every frame are `kind`, `fields` (those that are no secrets), `secrets` (the names of those that
  are set) and `state` (what the module kept). Kinds: `start`, `test`, `timer`, `response` (`tag`, `status`, `headers`,
  `body`), `open`, `text` (`text`), `close` (`code`, `reason`), `webhook` (`headers`, `query`, `body`), `mail` (`mail`),
  and `sent`: the response to an outbound request that did not say that it was done.
- `outbound(message)`: `id`, `conversation`, `text`, `reply_to`, `context`, `held` (a caller of the webhook waits for
  it), and `fields`, `secrets` and `state` as above.

Both answer an `Actions`. Whatever stands in one is done by the host within what the manifest declares and the owner
has set; `{{secret:FIELD}}` in a request or a frame is filled in by the host, for granted hosts alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from loket.contracts import ChannelMessage, Json

INBOUND, OUTBOUND = "inbound", "outbound"
"""The two operations of a channel module."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    `quiet` is a body that says that nothing happened (it may lack some of its keys, and has no others): the request is
    made again without a translation. `done` is what the body of a good response says where an outbound message has
    arrived (among other things). `null` in either stands for anything.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: str
    json: Json = None
    tag: str = ""
    quiet: Mapping[str, Json] | None = None
    done: Mapping[str, Json] | None = None
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Beat:
    """A frame that the host sends every so often by itself; without a frame like `ack` between two, it reconnects."""

    every_s: float
    frame: str
    ack: Mapping[str, Json] | None = None


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail to send; the host writes its date and its sender."""

    to: str
    subject: str
    text: str
    id: str
    in_reply_to: str = ""
    references: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """What a webhook's caller is answered. `hold` waits up to so many seconds for what the agent says."""

    status: int
    body: str
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Actions:
    """What a translation answers: everything may be left out."""

    messages: tuple[ChannelMessage, ...] = ()
    requests: tuple[Request, ...] = ()
    frames: tuple[str, ...] = ()
    connect: str = ""
    """The address (`wss:`) of the connection that is to be opened."""
    beat: Beat | None = None
    reconnect: bool = False
    mail: Mail | None = None
    timer_s: float | None = None
    state: Mapping[str, Json] | None = None
    response: Response | None = None
    delivered: bool = False
    retry_s: float | None = None
    failed: str = ""
    """Why an outbound message can never arrive."""
