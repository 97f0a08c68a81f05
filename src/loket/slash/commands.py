"""What each command does over a running system, and the run that answers it.

Who may: what belongs to whoever asks, everybody may; what is the owner's, the owner alone. That is decided by how the
message came in (`Sender`), never by its text.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loket.contracts import (
    OWNER,
    BadInput,
    Ending,
    Json,
    ModuleRef,
    Principal,
    Refusal,
    RunRequest,
    Sender,
)
from loket.ids import new_id
from loket.kernel.state import RunState
from loket.packages.manifest import Manifest
from loket.slash import replies
from loket.slash.guest import BRAIN, COMMAND
from loket.slash.words import BY_NAME, OWN, nearest, typed

_RUNS = 10
_WHY = 500
"""Characters of a reason."""


@dataclass(frozen=True, slots=True)
class System:
    """The running system as commands see it.

    `module` gives an installed agent's module (raises `BadInput`), `modules` all of them, `rights` what one may do.
    `operation` makes the run of a module's operation, not submitted yet. `tools` and `skills` are names with summaries.
    `runs` are an agent's newest runs, `waiting` the questions that wait for the owner as `loket approvals list` has
    them, `decide` writes the owner's word on one down (its id or the beginning of it, whether it may, and why) and lets
    its run go on. `submit` has a run accepted, `ending` waits for its end, `events` are those of an unfinished run.
    """

    module: Callable[[str], ModuleRef]
    modules: Callable[[], Sequence[tuple[ModuleRef, Manifest]]]
    rights: Callable[[ModuleRef], Mapping[str, Mapping[str, Json]]]
    operation: Callable[..., RunRequest]
    tools: Callable[[str], Sequence[tuple[str, str]]]
    skills: Callable[[str], Sequence[tuple[str, str]]]
    runs: Callable[[str, int], Awaitable[Sequence[Mapping[str, Any]]]]
    unfinished: Callable[[], Mapping[str, RunState]]
    stop: Callable[[str], bool]
    waiting: Callable[[], Awaitable[Sequence[Mapping[str, Any]]]]
    decide: Callable[[str, bool, str], Awaitable[Mapping[str, Any]]]
    submit: Callable[[RunRequest], Awaitable[str]]
    ending: Callable[[str], Awaitable[Ending]]
    events: Callable[[str], AsyncIterator[Mapping[str, Json]]]
    now: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Asked:
    """One command: `rest` is what stands behind its name."""

    agent: str
    conversation: str
    sender: Sender
    name: str
    rest: str

    @property
    def owner(self) -> bool:
        return is_owner(self.sender)


def is_owner(sender: Sender) -> bool:
    """Whether a message is the owner's own words, and nothing else came with it."""
    return bool(sender.words) and sender.principal.kind == "agent" and sender.labels == (str(OWNER),)


def needs_owner(text: str) -> bool:
    """Whether a text is a command for the owner alone: what a door asks that lets programs speak as the owner does."""
    found = typed(text)
    return found is not None and found[0] in BY_NAME and BY_NAME[found[0]].owner


class Slash:
    """Answers commands. Used on the event loop."""

    def __init__(self, system: System) -> None:
        self._system = system

    async def __call__(
        self, agent: str, text: str, *, conversation: str = "main", sender: Sender | None = None
    ) -> str | None:
        """The reply to a command, the owner's without `sender`; None for a text that is a message.

        Where the owner has to approve it first the reply says so, and the run goes on. Raises `BadInput` for an unknown
        agent, and what a run that gave no answer ended with.
        """
        request = await self.request(agent, text, conversation=conversation, sender=sender)
        if request is None:
            return None
        run = await self._system.submit(request)
        async for event in self._system.events(run):
            if event["type"] in ("asking", "behind"):
                return replies.WAITS
        return replies.ended(await self._system.ending(run))

    async def request(
        self, agent: str, text: str, *, conversation: str = "main", sender: Sender | None = None
    ) -> RunRequest | None:
        """The run that answers a command, not submitted yet; None for a text that is a message.

        What it does beyond the agent's own calls (a run that is stopped, an approval) is done when this returns, and
        the reply is in a conversation of its own, so it comes while others of the agent wait. Calls of the agent are in
        the message's conversation, in order: what was remembered is known to the next message. Raises `BadInput`.
        """
        found = typed(text)
        if found is None:
            return None
        who = sender or Sender(Principal("agent", agent), (str(OWNER),), text)
        asked = _Asked(agent, conversation, who, *found)
        if asked.name in BY_NAME:
            return await self._own(asked)
        commands = self._commands()
        if asked.name in commands:
            return self._theirs(asked, *commands[asked.name])
        near = nearest(asked.name, [*BY_NAME, *commands])
        return self._run(asked, {"reply": replies.unknown(asked.name, near)}) if near else None

    def listed(self) -> list[dict[str, Any]]:
        """All commands for a list to choose from: `name`, `usage`, `summary`, `owner`, and `module` of a module's."""
        own = [
            {"name": one.name, "usage": one.usage, "summary": one.summary, "owner": one.owner, "module": None}
            for one in OWN
        ]
        theirs = [
            {"name": name, "usage": f"/{name} TEXT", "summary": summary, "owner": False, "module": ref.id}
            for name, (ref, _operation, summary) in self._commands().items()
        ]
        return [*own, *theirs]

    # The run

    async def _own(self, asked: _Asked) -> RunRequest:
        if BY_NAME[asked.name].owner and not asked.owner:
            refusal = {
                "code": "slash.owner",
                "message": f"/{asked.name} is for the owner alone",
                "remedy": "the owner can say it at the command line, in the panel, or from a channel paired as owner",
            }
            return self._run(asked, {"refusal": refusal})
        if asked.name in BRAIN:
            return self._run(asked, {"rest": asked.rest})
        try:
            reply = await getattr(self, f"_do_{asked.name}")(asked)
        except (BadInput, Refusal) as error:
            reply = replies.wrong(error)
        return self._run(asked, {"reply": reply})

    def _run(self, asked: _Asked, more: Mapping[str, Json]) -> RunRequest:
        ref = self._system.module(asked.agent)
        now = self._system.now()
        run = new_id(now)
        return RunRequest(
            id=run,
            root=run,
            agent=asked.agent,
            principal=asked.sender.principal,
            module=ref,
            conversation=asked.conversation if "rest" in more else f"command:{run}",
            operation=COMMAND,
            args={"command": asked.name, **more},
            labels=asked.sender.labels,
            accepted=now,
            words=asked.sender.words,
            rights=self._system.rights(ref),
        )

    def _commands(self) -> dict[str, tuple[ModuleRef, str, str]]:
        """Modules' commands: module, operation and summary by name. Of two of one name the first module's counts."""
        found: dict[str, tuple[ModuleRef, str, str]] = {}
        for ref, manifest in self._system.modules():
            for one in manifest.commands:
                if one.name not in BY_NAME:
                    found.setdefault(one.name, (ref, one.operation, one.summary))
        return found

    def _theirs(self, asked: _Asked, ref: ModuleRef, operation: str, _summary: str) -> RunRequest:
        """The owner runs a module's command itself; for others the agent calls it, where it was granted that."""
        if not asked.owner:
            return self._run(asked, {"rest": asked.rest, "capability": f"{ref.id}.{operation}"})
        sender = Sender(Principal("agent", ref.id), asked.sender.labels, asked.sender.words)
        place = f"command:{new_id(self._system.now())}"
        return self._system.operation(ref.id, operation, {"text": asked.rest}, conversation=place, sender=sender)

    # What the host answers

    async def _do_help(self, _asked: _Asked) -> str:
        return replies.commands(self.listed())

    async def _do_tools(self, asked: _Asked) -> str:
        return replies.named(
            self._system.tools(asked.agent), "I may use nothing yet: loket grants allow AGENT CAPABILITY"
        )

    async def _do_skills(self, asked: _Asked) -> str:
        return replies.named(self._system.skills(asked.agent), "I know of no skills yet: loket skills add FOLDER")

    async def _do_runs(self, asked: _Asked) -> str:
        mine = self._mine(asked)
        going = [replies.run(one, state.status.value, state.request.agent) for one, state in mine.items()]
        others = await self._system.runs(asked.agent, _RUNS) if asked.owner else ()
        ended = [replies.run(one["id"], one["status"], one["agent"]) for one in others if one["id"] not in mine]
        return "\n".join([*going, *ended][: max(_RUNS, len(going))]) or "No runs go on."

    def _mine(self, asked: _Asked) -> dict[str, RunState]:
        """Unfinished runs that whoever asks may see: the owner all, others those that they began."""
        return {
            run: state
            for run, state in self._system.unfinished().items()
            if asked.owner or (state.request.principal == asked.sender.principal and state.request.parent is None)
        }

    async def _do_stop(self, asked: _Asked) -> str:
        place = (asked.agent, asked.conversation)
        mine = self._mine(asked)
        if asked.rest:
            found = [run for run in mine if run.startswith(asked.rest)]
        else:
            found = [run for run, state in mine.items() if (state.request.agent, state.request.conversation) == place]
        if asked.rest and len(found) > 1:
            return f"Several runs start with {asked.rest}: give more of its id."
        stopped = [run for run in found if self._system.stop(run)]
        if stopped:
            return f"Stopped: {', '.join(stopped)}."
        return f"No run that goes on starts with {asked.rest[:40]}." if asked.rest else "Nothing goes on here."

    async def _do_approve(self, asked: _Asked) -> str:
        return await self._decided(asked, allow=True)

    async def _do_deny(self, asked: _Asked) -> str:
        return await self._decided(asked, allow=False)

    async def _decided(self, asked: _Asked, *, allow: bool) -> str:
        identity, _, why = asked.rest.partition(" ")
        if not identity:
            return replies.questions(await self._system.waiting())
        row = await self._system.decide(identity, allow, why.strip()[:_WHY])
        return f"{'Approved' if allow else 'Denied'}: {row['capability']} of {row['agent']} ({row['id']})."

    async def _do_status(self, asked: _Asked) -> str:
        mine = self._mine(asked)
        if not asked.owner:
            return f"{asked.agent} is here. Of what you asked, {len(mine)} are not finished."
        waiting = await self._system.waiting()
        agents = [ref.id for ref, manifest in self._system.modules() if manifest.kind == "agent"]
        return replies.status(agents, len(mine), len(waiting))
