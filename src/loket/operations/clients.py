"""Programs that talk to agents in their own name: what they say is theirs and not the owner's."""

from typing import Any

from loket.app import Loket
from loket.contracts import BadInput, Principal, Sender
from loket.operations.messages import answered
from loket.operations.table import Emit, operation


def client(name: str) -> Sender:
    """A program as a sender: its principal and its label are `client:NAME`, and its texts name nothing."""
    return Sender(Principal("client", name), (f"client:{name}",))


@operation("clients.ask")
async def clients_ask(
    system: Loket,
    emit: Emit,
    *,
    client_name: str,
    agent: str,
    text: str,
    conversation: str,
    message: str | None = None,
) -> dict[str, Any]:
    """Send a program's message and wait for the answer, events on the way: `run`, `answer`, `calls`, `tokens`."""
    if not text.strip():
        raise BadInput("ask.text", "the text is empty", "say something")
    return await answered(system, emit, agent, text, conversation, message, client(client_name))
