"""The wires that the host keeps by asking: `poll`, and the loop that keeps any wire up.

A poll is a request that waits at the other side. Its answer goes to the module, which says what came in and what to
ask next; what it says was written before the next request tells the other side that it was received. An answer that
says that nothing happened is not worth a run (two rows of the journal): the request is made again as it is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from loket.channels.actions import says
from loket.channels.frames import Actions, Request
from loket.channels.link import Link, checked
from loket.contracts import Failed, LoketError

Wire: TypeAlias = Callable[[Link], Awaitable[None]]
"""Keeps a channel's wire until it breaks: returns to be started anew, raises `LoketError` where something is wrong."""

_FIRST_S = 0.5
_LONGEST_S = 60.0
_QUICK_S = 1.0
"""An answer without news that comes quicker than this did not wait: the next request does."""


async def keep(link: Link, wire: Wire) -> None:
    """Keep a wire for as long as the channel is on; each failure in a row doubles the pause, up to a minute."""
    pause = _FIRST_S
    while True:
        try:
            await wire(link)
            pause = _FIRST_S
        except LoketError as error:
            pause = _FIRST_S if link.health.connected is not None else min(2 * pause, _LONGEST_S)
            link.health.bad(error, link.system.now())
        await link.sleep(pause)


async def poll(link: Link) -> None:
    """Ask again and again; only an error ends it."""
    await steps(link, await link.inbound("start"), lambda _actions: False)


async def steps(link: Link, actions: Actions, enough: Callable[[Actions], bool]) -> Actions:
    """Do what the module asks for, one request after the other, until it has asked for `enough`.

    Raises `Failed` where it asks for nothing at all, and says so by no timer either.
    """
    todo: deque[Request] = deque()
    while True:
        todo.extend(checked(actions).requests)
        if enough(actions):
            return actions
        if actions.retry_s is not None:
            await link.sleep(actions.retry_s)
            todo.clear()
            actions = await link.inbound("start")
        elif todo:
            actions = await asked(link, todo.popleft())
        elif actions.timer_s is not None:
            await link.sleep(actions.timer_s)
            actions = await link.inbound("timer")
        else:
            raise Failed(
                "channel.idle",
                f"{link.module.id} asks for nothing and sets no timer",
                "mend the module: each answer of a poll names the next request",
                blame="module",
            )


async def asked(link: Link, request: Request) -> Actions:
    """Make a request, again for as long as its answer says that nothing happened, and have the answer translated."""
    while True:
        began = time.monotonic()
        got = await link.request(request)
        if not (got.good and request.quiet is not None and says(got.json, request.quiet, whole=True)):
            break
        link.health.good(link.system.now())
        await asyncio.sleep(max(0.0, _QUICK_S - (time.monotonic() - began)))
    actions = await link.inbound("response", tag=request.tag, **got.as_dict())
    if got.good and not actions.failed:
        link.health.good(link.system.now())
    return actions


async def webhook(link: Link) -> None:
    """Requests come by themselves, through the gateway: nothing is kept up."""
    link.health.good(link.system.now())
    await asyncio.Event().wait()


async def websocket(link: Link) -> None:
    """Stay connected (see `sockets`)."""
    from loket.channels import sockets

    await sockets.websocket(link)


async def mailbox(link: Link) -> None:
    """Look for new mails (see `mailbox`)."""
    from loket.channels.mailbox import mailbox as look

    await look(link)


BY_NAME: Mapping[str, Wire] = {"poll": poll, "webhook": webhook, "websocket": websocket, "mailbox": mailbox}
"""The wires; what most homes have no channel for is imported when one is switched on."""
