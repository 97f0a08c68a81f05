"""Reading the files in which other programs keep their servers: what is taken over, and what is not.

Commands, arguments, variables, addresses and headers are taken over. What was approved elsewhere (`autoApprove`,
`alwaysAllow`, `trust`) is not: it was approved for another program, under other rules. Reading runs nothing.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loket.contracts import BadInput, Json
from loket.mcp.names import slug
from loket.mcp.secrets import Moved
from loket.mcp.settings import Server, read

_LARGEST = 16 << 20
"""Bytes of a file: some programs keep their history in it too."""
_APPROVALS = frozenset(
    ["autoApprove", "alwaysAllow", "trust", "autoApproved", "auto_approve", "default_tools_approval_mode", "tools"]
)
_KNOWN = frozenset(
    [
        *("command", "args", "env", "url", "httpUrl", "serverUrl", "headers", "http_headers", "type", "transport"),
        *("disabled", "enabled", "bearer_token_env_var", "env_http_headers", "name", "description"),
    ]
)
_VARIABLE = re.compile(r"\$\{(?:env:|input:)?([A-Za-z_][A-Za-z0-9_.-]*)(?::-[^}]*)?\}")
_SECTIONS = ("mcpServers", "mcp_servers", "servers", "context_servers")

USUAL: tuple[tuple[str, str], ...] = (
    ("Claude Desktop", ".config/Claude/claude_desktop_config.json"),
    ("Claude Desktop", "Library/Application Support/Claude/claude_desktop_config.json"),
    ("Claude Desktop", "AppData/Roaming/Claude/claude_desktop_config.json"),
    ("Claude Code", ".claude.json"),
    ("Cursor", ".cursor/mcp.json"),
    ("VS Code", ".config/Code/User/mcp.json"),
    ("VS Code", ".config/Code/User/settings.json"),
    ("VS Code", "Library/Application Support/Code/User/mcp.json"),
    ("VS Code", "Library/Application Support/Code/User/settings.json"),
    ("VS Code", "AppData/Roaming/Code/User/mcp.json"),
    ("VS Code", "AppData/Roaming/Code/User/settings.json"),
    ("Gemini", ".gemini/settings.json"),
    ("Codex", ".codex/config.toml"),
)
"""Programs and their files, below the owner's home."""


@dataclass(frozen=True, slots=True)
class Found:
    """One entry of a file. `secrets` are values by the names that the vault is to have; they are shown nowhere.

    `notes` say what was left out, `skipped` why nothing of it can be taken over.
    """

    name: str
    program: str
    file: Path
    server: Server | None = None
    secrets: Mapping[str, str] = field(default_factory=dict)
    enabled: bool = True
    notes: tuple[str, ...] = ()
    skipped: str = ""


def usual(home: Path) -> list[tuple[str, Path]]:
    """The files of the usual programs that are there."""
    return [(program, home / place) for program, place in USUAL if (home / place).is_file()]


def program_of(path: Path) -> str:
    """The program whose file this is, by its place; empty where that says nothing."""
    said = path.as_posix()
    return next((program for program, place in USUAL if said.endswith("/" + place)), "")


def read_file(path: Path, held: Callable[[str], str | None]) -> list[Found]:
    """The entries of a file. `held` is what the vault has. Raises `BadInput` (`mcp.import`) for a file that is none."""
    value = _decoded(path)
    found = [
        _entry(name, entry, path, held, place)
        for place, section in _sections(value)
        for name, entry in section.items()
        if isinstance(name, str)
    ]
    return _unlike(found)


def _decoded(path: Path) -> Mapping[str, Json]:
    try:
        if path.stat().st_size > _LARGEST:
            raise _bad(path, "is too large", "name a file with mcpServers in it")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise _bad(path, f"cannot be read ({error})", "name another file") from None
    try:
        value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(_plain(text))
    except (ValueError, RecursionError) as error:
        raise _bad(path, f"is neither JSON nor TOML ({error})"[:300], "mend it, or name another file") from None
    if not isinstance(value, dict):
        raise _bad(path, "holds no object", "name a file with mcpServers in it")
    return value


_COMMENT = re.compile(r'("(?:[^"\\]|\\.)*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


def _plain(text: str) -> str:
    """JSON without the comments and last commas that some programs allow."""
    for pattern in (_COMMENT, _COMMA):
        text = pattern.sub(lambda found: found[1] or "", text)
    return text


def _sections(value: Mapping[str, Json]) -> Iterator[tuple[str, Mapping[str, Json]]]:
    """The tables of servers in a file, each with where it stands if that is not the whole file."""
    for key in _SECTIONS:
        if isinstance(value.get(key), dict):
            yield "", value[key]
    inner = value.get("mcp")
    if isinstance(inner, dict):
        yield from _sections(inner)
    projects = value.get("projects")
    if isinstance(projects, dict):
        for folder, project in projects.items():
            if isinstance(project, dict) and isinstance(project.get("mcpServers"), dict):
                yield str(folder), project["mcpServers"]


def _unlike(found: list[Found]) -> list[Found]:
    """The entries, of which no two have one name: what is the same is there once, others get a number."""
    made: dict[str, Found] = {}
    for one in found:
        name, number = one.name, 1
        while name in made and not _same(made[name], one):
            number += 1
            name = f"{one.name[:37]}-{number}"
        if name not in made:
            made[name] = one if name == one.name else _renamed(one, name)
    return list(made.values())


def _same(one: Found, other: Found) -> bool:
    return one.server is not None and other.server is not None and one.server.as_json() == other.server.as_json()


def _renamed(one: Found, name: str) -> Found:
    return replace(one, name=name, server=replace(one.server, name=name) if one.server is not None else None)


def _entry(said: str, entry: Json, path: Path, held: Callable[[str], str | None], place: str) -> Found:
    name, program = slug(said), program_of(path)
    if not isinstance(entry, dict):
        return Found(name, program, path, skipped="its entry is no object")
    kind = str(entry.get("type") or entry.get("transport") or "").lower()
    if kind in ("sse", "ws", "websocket") or (program == "Gemini" and "url" in entry and "httpUrl" not in entry):
        return Found(name, program, path, skipped="it speaks the old transport with server-sent events alone")
    notes = list(_notes(entry, said, name, place))
    try:
        plain = read(name, _conventional(name, entry, notes))
    except BadInput as error:
        return Found(name, program, path, notes=tuple(notes), skipped=error.message)
    moved = Moved(name, held)
    server = moved.take(plain)
    return Found(name, program, path, server, moved.values, _enabled(entry), tuple(notes))


def _notes(entry: Mapping[str, Json], said: str, name: str, place: str) -> Iterator[str]:
    if said != name:
        yield f"called {said!r} there"
    if place:
        yield f"of the project {place}"
    for key in entry:
        if key in _APPROVALS:
            yield f"{key} is not taken over: what was approved there is not approved here"
        elif key in ("cwd", "workingDirectory"):
            yield "its folder is not taken over: it works in one of its own"
        elif key not in _KNOWN:
            yield f"{str(key)[:40]} is not taken over"


def _enabled(entry: Mapping[str, Json]) -> bool:
    return entry.get("disabled") is not True and entry.get("enabled") is not False


def _conventional(name: str, entry: Mapping[str, Json], notes: list[str]) -> dict[str, Json]:
    """The entry with the fields that Loket has; variables of other programs become references to secrets."""
    url = entry.get("httpUrl") or entry.get("url") or entry.get("serverUrl")
    if url is not None:
        headers = {**_table(entry.get("headers")), **_table(entry.get("http_headers"))}
        for header, variable in _table(entry.get("env_http_headers")).items():
            headers[header] = f"${{{variable}}}"
        bearer = entry.get("bearer_token_env_var")
        if isinstance(bearer, str):
            headers["Authorization"] = f"Bearer ${{{bearer}}}"
        return {"url": url, "headers": _referred(name, headers, notes)}
    command, args = entry.get("command"), entry.get("args") or []
    if isinstance(command, list):
        command, args = (command[0] if command else ""), [*command[1:], *args]
    env = {key: str(text) if isinstance(text, int | float) else text for key, text in _table(entry.get("env")).items()}
    words = [command, *args] if isinstance(args, list) else [command]
    if any(isinstance(word, str) and _VARIABLE.search(word) for word in words):
        notes.append("its arguments have ${...} in them, which nothing replaces here")
    return {"command": command, "args": args, "env": _referred(name, env, notes)}


def _table(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else {}


def _referred(name: str, texts: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Texts with `${NAME}` replaced by references to secrets, which the owner still has to put into the vault."""

    def reference(found: "re.Match[str]") -> str:
        word = re.sub(r"[^A-Za-z0-9._-]", "-", found[1])
        secret = f"mcp.{name}.{word}"
        notes.append(f"{found[0]} is to be put into the vault: loket vault put {secret}")
        return f"{{{{secret:{secret}}}}}"

    return {key: _VARIABLE.sub(reference, text) if isinstance(text, str) else text for key, text in texts.items()}


def _bad(path: Path, wrong: str, remedy: str) -> BadInput:
    return BadInput("mcp.import", f"{path} {wrong}", remedy)
