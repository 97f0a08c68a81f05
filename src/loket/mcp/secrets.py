"""Which texts of a configuration are secrets, and references in their places.

What looks like a secret and is none only moves to the vault as well, so the rules are wide.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from loket.mcp.settings import SECRET, Server

_NAME = re.compile(
    r"key|token|secret|passw|passphrase|pwd|credential|auth|bearer|cookie|session|signature|private|dsn|apikey"
    r"|connection.?string|(?:^|_)(?:pat|pw|sas)(?:$|_)",
    re.IGNORECASE,
)
_PREFIX = re.compile(
    r"(?:sk|pk|rk)[-_](?:live|test|ant|proj|or)?|gh[pousr]_|github_pat_|glpat-|xox[abeoprs]-|xapp-|AKIA|ASIA|AIza|ya29\."
    r"|eyJ[A-Za-z0-9_-]{10}|npm_|hf_|pypi-|dop_v1_|lin_api_|ntn_|secret_|SG\.|-----BEGIN|AGE-SECRET-KEY"
)
_TOKEN = re.compile(r"[A-Za-z0-9+/_=.~-]{20,}")
_USERINFO = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^\s/@:]*:)(?P<secret>[^\s/@]+)(?=@)")
_QUERY = re.compile(r"(?P<head>[?&;](?P<name>[A-Za-z0-9_.-]{1,60})=)(?P<secret>[^&;#\s]+)")
_OPTION = re.compile(r"(?P<head>--?(?P<name>[A-Za-z0-9_.-]{1,60})=)(?P<secret>.+)", re.DOTALL)
_BEARER = re.compile(r"(?P<head>(?:Bearer|Basic|Token|token|bearer)\s+)(?P<secret>\S+)")
_PATHLIKE = re.compile(r"(?:[A-Za-z]:)?[~./\\]|https?://[^@?]*$")
_SHORTEST = 6
_BITS = 3.3
"""Bits of entropy of a character, above which a long word is no word."""
_DULL = frozenset(["true", "false", "none", "null", "yes", "default", "localhost", "production", "development"])


def looks_secret(name: str, value: str) -> bool:
    """Whether a value is likely to be a secret: by the name that it has, or by how it looks."""
    if SECRET.fullmatch(value) or value.lower() in _DULL:
        return False
    if _PREFIX.match(value):
        return True
    if len(value) >= _SHORTEST and _NAME.search(name) and not _PATHLIKE.match(value) and not value.isdigit():
        return True
    return _random(value)


def _random(value: str) -> bool:
    """Whether a value is one long word of letters and digits in no order that a person would give them."""
    if not _TOKEN.fullmatch(value) or _PATHLIKE.match(value) or "/" in value[:2]:
        return False
    kinds = [any(map(test, value)) for test in (str.isdigit, str.islower, str.isupper)]
    counts = Counter(value)
    bits = -sum(count / len(value) * math.log2(count / len(value)) for count in counts.values())
    return kinds[0] and (kinds[1] or kinds[2]) and bits >= _BITS


class Moved:
    """Takes secrets out of a server's entry: `values` has them by the names under which the vault is to keep them.

    `held` is what the vault has under a name, or None: the same value keeps its name, another one gets a new name.
    """

    def __init__(self, server: str, held: Callable[[str], str | None]) -> None:
        self.values: dict[str, str] = {}
        self._server = server
        self._held = held

    def take(self, server: Server) -> Server:
        """The server with references in the places of secrets."""
        return replace(
            server,
            command=self._words(server.command),
            env={name: self._value(name, text) for name, text in server.env.items()},
            headers={name: self._header(name, text) for name, text in server.headers.items()},
            url=self._within("url", server.url),
            client_secret=self._whole("client-secret", server.client_secret) if server.client_secret else "",
        )

    def _words(self, words: Sequence[str]) -> tuple[str, ...]:
        made: list[str] = []
        for place, word in enumerate(words):
            before = words[place - 1] if place else ""
            if place and before.startswith("-") and "=" not in before and looks_secret(before.lstrip("-"), word):
                made.append(self._whole(before.lstrip("-"), word))
            elif place and _random(word) and not word.startswith("-"):
                made.append(self._whole(f"arg-{place}", word))
            else:
                made.append(self._within(f"arg-{place}", word))
        return tuple(made)

    def _header(self, name: str, text: str) -> str:
        found = _BEARER.fullmatch(text)
        if found is not None and not SECRET.search(text):
            return found["head"] + self._whole(name, found["secret"])
        return self._value(name, text)

    def _value(self, name: str, text: str) -> str:
        if SECRET.search(text):
            return text
        within = self._within(name, text)
        if within != text:
            return within
        return self._whole(name, text) if looks_secret(name, text) else text

    def _within(self, name: str, text: str) -> str:
        """A text with the secrets inside it replaced: passwords of addresses, parameters, values of options."""
        text = _USERINFO.sub(lambda found: found["head"] + self._whole(name, found["secret"]), text)
        for pattern in (_QUERY, _OPTION):
            text = pattern.sub(lambda found: self._part(name, found), text)
        return text

    def _part(self, name: str, found: "re.Match[str]") -> str:
        if not looks_secret(found["name"], found["secret"]):
            return found[0]
        return found["head"] + self._whole(f"{name}-{found['name']}", found["secret"])

    def _whole(self, name: str, value: str) -> str:
        if SECRET.fullmatch(value):
            return value
        base = f"mcp.{self._server}." + re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:40]
        number, chosen = 1, base
        while self.values.get(chosen, self._held(chosen)) not in (None, value):
            number += 1
            chosen = f"{base}-{number}"
        self.values[chosen] = value
        return f"{{{{secret:{chosen}}}}}"
