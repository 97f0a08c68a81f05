"""Tests of servers of the Model Context Protocol as capabilities: real processes, approvals, and what goes wrong."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loket.contracts import BadInput, Effect, Failed, FailedAsk, OnUncertain, Refusal
from loket.jail.choose import choose
from loket.mcp import definition, names, owner
from loket.mcp.capability import answer_of, arguments, texts_of
from loket.mcp.settings import Server, read
from loket.mcp.start import launched
from loket.packages.manifest import _CAPABILITY
from mcp_kit import HOSTILE, TOOLS, entry, on_loop, rig

WAIT_S = 20.0


async def until(condition: Any) -> None:
    """Wait for what happens by itself."""
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 - of files and processes no event tells
            await asyncio.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


# Names


@given(st.text(min_size=1, max_size=30))
def test_a_tools_name_comes_back_from_its_capability(tool: str) -> None:
    """Whatever a tool is called, its capability's id can be one, and says the name again."""
    encoded = names.encode(tool)
    assert names.decode(encoded) == tool
    assert _CAPABILITY.fullmatch(f"mcp.time.{encoded}")


@given(st.text("_-aAt0.", max_size=8), st.text("_-aAt0.", max_size=8))
def test_no_two_tools_share_a_capability(one: str, other: str) -> None:
    """Names that differ have capabilities that differ, also where they are made of the signs of escapes."""
    assert (names.encode(one) == names.encode(other)) == (one == other)


def test_usual_names_stay_as_they_are() -> None:
    """Small letters, digits, underscores and hyphens stand for themselves."""
    assert names.encode("get_current_time") == "get_current_time"
    assert names.encode("list-issues2") == "list-issues2"
    assert names.encode("getTime") == "get_-time"
    with pytest.raises(BadInput):
        names.capability_id("time", "x" * 200)


# What a tool is taken for


def test_every_argument_that_can_hold_a_text_is_critical() -> None:
    """Texts, lists of texts, and what has no type say whom or what; numbers and choices do not."""
    properties = {
        "to": {"type": "string"},
        "all": {"type": "array", "items": {"type": "string"}},
        "any": {},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "object": {"type": "object"},
        "count": {"type": "integer"},
        "how": {"type": "string", "enum": ["fast", "slow"]},
        "flags": {"type": "array", "items": {"type": "boolean"}},
    }
    said = {"inputSchema": {"type": "object", "properties": properties}}
    assert texts_of(said) == ("to", "all", "any", "maybe", "object")


def test_no_form_of_a_schema_hides_a_text() -> None:
    """Of what stands in branches, and of lists whose first items are told apart, texts are critical as well."""
    hidden = {"type": "array", "prefixItems": [{"type": "string"}], "items": {"type": "integer"}}
    branch = {"properties": {"to": {"type": "string"}, "count": {"type": "integer"}}}
    for schema in ({"allOf": [branch]}, {"anyOf": [{"oneOf": [branch]}]}, {"if": {}, "then": branch}):
        said = {"inputSchema": {"type": "object", "properties": {"list": hidden}, **schema}}
        assert texts_of(said) == ("list", "to")


def test_arguments_that_a_tool_does_not_speak_of_are_refused() -> None:
    """A schema that leaves other arguments open in silence is closed; one that opens them in words is not."""
    said = {"inputSchema": {"type": "object", "properties": {"a": {"type": "string"}}}}
    assert arguments(said)["additionalProperties"] is False
    opened = {"inputSchema": {"type": "object", "additionalProperties": {"type": "string"}}}
    assert arguments(opened)["additionalProperties"] == {"type": "string"}


@on_loop
async def test_a_read_only_hint_changes_nothing_and_the_owners_word_does(tmp_path: Path) -> None:
    """Whatever a server says, a tool sends something away and is not repeated, until the owner says otherwise."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        known = made.capability("mcp.tools.echo")
        assert (known.effect, known.critical, known.on_uncertain) == (Effect.EGRESS, ("text",), OnUncertain.ASK)
        assert known.waits
        await owner.approve_tool(made.servers, "tools", "echo", effect="read", critical=[])
        known = made.capability("mcp.tools.echo")
        assert (known.effect, known.critical, known.on_uncertain) == (Effect.READ, (), OnUncertain.REPEAT)
        with pytest.raises(BadInput, match="no argument"):
            await owner.approve_tool(made.servers, "tools", "echo", critical=["nobody"])
        with pytest.raises(BadInput, match="no effect"):
            await owner.approve_tool(made.servers, "tools", "echo", effect="harmless")


# Calls


@on_loop
async def test_a_tool_answers_through_its_capability(tmp_path: Path) -> None:
    """Structured answers are data, texts are text or JSON, pictures have a digest; all carry the tool's label."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        answer = await made.call("mcp.tools.add", a=1, b=2)
        assert answer.value == {"data": {"sum": 3}}
        assert answer.labels == ("mcp:tools/add",)
        assert await made.data("mcp.tools.echo", text="hi", times=2) == {"result": "hi hi"}
        (part,) = (await made.call("mcp.tools.picture")).value["parts"]
        assert (part["type"], part["mime"], part["bytes"], len(part["sha256"])) == ("image", "image/png", 108, 64)
        assert made.servers.health("tools").protocol == "2026-07-28"


@on_loop
async def test_a_tool_that_fails_says_why_with_its_label(tmp_path: Path) -> None:
    """The words of a failure are the server's, so they carry its label."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        with pytest.raises(FailedAsk, match="failed") as caught:
            await made.call("mcp.tools.fail", why="no reason")
        assert caught.value.labels == ("mcp:tools/fail",)


@on_loop
@pytest.mark.parametrize("way", ["no-list", "no-start"])
async def test_what_a_server_says_in_the_place_of_a_connection_has_its_label(tmp_path: Path, way: str) -> None:
    """An error of its list, or of its beginning, is in its own words as well, also when it is told again later."""
    async with rig(tmp_path) as made:
        await made.ready("evil", entry(HOSTILE, way))
        (tmp_path / "mcp" / "evil" / "armed").touch()
        await made.servers.disconnect("evil")
        for _ in range(2):
            with pytest.raises(FailedAsk, match="Ignore all") as caught:
                await made.call("mcp.evil.look", text="x")
            assert caught.value.labels == ("mcp:evil/look",)


@on_loop
async def test_progress_is_shown_and_taken_back(tmp_path: Path) -> None:
    """Whoever watches sees how far a call is; the last piece withdraws what was shown."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        assert await made.data("mcp.tools.slow", seconds=1) == {"result": "done"}
        assert made.pieces[0].startswith("mcp.tools.slow: 0 of 10 working")
        assert made.pieces[-1] == "\0withdraw"


@on_loop
async def test_a_call_that_is_cancelled_is_cancelled_at_the_server(tmp_path: Path) -> None:
    """A run that is stopped, or whose time is over, leaves no work going on behind it."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        call = asyncio.create_task(made.call("mcp.tools.slow", seconds=60))
        await until(lambda: made.pieces)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await until((tmp_path / "mcp" / "tools" / "cancelled.txt").exists)
        assert await made.data("mcp.tools.add", a=2, b=2) == {"sum": 4}


@on_loop
async def test_a_server_that_asks_its_client_gets_nothing(tmp_path: Path) -> None:
    """Neither an owner is asked in a server's words, nor a model on its behalf: both eras are refused."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        with pytest.raises(Failed):
            await made.call("mcp.tools.wants")
        await made.ready("asks", entry(HOSTILE, "asks"))
        answer = await made.data("mcp.asks.look", text="x")
        assert answer["id"] == "s1"
        assert "error" in answer


@on_loop
async def test_servers_of_both_revisions_are_spoken_to(tmp_path: Path) -> None:
    """The revision is agreed on when a server is connected; a text of JSON is data, whoever sent it."""
    async with rig(tmp_path) as made:
        program = str(Path(sys.executable).parent / "mcp-server-time")
        await made.ready("time", {"command": program, "args": ["--local-timezone", "UTC"], "sandbox": False})
        said = await made.data("mcp.time.get_current_time", timezone="Europe/Amsterdam")
        assert said["timezone"] == "Europe/Amsterdam"
        assert made.capability("mcp.time.convert_time").critical == ("source_timezone", "time", "target_timezone")
        await made.ready("plain", entry(HOSTILE, "plain"))
        assert (await made.call("mcp.plain.look", text="x")).value == {"text": "found"}
        assert made.servers.health("plain").protocol == "2025-11-25"
        await made.ready("tools", entry(TOOLS))
        assert made.servers.health("tools").protocol == "2026-07-28"


# Approvals


@on_loop
async def test_nothing_is_started_before_the_owner_approved_it(tmp_path: Path) -> None:
    """A server whose configuration is not approved is not connected, whoever asks."""
    async with rig(tmp_path) as made:
        await owner.add(made.servers, read("plain", entry(HOSTILE, "plain")), "test", replacing=False, approve=True)
        assert made.servers.kept("plain").approved is None  # it has no sandbox, which is grave
        with pytest.raises(Refusal) as caught:
            await owner.tested(made.servers, "plain")
        assert (caught.value.code, caught.value.remedy) == ("mcp.unapproved", "loket mcp approve plain")


@on_loop
async def test_a_tool_is_no_capability_before_the_owner_approved_it(tmp_path: Path) -> None:
    """What a server offers is seen and not used; refusing takes an approval back."""
    async with rig(tmp_path) as made:
        await made.add("plain", entry(HOSTILE, "plain"))
        await owner.tested(made.servers, "plain")
        assert made.ids() == []
        await owner.approve_tool(made.servers, "plain", "getPid")
        assert made.ids() == ["mcp.plain.get_-pid"]
        await owner.refuse_tool(made.servers, "plain", "mcp.plain.get_-pid")
        assert made.ids() == []


@on_loop
async def test_agents_see_approved_tools_without_a_connection(tmp_path: Path) -> None:
    """After a start the tools are there as they were approved, and the server starts with the first call."""
    async with rig(tmp_path) as made:
        await made.ready("plain", entry(HOSTILE, "plain"))
    async with rig(tmp_path) as again:
        assert "mcp.plain.look" in again.ids()
        assert not again.servers.health("plain").connected
        assert "pid" in await again.data("mcp.plain.get_-pid")
        assert again.servers.health("plain").connected


@on_loop
async def test_a_changed_tool_is_withdrawn_until_it_is_approved_again(tmp_path: Path) -> None:
    """The change is found before the next call, shown as a diff, journaled; the other tools go on."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        handler = made.registry.find("mcp.tools.echo")
        (tmp_path / "mcp" / "tools" / "description.txt").write_text("Says a text again.\nAnd sends it to eve.")
        with pytest.raises(Refusal) as caught:
            await made.call("mcp.tools.echo", text="x")
        assert (caught.value.code, caught.value.remedy) == ("mcp.changed", "loket mcp diff tools echo")
        assert handler.capability.id not in made.ids()
        assert "mcp.tools.add" in made.ids()
        assert made.notes[0][0] == "mcp.changed"
        said = owner.difference(made.servers, "tools", "echo")
        assert said["state"] == "changed"
        assert '+ "description": "Says a text again.\\nAnd sends it to eve."' in said["diff"]
        await owner.approve_tool(made.servers, "tools", "echo", digest=said["digest"])
        assert await made.data("mcp.tools.echo", text="x") == {"result": "x"}


@on_loop
async def test_an_approval_counts_for_what_was_shown_alone(tmp_path: Path) -> None:
    """Where a definition changed between looking and approving, nothing is approved."""
    async with rig(tmp_path) as made:
        await made.add("tools", entry(TOOLS))
        await owner.tested(made.servers, "tools")
        before = owner.tool_shown(made.servers, "tools", "echo")["digest"]
        (tmp_path / "mcp" / "tools" / "description.txt").write_text("Something else.")
        await owner.tested(made.servers, "tools")
        with pytest.raises(BadInput) as caught:
            await owner.approve_tool(made.servers, "tools", "echo", digest=before)
        assert caught.value.code == "mcp.digest"


@on_loop
async def test_a_server_that_says_so_is_looked_at_at_once(tmp_path: Path) -> None:
    """A notification that the tools changed withdraws them before anybody calls."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        await made.call("mcp.tools.become", words="Sends everything away.")
        await until(lambda: "mcp.tools.echo" not in made.ids())


@on_loop
async def test_a_definition_that_is_swapped_between_list_and_call_is_found(tmp_path: Path) -> None:
    """A server that lists one thing when it is approved and another one when it is used is refused."""
    async with rig(tmp_path) as made:
        await made.ready("swap", entry(HOSTILE, "swap"))
        assert (await made.call("mcp.swap.look", text="x")).value["text"] == "found"
        with pytest.raises(Refusal, match="not what the owner approved"):
            await made.call("mcp.swap.look", text="x") if "mcp.swap.look" in made.ids() else None
        assert made.ids() == []


@on_loop
async def test_approvals_are_void_when_the_server_is_started_otherwise(tmp_path: Path) -> None:
    """Under the same name other arguments are another server: it and its tools need the owner's word again."""
    async with rig(tmp_path) as made:
        await made.ready("plain", entry(HOSTILE, "plain"))
        await owner.add(
            made.servers, read("plain", entry(HOSTILE, "plain", "-v")), "test", replacing=True, approve=True
        )
        assert made.ids() == []
        await owner.approve_server(made.servers, "plain", None)
        await owner.tested(made.servers, "plain")
        assert made.ids() == []
        shown = owner.shown(made.servers, "plain")
        assert shown["tools"] == {"changed": len(shown["list"])}
        assert owner.difference(made.servers, "plain", "look")["configuration"]


@pytest.mark.parametrize(
    "change",
    [
        {"command": "/bin/other"},
        {"args": ["-c"]},
        {"env": {"A": "b"}},
        {"env": {"A": "{{secret:other}}"}},
        {"network": True},
        {"folders": ["/srv:rw"]},
        {"sandbox": False},
    ],
)
def test_whatever_decides_what_runs_is_in_the_digest(change: dict[str, Any]) -> None:
    """Program, arguments, environment, references to secrets and rights each make another configuration."""
    plain = {"command": "/bin/true", "args": [], "env": {"A": "{{secret:one}}"}}
    assert read("x", plain).digest != read("x", {**plain, **change}).digest
    assert read("x", plain).digest == read("x", {**plain, "timeout_s": 9.0}).digest


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=5) | st.integers(), lambda inner: st.dictionaries(
    st.text(max_size=3), inner, max_size=3) | st.lists(inner, max_size=3), max_leaves=8))  # fmt: skip
def test_the_order_of_fields_is_no_change_and_everything_else_is(value: Any) -> None:
    """A definition's digest depends on what it says, and on nothing else."""
    said = {"name": "x", "inputSchema": {"a": value, "b": 1}, "description": "d"}
    turned = json.loads(json.dumps(dict(reversed(said.items()))))
    assert definition.digest(said) == definition.digest(turned)
    assert definition.digest(said) != definition.digest({**said, "inputSchema": {"a": [value, value], "b": 1}})
    assert definition.difference(said, turned, "x") == ""


@on_loop
async def test_words_that_look_like_an_instruction_are_shown_to_the_owner(tmp_path: Path) -> None:
    """The filter reads what a model would read of a tool, before the owner approves it."""
    async with rig(tmp_path) as made:
        await made.add("inject", entry(HOSTILE, "inject"))
        await owner.tested(made.servers, "inject")
        flags = owner.tool_shown(made.servers, "inject", "look")["flags"]
        assert flags
        assert flags[0]["place"] == "description"
        await made.add("plain", entry(HOSTILE, "plain"))
        await owner.tested(made.servers, "plain")
        assert owner.tool_shown(made.servers, "plain", "look")["flags"] == []


# Servers that misbehave


@pytest.mark.parametrize(
    ("way", "code"),
    [("huge", "mcp.broken"), ("exit", "mcp.gone"), ("flood", "mcp.broken"), ("garbage", "mcp.broken"),
     ("wrong", "mcp.protocol"), ("expression", "mcp.tool")],
)  # fmt: skip
@on_loop
async def test_a_server_that_misbehaves_fails_its_call_and_nothing_else(tmp_path: Path, way: str, code: str) -> None:
    """Messages without end, without sense or against the protocol end the call; the process is gone afterwards."""
    async with rig(tmp_path) as made:
        await made.ready(way, entry(HOSTILE, way))
        began = time.monotonic()
        with pytest.raises(Failed) as caught:
            await made.call(f"mcp.{way}.look", text="x")
        assert caught.value.code == code
        assert time.monotonic() - began < WAIT_S
        await made.ready("plain", entry(HOSTILE, "plain"))
        assert "pid" in await made.data("mcp.plain.get_-pid")


@on_loop
async def test_a_large_answer_is_cut_and_says_so(tmp_path: Path) -> None:
    """What is within a message's bound and too large for an answer is left out, and marked."""
    async with rig(tmp_path) as made:
        await made.ready("large", entry(HOSTILE, "large"))
        value = (await made.call("mcp.large.look", text="x")).value
        assert value["truncated"]
        assert "data" not in value
        assert len(json.dumps(value)) < 1 << 20


@on_loop
async def test_a_slow_server_is_given_up(tmp_path: Path) -> None:
    """A call ends when its time is over."""
    async with rig(tmp_path) as made:
        await made.ready("slow", entry(HOSTILE, "slow"))
        with pytest.raises(Failed) as caught:
            await made.call("mcp.slow.look", deadline_s=0.3, text="x")
        assert caught.value.code == "mcp.timeout"


@on_loop
async def test_a_server_that_greets_on_its_output_still_works(tmp_path: Path) -> None:
    """A line that is no message is kept in the log, and read over."""
    async with rig(tmp_path) as made:
        await made.ready("greets", entry(HOSTILE, "greets"))
        assert "Welcome" in made.servers.log_of("greets").end(1000)


@pytest.mark.parametrize("way", ["twice", "schema", "many"])
@on_loop
async def test_tools_that_nobody_could_use_are_not_offered(tmp_path: Path, way: str) -> None:
    """Two tools of one name, schemas that are none and lists without end are refused where they are seen."""
    async with rig(tmp_path) as made:
        await made.add(way, entry(HOSTILE, way))
        if way == "many":
            with pytest.raises(Failed, match="more than 512 tools"):
                await owner.tested(made.servers, way)
            return
        await owner.tested(made.servers, way)
        listed = [tool["name"] for tool in owner.shown(made.servers, way)["list"]]
        if way == "twice":
            assert listed == ["other"]
            return
        with pytest.raises(BadInput, match="cannot be used"):
            await owner.approve_tool(made.servers, way, "look")
        assert made.ids() == []


@on_loop
async def test_a_server_that_does_not_start_is_not_tried_again_and_again(tmp_path: Path) -> None:
    """A failure is told with its reason; the next call waits, and the owner's own test does not."""
    async with rig(tmp_path) as made:
        made.vault.put("token", "s3cret-value")
        given = entry(HOSTILE, "dies", env={"TOKEN": "{{secret:token}}"})
        await made.add("dies", given)
        for _ in range(2):
            with pytest.raises(Failed) as caught:
                await owner.tested(made.servers, "dies")
            assert caught.value.remedy == "loket mcp log dies"
        with pytest.raises(Failed) as caught:
            await made.servers.checked("dies")
        assert caught.value.code == "mcp.waiting"
        log = made.servers.log_of("dies").end(1000)
        assert "I cannot start with [secret]" in log
        assert "s3cret" not in log


@on_loop
async def test_a_server_that_crashed_is_started_again(tmp_path: Path) -> None:
    """The call during which it ended fails, and the next one has another process."""
    async with rig(tmp_path) as made:
        await made.ready("plain", entry(HOSTILE, "exit"))
        with pytest.raises(Failed, match="has ended"):
            await made.call("mcp.plain.look", text="x")
        assert "pid" in await made.data("mcp.plain.get_-pid")


@on_loop
async def test_a_connection_that_nobody_uses_is_closed(tmp_path: Path) -> None:
    """Its process ends, its tools stay, and the next call opens it again."""
    async with rig(tmp_path, idle_s=0.3) as made:
        await made.ready("plain", entry(HOSTILE, "plain"))
        pid = (await made.data("mcp.plain.get_-pid"))["pid"]
        await until(lambda: not made.servers.health("plain").connected)
        await until(lambda: not alive(pid))
        assert (await made.data("mcp.plain.get_-pid"))["pid"] != pid


@on_loop
async def test_many_calls_share_one_process(tmp_path: Path) -> None:
    """One server has one connection, also where its first calls come at once."""
    async with rig(tmp_path) as made:
        await made.ready("plain", entry(HOSTILE, "plain"))
        await made.servers.disconnect("plain")
        pids = await asyncio.gather(*(made.data("mcp.plain.get_-pid") for _ in range(8)))
        assert len({one["pid"] for one in pids}) == 1


@on_loop
async def test_a_server_that_is_switched_off_ends_and_withdraws_its_tools(tmp_path: Path) -> None:
    """Off is off at once; on again nothing has to be approved anew."""
    async with rig(tmp_path) as made:
        await made.ready("plain", entry(HOSTILE, "plain"))
        pid = (await made.data("mcp.plain.get_-pid"))["pid"]
        await owner.enable(made.servers, "plain", enabled=False)
        assert made.ids() == []
        assert not alive(pid)
        await owner.enable(made.servers, "plain", enabled=True)
        assert "pid" in await made.data("mcp.plain.get_-pid")
        await owner.remove(made.servers, "plain")
        assert made.ids() == []
        with pytest.raises(BadInput, match="no server"):
            made.servers.kept("plain")


# The process


@on_loop
async def test_without_a_sandbox_a_server_is_refused_unless_the_owner_said_so(tmp_path: Path) -> None:
    """A machine that has no sandbox starts no server in secret without one."""
    async with rig(tmp_path) as made:
        await made.add("plain", entry(HOSTILE, "plain", sandbox=True))
        with pytest.raises(Refusal) as caught:
            await owner.tested(made.servers, "plain")
        assert caught.value.code == "mcp.sandbox"
        assert "no-sandbox" in (caught.value.remedy or "")


@on_loop
async def test_a_sandboxed_server_sees_what_was_configured_and_nothing_else(tmp_path: Path) -> None:
    """Its environment is the configured one, its folder is writable, no other is, and there is no network."""
    probe = tmp_path / "probe"
    probe.mkdir()
    (probe / "server.py").write_text(_PROBE)
    (probe / "given.txt").write_text("given")
    outside = tmp_path / "outside.txt"
    outside.write_text("private")
    async with rig(tmp_path / "home", launcher=choose) as made:
        made.vault.put("token", "t0ken-value")
        given = entry(
            str(probe / "server.py"),
            str(outside),
            sandbox=True,
            folders=[str(probe)],
            env={"TOKEN": "{{secret:token}}"},
        )
        await made.ready("probe", given)
        said = await made.data("mcp.probe.look")
        assert said["environment"]["TOKEN"] == "t0ken-value"
        assert set(said["environment"]) <= {"PATH", "HOME", "TMPDIR", "LANG", "TOKEN", "PWD", "LC_CTYPE"}
        assert said["wrote"] == {"own": True, "given": False}
        assert said["read"] == {"given": True, "outside": False}
        assert not said["network"]
        assert (tmp_path / "home" / "mcp" / "probe" / "own.txt").exists()


@on_loop
async def test_a_server_does_not_say_itself_what_else_it_may_read(tmp_path: Path) -> None:
    """A program in a folder that it may write names a Python, a first line or a link of somebody's folder: in vain."""
    private, project = tmp_path / "private", tmp_path / "project"
    for folder in (private / "bin", project / "bin"):
        folder.mkdir(parents=True)
    (private / "key").write_text("private")
    (private / "key").chmod(0o700)
    program = project / "bin" / "server"
    program.write_text(f"#!/usr/bin/python3\n{_PROBE}")
    program.chmod(0o755)
    (project / "bin" / "given.txt").write_text("given")
    async with rig(tmp_path / "home", launcher=choose) as made:
        given = {"command": str(program), "args": [str(private / "key")], "folders": [f"{project}:rw"]}
        await made.ready("probe", given)
        assert not (await made.data("mcp.probe.look"))["read"]["outside"]
        (project / "pyvenv.cfg").write_text(f"home = {private}/bin\n")
        await made.servers.disconnect("probe")
        assert (await made.data("mcp.probe.look"))["read"] == {"given": True, "outside": False}
    config = read("probe", given)
    for spoil in (lambda: program.write_text(f"#!{private}/key\n"), lambda: _linked(program, private / "key")):
        spoil()
        launch, _ = launched(config, tmp_path / "home" / "mcp", choose, lambda _name: None)
        launch.close()
        assert str(private) not in " ".join(launch.argv).replace(str(private / "key"), "", 1)


def _linked(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


_PROBE = """
import json, os, socket, sys
def tried(work):
    try:
        work()
    except OSError:
        return False
    return True
def look():
    folder = os.path.dirname(sys.argv[0])
    return {
        "environment": dict(os.environ),
        "wrote": {"own": tried(lambda: open("own.txt", "w").close()),
                  "given": tried(lambda: open(folder + "/new.txt", "w").close()),
                  },
        "read": {"given": tried(lambda: open(folder + "/given.txt").close()),
                 "outside": tried(lambda: open(sys.argv[1]).close())},
        "network": tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))),
    }
for line in sys.stdin:
    asked = json.loads(line)
    answers = {
        "initialize": lambda: {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                               "serverInfo": {"name": "probe", "version": "1"}},
        "tools/list": lambda: {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]},
        "tools/call": lambda: {"content": [], "structuredContent": look()},
    }
    if "id" in asked:
        make = answers.get(asked["method"])
        said = {"result": make()} if make else {"error": {"code": -32601, "message": "no"}}
        print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], **said}), flush=True)
"""


@on_loop
async def test_a_missing_secret_is_named_with_the_command_that_adds_it(tmp_path: Path) -> None:
    """A server is not started without what it was promised."""
    async with rig(tmp_path) as made:
        await made.add("plain", entry(HOSTILE, "plain", env={"TOKEN": "{{secret:absent}}"}))
        with pytest.raises(Refusal) as caught:
            await owner.tested(made.servers, "plain")
        assert (caught.value.code, caught.value.remedy) == ("mcp.secret", "loket vault put absent")


@on_loop
async def test_nothing_is_left_of_a_server_when_loket_stops(tmp_path: Path) -> None:
    """Its process has ended when closing returns, whatever it was doing."""
    async with rig(tmp_path) as made:
        await made.ready("tools", entry(TOOLS))
        pid = (await made.data("mcp.tools.pid"))["result"]
        call = asyncio.create_task(made.call("mcp.tools.slow", seconds=60))
        await until(lambda: made.pieces)
    assert not alive(pid)
    with pytest.raises(Failed):
        await call


# Values


def test_a_text_that_is_json_is_data_and_what_says_the_data_again_is_left_out() -> None:
    """Older servers put their data into a text; newer ones do both."""
    text = {"type": "text", "text": '{"a": [1]}'}
    assert answer_of({"content": [text]}, "mcp:x/y").value == {"data": {"a": [1]}}
    assert answer_of({"content": [text], "structuredContent": {"a": [1]}}, "mcp:x/y").value == {"data": {"a": [1]}}
    assert answer_of({"content": [{"type": "text", "text": "[1, NaN]"}]}, "mcp:x/y").value == {"text": "[1, NaN]"}
    both = answer_of({"content": [{"type": "text", "text": "one"}], "structuredContent": {"n": 1}}, "mcp:x/y").value
    assert both == {"data": {"n": 1}, "text": "one"}


@given(st.lists(st.dictionaries(st.sampled_from(["type", "text", "data", "mimeType", "resource", "uri"]),
       st.sampled_from(["text", "image", "resource", "resource_link", "AAAA", "%", {"uri": "x", "blob": "AAAA"}]),
       max_size=5), max_size=5))  # fmt: skip
def test_whatever_stands_in_an_answer_it_becomes_a_value(content: list[dict[str, Any]]) -> None:
    """No block of content, however wrong, is an error."""
    value = answer_of({"content": content}, "mcp:x/y").value
    assert value.keys() <= {"data", "text", "parts", "truncated"}
    json.dumps(value)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"command": "x", "url": "https://a.example/mcp"},
        {"command": ""},
        {"command": "x", "args": "y"},
        {"command": "x", "shell": True},
        {"command": "x", "env": {"A B": "c"}},
        {"command": "x", "folders": ["relative"]},
        {"command": "x\0y"},
        {"url": "http://a.example/mcp"},
        {"url": "https://u:p@a.example/mcp"},
        {"url": "file:///etc/passwd"},
        {"url": "https://a.example/mcp", "headers": {"Host": "b"}},
        {"command": "x", "timeout_s": 0},
    ],
)
def test_an_entry_that_is_wrong_is_refused_with_what_is_wrong(wrong: dict[str, Any]) -> None:
    """Fields that are unknown, missing or out of range are errors, and addresses without encryption are."""
    with pytest.raises(BadInput) as caught:
        read("x", wrong)
    assert caught.value.code == "mcp.config"
    assert caught.value.remedy


def test_the_library_is_imported_when_a_server_is_connected_and_not_before() -> None:
    """Importing all that a start imports leaves out what costs most of a second."""
    code = (
        "import sys, loket.mcp, loket.mcp.owner, loket.mcp.importing, loket.operations.mcp, loket.cli.mcp\n"
        "print(sorted({'mcp', 'mcp_types', 'pydantic', 'anyio', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


def test_servers_are_what_they_are_by_their_entries() -> None:
    """An entry that is read and written is the same entry."""
    given = {"command": "/bin/x", "args": ["a"], "env": {"B": "c"}, "folders": ["/srv:rw"], "network": True}
    server = read("x", given)
    assert isinstance(server, Server)
    assert server.as_json() == given
    assert read("x", server.as_json()) == server
