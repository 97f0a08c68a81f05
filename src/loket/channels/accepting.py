"""Messages become runs: who is known speaks to the agent, who is not gets a code for the owner and no answer.

A message's id on its channel is the id under which the run is accepted, so it is one run however often the wire or a
restart brings it. The answer is queued in the same transaction that closes the message.
"""

import asyncio
import secrets
from collections.abc import Mapping

from loket.channels import words
from loket.channels.link import Link
from loket.contracts import OWNER, BadInput, Json, LoketError, Principal, Refusal, RunEnded, Sender
from loket.store.channels import ACCEPTED, ANSWERED, DROPPED, RECEIVED, Code, Fresh, Pairing, Received

CODE_S = 3_600.0
"""Seconds for which a code counts, and in which its sender is told no other one."""
MOST_CODES = 20
"""Open codes of a channel: whoever comes then is not answered."""
_LETTERS = "ABCDEFGHJKMNPQRSTUVWXYZ23456789"
_CODE_LENGTH = 8
_BUSY_S = 5.0
_LONGEST_BUSY_S = 3_600.0
OWNERS = "owner"
USER = "user:"


def sender_of(message: Received, pairing: Pairing, agent: str) -> Sender:
    """Whoever wrote a message, as the counter and the policy see it.

    Words name something only where the owner has said that this sender is the owner. A user of the owner's is that
    principal, and the text is still one that came in through a channel.
    """
    label = f"sender:{message.channel}:{message.sender}"
    more: Mapping[str, Json] = {"channel": message.channel, "sender": message.sender, "sender_name": message.name}
    if pairing.speaks == OWNERS:
        return Sender(Principal("agent", agent), (str(OWNER),), message.text or "", more)
    if pairing.speaks.startswith(USER):
        return Sender(
            Principal("user", pairing.speaks.removeprefix(USER)), tuple(sorted((label, pairing.speaks))), "", more
        )
    return Sender(Principal("sender", f"{message.channel}:{message.sender}"), (label,), "", more)


async def accept_all(link: Link) -> None:
    """Accept what comes, in its order, for as long as the channel is on."""
    following: set[asyncio.Task[None]] = set()

    def begin(message: Received) -> None:
        task = asyncio.create_task(follow(link, message), name=f"channel {link.name} {message.run}")
        following.add(task)
        task.add_done_callback(following.discard)

    try:
        for one in await asyncio.to_thread(link.store.open_messages, link.name, ACCEPTED):
            begin(one)
        while True:
            link.arrived.clear()
            for one in await asyncio.to_thread(link.store.open_messages, link.name, RECEIVED):
                accepted = await _accept(link, one)
                if accepted is not None:
                    begin(accepted)
            await link.arrived.wait()
    finally:
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)


async def _accept(link: Link, message: Received) -> Received | None:
    """The message with its run, or None where no run came of it."""
    pairing = await asyncio.to_thread(link.store.pairing, link.name, message.sender)
    if pairing is None:
        await asyncio.to_thread(_unknown, link, message)
        link.leaving.set()
        return None
    if not (message.text or "").strip():
        await _drop(link, message, "there is no text in it")
        return None
    sender = sender_of(message, pairing, link.settings.channel.agent)
    if await _slashed(link, message, sender):
        return None
    run = await _sent(link, message, sender)
    if run is None:
        return None
    await asyncio.to_thread(link.store.accepted, message.id, run)
    return await asyncio.to_thread(link.store.message, link.name, message.wire)


async def _slashed(link: Link, message: Received, sender: Sender) -> bool:
    """Whether the text was a command that Loket itself answers."""
    text = (message.text or "").strip()
    if link.system.slash is None or not text.startswith("/"):
        return False
    agent = link.settings.channel.agent
    try:
        said = await link.system.slash(agent, text, conversation=conversation_of(message), sender=sender)
    except LoketError as error:
        said = error.message
    if said is None:
        return False
    answers = fresh(link, message, shown(link, said), f"re:{message.id}")
    await asyncio.to_thread(link.store.ended, message.id, ANSWERED, link.system.now(), answers)
    link.leaving.set()
    return True


async def _sent(link: Link, message: Received, sender: Sender) -> str | None:
    """The run of a message; None where it cannot be one. Where a limit is reached it waits for its turn."""
    agent = link.settings.channel.agent
    while True:
        try:
            return await link.system.send(
                agent,
                message.text or "",
                conversation=conversation_of(message),
                message=f"{message.channel}:{message.wire}",
                sender=sender,
            )
        except BadInput as error:
            link.health.bad(error, link.system.now())
            await _drop(link, message, error.message)
            return None
        except Refusal as error:
            if link.system.now() - message.at > _LONGEST_BUSY_S:
                await _drop(link, message, error.message)
                return None
            await link.sleep(_BUSY_S)


def conversation_of(message: Received) -> str:
    """The agent's conversation: no channel speaks in another one's, or in the owner's own."""
    return f"{message.channel}:{message.conversation}"


async def _drop(link: Link, message: Received, reason: str) -> None:
    await asyncio.to_thread(link.store.ended, message.id, DROPPED, link.system.now(), (), reason)


def _unknown(link: Link, message: Received) -> None:
    """Nothing of the text goes anywhere. A code is said once, where nobody else reads it, while there are few."""
    now = link.system.now()
    open_codes = link.store.codes(link.name, now)
    if not message.direct or len(open_codes) >= MOST_CODES or any(one.sender == message.sender for one in open_codes):
        link.store.ended(message.id, DROPPED, now, (), "the sender is not paired")
        return
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
    context = dict(message.context)
    code = Code(letters, link.name, message.sender, message.name, message.conversation, context, now, now + CODE_S)
    said = Fresh(f"code:{letters}", message.conversation, words.pairing(letters), message.wire, context)
    link.store.add_code(code, message.id, said, now)


async def follow(link: Link, message: Received) -> None:
    """Wait for the end of a message's run, and queue its answer; say once for each approval that the owner is asked."""
    try:
        await _followed(link, message, message.run or "")
    except LoketError as error:  # the run was erased, or its end cannot be read
        link.health.error, link.health.error_at = error, link.system.now()
        await _drop(link, message, error.message)


async def _followed(link: Link, message: Received, run: str) -> None:
    pairing = await asyncio.to_thread(link.store.pairing, link.name, message.sender)
    owner = pairing is not None and pairing.speaks == OWNERS
    await _say_asking(link, message, run, owner=owner)
    async for event in link.system.events(run):
        if event["type"] == "asking":
            await _say_asking(link, message, run, owner=owner)
    ending = await link.system.ending(run)
    text = shown(link, words.answer_of(ending, owner=owner))
    answers = fresh(link, message, text, f"re:{message.id}", ending.labels)
    await asyncio.to_thread(link.store.ended, message.id, ANSWERED, link.system.now(), answers)
    link.leaving.set()


async def _say_asking(link: Link, message: Received, run: str, *, owner: bool) -> None:
    approvals = await asyncio.to_thread(link.system.asked, run)
    for approval in approvals:
        said = fresh(link, message, words.asking([approval], owner=owner), f"ask:{message.id}:{approval}")
        if await asyncio.to_thread(link.store.queue, link.name, said, link.system.now()):
            link.leaving.set()


def shown(link: Link, text: str) -> str:
    """A text as it may leave. A leak ends the run elsewhere; here it is said without its reason."""
    try:
        return str(link.system.leave(text))
    except RunEnded:
        return "Sorry, this did not work."


def fresh(link: Link, message: Received, text: str, key: str, labels: tuple[str, ...] = ()) -> list[Fresh]:
    """A text as outbound messages, in pieces that the wire takes."""
    pieces = words.split(text, link.settings.spec.longest)
    return [
        Fresh(f"{key}:{number}", message.conversation, piece, message.wire, message.context, labels)
        for number, piece in enumerate(pieces)
    ]
