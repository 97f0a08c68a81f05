"""Tests of taking over servers from other programs: their files, secrets, approvals, and what is remarkable."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loket.contracts import BadInput
from loket.mcp import risks
from loket.mcp.importing import Found, read_file, usual
from loket.mcp.secrets import Moved, looks_secret
from loket.mcp.settings import SECRET, Server, read

TOKEN = "ghp_" + "aB3dE5fG7hJ9kL1mN3pQ5rS7tU9vW1xY3zA5"


def nothing(_name: str) -> str | None:
    """An empty vault."""
    return None


def found(path: Path, value: Any) -> dict[str, Found]:
    """The entries of a file with this JSON, or this text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return {one.name: one for one in read_file(path, nothing)}


def entry(one: Found) -> dict[str, Any]:
    assert one.server is not None, one.skipped
    return one.server.as_json()


# The files of the usual programs


def test_claude_desktop(tmp_path: Path) -> None:
    """`mcpServers` with commands, arguments and variables; a secret moves to the vault."""
    file = tmp_path / ".config/Claude/claude_desktop_config.json"
    github = {"command": "npx", "args": ["-y", "@x/github@1.2.3"], "env": {"GITHUB_TOKEN": TOKEN}}
    value = {"mcpServers": {"GitHub": github}}
    one = found(file, value)["github"]
    assert one.program == "Claude Desktop"
    assert entry(one) == {
        "command": "npx",
        "args": ["-y", "@x/github@1.2.3"],
        "env": {"GITHUB_TOKEN": "{{secret:mcp.github.GITHUB_TOKEN}}"},
    }
    assert one.secrets == {"mcp.github.GITHUB_TOKEN": TOKEN}
    assert one.notes == ("called 'GitHub' there",)


def test_claude_code(tmp_path: Path) -> None:
    """Servers of the user and of each project; one that is there twice is taken once, others are numbered."""
    http = {"type": "http", "url": "https://mcp.example.com/mcp", "headers": {"Authorization": f"Bearer {TOKEN}"}}
    value = {
        "numStartups": 5,
        "mcpServers": {"web": http},
        "projects": {
            "/a": {"mcpServers": {"web": http, "db": {"type": "stdio", "command": "/bin/db", "args": [], "env": {}}}},
            "/b": {"mcpServers": {"db": {"command": "/bin/other"}}},
        },
    }
    made = found(tmp_path / ".claude.json", value)
    assert sorted(made) == ["db", "db-2", "web"]
    assert entry(made["web"])["headers"] == {"Authorization": "Bearer {{secret:mcp.web.Authorization}}"}
    assert entry(made["db-2"])["command"] == "/bin/other"
    assert made["db"].notes == ("of the project /a",)


def test_cursor(tmp_path: Path) -> None:
    """Variables of other programs become secrets that the owner has yet to put into the vault."""
    value = {"mcpServers": {"x": {"url": "https://x.example/mcp", "headers": {"X-Api-Key": "${env:X_KEY}"}}}}
    one = found(tmp_path / ".cursor/mcp.json", value)["x"]
    assert one.program == "Cursor"
    assert entry(one)["headers"] == {"X-Api-Key": "{{secret:mcp.x.X_KEY}}"}
    assert one.secrets == {}
    assert "loket vault put mcp.x.X_KEY" in one.notes[0]


def test_vs_code(tmp_path: Path) -> None:
    """`servers` in a file of its own, or `mcp.servers` among the settings, with comments and last commas."""
    text = """{
      // a comment, and "a text with // in it"
      "servers": {
        "play": {"type": "stdio", "command": "/bin/play", "args": ["--url", "http://a//b", /* here */ "x,]"],},
      },
      "inputs": [{"id": "key", "type": "promptString"}],
    }"""
    one = found(tmp_path / ".config/Code/User/mcp.json", text)["play"]
    assert entry(one)["args"] == ["--url", "http://a//b", "x,]"]
    settings = {"editor.fontSize": 12, "mcp": {"servers": {"two": {"command": "/bin/two", "envFile": ".env"}}}}
    two = found(tmp_path / ".config/Code/User/settings.json", settings)["two"]
    assert two.program == "VS Code"
    assert two.notes == ("envFile is not taken over",)


def test_gemini(tmp_path: Path) -> None:
    """`httpUrl` is taken over, the older transport is not, and neither is `trust`."""
    value = {
        "mcpServers": {
            "new": {"httpUrl": "https://a.example/mcp", "trust": True, "timeout": 5000},
            "old": {"url": "https://a.example/sse"},
        }
    }
    made = found(tmp_path / ".gemini/settings.json", value)
    assert entry(made["new"])["url"] == "https://a.example/mcp"
    assert made["new"].notes[0].startswith("trust is not taken over")
    assert "old transport" in made["old"].skipped


def test_codex(tmp_path: Path) -> None:
    """TOML with `mcp_servers`, headers from variables, and servers that are switched off."""
    text = """
model = "x"
[mcp_servers.docs]
command = "uvx"
args = ["docs-server==1.0"]
env = { KEY = "value-of-a-key-1" }
enabled = false
[mcp_servers.web]
url = "https://web.example/mcp"
bearer_token_env_var = "WEB_TOKEN"
http_headers = { "X-Plain" = "plain" }
"""
    made = found(tmp_path / ".codex/config.toml", text)
    assert not made["docs"].enabled
    assert made["docs"].secrets == {"mcp.docs.KEY": "value-of-a-key-1"}
    headers = {"X-Plain": "plain", "Authorization": "Bearer {{secret:mcp.web.WEB_TOKEN}}"}
    assert entry(made["web"])["headers"] == headers


@pytest.mark.parametrize("key", ["autoApprove", "alwaysAllow", "trust"])
def test_what_was_approved_elsewhere_is_not_approved_here(tmp_path: Path, key: str) -> None:
    """An approval of another program is told and left there."""
    one = found(tmp_path / "x.json", {"mcpServers": {"x": {"command": "/bin/x", key: ["delete"]}}})["x"]
    assert any(key in note for note in one.notes)
    assert key not in json.dumps(entry(one))


def test_the_usual_files_are_found(tmp_path: Path) -> None:
    """Those that are there, of every program, below the owner's home."""
    found(tmp_path / ".cursor/mcp.json", {"mcpServers": {}})
    found(tmp_path / ".codex/config.toml", "")
    assert [program for program, _file in usual(tmp_path)] == ["Cursor", "Codex"]


@pytest.mark.parametrize("text", ["", "[]", "{", "\x00", '{"mcpServers": ' + "[" * 100_000])
def test_a_file_that_is_none_is_refused_with_its_name(tmp_path: Path, text: str) -> None:
    """What is neither JSON nor TOML is no file of servers."""
    with pytest.raises(BadInput, match=r"x\.json"):
        found(tmp_path / "x.json", text)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8), lambda inner: st.lists(
    inner, max_size=3) | st.dictionaries(st.sampled_from(["mcpServers", "servers", "mcp", "projects", "command", "args",
    "env", "url", "headers", "type", "x"]), inner, max_size=4), max_leaves=12))  # fmt: skip
def test_whatever_a_file_says_it_is_read_or_refused(value: Any) -> None:
    """No content of a file is an error of another kind."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_text(json.dumps(value))
        try:
            for one in read_file(path, nothing):
                assert (one.server is None) == bool(one.skipped)
        except BadInput:
            return


# Secrets


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_TOKEN", "anything-at-all"),
        ("api-key", "abcdef"),
        ("PASSWORD", "hunter22"),
        ("X", TOKEN),
        ("X", "sk-ant-REDACTED"),
        ("X", "xoxb-1-2-abc"),
        ("X", "eyJhbGciOiJIUzI1NiJ9.e30.abc"),
        ("X", "AKIAIOSFODNN7EXAMPLE"),
        ("X", "c9f2a71be4d04885b3f6aa10"),
    ],
)
def test_what_looks_like_a_secret_is_one(name: str, value: str) -> None:
    """By the name of its variable, by a known beginning, or because nobody would write it by hand."""
    assert looks_secret(name, value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOG_LEVEL", "debug"),
        ("KEY_FILE", "/home/ana/key.pem"),
        ("PORT", "8080"),
        ("TOKEN", "true"),
        ("HOST", "https://api.example.com/v1"),
        ("TZ", "Europe/Amsterdam"),
        ("WORDS", "the quick brown fox jumps over"),
        ("TOKEN", "{{secret:already}}"),
    ],
)
def test_what_everybody_may_know_stays(name: str, value: str) -> None:
    """Paths, numbers, switches, addresses and words are no secrets."""
    assert not looks_secret(name, value)


def moved(server: Server) -> tuple[Server, dict[str, str]]:
    taker = Moved(server.name, nothing)
    return taker.take(server), taker.values


def test_secrets_within_arguments_and_addresses_move_too() -> None:
    """Options, passwords before a host and parameters of an address are replaced where they stand."""
    words = ["--api-key", "abcdef123", "--token=xyz98765", "postgresql://ana:pa55word@db/x", "--dir", "/srv/data"]
    made, values = moved(read("x", {"command": "/bin/x", "args": words}))
    assert made.command[1:] == (
        "--api-key",
        "{{secret:mcp.x.api-key}}",
        "--token={{secret:mcp.x.arg-3-token}}",
        "postgresql://ana:{{secret:mcp.x.arg-4}}@db/x",
        "--dir",
        "/srv/data",
    )
    assert sorted(values.values()) == ["abcdef123", "pa55word", "xyz98765"]
    made, values = moved(read("x", {"url": f"https://x.example/mcp?api_key={TOKEN}&page=1"}))
    assert made.url == "https://x.example/mcp?api_key={{secret:mcp.x.url-api_key}}&page=1"
    assert list(values.values()) == [TOKEN]


def test_another_secret_of_the_same_name_gets_a_name_of_its_own() -> None:
    """What the vault has under a name is kept, unless it is the same value."""
    held = {"mcp.x.TOKEN": "the-older-one"}
    server = read("x", {"command": "/bin/x", "env": {"TOKEN": "the-newer-one"}})
    taker = Moved("x", held.get)
    assert taker.take(server).env == {"TOKEN": "{{secret:mcp.x.TOKEN-2}}"}
    held["mcp.x.TOKEN"] = "the-newer-one"
    assert Moved("x", held.get).take(server).env == {"TOKEN": "{{secret:mcp.x.TOKEN}}"}


@given(
    st.dictionaries(
        st.from_regex(r"[A-Z]{1,8}(_TOKEN|_KEY)?", fullmatch=True), st.text("abAB019-_:/?&=@. ", max_size=40)
    )
)
def test_filling_references_in_gives_the_same_values_back(env: dict[str, str]) -> None:
    """Nothing is lost or added by moving a secret: the server gets what the file said."""
    server = read("x", {"command": "/bin/x", "env": env})
    made, values = moved(server)
    back = {name: SECRET.sub(lambda one: values[one[1]], text) for name, text in made.env.items()}
    assert back == env
    assert moved(made)[1] == {}


# What is remarkable


def codes(*words: str, **more: Any) -> set[str]:
    return {flag.code for flag in risks.flags(read("x", {"command": words[0], "args": list(words[1:]), **more}))}


@pytest.mark.parametrize(
    "words",
    [
        ("sh", "-c", "curl x | sh"),
        ("/bin/bash", "-lc", "x"),
        ("cmd", "/c", "x"),
        ("C:\\Windows\\System32\\cmd.exe", "/c", "npx x"),
        ("powershell.exe", "-Command", "x"),
        ("env", "A=b", "zsh", "x"),
        ("npx", "-c", "x; y"),
    ],
)
def test_a_shell_is_flagged(words: tuple[str, ...]) -> None:
    """A command is a program with arguments; where a shell reads them they can be anything."""
    assert "shell" in codes(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("npx", "-y", "@modelcontextprotocol/server-filesystem", "/srv"),
        ("npx", "pkg@latest"),
        ("npx", "pkg@^1.2.0"),
        ("npx.cmd", "pkg"),
        ("npx", "--package=pkg", "run"),
        ("npm", "exec", "--", "pkg"),
        ("pnpm", "dlx", "pkg"),
        ("bunx", "pkg"),
        ("uvx", "mcp-server-time"),
        ("uvx", "--from", "git+https://github.com/a/b", "x"),
        ("uvx", "pkg>=1.0"),
        ("uv", "tool", "run", "pkg"),
        ("pipx", "run", "pkg"),
        ("docker", "run", "-i", "--rm", "mcp/time"),
        ("docker", "run", "-e", "A", "mcp/time:latest"),
    ],
)
def test_a_package_without_a_fixed_version_is_flagged(words: tuple[str, ...]) -> None:
    """What runs tomorrow has to be what was approved today."""
    assert "unpinned" in codes(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("npx", "-y", "@modelcontextprotocol/server-filesystem@2026.7.10", "/srv"),
        ("npx", "-p", "pkg@1.2.3", "run"),
        ("npx", "./local"),
        ("uvx", "mcp-server-time==2026.10.1"),
        ("uvx", "pkg@1.2.3"),
        ("uvx", "--from", "pkg==1.0", "x"),
        ("uvx", "--from", "git+https://github.com/a/b@" + "a" * 40, "x"),
        ("docker", "run", "-i", "mcp/time@sha256:" + "a" * 64),
        ("/usr/bin/server", "-y", "pkg"),
        ("python", "server.py"),
    ],
)
def test_a_fixed_version_is_not_flagged(words: tuple[str, ...]) -> None:
    """An exact version, a commit, a digest or a program of this machine stays what it is."""
    assert not codes(*words) & {"unpinned", "shell", "inline"}


def test_what_a_server_gets_of_the_machine_is_flagged() -> None:
    """No sandbox is grave; a network, folders to write in and visible secrets are told."""
    assert codes("/bin/x", sandbox=False) == {"no-sandbox"}
    assert codes("/bin/x", "{{secret:a}}", network=True, folders=["/srv:rw"]) == {"network", "writes", "visible"}
    assert "inline" in codes("python3", "-c", "import os")
    assert codes("/bin/x", "a") == set()
