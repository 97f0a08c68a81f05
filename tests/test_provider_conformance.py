"""The conformance suite for providers: ours pass it, and a provider that breaks a promise fails the check of it."""

import asyncio
import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import apsw
import pytest

from loket.contracts import (
    Answer,
    Call,
    Capability,
    Effect,
    Failed,
    Handler,
    OnUncertain,
    Provider,
    Refusal,
)
from loket.providers.brain import BrainProvider
from loket.providers.brain_schema import BRAIN_MIGRATIONS
from loket.providers.fs import FS_MIGRATIONS, FsProvider
from loket.providers.kv import KV_MIGRATIONS, KvProvider
from loket.providers.net import NetProvider
from loket.store.agents import AgentDatabases
from loket.testing.models import InstantModel
from loket.testing.provider_conformance import CHECKS, Example, assert_provider, check_provider


class OnFiles:
    """A provider together with the agents' databases that it works on: they are closed with it."""

    def __init__(self, provider: Provider, store: AgentDatabases) -> None:
        self.id = provider.id
        self._provider = provider
        self._store = store

    def handlers(self) -> Mapping[str, Handler]:
        return self._provider.handlers()

    async def start(self) -> None:
        await self._provider.start()

    async def close(self) -> None:
        await self._provider.close()
        self._store.close()


def on_files(directory: Path, migrations: Sequence[str], made: Callable[[AgentDatabases], Provider]) -> OnFiles:
    store = AgentDatabases(directory / "brains", migrations)
    return OnFiles(made(store), store)


def test_kv_passes(tmp_path: Path) -> None:
    """`kv.*` keeps every promise of a provider."""
    examples = (
        Example("kv.get", {"key": "colour"}),
        Example("kv.set", {"key": "colour", "value": "{mark} red"}, other={"key": "colour", "value": "blue"}),
        Example("kv.get", {"key": "colour"}),
        Example("kv.list", {"prefix": "c"}),
        Example("kv.set", {"key": "{mark}", "value": [1, {"a": None}]}, other={"key": "{mark}", "value": 1}),
        Example("kv.get", {"key": "{mark}"}),
        Example("kv.delete", {"key": "colour"}),
        Example("kv.list", {}),
    )
    assert_provider(lambda directory: on_files(directory, KV_MIGRATIONS, KvProvider), examples, tmp_path)


def test_brain_passes(tmp_path: Path) -> None:
    """`brain.*` keeps every promise of a provider."""
    examples = (
        Example("brain.search", {"query": "tea"}),
        Example(
            "brain.add", {"items": [{"text": "{mark} likes tea", "kind": "fact", "subject": "{mark}", "key": "x"}]}
        ),
        Example("brain.search", {"query": "{mark}", "limit": 5, "kinds": ["fact"], "as_of": "2027-01-01T00:00:00Z"}),
        Example("brain.correct", {"id": 1, "text": "{mark} likes coffee", "gist": "coffee"}),
        Example("brain.correct", {"id": 10_000, "text": "nobody"}, refused="brain.unknown"),
        Example("brain.lesson", {"text": "look first", "cause": "haste", "remedy": "look", "about": "kv.get"}),
        Example("brain.history", {"id": 1}),
        Example("brain.export", {"after": 0, "limit": 50}),
        Example("brain.forget", {"id": 1}),
    )
    assert_provider(
        lambda directory: on_files(directory, BRAIN_MIGRATIONS, lambda store: BrainProvider(store, time.time)),
        examples,
        tmp_path,
    )


def test_fs_passes(tmp_path: Path) -> None:
    """`fs.*` keeps every promise of a provider."""
    examples = (
        Example("fs.list", {}),
        Example("fs.write", {"path": "notes/a.md", "text": "{mark}"}, other={"path": "notes/a.md", "text": "b"}),
        Example("fs.read", {"path": "notes/a.md", "offset": 0, "limit": 100}),
        Example("fs.list", {"path": "notes", "after": "0", "limit": 10}),
        Example("fs.read", {"path": "../other/a.md"}, refused="fs.path"),
    )

    def make(directory: Path) -> Provider:
        return on_files(directory, FS_MIGRATIONS, lambda store: FsProvider(directory / "files", store))

    assert_provider(make, examples, tmp_path)


class NoSecrets:
    """An empty vault."""

    def get(self, _name: str) -> str | None:
        return None

    def put(self, name: str, value: str) -> None:
        raise AssertionError((name, value))

    def names(self) -> Sequence[str]:
        return ()


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with the path that was asked for."""

    def do_GET(self) -> None:
        body = self.path.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def echoing() -> Iterator[str]:
    """A real server on loopback; its address."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_net_passes(tmp_path: Path) -> None:
    """`net.fetch` keeps every promise of a provider, against a real server, and one that never answers."""
    with echoing() as base, socket.create_server(("127.0.0.1", 0)) as silent:
        hosts = [base.removeprefix("http://"), f"127.0.0.1:{silent.getsockname()[1]}"]
        examples = (
            Example("net.fetch", {"url": f"{base}/{{mark}}", "headers": {"accept": "*/*"}, "max_kb": 64}),
            Example("net.fetch", {"url": f"{base}/nothing", "method": "HEAD", "timeout_s": 5}),
            Example("net.fetch", {"url": f"http://{hosts[1]}/"}, hangs=True),
            Example("net.fetch", {"url": "http://127.0.0.1:1/"}, refused="grant.constraint"),
        )
        grants = {"net.fetch": {"hosts": hosts, "private": hosts}}
        assert_provider(lambda _directory: NetProvider(NoSecrets()), examples, tmp_path, grants=grants)


def test_the_model_for_tests_passes(tmp_path: Path) -> None:
    """`InstantModel` is a provider like any other."""
    examples = (
        Example("llm.models", {}),
        Example("llm.complete", {"messages": [{"role": "user", "content": "{mark}"}], "max_tokens": 16}),
    )
    assert_provider(lambda _directory: InstantModel(lambda messages: messages[-1]["content"]), examples, tmp_path)


# A provider that keeps all promises, and others that break one each

ANY = {"type": "object"}
TEXT = {
    "type": "object",
    "properties": {"text": {"type": "string", "maxLength": 1_000}},
    "required": ["text"],
    "additionalProperties": False,
}
NOTES = (
    Capability("notes.add", "adds", Effect.MODIFY, TEXT, ANY, on_uncertain=OnUncertain.DEDUPE, answer_kb=4, args_kb=8),
    Capability("notes.list", "lists", Effect.PRIVATE, ANY, {"type": "object", "required": ["notes"]}, timeout_s=1.0),
    Capability("notes.slow", "waits", Effect.READ, ANY, ANY, waits=True),
)
EXAMPLES = (
    Example("notes.add", {"text": "of {mark}"}),
    Example("notes.list", {}),
    Example("notes.slow", {"seconds": 0}),
    Example("notes.slow", {"seconds": 600}, hangs=True),
    Example("notes.add", {"text": "no"}, refused="notes.no"),
)
DECLARED, ANSWERS, LIFECYCLE, ERRORS, ONCE, APART, LIMITS, TIME, REPLAY, HOSTILE, PARALLEL = CHECKS


class Notes:
    """Notes by agent, in one SQLite file. Keeps every promise."""

    id = "notes"

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True, parents=True)
        self._path = directory / "notes.db"
        self._connection: apsw.Connection | None = None
        self._lock = threading.RLock()

    def handlers(self) -> Mapping[str, Handler]:
        return {"notes.add": self.add, "notes.list": self.list, "notes.slow": self.slow}

    async def start(self) -> None:
        connection = self._connection = apsw.Connection(str(self._path))
        connection.set_busy_timeout(5_000)
        connection.execute("CREATE TABLE IF NOT EXISTS notes (agent, text)")
        connection.execute("CREATE TABLE IF NOT EXISTS done (call UNIQUE, answer)")

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def key(self, call: Call) -> str:
        return f"{call.run} {call.ordinal}"

    def add(self, call: Call) -> Answer:
        text = self.checked(call.args["text"])
        with self._lock, self.connection:
            done = self.connection.execute("SELECT answer FROM done WHERE call = ?", (self.key(call),)).fetchone()
            if done is not None:
                return Answer(json.loads(done[0]))
            self.connection.execute("INSERT INTO notes VALUES (?, ?)", (self.owner(call), text))
            answer = {"count": len(self.notes(call))}
            self.connection.execute("INSERT INTO done VALUES (?, ?)", (self.key(call), json.dumps(answer)))
        return Answer(answer)

    @property
    def connection(self) -> apsw.Connection:
        assert self._connection is not None
        return self._connection

    def checked(self, text: str) -> str:
        if text == "no":
            raise Refusal("notes.no", "the text is no", "write another text")
        return text

    def owner(self, call: Call) -> str:
        return call.agent

    def notes(self, call: Call) -> list[str]:
        with self._lock:
            found = self.connection.execute("SELECT text FROM notes WHERE agent = ?", (self.owner(call),))
            return [text for (text,) in found]

    def list(self, call: Call) -> Answer:
        return Answer({"notes": self.notes(call)[:10]})

    async def slow(self, call: Call) -> Answer:
        seconds = call.args.get("seconds")
        await asyncio.sleep(seconds if isinstance(seconds, int) and 0 <= seconds <= 600 else 0)
        return Answer({})


class Undeclared(Notes):
    def handlers(self) -> Mapping[str, Handler]:
        return {**super().handlers(), "notes.more": self.list}


class WrongAnswer(Notes):
    def list(self, call: Call) -> Answer:
        return Answer({"found": self.notes(call)})


class Lenient(Notes):
    def checked(self, text: str) -> str:
        return text


class Dawdling(Notes):
    def list(self, call: Call) -> Answer:
        time.sleep(1.1)
        return super().list(call)


class ClosedOnce(Notes):
    async def close(self) -> None:
        self.connection.close()


class LeavesTasks(Notes):
    async def start(self) -> None:
        await super().start()
        TASKS.append(asyncio.create_task(asyncio.sleep(600)))


TASKS: list[Any] = []


class Forgetful(Notes):
    """Starts once on a directory, and never again."""

    async def start(self) -> None:
        await super().start()
        self.connection.execute("CREATE TABLE lock (one)")


class LetsOut(Notes):
    def checked(self, text: str) -> str:
        if len(text) > 300:
            raise ValueError(text[:10])
        return super().checked(text)


class NoRemedy(Notes):
    def checked(self, text: str) -> str:
        if text == "no":
            raise Refusal("notes.no", "the text is no")
        return text


class NamesTheDirectory(Notes):
    def checked(self, text: str) -> str:
        if text == "no":
            raise Refusal("notes.no", f"not in {self._path}", "write another text")
        return text


class PlainCode(Notes):
    def checked(self, text: str) -> str:
        if text == "no":
            raise Failed("No!", "the text is no", "write another text")
        return text


class Doubled(Notes):
    """Remembers no call."""

    def key(self, call: Call) -> str:
        return f"{call.run} {call.ordinal} {time.perf_counter()}"


class ShortMemory(Notes):
    """Remembers calls until it is closed."""

    async def start(self) -> None:
        await super().start()
        self.connection.execute("DELETE FROM done")


class ByRun(Notes):
    def key(self, call: Call) -> str:
        return f"{call.run} {call.args}"


class ByOrdinal(Notes):
    def key(self, call: Call) -> str:
        return str(call.ordinal)


class LongAnswer(Notes):
    def add(self, call: Call) -> Answer:
        return Answer({**super().add(call).value, "text": "x" * 5_000})


class Blocking(Notes):
    async def slow(self, call: Call) -> Answer:
        time.sleep(3 if call.args.get("seconds") else 0)  # noqa: ASYNC251 - that is its fault
        return Answer({})


class Unstoppable(Notes):
    async def slow(self, call: Call) -> Answer:
        task = asyncio.create_task(asyncio.sleep(3 if call.args.get("seconds") else 0))
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                continue
        return Answer({})


SEVEN: Any = 7


class OddRefusal(Notes):
    def checked(self, text: str) -> str:
        if text == "no":
            raise Refusal("notes.no", SEVEN, "write another text")
        return text


class CrashesOnNul(Notes):
    def checked(self, text: str) -> str:
        if "\x00" in text:
            raise RuntimeError("NUL")
        return super().checked(text)


class OneForAll(Notes):
    def owner(self, _call: Call) -> str:
        return "all"


class Mixed(Notes):
    """Keeps the call in itself while it works."""

    def list(self, call: Call) -> Answer:
        self.current = call
        time.sleep(0.02)
        return Answer({"notes": self.notes(self.current)})


WRONG = {
    Undeclared: DECLARED,
    WrongAnswer: ANSWERS,
    Lenient: ANSWERS,
    Dawdling: ANSWERS,
    ClosedOnce: LIFECYCLE,
    LeavesTasks: LIFECYCLE,
    Forgetful: LIFECYCLE,
    LetsOut: ERRORS,
    NoRemedy: ERRORS,
    NamesTheDirectory: ERRORS,
    PlainCode: ERRORS,
    Doubled: ONCE,
    ShortMemory: ONCE,
    ByRun: APART,
    ByOrdinal: APART,
    LongAnswer: LIMITS,
    Blocking: TIME,
    Unstoppable: TIME,
    OddRefusal: REPLAY,
    CrashesOnNul: HOSTILE,
    OneForAll: PARALLEL,
    Mixed: PARALLEL,
}


def test_a_provider_that_keeps_its_promises_passes_every_check(tmp_path: Path) -> None:
    """One result a check, in their order, all passed."""
    results = check_provider(Notes, EXAMPLES, tmp_path, NOTES)
    assert [(result.name, result.ok) for result in results] == [(name, True) for name in CHECKS], results


def test_every_check_is_failed_by_some_wrong_provider() -> None:
    """None of the checks is one that cannot fail."""
    assert set(WRONG.values()) == set(CHECKS)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_provider_that_breaks_a_promise_fails_the_check_of_it(
    wrong: type[Notes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each deliberately wrong provider is caught by name, with a sentence that says what was found."""
    name = WRONG[wrong]
    monkeypatch.setattr("loket.testing.provider_conformance.CHECKS", {name: CHECKS[name]})
    (result,) = check_provider(wrong, EXAMPLES, tmp_path, NOTES)
    assert (result.name, result.ok) == (name, False)
    assert result.detail


def test_an_example_that_proves_nothing_fails_its_check(tmp_path: Path) -> None:
    """A handler without an example, and examples without a mark to read back, are told and not passed over."""
    few = check_provider(Notes, [Example("notes.add", {"text": "same"})], tmp_path / "few", NOTES)
    found = {result.name: result.detail for result in few if not result.ok}
    assert found.keys() == {DECLARED, PARALLEL}
    assert "notes.list has no example" in found[DECLARED]
    assert "{mark}" in found[PARALLEL]


def test_arguments_that_are_larger_than_they_may_be_are_told(tmp_path: Path) -> None:
    """An example that its own capability does not let through fails the check of sizes."""
    small = [replace(capability, args_kb=0) if capability.id == "notes.add" else capability for capability in NOTES]
    results = {result.name: result for result in check_provider(Notes, EXAMPLES, tmp_path, small)}
    assert not results[LIMITS].ok
    assert "limit.args" in results[LIMITS].detail


def test_the_line_for_pytest_lists_what_failed(tmp_path: Path) -> None:
    """`assert_provider` fails with the name of each check that was not passed, and why."""
    with pytest.raises(AssertionError, match=f"{ONCE}: notes.add, at once"):
        assert_provider(Doubled, EXAMPLES, tmp_path, capabilities=NOTES)
