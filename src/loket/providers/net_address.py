"""Which addresses a request may go to: public ones, and private ones that the owner listed.

Python's `ipaddress` says what IANA's special-purpose registries say, and not all of it in every version; so IPv6 is
turned around here: only 2000::/3, what is assigned for global use, can be public at all.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""The addresses of a host name, in the order in which to try them. Raises `OSError` where there are none."""


class Reach(Enum):
    """What an address is, for a request."""

    PUBLIC = "public"
    PRIVATE = "private"
    """This machine, a home's or an office's network: only where the owner lists it."""
    NEVER = "never"
    """Metadata services of clouds, link-local, multicast, reserved: whatever the owner lists."""


_METADATA = frozenset(
    (
        "169.254.169.254",  # most clouds
        "169.254.170.2",  # Amazon's containers
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's host, an address that looks public
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # Amazon
        "fd00:ec2::23",  # Amazon's containers
        "fd20:ce::254",  # Google
    )
)
_PRIVATE_4 = tuple(
    IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "127.0.0.0/8", "100.64.0.0/10")
)
_NEVER_4 = IPv4Network("192.88.99.0/24")  # the relays of 6to4 (RFC 7526)
_LOCAL_6 = IPv6Network("fc00::/7")
_GLOBAL_6 = IPv6Network("2000::/3")
_DOCUMENTS_6 = IPv6Network("3fff::/20")  # RFC 9637; Python 3.11 does not know it
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_COMPATIBLE = IPv6Network("::/96")
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, in the middle of an address


def reach(text: str) -> Reach:
    """What an address may be used for; a text that is none is `NEVER`."""
    try:
        address = ip_address(text)
    except ValueError:
        return Reach.NEVER
    if isinstance(address, IPv4Address):
        return _reach_4(address)
    return _reach_6(address)


def _reach_4(address: IPv4Address) -> Reach:
    if str(address) in _METADATA or address in _NEVER_4 or address.is_multicast:
        return Reach.NEVER
    if any(address in network for network in _PRIVATE_4):
        return Reach.PRIVATE
    return Reach.PUBLIC if address.is_global and not address.is_reserved else Reach.NEVER


def _reach_6(address: IPv6Address) -> Reach:
    if address.scope_id is not None or str(address) in _METADATA:
        return Reach.NEVER
    if address == IPv6Address("::1") or address in _LOCAL_6:
        return Reach.PRIVATE
    inner = _embedded(address)
    if inner is not None and _reach_4(inner) is not Reach.PUBLIC:
        return Reach.NEVER  # nobody needs this spelling of a private address
    if address in _NAT64:
        return Reach.PUBLIC
    if address.is_multicast or address not in _GLOBAL_6 or address in _DOCUMENTS_6 or not address.is_global:
        return Reach.NEVER
    return Reach.PUBLIC


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that a packet to this one would reach in the end; None where it is an address of its own."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    number = int(address)
    if address in _NAT64 or address in _COMPATIBLE or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4Address(number & 0xFFFFFFFF)
    return None


async def resolve(host: str, port: int) -> Sequence[str]:
    """Ask the system's resolver, in a thread of the loop. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_rest, address in found))
