"""`net.fetch`: only granted hosts at checked addresses, every redirect anew, no secret comes back, limits hold."""

import asyncio
import base64
import contextlib
import html
import json
import ssl
import subprocess
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit import Rig
from loket.contracts import OWNER, Answer, Call, Damaged, Failed, Grant, LoketError, Principal, Refusal, Suspended
from loket.contracts.hosts import host_granted, host_names
from loket.providers.net import NetProvider
from loket.providers.net_address import Reach, reach, resolve
from loket.providers.net_headers import Held
from loket.providers.net_url import parse

TOKEN = 'xy/"lo phone+SECRET&7'

Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Seen:
    """One request as the server got it."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Site:
    """A real server on loopback. A route's answer is bytes, or a coroutine function that writes them."""

    routes: dict[str, bytes | Write | Callable[[Seen], bytes]]
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())  # type: ignore[arg-type] - this runs in one
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(writer):  # cancelled at the end
            await self._serve(reader, writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, path, _version = head[0].split(" ")
                headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
                self.seen.append(Seen(method, path, headers))
                if not await self._answer(writer):
                    break

    async def _answer(self, writer: asyncio.StreamWriter) -> bool:
        """Answer the last request; whether the connection goes on."""
        route = self.routes[self.seen[-1].path]
        if asyncio.iscoroutinefunction(route):
            await route(writer)
            return False
        writer.write(route if isinstance(route, bytes) else route(self.seen[-1]))
        await writer.drain()
        return True


def http(body: bytes = b"", *more: str, status: str = "200 OK", kind: str = "text/plain; charset=utf-8") -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *([f"Content-Type: {kind}"] if kind else []), *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def redirect(to: str, status: str = "302 Found") -> bytes:
    return http(b"", f"Location: {to}", status=status)


@contextlib.asynccontextmanager
async def served(routes: Mapping[str, Any], tls: ssl.SSLContext | None = None) -> AsyncIterator[Site]:
    site = Site(dict(routes))
    server = await asyncio.start_server(site.handle, "127.0.0.1", 0, ssl=tls)
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        server.close()
        for task in site.tasks:
            task.cancel()
        await asyncio.gather(*site.tasks, return_exceptions=True)
        await asyncio.sleep(0)  # sockets are closed in the loop's next round


class Vault:
    """Secrets in memory; `broken` makes it fail as a damaged file does."""

    def __init__(self, *, broken: bool = False, **values: str) -> None:
        self.values = values
        self.broken = broken

    def get(self, name: str) -> str | None:
        if self.broken:
            raise Damaged("vault.damaged", "/somewhere/secrets.json is damaged")
        return self.values.get(name)

    def put(self, name: str, value: str) -> None:
        self.values[name] = value

    def names(self) -> Sequence[str]:
        return sorted(self.values)


class Names:
    """A resolver of a test's own: names to addresses, or to a series of them, one a question."""

    def __init__(self, **names: list[str] | Iterator[list[str]]) -> None:
        self.names = {name.replace("_", "."): found for name, found in names.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, _port: int) -> Sequence[str]:
        self.asked.append(host)
        found = self.names.get(host, ["127.0.0.1"] if host.endswith(".test") else [])
        return found if isinstance(found, list) else next(found)


@contextlib.asynccontextmanager
async def provider(
    vault: Vault | None = None, names: Names | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[NetProvider]:
    net = NetProvider(vault or Vault(), resolve=names or Names(), tls=tls)
    await net.start()
    try:
        yield net
    finally:
        await net.close()


async def fetch(net: NetProvider, url: str, *, allow: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """Fetch as agent `scout`, whose grant allows `allow` as hosts and as private places, and `secrets`."""
    return dict((await perform(net, url, allow=allow, **more)).value)


async def perform(
    net: NetProvider,
    url: str,
    *,
    allow: Sequence[str] = (),
    private: Sequence[str] | None = None,
    secrets: Sequence[str] = (),
    **args: Any,
) -> Answer:
    grant = {"hosts": [*allow], "private": [*allow] if private is None else [*private], "secrets": [*secrets]}
    call = Call("r", 1, "scout", "", Principal("agent", "scout"), "net.fetch", {"url": url, **args}, (), grant)
    return await net.fetch(call)


async def refused(net: NetProvider, url: str, **more: Any) -> LoketError:
    """The error that a fetch ends with."""
    with pytest.raises(LoketError) as raised:
        await fetch(net, url, **more)
    assert raised.value.remedy
    return raised.value


def served_to(
    routes: Mapping[str, Any], scenario: Callable[[NetProvider, Site, str], Awaitable[Any]], **more: Any
) -> Any:
    """Run a scenario with a provider, a server, and the place `site.test:PORT` where it is."""

    async def run() -> Any:
        async with served(routes) as site, provider(**more) as net:
            return await scenario(net, site, f"site.test:{site.port}")

    return asyncio.run(run())


def fetched(answer: Any, *, path: str = "/", **args: Any) -> dict[str, Any]:
    """What a fetch of one answer brings."""
    return served_to({path: answer}, lambda net, _site, at: fetch(net, f"http://{at}{path}", allow=[at], **args))


def test_a_granted_host_is_read() -> None:
    """Status, address, headers and text come back; the request carries the module's headers and our own."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        answer = await perform(net, f"http://{at}/a?q=é", allow=[at], headers={"X-Mine": "1", "Accept": "text/plain"})
        assert answer.labels == ("host:site.test",)
        assert answer.value == {
            "status": 200,
            "url": f"http://{at}/a?q=%C3%A9",
            "headers": {"content-length": "6", "content-type": "text/plain; charset=utf-8", "x-two": "a, b"},
            "text": "Grüß",
            "truncated": False,
        }
        assert site.seen == [
            Seen(
                "GET",
                "/a?q=%C3%A9",
                {
                    "host": at,
                    "user-agent": "loket",
                    "accept": "text/plain",
                    "x-mine": "1",
                    "accept-encoding": "gzip, deflate",
                },
            )
        ]

    body = http("Grüß".encode(), "X-Two: a", "Set-Cookie: session=1", "X-Two: b")
    served_to({"/a?q=%C3%A9": body}, scenario)


def test_a_head_has_no_text() -> None:
    """HEAD asks for the headers alone."""
    answer = fetched(http(b"", "X-A: 1").replace(b"Length: 0", b"Length: 9"), method="HEAD")
    assert (answer["text"], answer["headers"]["x-a"], answer["headers"]["content-length"]) == ("", "1", "9")


def test_an_error_status_is_an_answer() -> None:
    """404 is what the host says, not a failure of ours."""
    answer = fetched(http(b"no such page", status="404 Not Found"))
    assert (answer["status"], answer["text"]) == (404, "no such page")


# Addresses

PUBLIC = ["8.8.8.8", "2606:4700::1111", "2002:808:808::1", "64:ff9b::808:808"]
PRIVATE = ["127.0.0.1", "127.9.9.9", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fc00::1", "fd12::1"]
NEVER = [
    *(
        "0.0.0.0",  # noqa: S104 - nothing is bound to it
        "169.254.169.254",
        "169.254.0.1",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    ),
    *(
        "224.0.0.1",
        "239.1.1.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "203.0.113.9",
        "192.88.99.1",
    ),
    *("::", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254", "2001:db8::1", "3fff::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "2002:a00:1::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2001:0:808:808::1", "2606::5efe:7f00:1"),
    *("0177.0.0.1", "2130706433", "0x7f.0.0.1", "127.1", "nonsense", "", "100::1", "5f00::1"),
]


def test_addresses_are_public_private_or_never_used() -> None:
    """Every special range has its place, also inside addresses that carry another one."""
    assert {text: reach(text) for text in PUBLIC} == dict.fromkeys(PUBLIC, Reach.PUBLIC)
    assert {text: reach(text) for text in PRIVATE} == dict.fromkeys(PRIVATE, Reach.PRIVATE)
    assert {text: reach(text) for text in NEVER} == dict.fromkeys(NEVER, Reach.NEVER)


@given(st.ip_addresses())
def test_what_python_calls_special_is_never_public(address: Any) -> None:
    """No address is public that Python knows as private, local or reserved."""
    special = address.is_private or address.is_loopback or address.is_link_local or address.is_multicast
    assert (
        not (special or address.is_unspecified or address.is_reserved)
        or reach(str(address)) is not Reach.PUBLIC
        or str(address).startswith("64:ff9b::")
    )


@pytest.mark.parametrize("address", [*PRIVATE, *NEVER])
def test_a_name_with_a_special_address_is_refused(address: str) -> None:
    """Nothing is connected to where any address of the name is not public, whichever comes first."""

    async def scenario() -> None:
        for found in ([address], ["8.8.8.8", address], [address, "8.8.8.8"]):
            async with provider(names=Names(site_test=found)) as net:
                error = await refused(net, "http://site.test/", allow=["site.test"], private=[])
                assert error.code == "net.address"
                assert address not in error.message or not address

    asyncio.run(scenario())


def test_private_places_need_the_owners_word() -> None:
    """The refusal has the line; with it the place is read, but not another port, another spelling or by a prefix."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        error = await refused(net, f"http://127.0.0.1:{site.port}/", allow=[f"127.0.0.1:{site.port}"], private=[])
        assert error.remedy == f"loket grants allow scout net.fetch --add private=127.0.0.1:{site.port}"
        for listed in ("127.0.0.1", f"127.0.0.1:{site.port}0", "site.test", f"*.test:{site.port}", ""):
            assert (await refused(net, f"http://{at}/", allow=[at], private=[listed])).code == "net.address"
        assert site.connections == 0
        assert (await fetch(net, f"http://127.0.0.1:{site.port}/", allow=[f"127.0.0.1:{site.port}"]))["text"] == "in"
        assert (await fetch(net, f"http://SITE.test.:{site.port}/", allow=[at]))["text"] == "in"

    served_to({"/": http(b"in")}, scenario)


@pytest.mark.parametrize("address", NEVER)
def test_metadata_and_the_like_are_never_reached(address: str) -> None:
    """The owner's listing does not help; the remedy does not offer it."""

    async def scenario() -> None:
        async with provider(names=Names(site_test=[address])) as net:
            error = await refused(net, "http://site.test/", allow=["site.test", "site.test:80"])
            assert error.code == "net.address"
            assert "grants allow" not in (error.remedy or "")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "host",
    ["0177.0.0.1", "2130706433", "0x7f.0.0.1", "127.1", "127.0.0.1.", "[::1]", "[::ffff:127.0.0.1]", "0", "0x7f000001"],
)
def test_no_spelling_of_loopback_passes(host: str) -> None:
    """Octal, decimal, hexadecimal and short forms are refused as spellings, plain ones as addresses."""

    async def scenario() -> None:
        async with provider() as net:
            error = await refused(net, f"http://{host}/", allow=[host, host.rstrip(".")], private=[])
            assert error.code in ("net.url", "net.address")

    asyncio.run(scenario())


def test_the_connection_goes_to_the_address_that_was_checked() -> None:
    """A name that answers differently the second time (rebinding) is asked once a request, and pinned."""
    answers = iter([["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1"]])

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        assert (await fetch(net, f"http://{at}/", allow=[at]))["text"] == "in"
        assert (await refused(net, f"http://{at}/", allow=[at])).code == "net.address"
        assert (await fetch(net, f"http://{at}/", allow=[at]))["text"] == "in"
        assert site.connections == 1

    names = Names(site_test=answers)
    served_to({"/": http(b"in")}, scenario, names=names)
    assert names.asked == ["site.test"] * 3


def test_a_second_address_is_tried_where_the_first_is_dead() -> None:
    """All addresses were checked, so the next one may be used."""

    async def scenario(net: NetProvider, _site: Site, at: str) -> None:
        assert (await fetch(net, f"http://{at}/", allow=[at]))["text"] == "in"

    served_to({"/": http(b"in")}, scenario, names=Names(site_test=["::1", "127.0.0.1"]))


def test_what_cannot_be_reached_is_said_so() -> None:
    """An unknown name and a closed port fail with what to check."""

    async def scenario(net: NetProvider, _site: Site, _at: str) -> None:
        assert (await refused(net, "http://nowhere.example/", allow=["nowhere.example"])).code == "net.unknown_host"
        closed = "site.test:1"
        assert (await refused(net, f"http://{closed}/", allow=[closed])).code == "net.unreachable"

    served_to({}, scenario)


def test_a_server_that_does_not_speak_tls_is_said_so() -> None:
    """Plain words in answer to https are an unencrypted server, and not one that cannot be reached."""

    async def plain(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"in"))
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(plain, "127.0.0.1", 0)
        at = f"site.test:{server.sockets[0].getsockname()[1]}"
        async with provider() as net:
            assert (await refused(net, f"https://{at}/", allow=[at])).code == "net.tls"
        server.close()
        await server.wait_closed()

    asyncio.run(scenario())


def test_the_systems_resolver_is_the_usual_one() -> None:
    """Without one of a test's own, names are resolved as everywhere; `localhost` is private then."""
    assert set(asyncio.run(resolve("localhost", 80))) & {"127.0.0.1", "::1"}

    async def scenario() -> None:
        net = NetProvider(Vault())
        assert (await refused(net, "http://localhost/", allow=["localhost"], private=[])).code == "net.address"
        await net.close()

    asyncio.run(scenario())


# Grants and redirects


def test_a_host_without_a_grant_is_refused_with_the_line() -> None:
    """The refusal has the command; no name is resolved before."""
    names = Names()

    async def scenario() -> None:
        async with provider(names=names) as net:
            error = await refused(net, "https://other.test/x", allow=["site.test", "*.example.org"])
            assert error.code == "net.host"
            assert error.remedy == "loket grants allow scout net.fetch --add hosts=other.test"
            assert "site.test or *.example.org" in error.message

    asyncio.run(scenario())
    assert names.asked == []


def test_the_owners_own_call_needs_no_hosts() -> None:
    """Without a grant only the owner may ask, and even then for no private place."""

    async def scenario() -> None:
        async with provider(names=Names(site_test=["10.0.0.1"])) as net:
            for principal, code in ((OWNER, "net.address"), (Principal("agent", "scout"), "net.host")):
                call = Call("r", 1, "scout", "", principal, "net.fetch", {"url": "http://site.test/"}, ())
                with pytest.raises(Refusal) as raised:
                    await net.fetch(call)
                assert raised.value.code == code

    asyncio.run(scenario())


def test_a_redirect_is_followed_within_the_grant() -> None:
    """Each status of a redirect is followed, relative ones too; the answer tells where it ended and who was asked."""
    routes: dict[str, bytes] = {
        f"/{status}": redirect("/end?x", f"{status} Moved") for status in (301, 302, 303, 307, 308)
    }

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        for path in routes.keys() - {"/end?x"}:
            answer = await fetch(net, f"http://{at}{path}#part", allow=[at])
            assert (answer["url"], answer["text"]) == (f"http://{at}/end?x", "end")
        site.routes["/other"] = redirect(f"http://b.test:{site.port}/end?x")
        both = await perform(net, f"http://{at}/other", allow=[at, f"b.test:{site.port}"])
        assert both.labels == ("host:b.test", "host:site.test")
        site.routes["/none"] = http(b"here", status="304 Not Modified")
        assert (await fetch(net, f"http://{at}/none", allow=[at]))["status"] == 304

    served_to({**routes, "/end?x": http(b"end")}, scenario)


@pytest.mark.parametrize(
    ("to", "code"),
    [
        ("http://other.test:{port}/", "net.host"),
        ("//other.test:{port}/", "net.host"),
        ("http://127.0.0.1:{port}/", "net.host"),
        ("http://site.test/", "net.host"),
        ("http://granted.test:{port}/", "net.address"),
        ("http://metadata.test/", "net.address"),
        ("http://169.254.169.254/", "net.address"),
        ("http://user:pass@site.test:{port}/", "net.redirect"),
        ("ftp://site.test/", "net.redirect"),
        ("file:///etc/passwd", "net.redirect"),
        ("http://[::ffff:169.254.169.254]/", "net.host"),
        ("http://0x7f.1:{port}/", "net.redirect"),
        ("http://site.test:99999/", "net.redirect"),
        ("http://[/", "net.redirect"),
    ],
)
def test_a_redirect_is_checked_like_a_first_request(to: str, code: str) -> None:
    """Host, scheme and address of every redirect keep to the grant, and nothing more is asked than the first."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        site.routes["/"] = redirect(to.format(port=site.port))
        hosts = [at, "metadata.test", "169.254.169.254", f"granted.test:{site.port}"]
        error = await refused(net, f"http://{at}/", allow=hosts, private=[at])
        assert error.code == code
        if code == "net.host":
            assert "hosts=" in (error.remedy or "").partition("--add")[2]
        assert len(site.seen) == 1

    served_to({}, scenario, names=Names(metadata_test=["169.254.169.254"]))


def test_a_name_that_rebinds_between_redirects_is_refused() -> None:
    """The same host is resolved and checked anew at each redirect."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        assert (await refused(net, f"http://{at}/", allow=[at])).code == "net.address"
        assert len(site.seen) == 1

    names = Names(site_test=iter([["127.0.0.1"], ["169.254.169.254"]]))
    served_to({"/": redirect("/again")}, scenario, names=names)


def test_redirects_end() -> None:
    """Five are followed, the sixth is not."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        assert (await refused(net, f"http://{at}/", allow=[at])).code == "net.redirects"
        assert len(site.seen) == 6
        site.routes |= {f"/{step}": redirect(f"/{step + 1}") for step in range(5)} | {"/5": http(b"end")}
        assert (await fetch(net, f"http://{at}/0", allow=[at]))["text"] == "end"

    served_to({"/": redirect("/")}, scenario)


# URLs and headers


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "site.test",
            "ftp://site.test/",
            "http://",
            "http:///x",
            "https://a b/",
            "http://a\\b/",
            "http://site.test:0/",
        ),
        *("http://u@site.test/", "http://u:p@site.test/", "http://@site.test/", "http://site.test\\@evil.test/"),
        *("http://site.test:x/", "http://si te.test/", "http://site.test/\r\nX: y", "http://site..test/", "http://-a/"),
        *(
            "http://müsli.test/",
            "http://[::1%25eth0]/",
            "http://[v1.x]/",
            "http://1.2.3.4.5/",
            "http://site.test/{{secret:A}}",
        ),
        *(
            "http://\u2028/",
            " http://site.test/",
            "http://a%2eb/",
            "http://" + "a" * 64 + ".test/",
            "javascript:alert(1)",
        ),
    ],
)
def test_an_odd_url_is_refused(url: str) -> None:
    """Whatever two parsers could read differently is refused by name."""

    async def scenario() -> None:
        async with provider() as net:
            error = await refused(net, url, allow=["site.test", "*.test"])
            assert (error.code, error.message[:4]) == ("net.url", "url ")

    asyncio.run(scenario())


@settings(max_examples=300)
@given(st.text(max_size=30) | st.from_regex(r"https?://[a-z0-9.:@\[\]%/?#-]{1,20}", fullmatch=True))
def test_a_url_that_is_read_is_read_the_same_by_the_grant(url: str) -> None:
    """What the provider connects to is what the shared rule compared, and reading it again changes nothing."""
    try:
        target = parse(url)
    except Refusal:
        return
    assert target.place in host_names(url)
    assert parse(target.url) == target
    assert host_names(target.url) == host_names(url)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "Host",
            "COOKIE",
            "Connection",
            "Proxy-Authorization",
            "proxy-anything",
            "Transfer-Encoding",
            "TE",
            "Upgrade",
        ),
        *("Content-Length", "Accept-Encoding", "Expect", "X-HTTP-Method-Override"),
    ],
)
def test_headers_that_are_not_the_modules_are_refused(name: str) -> None:
    """Hop by hop, cookies, proxies, and what would make a GET something else."""

    async def scenario() -> None:
        async with provider() as net:
            error = await refused(net, "http://site.test/", allow=["site.test"], headers={name: "x"})
            assert (error.code, name in error.message) == ("net.header", True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "headers", [{"A": "x\r\nHost: y"}, {"A": "\x00"}, {"A": "é"}, {"A": "1", "a": "2"}, {"A": "{{secret:}}"}]
)
def test_headers_that_cannot_be_sent_are_refused(headers: dict[str, str]) -> None:
    """Line breaks, letters beyond ASCII, doubles, and half a request for a secret."""

    async def scenario() -> None:
        async with provider() as net:
            assert (await refused(net, "http://site.test/", allow=["site.test"], headers=headers)).code == "net.header"

    asyncio.run(scenario())


# Secrets

BEARER = {"Authorization": "Bearer {{secret:KEY}}"}


def echo(seen: Seen) -> bytes:
    """Give the header back wherever an answer has room for it."""
    value = seen.headers.get("authorization", "").removeprefix("Bearer ")
    spelled = [value, quote(value), quote(value, safe=""), json.dumps(value), html.escape(value), value.upper()]
    spelled += [base64.b64encode(value.encode()).decode(), value.encode().hex()]
    return http("\n".join(spelled).encode(), f"X-Echo: {value}", f"X-{value.encode().hex()}: 1")


def test_a_secret_is_sent_and_never_comes_back() -> None:
    """The server gets the value, the module only its name, however the server spells it."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        answer = await fetch(net, f"http://{at}/", allow=[at], secrets=["KEY"], headers=BEARER)
        assert site.seen[0].headers["authorization"] == f"Bearer {TOKEN}"
        text = json.dumps(answer)
        assert "phone" not in text.lower()
        assert base64.b64encode(TOKEN.encode()).decode().rstrip("=") not in text
        assert TOKEN.encode().hex() not in text
        assert answer["headers"]["x-echo"] == "[secret KEY]"
        assert answer["text"].count("[secret KEY]") == 8

    served_to({"/": echo}, scenario, vault=Vault(KEY=TOKEN))


@pytest.mark.parametrize(
    "kind", ["text/plain; charset=utf-16-le", "text/plain; charset=cp037", "text/plain; charset=utf-7", ""]
)
def test_a_wrong_charset_does_not_carry_a_secret_out(kind: str) -> None:
    """Values are taken out of the bytes before they are decoded, and out of the text after."""

    async def scenario(net: NetProvider, _site: Site, at: str) -> None:
        answer = await fetch(net, f"http://{at}/", allow=[at], secrets=["KEY"], headers=BEARER)
        assert b"phone" not in answer["text"].encode("utf-16-le")
        assert "phone" not in answer["text"]

    served_to(
        {"/": lambda seen: http(f"_{seen.headers['authorization']}_".encode(), kind=kind)},
        scenario,
        vault=Vault(KEY=TOKEN),
    )
    wide = lambda seen: http(seen.headers["authorization"].encode("utf-16"), kind="text/plain")  # noqa: E731
    served_to({"/": wide}, scenario, vault=Vault(KEY=TOKEN))


def test_a_cut_does_not_leave_half_a_secret() -> None:
    """Where max_kb ends within a value, its beginning is hidden too."""

    async def scenario(net: NetProvider, _site: Site, at: str) -> None:
        answer = await fetch(net, f"http://{at}/", allow=[at], secrets=["KEY"], headers=BEARER, max_kb=1)
        assert answer["truncated"]
        assert answer["text"] == "_" * 1012 + "[secret KEY]"

    cut = lambda seen: http(b"_" * 1012 + seen.headers["authorization"].removeprefix("Bearer ").encode())  # noqa: E731
    served_to({"/": cut}, scenario, vault=Vault(KEY=TOKEN))


def test_a_cut_in_a_wrong_charset_does_not_leave_half_a_secret() -> None:
    """The beginning of a value is hidden before it is decoded as something else."""

    async def scenario(net: NetProvider, _site: Site, at: str) -> None:
        answer = await fetch(net, f"http://{at}/", allow=[at], secrets=["KEY"], headers=BEARER, max_kb=1)
        assert b"xy/" not in answer["text"].encode("utf-16-le")
        assert b"[secret KEY]" in answer["text"].encode("utf-16-le")

    def cut(seen: Seen) -> bytes:
        value = seen.headers["authorization"].removeprefix("Bearer ")
        return http(b"_" * 1012 + value.encode(), kind="text/plain; charset=utf-16-le")

    served_to({"/": cut}, scenario, vault=Vault(KEY=TOKEN))


@settings(max_examples=200)
@given(st.text(max_size=20), st.text(max_size=20), st.integers(0, 40))
def test_no_text_around_a_secret_keeps_it_from_being_hidden(before: str, after: str, case: int) -> None:
    """Whatever stands beside a value, and in whatever case it comes back, hiding takes it out and never fails."""
    held = Held({"KEY": "Sekret-key-kelvin"})
    value = "".join(one.upper() if case >> place & 1 else one for place, one in enumerate("sekret-key-kelvin"))
    hidden = held.hide(f"{before}{value}{after}")
    assert "[secret KEY]" in hidden
    assert "ekret-key-kelvi" not in hidden.lower()
    assert held.hide(f"{value} \u017fe\u212aret-key-kelvin") == "[secret KEY] \u017fe\u212aret-key-kelvin"


def test_a_secret_needs_the_owners_word() -> None:
    """Not granted, not there, not readable, not sendable: each refusal has its line, and nothing is sent."""

    async def scenario() -> None:
        async with provider(Vault(BAD="ü")) as net:
            ask: dict[str, Any] = {"allow": ["site.test"], "headers": BEARER}
            error = await refused(net, "https://site.test/", **ask)
            assert error.remedy == "loket grants allow scout net.fetch --add secrets=KEY"
            error = await refused(net, "https://site.test/", secrets=["KEY"], **ask)
            assert (error.code, error.remedy) == ("net.secret_missing", "loket vault put KEY")
            error = await refused(
                net, "https://site.test/", allow=["site.test"], secrets=["BAD"], headers={"A": "{{secret:BAD}}"}
            )
            assert (error.code, "ü" in str(error)) == ("net.secret_value", False)
        async with provider(Vault(broken=True)) as net:
            error = await refused(net, "https://site.test/", secrets=["KEY"], **ask)
            assert (error.code, "/somewhere" in error.message) == ("vault.damaged", False)

    asyncio.run(scenario())


def test_a_secret_does_not_go_unencrypted_to_a_public_host() -> None:
    """Only https, or a private place that the owner listed, gets one."""

    async def scenario() -> None:
        async with provider(Vault(KEY=TOKEN), Names(site_test=["8.8.8.8"])) as net:
            error = await refused(
                net, "http://site.test/", allow=["site.test", "site.test:80"], secrets=["KEY"], headers=BEARER
            )
            assert error.code == "net.secret_plain"

    asyncio.run(scenario())


def test_credentials_do_not_follow_to_another_host() -> None:
    """They stay on the same origin; another host or port gets none of them, not even on the way back."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        other = f"b.test:{site.port}"
        site.routes |= {
            "/": redirect("/same"),
            "/same": redirect(f"http://{other}/away"),
            "/away": redirect(f"http://{at}/end"),
        }
        headers = {**BEARER, "X-Api-Key": "literal", "Accept": "text/plain", "Accept-Language": "{{secret:KEY}}"}
        await fetch(net, f"http://{at}/", allow=[at, other], secrets=["KEY"], headers=headers)
        got = [set(seen.headers) & {"authorization", "x-api-key", "accept-language"} for seen in site.seen]
        assert got == [{"authorization", "x-api-key", "accept-language"}] * 2 + [set()] * 2
        assert site.seen[3].headers["accept"] == "text/plain"

    served_to({"/end": http(b"end")}, scenario, vault=Vault(KEY=TOKEN))


def test_a_redirect_cannot_carry_a_secret_on() -> None:
    """One that has the value in its address is refused, and the refusal does not show it."""
    token = "xylophone-token"

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        ask: dict[str, Any] = {"secrets": ["KEY"], "headers": BEARER}
        other = f"b.test:{site.port}"
        site.routes["/"] = redirect(f"http://{other}/?{token.upper()}")
        assert (await refused(net, f"http://{at}/", allow=[at, other], **ask)).code == "net.redirect"
        for host in (f"{token}.evil.test", f"x.{token}", "_" * 70 + token + "!", f"{token}.1"):
            site.routes["/"] = redirect(f"http://{host}/")
            error = await refused(net, f"http://{at}/", allow=[at, other], **ask)
            assert "xylo" not in f"{error.message} {error.remedy}"
        site.routes["/"] = redirect(f"/{token}")
        site.routes[f"/{token}"] = http(b"end")
        assert (await fetch(net, f"http://{at}/", allow=[at], **ask))["url"] == f"http://{at}/[secret KEY]"

    served_to({}, scenario, vault=Vault(KEY=token))


def test_a_secret_and_a_range_do_not_go_together() -> None:
    """Half of an echoed value could not be recognised."""

    async def scenario() -> None:
        async with provider(Vault(KEY=TOKEN)) as net:
            headers = {**BEARER, "Range": "bytes=9-"}
            error = await refused(net, "https://site.test/", allow=["site.test"], secrets=["KEY"], headers=headers)
            assert error.code == "net.header"

    asyncio.run(scenario())


# Limits


def test_the_text_is_cut_at_its_limit() -> None:
    """At most max_kb of unpacked bytes, never half a character, and `truncated` says so."""
    answer = fetched(http("é".encode() * 1_000), max_kb=1)
    assert (answer["text"], answer["truncated"]) == ("é" * 512, True)
    answer = fetched(http(b"x" + "é".encode() * 1_000), max_kb=1)
    assert (answer["text"], answer["truncated"]) == ("x" + "é" * 511, True)
    answer = fetched(http(b"x" * 1_024), max_kb=1)
    assert (len(answer["text"]), answer["truncated"]) == (1_024, False)


async def endless(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    while True:
        writer.write(b"x" * 10_000)
        await writer.drain()


def test_an_endless_body_ends() -> None:
    """No more is read than asked for."""
    answer = fetched(endless, max_kb=64)
    assert (len(answer["text"]), answer["truncated"]) == (65_536, True)


async def trickle(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 900\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.02)


async def silent(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(2)


@pytest.mark.parametrize("route", [trickle, silent])
def test_a_slow_answer_ends(route: Write) -> None:
    """The time limit covers everything, also a server that sends a byte now and then."""
    started = time.monotonic()
    with pytest.raises(Failed, match=r"within 0.3 s") as failed:
        fetched(route, timeout_s=0.3)
    assert failed.value.code == "net.timeout"
    assert time.monotonic() - started < 30


def test_a_slow_resolver_ends() -> None:
    """Looking a name up is within the time limit too."""

    async def never(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(5)
        return []

    async def scenario() -> None:
        net = NetProvider(Vault(), resolve=never)
        assert (await refused(net, "http://site.test/", allow=["site.test"], timeout_s=0.1)).code == "net.timeout"
        await net.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("x-gzip", 31), ("deflate", 15), ("deflate", -15)])
def test_packed_bodies_are_unpacked(encoding: str, bits: int) -> None:
    """Gzip and deflate, with and without its wrapping, are undone; what breaks off is a failure."""
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(b"packed " * 2_000) + packer.flush()
    answer = fetched(http(packed, f"Content-Encoding: {encoding}"))
    assert (answer["text"], answer["truncated"]) == ("packed " * 2_000, False)
    assert "content-encoding" not in answer["headers"]
    with pytest.raises(Failed) as failed:
        fetched(http(packed[:-9], f"Content-Encoding: {encoding}"))
    assert failed.value.code == "net.encoding"


def test_a_bomb_is_not_unpacked() -> None:
    """A body that unpacks to 500 MB never takes more than a few, where 100 kB were asked for."""
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join(packer.compress(b"\x00" * (1 << 20)) for _ in range(500)) + packer.flush()
    fetched(http(b"the client is imported"))
    tracemalloc.start()
    answer = fetched(http(bomb, "Content-Encoding: gzip"), max_kb=100)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(answer["text"]), answer["truncated"]) == (102_400, True)
    assert peak < 8 << 20


def test_data_that_unpack_to_nothing_are_not_read_for_ever() -> None:
    """What came over the wire is bound as well."""

    async def empty_blocks(writer: asyncio.StreamWriter) -> None:
        packer = zlib.compressobj(wbits=31)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: gzip\r\n\r\n")
        while True:
            writer.write(packer.flush(zlib.Z_SYNC_FLUSH) + b"\x00\x00\x00\xff\xff" * 1_000)
            await writer.drain()

    answer = fetched(empty_blocks, max_kb=1, timeout_s=10)
    assert (answer["text"], answer["truncated"]) == ("", True)


@pytest.mark.parametrize("encoding", ["br", "gzip, gzip", "zstd"])
def test_an_encoding_that_was_not_asked_for_fails(encoding: str) -> None:
    """What we cannot unpack is not handed on as if it were text."""
    with pytest.raises(Failed, match="not asked for") as failed:
        fetched(http(b"x", f"Content-Encoding: {encoding}"))
    assert failed.value.code == "net.encoding"


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("text/plain; charset=iso-8859-1", b"Gr\xfc\xdf", "Grüß"),
        ('text/html; charset="Windows-1252"', b"\x80", "€"),
        ("text/plain; charset=shift_jis", "東".encode("shift_jis"), "東"),
        ("text/plain; charset=utf-16be", "東".encode("utf-16-be"), "東"),
        ("text/plain", "\ufeff東".encode(), "東"),
        ("text/plain", "東".encode("utf-16"), "東"),
        ("text/plain; charset=utf-8", b"Gr\xfc\xdf", "Gr\ufffd\ufffd"),
        ("text/plain; charset=nonsense", "é".encode(), "é"),
        ("text/plain; charset=unicode_escape", b"\\x41", "\\x41"),
        ("application/json", b"{}", "{}"),
        ("application/problem+json; x=y", b"{}", "{}"),
        ("image/svg+xml", b"<svg/>", "<svg/>"),
        ("image/png", b"\x89PNG", ""),
        ("application/octet-stream", b"text or not", ""),
        ("", "é".encode(), "é"),
        ("", b"\xff\xd8", ""),
        ("", b"a\x00b", ""),
    ],
)
def test_text_is_decoded_and_binary_is_left_out(kind: str, data: bytes, text: str) -> None:
    """By its byte order mark, its charset, or as UTF-8; a charset that is none of the web's is not obeyed."""
    assert fetched(http(data, kind=kind))["text"] == text


def test_headers_of_answers_are_limited() -> None:
    """64 headers of 2,000 characters, 32 KiB in all."""
    answer = fetched(http(b"", *[f"X-{number}: {'y' * 900}" for number in range(90)]))
    assert len(answer["headers"]) <= 64
    assert sum(map(len, answer["headers"].values())) <= 32_768
    assert len(fetched(http(b"", f"X-Long: {'y' * 9_000}"))["headers"]["x-long"]) == 2_000


@pytest.mark.parametrize(
    "data", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 300_000, b"HTTP/1.1 999 No\r\n\r\n"]
)
def test_what_is_no_http_fails(data: bytes) -> None:
    """Nothing, nonsense, headers without end and a status that is none: one failure each, none of it quoted."""

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()

    with pytest.raises(Failed) as failed:
        fetched(write)
    assert failed.value.code == "net.protocol"
    assert "yyy" not in str(failed.value)


def test_a_body_that_breaks_off_fails() -> None:
    """Half an answer is no answer."""

    async def half(writer: asyncio.StreamWriter) -> None:
        writer.write(http(b"x" * 100)[:-50])
        await writer.drain()

    with pytest.raises(Failed) as failed:
        fetched(half)
    assert failed.value.code == "net.protocol"


# Connections


def test_connections_are_kept_by_name_and_by_agent() -> None:
    """The same agent's next request uses the same socket; another name for the same address does not."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        other = f"b.test:{site.port}"
        for _ in range(3):
            await fetch(net, f"http://{at}/", allow=[at])
        assert site.connections == 1
        await fetch(net, f"http://{other}/", allow=[other])
        assert site.connections == 2
        grant = {"hosts": [at], "private": [at]}
        await net.fetch(Call("r", 1, "other", "", OWNER, "net.fetch", {"url": f"http://{at}/"}, (), grant))
        assert site.connections == 3

    served_to({"/": http(b"in")}, scenario)


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """A kept connection may be dead when it is needed: the request is sent again on a new one."""

    async def scenario(net: NetProvider, site: Site, at: str) -> None:
        async def last(writer: asyncio.StreamWriter) -> None:
            if len(site.seen) == 2:
                return  # closes without an answer, as a server that timed out does
            writer.write(http(b"again"))

        assert (await fetch(net, f"http://{at}/", allow=[at]))["text"] == "in"
        site.routes["/last"] = last
        assert (await fetch(net, f"http://{at}/last", allow=[at]))["text"] == "again"
        assert (site.connections, len(site.seen)) == (2, 3)

    served_to({"/": http(b"in")}, scenario)


def test_few_connections_are_kept() -> None:
    """Names by the hundred leave at most 64 pools, and none that is in use is closed."""

    async def scenario(net: NetProvider, site: Site, _at: str) -> None:
        places = [f"n{number}.test:{site.port}" for number in range(100)]
        answers = await asyncio.gather(*(fetch(net, f"http://{at}/", allow=[at]) for at in places))
        assert {answer["text"] for answer in answers} == {"in"}
        await fetch(net, f"http://{places[0]}/", allow=[places[0]])
        assert len(net._pool._slots) == 64

    served_to({"/": http(b"in")}, scenario)


def test_the_environments_proxies_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve names itself, and reach what we refuse."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert fetched(http(b"direct"))["text"] == "direct"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for `tls.test` with its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    made = folder / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=tls.test"
    command += f" -addext subjectAltName=DNS:tls.test -keyout {folder}/key.pem -out {folder}/cert.pem"
    subprocess.run(command.split(), check=True, capture_output=True)
    made.write_text((folder / "cert.pem").read_text() + (folder / "key.pem").read_text())
    return made


def test_a_certificate_is_checked_for_the_name(certificate: Path) -> None:
    """The address is pinned and the name verified: another name at the same address and an unknown signer fail."""

    async def scenario() -> None:
        theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        theirs.load_cert_chain(certificate)
        ours = ssl.create_default_context(cafile=str(certificate))
        async with served({"/": echo, "/down": redirect("http://tls.test/")}, theirs) as site:
            at, wrong = f"tls.test:{site.port}", f"wrong.test:{site.port}"
            async with provider(Vault(KEY=TOKEN), tls=ours) as net:
                answer = await fetch(net, f"https://{at}/", allow=[at], secrets=["KEY"], headers=BEARER)
                assert answer["headers"]["x-echo"] == "[secret KEY]"
                assert (await refused(net, f"https://{wrong}/", allow=[wrong])).code == "net.tls"
                hosts = [at, "tls.test", "tls.test:80"]
                assert (await refused(net, f"https://{at}/down", allow=hosts)).code == "net.redirect"
            async with provider() as net:
                assert (await refused(net, f"https://{at}/", allow=[at])).code == "net.tls"

    asyncio.run(scenario())


# The shared rule, and the counter


def test_hosts_are_compared_in_one_way() -> None:
    """With and without the scheme's own port; stars stand for names below and never for addresses."""
    assert host_names("https://Example.org./x") == ("example.org", "example.org:443")
    assert host_names("http://example.org:8080") == ("example.org:8080",)
    assert host_names("http://[::1]/") == ("[::1]", "[::1]:80")
    assert host_names("https://example.org:80/") == ("example.org:80",)
    assert host_names("nonsense") == host_names("http://[") == host_names("http://x:y/") == ("",)
    assert host_granted("https://a.b.example.org/", ["*.example.org"])
    assert host_granted("https://EXAMPLE.org/", ["Example.ORG"])
    assert host_granted("https://example.org/", ["example.org:443"])
    for url in ("https://example.org/", "https://badexample.org/", "https://a.example.org:8443/", "https://[", ""):
        assert not host_granted(url, ["*.example.org"])
    assert not host_granted("http://10.0.0.1/", ["*.1", "*.0.0.1"])
    assert not host_granted("nonsense", [""])


class Reading:
    """A module that fetches through a real counter."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.state = rig.run(rig.module("tester", "net.fetch"))

    async def __call__(self, **args: Any) -> dict[str, Any]:
        with pytest.raises(Suspended):
            self.rig.counter.call(self.state, "net.fetch", json.dumps(args))
        await self.rig.counter.finish(self.state)
        done = self.state.history[-1]
        assert done.answer is not None, done.error
        return json.loads(done.answer)


def test_the_counter_hands_the_grant_to_the_provider(tmp_path: Path) -> None:
    """Through the counter, with its schemas; the median of a fetch on loopback stays below 30 ms, ten times the aim."""

    async def scenario(net: NetProvider, _site: Site, at: str) -> None:
        rig = Rig(tmp_path, net)
        read = Reading(rig)
        rig.grants.allow(Grant("local", "tester", "net.fetch", {"hosts": [at], "private": [at]}, "owner", 0.0))
        times = []
        for _ in range(60):
            started = time.perf_counter()
            assert (await read(url=f"http://{at}/"))["text"] == "in"
            times.append(time.perf_counter() - started)
        assert sorted(times)[30] < 0.03
        with pytest.raises(Refusal, match="allows only"):
            await read(url="http://other.test/")
        rig.close()

    served_to({"/": http(b"in")}, scenario)
