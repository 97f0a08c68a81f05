"""URLs: read once, strictly, into parts of which the request is made, so that no two parsers can disagree on one."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NoReturn
from urllib.parse import quote, urljoin, urlsplit

from loket.contracts import Refusal

_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_LAST_IS_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)")
_LONGEST = 253
_LONGEST_URL = 8_192
_ASCII = 0x7F
_MOST_PORT = 65_535

SECRET = "{{secret:"  # noqa: S105 - how a secret is asked for, not one
"""How a header asks for a secret; nowhere else is it meant."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where one request goes. `host` is a name in small letters, or an address without brackets."""

    scheme: str
    host: str
    port: int
    path: str
    """With the query, as it is sent."""

    @property
    def origin(self) -> tuple[str, str, int]:
        return self.scheme, self.host, self.port

    @property
    def shown_host(self) -> str:
        """The host as it stands in a URL."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @property
    def place(self) -> str:
        """Host and port, the port spelled out: what `private` lists."""
        return f"{self.shown_host}:{self.port}"

    @property
    def authority(self) -> str:
        """Host and port as the header `Host` has them."""
        return self.shown_host if self.port == _PORTS[self.scheme] else self.place

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def address(self) -> str | None:
        """The host, where it is an address itself."""
        return self.host if ":" in self.host or _LAST_IS_NUMBER.fullmatch(self.host.rpartition(".")[2]) else None


def parse(url: str) -> Target:
    """Read a URL. Raises `Refusal` (`net.url`) that says what is wrong with it."""
    if len(url) > _LONGEST_URL:
        _refuse("has more than 8,192 characters")
    if any(not character.isprintable() or character in ' \\"<>^`' for character in url):
        _refuse("has a blank, a quote, a backslash, an angle bracket or a control character")
    if SECRET in url:
        _refuse("asks for a secret, and secrets go into header values only")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        _refuse(f"cannot be read ({error})")
    if parts.scheme not in _PORTS:
        _refuse(f"has the scheme {parts.scheme[:20]!r}")
    if "@" in parts.netloc:
        _refuse("has a user or a password before its host")
    if "[" in parts.netloc and ":" not in (parts.hostname or ""):
        _refuse("has a name in brackets")
    port = _PORTS[parts.scheme] if port is None else port
    if not 0 < port <= _MOST_PORT:
        _refuse(f"has the port {port}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _host(parts.hostname or ""), port, _sent(path))


def follow(target: Target, location: str) -> Target:
    """The target of a redirect: its `Location` relative to where it came from."""
    try:
        url = urljoin(target.url, _sent(location.strip()))
    except ValueError as error:
        _refuse(f"cannot be read ({error})")
    return parse(url)


def _sent(path: str) -> str:
    """Encode what is no ASCII, as browsers do; what is ASCII stays as it is."""
    return "".join(one if ord(one) <= _ASCII else quote(one.encode("utf-8", "replace")) for one in path)


def _host(host: str) -> str:
    """Check a host: a name in ASCII, an IPv4 address as four decimal numbers, or an IPv6 address."""
    host = host.removesuffix(".")
    if ":" in host:
        return _address(host, IPv6Address)
    labels = host.split(".")
    if _LAST_IS_NUMBER.fullmatch(labels[-1]):  # then every resolver reads an address, in decimal, octal or hex
        return _address(host, IPv4Address)
    if not host.isascii():
        _refuse("has a host with letters beyond ASCII; write it in its form that begins with xn--")
    if len(host) > _LONGEST or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse(f"has no host that could be one: {host[:80]!a}")
    return host


def _address(host: str, kind: type[IPv4Address | IPv6Address]) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        _refuse(f"has a host that is no plain address: {host[:80]!a}; four decimal numbers, or IPv6 in brackets")
    if not isinstance(address, kind) or "%" in host:
        _refuse(f"has an address with a zone or of the wrong kind: {host[:80]!a}")
    return host


def _refuse(wrong: str) -> NoReturn:
    raise Refusal("net.url", f"url {wrong}", "write it as https://example.org/path?name=value, percent-encoded")
