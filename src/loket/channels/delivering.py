"""Answers go out: in order within a conversation, until they have arrived or never will.

An attempt that nobody saw the end of is made again, so delivery is at least once; each message has an id that stays the
same, for services that recognise a repetition.
"""

import asyncio

from loket.channels.actions import says
from loket.channels.frames import Actions, Request
from loket.channels.link import Link
from loket.channels.web import Got
from loket.contracts import Failed, LoketError, Refusal
from loket.store.channels import DELIVERED, FAILED, Outbound

MOST_ATTEMPTS = 8
"""Times that the other side may say no, and not for good."""
_LONGEST_S = 300.0
_GIVE_UP_S = 3 * 86_400.0
"""Seconds after which a message that could not even be tried is given up."""
_UNTRIED = ("net.", "channel.closed", "channel.connect", "channel.secret", "mail.unreachable")
"""Codes of errors that say that nothing arrived at the other side: such attempts are not counted."""

_TOO_MANY = 429
_SERVERS = 500


class _Later(Exception):
    """The other side says: not now."""

    def __init__(self, seconds: float | None, reason: str) -> None:
        super().__init__(reason)
        self.seconds = seconds


async def deliver_all(link: Link) -> None:
    """Deliver what is queued, for as long as the channel is on."""
    while True:
        link.leaving.clear()
        heads = await asyncio.to_thread(link.store.heads, link.name)
        now = link.system.now()
        due = [one for one in heads if one.next <= now]
        for one in due:
            await deliver(link, one)
        if not due:
            await _until(link.leaving, min((one.next - now for one in heads), default=None))


async def _until(event: asyncio.Event, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


async def deliver(link: Link, message: Outbound) -> None:
    """One attempt, and what the ledger says of it then."""
    now = link.system.now()
    try:
        _check_patience(message, now)
        waiting = link.waiting.get(message.reply_to)
        await _perform(link, message, await link.outbound(message, held=waiting is not None))
    except _Later as later:
        seconds = _backoff(message.attempts) if later.seconds is None else later.seconds
        await asyncio.to_thread(link.store.again, message.id, now + seconds, str(later), counted=True)
    except Refusal as error:
        await asyncio.to_thread(link.store.finish, message.id, FAILED, now, error.message)
        link.health.error, link.health.error_at = error, now
    except LoketError as error:
        counted = not error.code.startswith(_UNTRIED)
        following = now + _backoff(message.attempts if counted else 2)
        await asyncio.to_thread(link.store.again, message.id, following, error.message, counted=counted)
        link.health.error, link.health.error_at = error, now
    else:
        await asyncio.to_thread(link.store.finish, message.id, DELIVERED, link.system.now())


def _check_patience(message: Outbound, now: float) -> None:
    if message.attempts >= MOST_ATTEMPTS or now - message.at > _GIVE_UP_S:
        raise Refusal("channel.given_up", f"given up: {message.reason or 'it was never tried'}")


def _backoff(attempts: int) -> float:
    return min(2.0**attempts, _LONGEST_S)


async def _perform(link: Link, message: Outbound, actions: Actions) -> None:
    """Do what the translation says. Raises `_Later`, `Refusal` (never) and `Failed` (again)."""
    if actions.failed:
        raise Refusal("channel.refused", actions.failed)
    if actions.requests:
        await _ask(link, actions.requests[0])
    elif actions.frames:
        await _on_socket(link, actions.frames)
    elif actions.mail is not None:
        from loket.channels.mailbox import send_mail

        await send_mail(link, actions.mail)
    elif actions.response is not None:
        _answer_caller(link, message, actions)
    elif not actions.delivered:
        raise Refusal("channel.outbound", f"{link.module.id} made nothing of the message", "mend the module")


async def _ask(link: Link, request: Request) -> None:
    got = await link.request(request)
    if got.good and (request.done is None or says(got.json, request.done, whole=False)):
        return
    after = _retry_after(got)
    said = await link.inbound("sent", tag=request.tag, **got.as_dict())
    if said.delivered:
        return
    reason = said.failed or f"the other side answered with the status {got.status}"
    if said.retry_s is not None or after is not None:
        raise _Later(max(said.retry_s or 0.0, after or 0.0), reason)
    if said.failed or not (got.status == _TOO_MANY or got.status >= _SERVERS):
        raise Refusal("channel.refused", reason)
    raise _Later(None, reason)


def _retry_after(got: Got) -> float | None:
    """The header `Retry-After`, where it is a number of seconds (RFC 9110, 10.2.3)."""
    try:
        return min(max(float(got.headers.get("retry-after", "")), 0.0), 86_400.0)
    except ValueError:
        return None


async def _on_socket(link: Link, frames: tuple[str, ...]) -> None:
    if link.socket is None:
        raise Failed("channel.closed", "the connection is not open", "it is opened again by itself")
    for frame in frames:
        await link.socket.send(frame)


def _answer_caller(link: Link, message: Outbound, actions: Actions) -> None:
    """Give a webhook's caller, who waits, the answer; raises `Refusal` where nobody waits any more."""
    waiting = link.waiting.get(message.reply_to)
    if waiting is None or waiting.done() or actions.response is None:
        raise Refusal("channel.nobody", "whoever called the webhook does not wait any more")
    waiting.set_result(actions.response)
