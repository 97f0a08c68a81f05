"""What the owner says of a server: how it is started or reached, and what it gets of this machine.

Written in the conventional form of an entry of `mcpServers` (`command`, `args`, `env`, or `url` and `headers`), with
fields of Loket's own beside it. A secret is never in there, only `{{secret:NAME}}`, which the vault knows. An approval
is bound to the digest of all that decides what runs, and with what.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loket.contracts import BadInput, Json, Refusal, command
from loket.mcp.names import check_server

SECRET = re.compile(r"\{\{secret:([A-Za-z0-9][A-Za-z0-9._-]{0,99})\}\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")
_OURS = frozenset({"host", "content-length", "content-type", "accept", "connection", "transfer-encoding", "cookie"})
"""Headers that the protocol sets itself."""
_LONGEST = 8_192
_MOST = 256
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that a server's process sees: read-only, or `writable`."""

    path: str
    writable: bool = False

    def __str__(self) -> str:
        return f"{self.path}:rw" if self.writable else self.path


@dataclass(frozen=True, slots=True)
class Server:
    """One server: a `command` (argv, for a process on this machine) or a `url` (Streamable HTTP).

    `network`, `folders` and `sandbox` say what the process gets. `private` lets the host of the URL be in a private
    network. `memory_mb` counts MiB, `timeout_s` seconds for a call.
    """

    name: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    client_id: str = ""
    """Of OAuth, where the server's owner gave one out; else the client registers itself."""
    client_secret: str = ""
    network: bool = False
    folders: tuple[Folder, ...] = ()
    sandbox: bool = True
    private: bool = False
    memory_mb: int = 1024
    processes: int = 128
    timeout_s: float = 60.0

    @property
    def loopback(self) -> bool:
        """Whether the URL is of this machine."""
        return (urlsplit(self.url).hostname or "") in _LOOPBACK

    @property
    def secrets(self) -> list[str]:
        """Names of the secrets that it is given, sorted."""
        return sorted({name for text in self._texts() for name in SECRET.findall(text)})

    def _texts(self) -> Iterator[str]:
        yield from (*self.command, *self.env.values(), self.url, *self.headers.values(), self.client_secret)

    def as_json(self) -> dict[str, Json]:
        """The entry as it is kept; what is as always is left out."""
        head: dict[str, Json] = {}
        if self.command:
            head = {"command": self.command[0], "args": list(self.command[1:]), "env": dict(self.env)}
        else:
            head = {"url": self.url, "headers": dict(self.headers)}
            oauth = {"client_id": self.client_id, "client_secret": self.client_secret}
            head |= {"oauth": {key: text for key, text in oauth.items() if text}} if self.client_id else {}
        more = {
            "network": self.network,
            "folders": [str(folder) for folder in self.folders],
            "sandbox": self.sandbox,
            "private": self.private,
            "memory_mb": self.memory_mb,
            "processes": self.processes,
            "timeout_s": self.timeout_s,
        }
        return head | {key: value for key, value in more.items() if value != _DEFAULTS[key]}

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical JSON of all but the limits."""
        said = {key: value for key, value in self.as_json().items() if key not in _LIMITS}
        return hashlib.sha256(canonical(said).encode()).hexdigest()


_DEFAULTS: Mapping[str, Json] = {
    "network": False,
    "folders": [],
    "sandbox": True,
    "private": False,
    "memory_mb": 1024,
    "processes": 128,
    "timeout_s": 60.0,
}
_LIMITS = ("memory_mb", "processes", "timeout_s")
_RANGES = {"memory_mb": (64, 65_536), "processes": (4, 4_096), "timeout_s": (1, 600)}
_KEYS = frozenset({"command", "args", "env", "url", "headers", "oauth", *_DEFAULTS})


def canonical(value: Json) -> str:
    """JSON with sorted keys and without blanks: the text that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def read(name: str, value: Json) -> Server:
    """A server of its entry. Raises `BadInput` (`mcp.config`) that names the field."""
    check_server(name)
    if not isinstance(value, dict):
        raise _bad(name, "its entry is no object", 'write {"command": "PROGRAM", "args": []}')
    for key in value.keys() - _KEYS:
        raise _bad(name, f"{str(key)[:40]!r} is no field that is known", f"known: {', '.join(sorted(_KEYS))}")
    if ("command" in value) == ("url" in value):
        raise _bad(name, "it needs a command or a url, and not both", "loket mcp add NAME -- PROGRAM ARGUMENTS")
    oauth = _map(name, "oauth", value.get("oauth", {}))
    server = Server(
        name,
        command=_command(name, value),
        env=_map(name, "env", value.get("env", {})),
        url=_url(name, value["url"]) if "url" in value else "",
        headers=_map(name, "headers", value.get("headers", {})),
        client_id=oauth.get("client_id", ""),
        client_secret=oauth.get("client_secret", ""),
        network=_flag(name, value, "network"),
        folders=tuple(_folder(name, text) for text in _list(name, "folders", value.get("folders", []))),
        sandbox=_flag(name, value, "sandbox"),
        private=_flag(name, value, "private"),
        memory_mb=int(_number(name, value, "memory_mb")),
        processes=int(_number(name, value, "processes")),
        timeout_s=float(_number(name, value, "timeout_s")),
    )
    _check_names(server)
    return server


def _check_names(server: Server) -> None:
    for variable in server.env:
        if not _VARIABLE.fullmatch(variable):
            raise _bad(
                server.name, f"{variable[:40]!r} cannot name a variable of the environment", "letters, digits, _"
            )
    for header in server.headers:
        if not _HEADER.fullmatch(header) or header.lower() in _OURS or header.lower().startswith(("mcp-", "proxy-")):
            raise _bad(server.name, f"the header {header[:40]!r} is not to be set", "leave it out")


def _command(name: str, value: Mapping[str, Json]) -> tuple[str, ...]:
    if "command" not in value:
        return ()
    words = (_text(name, "command", value["command"]), *_list(name, "args", value.get("args", [])))
    if not words[0] or "\0" in "".join(words):
        raise _bad(name, "its command is empty, or has a NUL character in it", "name the program")
    return words


def _url(name: str, value: Json) -> str:
    """The address as it stands; hosts and schemes are checked again when it is reached."""
    url = _text(name, "url", value)
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        raise _bad(name, "its url cannot be read", "write it as https://example.org/mcp") from None
    if parts.username or parts.password:
        raise _bad(name, "its url has a user or a password before the host", "put it into a header, as a secret")
    if parts.scheme == "https" or (parts.scheme == "http" and host in _LOOPBACK):
        return url
    raise _bad(name, "its url is neither https nor http on this machine", "write it as https://example.org/mcp")


def _folder(name: str, text: str) -> Folder:
    path, writable = (text.removesuffix(":rw"), True) if text.endswith(":rw") else (text.removesuffix(":ro"), False)
    if not Path(path).expanduser().is_absolute():
        raise _bad(name, f"the folder {path[:80]!r} is no absolute path", "write it from / on, with :rw to write there")
    return Folder(str(Path(path).expanduser()), writable)


def _text(name: str, key: str, value: Json) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST:
        raise _bad(name, f"{key} is no text of at most {_LONGEST} characters", "write it in quotes")
    return value


def _list(name: str, key: str, value: Json) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST:
        raise _bad(name, f"{key} is no list of texts", f'write "{key}": []')
    return tuple(_text(name, f"{key}[{place}]", item) for place, item in enumerate(value))


def _map(name: str, key: str, value: Json) -> dict[str, str]:
    if not isinstance(value, dict) or len(value) > _MOST:
        raise _bad(name, f"{key} is no object of texts", f'write "{key}": {{}}')
    return {str(word): _text(name, f"{key}.{word}", text) for word, text in value.items()}


def _flag(name: str, value: Mapping[str, Json], key: str) -> bool:
    found = value.get(key, _DEFAULTS[key])
    if not isinstance(found, bool):
        raise _bad(name, f"{key} is neither true nor false", f'write "{key}": true')
    return found


def _number(name: str, value: Mapping[str, Json], key: str) -> Any:
    found, (low, high) = value.get(key, _DEFAULTS[key]), _RANGES[key]
    if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
        raise _bad(name, f"{key} is no number from {low} to {high}", f'write "{key}": {_DEFAULTS[key]}')
    return found


def _bad(name: str, wrong: str, remedy: str) -> BadInput:
    return BadInput("mcp.config", f"server {name}: {wrong}", remedy)


def filled(server: Server, text: str, secret: Callable[[str], str | None]) -> str:
    """A text with its secrets in the places of their references. Raises `Refusal` (`mcp.secret`) for a missing one."""

    def value(found: re.Match[str]) -> str:
        held = secret(found.group(1))
        if held is None:
            raise Refusal(
                "mcp.secret",
                f"the server {server.name} needs the secret {found.group(1)}, which is not in the vault",
                command("vault", "put", found.group(1)),
                blame="owner",
            )
        return held

    return SECRET.sub(value, text)
