"""The work of the durability campaign: agents, messages with effects that can be told apart, and a ledger of promises.

Each message has a mark, and every effect that comes of it carries the mark: what a person said and what was answered
(memories), a memory that the model asks for, a file, a question to another agent, a message to all who hear a topic.
"""

import asyncio
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from loket.app import Loket, running
from loket.bench.place import LIMITS, check
from loket.bench.server import use_model
from loket.contracts import Failed, LoketError
from loket.home import Home
from loket.installed import LOCAL_PUBLISHER
from loket.testing.model_server import Reply, Request

AGENTS = ("north", "east", "south")
CONVERSATIONS = ("one", "two")
TOPIC = "news"
_BURST = 3
"""Messages of one conversation that are on their way at a time."""
_SLOW_S = 0.4

_ASKED = (
    *("llm.models", "llm.complete", "brain.search", "brain.add", "brain.correct", "brain.forget", "brain.lesson"),
    *("clock.now", "fs.write", "agent.ask", "message.publish", "message.subscribe"),
)
_MANIFEST = """\
id = "{id}"
version = "1.0.0"
kind = "agent"
summary = "The stock agent under another name, for the durability campaign"

{asked}
[limits]
cpu_ms = {cpu_ms}
calls = {calls}
"""
_WANT = '[[capability]]\nname = "{name}"\nreason = "the durability campaign"\n'

STEPS = ("keep", "write", "ask", "publish")
"""What a message can have its agent do; `slow` lets the model take its time."""


@dataclass(slots=True)
class Message:
    """One message of the owner. `run` once it was acknowledged, `answer` once one was seen."""

    mark: str
    agent: str
    conversation: str
    steps: tuple[str, ...]
    run: str | None = None
    answer: str | None = None

    @property
    def text(self) -> str:
        if self.steps == ("remember",):
            return f"/remember {self.mark}"
        return " ".join(("do", self.mark, *(f"ask_{self.asks}" if step == "ask" else step for step in self.steps)))

    @property
    def asks(self) -> str:
        """Whom it has its agent ask."""
        return AGENTS[(AGENTS.index(self.agent) + 1) % len(AGENTS)]


class Gone(Exception):
    """The server is gone, or the power: nothing more is heard of what was sent."""


@dataclass
class Ledger:
    """All messages, what was promised about them, and promises that were seen broken. `frozen`: the power is gone."""

    seed: str
    messages: list[Message] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    frozen: bool = False

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)  # noqa: S311 - a schedule that its seed repeats

    def todo(self, agent: str, conversation: str, *, more: bool) -> list[Message]:
        """What of a conversation has no answer yet, and with `more` new messages behind it, in the order to send."""
        mine = [m for m in self.messages if (m.agent, m.conversation) == (agent, conversation) and m.answer is None]
        if more:
            fresh = [self._new(agent, conversation) for _ in range(_BURST - len(mine))]
            self.messages += fresh
            mine += fresh
        return mine

    def _new(self, agent: str, conversation: str) -> Message:
        mark = f"m{self._chance.getrandbits(40):010x}"
        kind = self._chance.random()
        if kind < 0.2:  # noqa: PLR2004 - a fifth of them are commands, which need no model
            return Message(mark, agent, conversation, ("remember",))
        steps = self._chance.sample(STEPS, self._chance.randint(0, 3))
        slow = ["slow"] if self._chance.random() < 0.2 else []  # noqa: PLR2004 - and some wait for a slow model
        return Message(mark, agent, conversation, (*steps, *slow))

    def acknowledged(self, message: Message, run: str) -> None:
        """The run that a message was accepted as; the same one each time. Raises `Gone` without power."""
        if self.frozen:
            raise Gone
        if message.run not in (None, run):
            self.broken.append(f"message {message.mark} was accepted as run {message.run}, and again as run {run}")
        message.run = run

    def answered(self, message: Message, answer: str) -> None:
        """An answer that was seen; the same one each time. Raises `Gone` without power."""
        if self.frozen:
            raise Gone
        if message.answer not in (None, answer):
            self.broken.append(f"message {message.mark} was answered {message.answer!r}, and then {answer!r}")
        message.answer = answer

    @property
    def acknowledged_count(self) -> int:
        return sum(message.run is not None for message in self.messages)


class Door(Protocol):
    """A way in: sends a message and waits for its answer, telling the ledger of both."""

    async def send(self, ledger: Ledger, message: Message, heard: asyncio.Event) -> None:
        """Set the event `heard` once the message was acknowledged. Raises `Gone`."""


# The model


def scripted(request: Request) -> Reply:
    """Does the next step of the last message, or says that all is done; the same answer for the same prompt."""
    messages: list[dict[str, Any]] = request.body["messages"]
    place = max(number for number, message in enumerate(messages) if message["role"] == "user")
    text = str(messages[place]["content"])
    done = sum(bool(message.get("tool_calls")) for message in messages[place:])
    steps = list(_tools(text))
    if done < len(steps):
        name, arguments = steps[done]
        return Reply(tool_calls=((f"call-{done}", name, json.dumps(arguments)),))
    return Reply(f"done: {text}", latency_s=_SLOW_S if " slow" in text else 0.0)


def _tools(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tool calls that a message wants."""
    found = re.fullmatch(r"do (m[0-9a-f]{10})((?: \w+)*)", text)
    if text == "subscribe":
        yield "message_subscribe", {"topic": TOPIC}
    if found is None:
        return
    mark = found[1]
    for step in found[2].split():
        if step == "keep":
            yield "brain_add", {"items": [{"text": f"kept {mark}", "kind": "fact"}]}
        elif step == "write":
            yield "fs_write", {"path": f"notes/{mark}.md", "text": f"written {mark}"}
        elif step == "publish":
            yield "message_publish", {"topic": TOPIC, "text": f"heard {mark}"}
        elif step.startswith("ask"):
            yield "agent_ask", {"agent": step.partition("_")[2], "text": f"asked {mark}"}


# The home


async def furnish(home: Home, model_url: str) -> None:
    """Make a home with the agents, each with all grants, and each of them hearing the topic."""
    home.prepare()
    use_model(home, model_url, "scripted")
    async with running(home) as system:
        for name in AGENTS:
            folder = _folder(home.root / "sources" / name)
            await system.installed.install(folder, LOCAL_PUBLISHER, _ASKED, "the durability campaign")
            check(await system.finished(await system.send(name, "subscribe", conversation="setup")))
        if len(system.bus.all()) != len(AGENTS):
            raise Failed("bench.setup", "the agents do not hear the topic")


def _folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    asked = "\n".join(_WANT.format(name=name) for name in _ASKED)
    text = _MANIFEST.format(id=folder.name, asked=asked, cpu_ms=LIMITS.cpu_ms, calls=LIMITS.calls)
    (folder / "loket.toml").write_text(text, encoding="utf-8")
    return folder


# Talking


async def talk(ledger: Ledger, door: Door, *, more: bool) -> None:
    """Send what is to be sent in all conversations at once, each in its order, until the answers or the end."""
    await asyncio.gather(
        *(_conversation(ledger, door, ledger.todo(a, c, more=more)) for a in AGENTS for c in CONVERSATIONS)
    )


async def _conversation(ledger: Ledger, door: Door, messages: Sequence[Message]) -> None:
    """The next message goes out when the one before it was acknowledged, whether or not it was answered."""
    sending: list[asyncio.Task[None]] = []
    for message in messages:
        heard = asyncio.Event()
        sending.append(asyncio.create_task(door.send(ledger, message, heard)))
        waiting = asyncio.create_task(heard.wait())
        await asyncio.wait([sending[-1], waiting], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not heard.is_set():
            break
    for result in await asyncio.gather(*sending, return_exceptions=True):
        if isinstance(result, BaseException) and not isinstance(result, Gone):
            raise result


class SystemDoor:
    """A system in this process. Once it is `closing`, what fails is what a stop cuts off."""

    def __init__(self, system: Loket) -> None:
        self._system = system
        self.closing = False

    async def send(self, ledger: Ledger, message: Message, heard: asyncio.Event) -> None:
        try:
            await self._send(ledger, message, heard)
        except (asyncio.CancelledError, LoketError, RuntimeError):
            if not self.closing:
                raise
            raise Gone from None

    async def _send(self, ledger: Ledger, message: Message, heard: asyncio.Event) -> None:
        run = await self._system.send(
            message.agent, message.text, conversation=message.conversation, message=message.mark
        )
        ledger.acknowledged(message, run)
        heard.set()
        ending = await self._system.finished(run)
        ledger.answered(message, str((ending.answer or {}).get("text", ending.error)))
