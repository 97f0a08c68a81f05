"""What channels need of a running system: each a callable, so that nothing here knows the whole."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from loket.contracts import Ending, Json, Labels, ModuleRef, Principal, RunRequest, Send, Sender
from loket.ids import new_id


class Slash(Protocol):
    """Answers a slash command (`/approve ID`); None where the text is none that is known here."""

    async def __call__(self, agent: str, text: str, *, conversation: str, sender: Sender) -> str | None: ...


@dataclass(frozen=True, slots=True)
class System:
    """The running system as channels see it.

    `perform` has a run done, `ending` waits for one's end, `events` are those of an unfinished run, `asked` the ids of
    the approvals that it waits for. `leave` is what may be shown to people on a channel (raises `RunEnded` at a leak).
    `check` raises `BadInput` for an agent that is not there.
    """

    send: Send
    perform: Callable[[RunRequest], Awaitable[Ending]]
    ending: Callable[[str], Awaitable[Ending]]
    events: Callable[[str], AsyncIterator[Mapping[str, Json]]]
    asked: Callable[[str], Sequence[str]]
    leave: Callable[[Json], Json]
    check: Callable[[str], object]
    now: Callable[[], float]
    slash: Slash | None = None


def translation(
    module: ModuleRef, channel: str, operation: str, args: Mapping[str, Json], labels: Labels, now: float
) -> RunRequest:
    """A run of one of a channel module's two operations: Loket itself asks, and the run has no rights at all."""
    run = new_id(now)
    return RunRequest(
        id=run,
        root=run,
        agent=module.id,
        principal=Principal("host", f"channel-{channel}"),
        module=module,
        conversation=f"channel-{channel}",
        operation=operation,
        args=dict(args),
        labels=labels,
        accepted=now,
        rights={},
    )
