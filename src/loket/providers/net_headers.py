"""Headers of requests and answers, and the secrets in them: put in at the last moment, taken out of what comes back."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, quote_plus

from loket.contracts import Failed, Refusal, command
from loket.providers.net_url import SECRET

_ASKED = re.compile(r"\{\{secret:([A-Za-z0-9][A-Za-z0-9._-]{0,99})\}\}")

_OURS = frozenset(
    (
        *("host", "cookie", "cookie2", "content-length", "content-type", "accept-encoding", "expect"),
        *("connection", "keep-alive", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "http2-settings"),
        *("x-http-method", "x-http-method-override", "x-method-override"),  # would make a GET something else
    )
)
"""Headers that a module cannot send: hop by hop, ours, or of no use with GET and HEAD."""

_FOLLOWING = frozenset(("accept", "accept-language", "user-agent"))
"""What goes along when a redirect leaves the origin; of all others nobody knows whether they are credentials."""

_UNSHOWN = frozenset(("set-cookie", "set-cookie2", "connection", "keep-alive", "transfer-encoding", "content-encoding"))
_MOST = 64
_LONGEST = 2_000
_ALL = 32_768


def checked(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that a module may send, names in small letters. Raises `Refusal` (`net.header`)."""
    fine: dict[str, str] = {}
    for name, value in headers.items():
        low = name.lower()
        if low in _OURS or low.startswith("proxy-"):
            raise Refusal("net.header", f"headers: {name} is not a module's to set", f"leave {name} out")
        if low in fine:
            raise Refusal("net.header", f"headers: {name} is there twice", "send it once")
        if not value.isascii() or not value.isprintable():
            raise Refusal("net.header", f"headers: {name} holds what no header can carry", "send printable ASCII")
        if SECRET in _ASKED.sub("", value):
            raise Refusal("net.header", f"headers: {name} asks for a secret wrongly", "write {{secret:NAME}}")
        fine[low] = value
    if asked(fine) and "range" in fine:  # half of an echoed secret could not be recognised
        raise Refusal("net.header", "headers: Range cannot go with a secret", "fetch the whole with max_kb")
    return fine


def asked(headers: Mapping[str, str]) -> list[str]:
    """The names of the secrets that headers ask for, sorted."""
    return sorted({name for value in headers.values() for name in _ASKED.findall(value)})


def following(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that go along to another origin: none that could be a credential."""
    return {name: value for name, value in headers.items() if name in _FOLLOWING and SECRET not in value}


class Held:
    """The secrets of one call. `hide` replaces their values, and their usual encodings, by `[secret NAME]`.

    Raises `Failed` (`net.secret_value`) for a value that no header can carry.
    """

    def __init__(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            if not value or not value.isascii() or not value.isprintable():
                raise Failed(
                    "net.secret_value",
                    f"the secret {name} is empty or holds what no header can carry",
                    command("vault", "put", name),
                    blame="owner",
                )
        self._values = dict(values)
        spelled = [(spelling, name) for name, value in values.items() for spelling in _spellings(value)]
        self._spelled = {spelling.lower(): name for spelling, name in reversed(spelled)}
        longest = sorted(self._spelled, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)), re.IGNORECASE | re.ASCII) if longest else None

    def __repr__(self) -> str:
        return f"Held({sorted(self._values)})"

    def fill(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The headers as they are sent, with the values."""
        return {name: _ASKED.sub(lambda found: self._values[found[1]], value) for name, value in headers.items()}

    def within(self, text: str) -> bool:
        """Whether a text holds one of the values."""
        low = text.lower()  # many times quicker than the pattern
        return any(spelling in low for spelling in self._spelled)

    def hide(self, text: str) -> str:
        """The text without the values."""
        if self._pattern is None or not self.within(text):
            return text
        return self._pattern.sub(lambda found: f"[secret {self._spelled[found[0].lower()]}]", text)

    def hide_bytes(self, data: bytes, *, cut: bool) -> bytes:
        """Hide values in bytes: a wrong charset could make something else of them, and the module undo that."""
        if self._pattern is None:
            return data
        text = self.hide(data.decode("latin-1"))
        return (self.hide_end(text) if cut else text).encode("latin-1")

    def hide_end(self, text: str) -> str:
        """The text without the beginning of a value at its end, where it was cut off."""
        ends = [
            (length, name)
            for spelling, name in self._spelled.items()
            for length in range(1, len(spelling))
            if text[-length:].lower() == spelling[:length]
        ]
        if not ends:
            return text
        length, name = max(ends)
        return f"{text[:-length]}[secret {name}]"


def _spellings(value: str) -> set[str]:
    """How a server may give a value back: as it is, or as URLs, JSON, HTML, Base64 and hexadecimal have it."""
    data = value.encode()
    escaped = json.dumps(value)[1:-1]
    return {
        *(value, quote(value), quote(value, safe=""), quote_plus(value), escaped, escaped.replace("/", "\\/")),
        *(html.escape(value), html.escape(value, quote=False), data.hex()),
        *(base64.b64encode(data).decode().rstrip("="), base64.urlsafe_b64encode(data).decode().rstrip("=")),
    }


def shown(headers: Iterable[tuple[bytes, bytes]], held: Held) -> dict[str, str]:
    """The headers of an answer that a module gets: at most 64, of 2,000 characters each, without cookies.

    Names in small letters; the values of one that is there several times are joined by commas (RFC 9110, 5.3).
    """
    answer: dict[str, str] = {}
    room = _ALL
    for raw_name, raw_value in headers:
        name, value = (held.hide(raw.decode("latin-1")) for raw in (raw_name.lower(), raw_value))
        if name in _UNSHOWN or (name not in answer and len(answer) == _MOST):
            continue
        value = f"{answer[name]}, {value}" if name in answer else value
        room -= len(name) + len(value)
        if room < 0:
            break
        answer[name] = value[:_LONGEST]
    return answer
