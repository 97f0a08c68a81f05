"""Names of tools as parts of a capability's id, and back: `getTime` is `get_-time`, so that no two tools share one.

Small letters, digits, `_` and `-` stand for themselves. `_-` begins an escape: a letter behind it is a capital one,
`_-_` an underscore before a hyphen, and `_-0` with two hexadecimal digits one byte of UTF-8. `t_--` goes before a name
that would not begin with a letter.
"""

import re

from loket.contracts import BadInput

FAMILY = "mcp"
SERVER = re.compile(r"[a-z][a-z0-9-]{0,40}")
"""The name of a server: a part of its tools' ids."""

_PLAIN = re.compile(r"[a-z0-9_-]")
_ESCAPED = re.compile(r"_-(?:([a-z_])|0([0-9a-f]{2}))")
_BEGIN = "t_--"
_LONGEST = 128
"""Characters of a capability's id."""


def check_server(name: str) -> str:
    """The name, where it can be a server's. Raises `BadInput`."""
    if not SERVER.fullmatch(name):
        raise BadInput(
            "mcp.name",
            f"{name[:80]!r} cannot name a server",
            "use small letters, digits and hyphens, a letter first, at most 41 characters",
        )
    return name


def capability_id(server: str, tool: str) -> str:
    """The capability of a server's tool. Raises `BadInput` for a name that is empty or too long."""
    made = f"{FAMILY}.{server}.{encode(tool)}"
    if not tool or len(made) > _LONGEST:
        raise BadInput("mcp.tool_name", f"{server} has a tool whose name is empty or too long", "ask who wrote it")
    return made


def encode(tool: str) -> str:
    """A tool's name as it stands in a capability's id."""
    said = "".join(_written(tool, place) for place in range(len(tool)))
    return said if said[:1].isalpha() else _BEGIN + said


def decode(encoded: str) -> str:
    """The tool's name that `encode` wrote so."""
    said = encoded.removeprefix(_BEGIN)
    raw = bytearray()
    place = 0
    while place < len(said):
        found = _ESCAPED.match(said, place)
        if found is None:
            raw += said[place].encode()
            place += 1
            continue
        letter, byte = found.groups()
        raw += bytes.fromhex(byte) if byte else letter.upper().encode()
        place = found.end()
    return raw.decode("utf-8", "surrogatepass")


def _written(tool: str, place: int) -> str:
    sign = tool[place]
    if sign == "_" and tool[place + 1 : place + 2] == "-":
        return "_-_"
    if _PLAIN.fullmatch(sign):
        return sign
    if sign.isascii() and sign.isupper():
        return f"_-{sign.lower()}"
    return "".join(f"_-0{byte:02x}" for byte in sign.encode("utf-8", "surrogatepass"))


def slug(text: str) -> str:
    """The nearest name of a server to a text: `GitHub Server` is `github-server`."""
    said = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-").lstrip("0123456789-")[:40].rstrip("-")
    return said or "server"
