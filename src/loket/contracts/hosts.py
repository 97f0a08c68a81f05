"""Which hosts a grant allows: one rule, for the counter's look at a URL and for a provider's look at each redirect."""

from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import urlsplit

SCHEME_PORTS = {"http": 80, "https": 443}
"""The port that a URL of a scheme means where it names none."""


def host_names(url: str) -> tuple[str, ...]:
    """How a grant may name the host of a URL: without its port where that is the scheme's own, and with it.

    `("example.org", "example.org:443")`, or `("example.org:8443",)`; `("",)` for a text that is no URL with a host.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return ("",)
    host, own = (parts.hostname or "").rstrip("."), SCHEME_PORTS.get(parts.scheme)
    if not host or (port is None and own is None):
        return ("",)
    shown = f"[{host}]" if ":" in host else host
    names = (f"{shown}:{own if port is None else port}",)
    return (shown, *names) if own is not None and port in (None, own) else names


def host_granted(url: str, texts: Iterable[str]) -> bool:
    """Whether a grant's `hosts` allow a URL: one of them is its host, or is `*.` and a name that it is below.

    `*.example.org` allows `a.example.org` and `a.b.example.org`, not `example.org`, and never an address in numbers.
    """
    wanted = [text.lower() for text in texts]
    return any(name in wanted or _below(name, wanted) for name in host_names(url) if name)


def _below(name: str, texts: list[str]) -> bool:
    if name.startswith("[") or _is_number(name.partition(":")[0]):
        return False
    return any(text.startswith("*.") and name.endswith(text[1:]) for text in texts)


def _is_number(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
