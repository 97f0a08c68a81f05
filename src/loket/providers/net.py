"""`net.fetch`: reads a web address of a host that the owner granted.

The host is resolved here, every address of it is checked, and the connection goes to exactly an address that was
checked; so a name that changes its address between the check and the use (DNS rebinding) changes nothing. Redirects
are followed here as well, each of them checked like the first request. Considered: a proxy process, which would have
to be told the same rules, and the client's own redirects, which know nothing of grants.
"""

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from loket.contracts import (
    OWNER,
    Answer,
    BadInput,
    Call,
    Damaged,
    Failed,
    Handler,
    LoketError,
    Refusal,
    Secrets,
    command,
    host_granted,
    host_names,
)
from loket.providers.net_address import Reach, Resolve, reach, resolve
from loket.providers.net_body import ACCEPTED, decoded, may_be_text, read_body
from loket.providers.net_headers import Held, asked, checked, following, shown
from loket.providers.net_pool import Pool
from loket.providers.net_url import Target, follow, parse

if TYPE_CHECKING:
    import httpx2

_REDIRECTS = 5
_REDIRECTED = frozenset((301, 302, 303, 307, 308))
_STATUSES = range(100, 600)
_KB = 1_024
_TIMEOUT_S = 20.0


class NetProvider:
    """Performs `net.fetch`.

    `secrets` is the vault; `resolve` finds the addresses of a name, and `tls` verifies servers (without it, by the
    certificates that the client brings or the system has). The environment's proxies are not used.
    """

    id = "net"

    def __init__(self, secrets: Secrets, *, resolve: Resolve = resolve, tls: ssl.SSLContext | None = None) -> None:
        self._secrets = secrets
        self._resolve = resolve
        self._pool = Pool(tls)

    def handlers(self) -> Mapping[str, Handler]:
        """`net.fetch`, asynchronous."""
        return {"net.fetch": self.fetch}

    async def start(self) -> None:
        """Nothing to start: the client is imported at the first request."""

    async def close(self) -> None:
        """Close the connections that were kept."""
        await self._pool.close()

    async def fetch(self, call: Call) -> Answer:
        """Answers `status`, `url` (the one that answered), `headers`, `text` and `truncated`.

        Labelled `host:NAME` with every host that was asked. Raises `Refusal` and `Failed` with codes `net.*`; none of
        their messages, and nothing of the answer, holds the value of a secret that was sent.
        """
        timeout_s = float(call.args.get("timeout_s", _TIMEOUT_S))
        held = Held({})
        try:
            async with asyncio.timeout(timeout_s):
                headers = checked(call.args.get("headers", {}))
                held = await self._held(call, asked(headers))
                return await self._fetched(call, headers, held)
        except TimeoutError:
            raise Failed(
                "net.timeout",
                f"the answer was not there within {timeout_s:g} s",
                "ask for less with max_kb, raise timeout_s (60 at most), or try again later",
            ) from None
        except (Refusal, Failed) as error:
            raise _hidden(error, held) from None

    async def _held(self, call: Call, names: Sequence[str]) -> Held:
        """The secrets that a call may use, from the vault."""
        for name in names:
            if name not in call.constraints.get("secrets", []):
                raise Refusal(
                    "net.secret",
                    f"headers ask for the secret {name}, and the grant of {call.agent} does not name it",
                    command("grants", "allow", call.agent, "net.fetch", "--add", f"secrets={name}"),
                    blame="owner",
                )
        values: dict[str, str] = {}
        for name in names:
            value = await asyncio.to_thread(self._secret, name)
            if value is None:
                raise Refusal(
                    "net.secret_missing",
                    f"the vault has no secret {name}",
                    command("vault", "put", name),
                    blame="owner",
                )
            values[name] = value
        return Held(values)

    def _secret(self, name: str) -> str | None:
        try:
            return self._secrets.get(name)
        except (BadInput, Damaged) as error:  # they name files of this machine, which are not a module's to know
            raise Failed(error.code, "the vault cannot be read", "loket doctor", blame="owner") from None

    async def _fetched(self, call: Call, headers: dict[str, str], held: Held) -> Answer:
        target = parse(call.args["url"])
        method = call.args.get("method", "GET")
        hosts: set[str] = set()
        for _redirect in range(_REDIRECTS + 1):
            _check_host(call, target)
            addresses = await self._addresses(call, target, secret=bool(asked(headers)))
            hosts.add(target.host)
            sent = {"user-agent": "loket", "accept": "*/*", **held.fill(headers), "accept-encoding": ACCEPTED}
            async with self._pool.response(call.agent, target, addresses, method, sent) as response:
                location = response.headers.get("location")
                if response.status_code not in _REDIRECTED or location is None:
                    value = await _value(call, target, response, held)
                    return Answer(value, tuple(sorted(f"host:{host}" for host in hosts)))
            before, target = target, _redirected(target, location, held)
            headers = headers if target.origin == before.origin else following(headers)
        raise Failed(
            "net.redirects",
            f"{target.host} was the end of {_REDIRECTS} redirects, and asked for another",
            "fetch the address that they lead to",
        )

    async def _addresses(self, call: Call, target: Target, *, secret: bool) -> Sequence[str]:
        """The addresses to try, all of them checked. Raises `Refusal` (`net.address`, `net.secret_plain`)."""
        found = [target.address] if target.address is not None else await self._resolved(target)
        reaches = {reach(address) for address in found}
        near = [address for address in found if reach(address) is Reach.PRIVATE]
        if near and _listed(call, target):
            return near
        if reaches != {Reach.PUBLIC}:
            raise _not_public(call, target, possible=Reach.PRIVATE in reaches)
        if secret and target.scheme != "https":
            raise Refusal(
                "net.secret_plain",
                f"a secret would go to {target.host} unencrypted",
                f"ask https://{target.host} instead",
            )
        return found

    async def _resolved(self, target: Target) -> Sequence[str]:
        try:
            found = await self._resolve(target.host, target.port)
        except (OSError, UnicodeError):
            found = ()
        if not found:
            raise Failed(
                "net.unknown_host",
                f"no address is known for {target.host}",
                "check its spelling, and that this machine is online",
            )
        return found


def _check_host(call: Call, target: Target) -> None:
    """Compare a host with the grant, as the counter does. The owner's own call has no grant, and needs none."""
    if call.principal == OWNER and not call.constraints:
        return
    hosts = call.constraints.get("hosts", [])
    if not host_granted(target.url, hosts):
        name = host_names(target.url)[0]
        raise Refusal(
            "net.host",
            f"the grant of {call.agent} for net.fetch does not allow {name}: it allows {' or '.join(hosts) or 'none'}",
            command("grants", "allow", call.agent, "net.fetch", "--add", f"hosts={name}"),
            blame="owner",
        )


def _listed(call: Call, target: Target) -> bool:
    return target.place in (text.lower() for text in call.constraints.get("private", []))


def _not_public(call: Call, target: Target, *, possible: bool) -> Refusal:
    """Refuse an address. It is not shown: a module could map a network with refusals."""
    if not possible:
        return Refusal(
            "net.address",
            f"{target.place} is, or has an address that is, link-local, reserved or a metadata service",
            "no grant allows these; fetch a public host",
        )
    return Refusal(
        "net.address",
        f"{target.place} has an address of this machine or of a private network",
        command("grants", "allow", call.agent, "net.fetch", "--add", f"private={target.place}"),
        blame="owner",
    )


def _redirected(target: Target, location: str, held: Held) -> Target:
    """Where a redirect leads. Raises `Refusal` (`net.redirect`) where it must not be followed."""
    try:
        after = follow(target, location)
    except Refusal as refusal:
        # The message may quote a part of the address, and half of a secret could not be recognised there.
        wrong = "url holds a secret, and cannot be read" if held.within(location) else refusal.message
        raise Refusal("net.redirect", f"{target.host} redirects, and the {wrong}", refusal.remedy) from None
    if (target.scheme, after.scheme) == ("https", "http"):
        raise Refusal(
            "net.redirect",
            f"{target.host} redirects from https to http, which anyone on the way can read and change",
            f"fetch {after.url} by itself, if that is meant",
        )
    if after.origin != target.origin and held.within(after.url):
        raise Refusal(
            "net.redirect",
            f"{target.host} redirects to another host with a secret in the address",
            "fetch an address that does not do that",
        )
    return after


async def _value(call: Call, target: Target, response: "httpx2.Response", held: Held) -> dict[str, object]:
    """The answer's object. A body that is no text is not even read."""
    if response.status_code not in _STATUSES:
        raise Failed("net.protocol", f"{target.host} answered with the status {response.status_code}", "try again")
    kind, limit = response.headers.get("content-type", ""), int(call.args.get("max_kb", _KB)) * _KB
    text, truncated = "", False
    if response.request.method != "HEAD" and may_be_text(kind):
        encoding = response.headers.get("content-encoding", "")
        body, truncated = await read_body(response.aiter_raw(), encoding, limit)
        text = held.hide(decoded(held.hide_bytes(body, cut=truncated), kind, cut=truncated))
        text = held.hide_end(text) if truncated else text
    return {
        "status": response.status_code,
        "url": held.hide(target.url),
        "headers": shown(response.headers.raw, held),
        "text": text,
        "truncated": truncated,
    }


def _hidden(error: Refusal | Failed, held: Held) -> LoketError:
    """The same error without the values of secrets: a server can put one into the name of a host it redirects to."""
    remedy = held.hide(error.remedy) if error.remedy else None
    return type(error)(error.code, held.hide(error.message), remedy, blame=error.blame)
