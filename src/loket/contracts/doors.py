"""What every door hands to the running system: who says something, and with which labels."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from loket.contracts.run import Json, Labels, Principal


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a message comes from, where that is not the owner at the command line or the panel.

    `words` are what the owner typed; empty for what agents, clients, webhooks and strangers say, so that their texts
    name nothing. `labels` go on with the message and with all that comes of it. `arguments` are given to the module
    beside the text.
    """

    principal: Principal
    labels: Labels
    words: str = ""
    arguments: Mapping[str, Json] = field(default_factory=dict)


class Send(Protocol):
    """Accepts a message for an agent; the id of its run. The same `message` id is accepted only once for an agent.

    Raises `BadInput` for an unknown agent, `Refusal` where a limit says no.
    """

    async def __call__(
        self,
        agent: str,
        text: str,
        *,
        conversation: str = "main",
        message: str | None = None,
        sender: Sender | None = None,
    ) -> str: ...


class Operate(Protocol):
    """Runs one operation of an installed module as a run of its own, and waits for its answer."""

    async def __call__(
        self,
        module: str,
        operation: str,
        args: Mapping[str, Json],
        *,
        conversation: str,
        message: str | None = None,
        sender: Sender,
    ) -> Mapping[str, Json]: ...
