"""Tests of `exec.run`: off by default, listed programs alone, and what comes back of them, in the real sandbox."""

import asyncio
import base64
import os
import time
from pathlib import Path
from typing import Any

import pytest

from loket.contracts import Answer, BadInput, Call, Principal, Refusal
from loket.contracts.catalogue_exec import EXEC
from loket.jail.choose import choose
from loket.providers.exec import ExecProvider, ExecSettings, exec_settings
from loket.testing.provider_conformance import Example, assert_provider

CAT, SORT, SLEEP = "/usr/bin/cat", "/usr/bin/sort", "/usr/bin/sleep"
SH = "/usr/bin/sh"
"""A shell is a program like any other where an owner lists it: here it shows what a program can do."""


def _call(args: dict[str, Any], agent: str = "main", deadline_s: float = 30) -> Call:
    return Call("r", 1, agent, "c", Principal("owner", ""), "exec.run", args, (), {}, deadline_s=deadline_s)


def _provider(folder: Path, *allow: str, **more: Any) -> ExecProvider:
    return ExecProvider(folder, ExecSettings(tuple(map(Path, allow)), **more), choose)


def _run(provider: ExecProvider, **args: Any) -> dict[str, Any]:
    answer = asyncio.run(provider.run(_call(args)))
    assert isinstance(answer, Answer)
    return dict(answer.value)


def _sh(folder: Path, script: str, **args: Any) -> dict[str, Any]:
    return _run(_provider(folder, SH), binary=SH, arguments=["-c", script], **args)


def test_a_listed_program_runs_with_its_arguments_input_and_files(tmp_path: Path) -> None:
    """No shell comes in between, and the files that are asked for come back."""
    answer = _run(
        _provider(tmp_path, SORT),
        binary=SORT,
        arguments=["-o", "out.txt", "-", "more.txt"],
        input="b\na\n",
        files={"more.txt": "c\n"},
        take=["out.txt", "missing.txt"],
    )
    assert answer["exit_code"] == 0
    assert answer["files"] == {"out.txt": {"text": "a\nb\nc\n", "encoding": "utf-8", "truncated": False}}
    assert list((tmp_path / "main").iterdir()) == []


def test_arguments_are_passed_as_they_are(tmp_path: Path) -> None:
    """Nothing is expanded, split or run."""
    given = ["$(id)", "`id`", "; id", "*", "a b", ""]
    answer = _run(_provider(tmp_path, "/usr/bin/printf"), binary="/usr/bin/printf", arguments=["%s|", *given])
    assert answer["stdout"]["text"] == "|".join(given) + "|"


def test_nothing_runs_until_the_owner_lists_it(tmp_path: Path) -> None:
    """Off without a list, and refused beyond it, also under another spelling; each refusal says what to write."""
    with pytest.raises(Refusal) as off:
        _run(_provider(tmp_path), binary=CAT)
    assert off.value.code == "exec.off"
    assert "allow = [" in str(off.value.remedy)
    for other in (SORT, "cat", "/usr/bin/../bin/cat", "/usr//bin/cat", "/usr/bin/cat/"):
        with pytest.raises(Refusal) as refused:
            _run(_provider(tmp_path, CAT), binary=other)
        assert refused.value.code == "exec.binary"
    with pytest.raises(Refusal) as missing:
        _run(_provider(tmp_path, "/usr/bin/no-such-program"), binary="/usr/bin/no-such-program")
    assert missing.value.code == "exec.binary"


def test_a_grant_has_to_name_the_program_too() -> None:
    """The capability is granted for programs by name, never for all that are listed."""
    (constraint,) = EXEC[0].constraints
    assert (constraint.name, constraint.argument, constraint.required) == ("binaries", "binary", True)


def test_a_program_sees_neither_the_home_nor_the_network_nor_what_is_left_of_others(tmp_path: Path) -> None:
    """Its folder is new for each call, and all that it can write in."""
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "notes.md").write_text("private")
    script = f"cat {tmp_path}/main/notes.md; ls -A; ls /root /home; echo x > {tmp_path}/x; echo x > left; env"
    for _ in range(2):
        answer = _sh(tmp_path, script)
        assert "private" not in answer["stdout"]["text"]
        assert "left" not in answer["stdout"]["text"]
        assert not (tmp_path / "x").exists()
        names = {line.partition("=")[0] for line in answer["stdout"]["text"].splitlines()}
        assert names - {"_", "OLDPWD", "SHLVL"} == {"PATH", "LANG", "HOME", "TMPDIR", "PWD"}


def test_a_program_that_does_not_end_is_ended(tmp_path: Path) -> None:
    """After its time, with what it said until then."""
    began = time.monotonic()
    answer = _sh(tmp_path, "echo before; sleep 600 & sleep 600", timeout_s=1)
    assert time.monotonic() - began < 20
    assert (answer["timed_out"], answer["exit_code"], answer["stdout"]["text"]) == (True, None, "before\n")


@pytest.mark.parametrize("stream", [1, 2])
def test_a_program_that_writes_without_end_is_ended_in_time(tmp_path: Path, stream: int) -> None:
    """The call ends with its time, although nobody has read all that was written; the beginning of it is there."""
    script = f"while :; do echo {'x' * 1000} >&{stream}; done"
    provider = _provider(tmp_path, SH)

    async def given_up() -> Any:
        call = _call({"binary": SH, "arguments": ["-c", script], "timeout_s": 1.0})
        return await asyncio.wait_for(provider.run(call), 20)

    answer = dict(asyncio.run(given_up()).value)
    assert answer["timed_out"]
    assert answer[("stdout", "stderr")[stream - 1]]["truncated"]


def test_a_call_that_is_given_up_ends_its_program(tmp_path: Path) -> None:
    """A run that is stopped leaves no program and no folder."""

    async def given_up() -> None:
        task = asyncio.create_task(_provider(tmp_path, SLEEP).run(_call({"binary": SLEEP, "arguments": ["4242.25"]})))
        while not _sleeping():  # noqa: ASYNC110 - another process has to come up
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(given_up(), 30))
    assert not _sleeping()
    assert list((tmp_path / "main").iterdir()) == []


def _sleeping() -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().split(b"\0")[:2] == [SLEEP.encode(), b"4242.25"]:
                return True
        except OSError:
            continue
    return False


def test_outputs_are_bounded_and_say_so(tmp_path: Path) -> None:
    """A program that writes without end is heard until the bound, and not kept in memory."""
    answer = _sh(tmp_path, "yes | head -c 50000000; yes é | head -c 50000000 >&2")
    assert (len(answer["stdout"]["text"]), answer["stdout"]["truncated"]) == (256 << 10, True)
    assert answer["stderr"]["encoding"] == "utf-8"
    assert answer["stderr"]["truncated"]
    assert answer["exit_code"] == 0


def test_what_is_no_text_comes_as_base64(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, and control characters."""
    for written, expected in ((r"\377\376", b"\xff\xfe"), (r"a\000b", b"a\0b")):
        answer = _sh(tmp_path, f"printf '{written}'")
        assert answer["stdout"]["encoding"] == "base64"
        assert base64.b64decode(answer["stdout"]["text"]) == expected


def test_a_link_is_never_followed_out_of_the_folder(tmp_path: Path) -> None:
    """Neither when files are taken nor when the folder is removed; folders that were closed go too."""
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    secret.chmod(0o640)
    script = (
        f"ln -s {secret} link; mkfifo pipe; mkdir -p a/b/c; ln -s {tmp_path} a/b/out; : > a/b/c/f; chmod 0 a/b/c a/b"
    )
    answer = _sh(tmp_path, script, take=["link", "pipe", "a"])
    assert answer["files"] == {}
    assert secret.read_text() == "secret"
    assert secret.stat().st_mode & 0o777 == 0o640
    assert list((tmp_path / "main").iterdir()) == []


def test_a_deep_folder_is_removed_too(tmp_path: Path) -> None:
    """Deeper than paths may be long."""
    script = "i=0; while [ $i -lt 600 ]; do mkdir deeply; cd deeply; i=$((i+1)); done"
    assert _sh(tmp_path, script, timeout_s=60)["exit_code"] == 0
    assert list((tmp_path / "main").iterdir()) == []


def test_what_a_crash_left_is_removed_at_the_start(tmp_path: Path) -> None:
    """Folders of calls that nobody finished."""
    left = tmp_path / "main" / ".loket-exec-x"
    (left / "inner").mkdir(parents=True)
    (tmp_path / "main" / "notes.md").write_text("kept")
    asyncio.run(_provider(tmp_path).start())
    assert os.listdir(tmp_path / "main") == ["notes.md"]  # noqa: PTH208 - names are enough


def test_a_program_is_held_to_its_memory(tmp_path: Path) -> None:
    """What takes more than the settings allow is ended."""
    script = "x=$(head -c 300000000 /dev/zero | tr '\\0' a); echo ${#x}"
    answer = _run(_provider(tmp_path, SH, memory_mb=64), binary=SH, arguments=["-c", script])
    assert "300000000" not in answer["stdout"]["text"]
    assert answer["exit_code"] != 0


def test_settings_are_checked() -> None:
    """Absolute paths, whole numbers, and nothing unknown."""
    settings = exec_settings({"allow": ["/usr/bin/jq"], "memory_mb": 64})
    assert (settings.allow, settings.memory_mb) == ((Path("/usr/bin/jq"),), 64)
    assert exec_settings({}).allow == ()
    for wrong in ({"allow": "x"}, {"allow": ["jq"]}, {"allow": ["/a/../b"]}, {"memory_mb": True}, {"shell": 1}):
        with pytest.raises(BadInput) as caught:
            exec_settings(wrong)
        assert caught.value.remedy


def test_exec_passes(tmp_path: Path) -> None:
    """`exec.run` keeps every promise of a provider, with programs that end and with one that does not."""
    examples = (
        Example("exec.run", {"binary": CAT, "input": "{mark}"}, other={"binary": CAT, "input": "other"}),
        Example("exec.run", {"binary": CAT, "arguments": ["a.txt"], "files": {"a.txt": "{mark}"}, "take": ["a.txt"]}),
        Example("exec.run", {"binary": SORT}, refused="grant.constraint"),
        Example("exec.run", {"binary": SLEEP, "arguments": ["600"], "timeout_s": 600}, hangs=True),
    )
    grants = {"exec.run": {"binaries": [CAT, SLEEP]}}
    assert_provider(lambda directory: _provider(directory, CAT, SLEEP), examples, tmp_path, grants=grants)
