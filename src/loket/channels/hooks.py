"""Requests of a webhook: who signed them with the channel's secret speaks through it, and nobody else."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Mapping

from loket.channels.frames import Actions, Response
from loket.channels.link import Link, checked
from loket.contracts import BadInput, ChannelSignature, Json, Refusal

_TIMESTAMPED = re.compile(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})")
_BODY = re.compile(r"sha256=([0-9a-f]{64})")


def sign(secret: str, body: bytes, *, at: int | None = None) -> str:
    """The value of the header: timestamped with `at` (seconds since 1970), else over the body alone."""
    if at is None:
        return f"sha256={_digest(secret, body)}"
    return f"t={at},v1={_digest(secret, b'%d.' % at + body)}"


def _digest(secret: str, data: bytes) -> str:
    return hmac.new(secret.encode(), data, hashlib.sha256).hexdigest()


def check(signature: ChannelSignature, secret: str, given: str, body: bytes, now: float) -> None:
    """Raises `Refusal` (`channel.signature`) where a request was not signed with the secret, or too long ago."""
    pattern = _TIMESTAMPED if signature.kind == "timestamped" else _BODY
    found = pattern.fullmatch(given.strip())
    if found is not None and secret:
        at = int(found[1]) if signature.kind == "timestamped" else None
        fresh = at is None or abs(now - at) <= signature.within_s
        if hmac.compare_digest(sign(secret, body, at=at), given.strip()) and fresh:
            return
    raise Refusal(
        "channel.signature",
        f"the header {signature.header} is no signature of this request, or an old one",
        "t=SECONDS,v1=HMAC-SHA256 of `SECONDS.BODY` in hex"
        if signature.kind == "timestamped"
        else "sha256=HMAC-SHA256 of the body in hex",
        blame="owner",
    )


async def take(link: Link, headers: Mapping[str, str], query: Mapping[str, str], body: bytes) -> Response:
    """Have a request translated; what its caller is answered. Raises `LoketError`."""
    signature = link.settings.spec.signature
    if signature is None:
        raise BadInput("channel.hook", f"the channel {link.name} takes no requests", "loket channels list")
    secret = await asyncio.to_thread(link.secret, signature.secret)
    check(signature, secret, headers.get(signature.header, ""), body, link.system.now())
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise BadInput("channel.hook", "the body is no UTF-8", "send UTF-8") from None
    hidden = (signature.header, "authorization", "cookie")
    shown = {name: value for name, value in headers.items() if name not in hidden}
    return await _translated(link, {"headers": shown, "query": dict(query), "body": text})


async def _translated(link: Link, frame: Mapping[str, Json]) -> Response:
    waits: list[tuple[str, asyncio.Future[Response]]] = []

    def ready(actions: Actions) -> None:
        """Be there before the answer can be."""
        if actions.response is not None and actions.response.hold_s and actions.messages:
            wire = actions.messages[0].id
            fresh = asyncio.get_running_loop().create_future()
            waits.append((wire, link.waiting.setdefault(wire, fresh)))

    try:
        actions = checked(await link.inbound("webhook", ready=ready, **frame))
        response = actions.response or Response(202, "")
        for wire, waiting in waits:
            known = await asyncio.to_thread(link.store.message, link.name, wire)
            if waiting.done() or (known is not None and known.state in ("received", "accepted")):
                return await _within(response, waiting)
        return response
    finally:
        for wire, _ in waits:
            link.waiting.pop(wire, None)


async def _within(response: Response, waiting: "asyncio.Future[Response]") -> Response:
    """The agent's answer, or the module's own where that takes too long."""
    try:
        async with asyncio.timeout(response.hold_s):
            return await asyncio.shield(waiting)
    except TimeoutError:
        return response
