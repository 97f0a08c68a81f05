"""The sandbox: modules that misbehave end alone, with a clear error; everything else goes on."""

import asyncio
import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from guests import wat
from guests_fixture import COMPILED, Scripted, built_guest, digest_of
from kit import EngineRig, Values
from loket.contracts import BadInput, Damaged, Ending, Guest, Limits, ModuleRef, Refusal, RunStatus
from loket.sandbox import WasmSandbox


@pytest.fixture(scope="module")
def misbehave(sandbox: WasmSandbox) -> Guest:
    wasm = built_guest("misbehave")
    return sandbox.load(wasm, digest_of(wasm))


def written(folder: Path, text: str | bytes, name: str = "module.wasm") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


LIMITS = Limits(cpu_ms=400, calls=50, args_kb=64, answer_kb=64)

HOSTILE = {
    "spin": "limit.cpu",
    "memory": "guest.memory",
    "hoard": "limit.cpu",
    "recursion": "guest.recursion",
    "flood": "limit.calls",
    "swallow": "limit.calls",
    "big": "guest.memory",
    "trap": "module.wasi",
    "crash": "guest.error",
}


class Sealed(EngineRig):
    """A kernel whose modules run in the real sandbox."""

    def __init__(self, directory: Path, guest: Guest) -> None:
        super().__init__(directory, Values().provider(), scripts={})
        self.guest = guest
        self.engine._load = lambda _module: self.guest
        self.replayer._load = lambda _module: self.guest

    async def go(self, operation: str, run: str, args: dict[str, Any] | None = None, limits: Limits = LIMITS) -> Ending:
        from dataclasses import replace

        request = self.request("mod", run, args=args or {}, limits=limits)
        module = ModuleRef("local", "mod", "1", self.guest.digest, limits)
        self.grants.accept("local", "mod", self.guest.digest, 0.0)
        await self.engine.submit(replace(request, operation=operation, module=module))
        return await self.engine.result(run)


@pytest.mark.parametrize(("operation", "code"), HOSTILE.items())
def test_a_module_that_misbehaves_ends_alone(tmp_path: Path, misbehave: Guest, operation: str, code: str) -> None:
    """The run ends with its error while another run of the same module is answered, and the kernel serves the next."""

    async def main() -> None:
        rig = Sealed(tmp_path, misbehave)
        bad, good = await asyncio.gather(rig.go(operation, "bad"), rig.go("echo", "good", {"a": 1}))
        assert good.answer == {"a": 1}
        assert bad.error is not None
        assert bad.error["code"] == code, bad.error
        assert bad.error["message"]
        assert bad.status in (RunStatus.LIMIT, RunStatus.FAILED)
        assert rig.rows("bad")[-1].kind.value == "end"
        assert (await rig.go("echo", "next", {"b": 2})).answer == {"b": 2}
        verdicts, faults = await asyncio.to_thread(rig.replayer.verify, ["bad", "good", "next"])
        assert [verdict.reason for verdict in verdicts] == ["", "", ""]
        assert faults == []
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_the_answer_has_a_size(misbehave: Guest) -> None:
    """An answer over the limit ends the run before it is copied; one of 100 MB with memory enough as well."""
    over = misbehave.run(Scripted(), "big", '{"mb":1}', Limits(answer_kb=512))
    assert over.ended is not None
    assert over.ended.code == "limit.answer"
    huge = misbehave.run(Scripted(), "big", '{"mb":100}', Limits(memory_mb=900, cpu_ms=20_000))
    assert huge.ended is not None
    assert huge.ended.code == "limit.answer"
    fits = misbehave.run(Scripted(), "big", '{"mb":1}', Limits(answer_kb=2048))
    assert fits.answer is not None


def test_the_arguments_of_a_call_have_a_size(misbehave: Guest) -> None:
    """Too long arguments are refused at the border, and the module may go on."""
    host = Scripted({"kv.set": {}})
    segment = misbehave.run(host, "big_arguments", '{"mb":2}', Limits(args_kb=1024))
    assert segment.refusal is not None
    assert segment.refusal.code == "limit.args"
    assert host.calls == []


def test_deeply_nested_arguments_harm_nobody(tmp_path: Path, misbehave: Guest) -> None:
    """JSON that is nested a hundred thousand deep is refused by the module's own library or by the counter."""

    async def main() -> None:
        rig = Sealed(tmp_path, misbehave)
        ending = await rig.go("deep", "r1", {"depth": 100_000}, Limits())
        assert ending.error is not None
        assert (await rig.go("echo", "r2", {"a": 1})).answer == {"a": 1}
        await rig.engine.close()
        rig.close()

    asyncio.run(main())


def test_cpu_time_is_not_counted_while_the_journal_is_replayed(misbehave: Guest) -> None:
    """What a resumed run computes again is free; what it computes after is not."""

    class Replayed(Scripted):
        def __init__(self, *, live: bool) -> None:
            super().__init__()
            self.live = live

    args = json.dumps({"rounds": 3_000_000})
    assert misbehave.run(Replayed(live=False), "compute", args, Limits(cpu_ms=20)).answer is not None
    live = misbehave.run(Replayed(live=True), "compute", args, Limits(cpu_ms=20))
    assert live.ended is not None
    assert live.ended.code == "limit.cpu"


def test_a_module_may_compute_as_long_as_it_may(misbehave: Guest) -> None:
    """The deadline is CPU time, so a busy machine does not end an honest module."""
    guests = [threading.Thread(target=misbehave.run, args=(Scripted(), "spin", "{}", LIMITS)) for _ in range(3)]
    for thread in guests:
        thread.start()
    segment = misbehave.run(Scripted(), "compute", json.dumps({"rounds": 100_000}), LIMITS)
    assert segment.answer is not None
    for thread in guests:
        thread.join()


def test_a_stopped_run_ends_in_the_middle_of_its_computing(misbehave: Guest) -> None:
    """The owner's stop reaches a module that makes no call."""
    host = Scripted()
    threading.Timer(0.05, setattr, (host, "stopped", Refusal("run.stopped", "stopped"))).start()
    segment = misbehave.run(host, "spin", "{}", Limits(cpu_ms=60_000))
    assert segment.ended is not None
    assert segment.ended.code == "run.stopped"


def test_refusals_of_parallel_runs_do_not_mix(misbehave: Guest) -> None:
    """Each of eight threads gets its own refusals, hundreds of times: nothing is shared between runs."""
    wrong: list[str] = []

    def one(name: str) -> None:
        host = Scripted({"kv.get": lambda _args: Refusal("test.mine", name, f"remedy of {name}")})
        for _ in range(40):
            segment = misbehave.run(host, "ask", '{"capability":"kv.get","arguments":{"key":"a"}}', Limits())
            answer = json.loads(segment.answer or "{}")
            if (answer.get("message"), answer.get("remedy")) != (name, f"remedy of {name}"):
                wrong.append(f"{name}: {answer} {segment}")

    threads = [threading.Thread(target=one, args=(f"run {number}",)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (wat.SECOND_IMPORT, "module.imports", "wasi:clocks/wall-clock"),
        (wat.NO_HANDLE, "module.exports", "nothing"),
        (wat.OTHER_TYPE, "module.exports", "handle"),
        (wat.SECOND_EXPORT, "module.exports", "also"),
        (wat.CORE_MODULE, "module.invalid", "no WebAssembly component"),
        ("not a module at all", "module.invalid", "no WebAssembly component"),
        (b"", "module.invalid", "no WebAssembly component"),
        (b"\0asm\x0d\0\1\0" + b"\xff" * 64, "module.invalid", "no WebAssembly component"),
    ],
)
def test_what_is_no_module_of_the_contract_is_refused(
    tmp_path: Path, sandbox: WasmSandbox, text: str | bytes, code: str, says: str
) -> None:
    """A second import, a missing or other export, no component, a corrupt file: refused at install, and at load."""
    path = written(tmp_path, text)
    with pytest.raises(BadInput, match=says) as caught:
        sandbox.check(path)
    assert caught.value.code == code
    with pytest.raises(BadInput):
        sandbox.load(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_a_module_whose_bytes_changed_is_not_loaded(tmp_path: Path, sandbox: WasmSandbox) -> None:
    """The digest that was installed is the digest that runs."""
    path = written(tmp_path, wat.ECHO)
    digest = sandbox.check(path)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(Damaged, match="was installed"):
        sandbox.load(path, digest)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "no digest", "other digest"])
def test_a_corrupt_cache_is_compiled_anew(tmp_path: Path, damage: str) -> None:
    """Compiled code that is not what was written is never mapped; the module is compiled again and works."""
    path = written(tmp_path, wat.ECHO)
    first = WasmSandbox(tmp_path / "cache")
    digest = first.check(path)
    first.close()
    (code,) = (tmp_path / "cache").glob("*.cwasm")
    good = code.read_bytes()
    said = code.with_suffix(".json")
    if damage == "flip":
        code.write_bytes(good[:5000] + bytes([good[5000] ^ 1]) + good[5001:])
    elif damage == "cut":
        code.write_bytes(good[:1000])
    elif damage == "empty":
        code.write_bytes(b"")
    elif damage == "no digest":
        said.unlink()
    else:
        said.write_text('{"sha256": "00"}')
    again = WasmSandbox(tmp_path / "cache")
    assert again.load(path, digest).run(Scripted(), "x", '{"a":1}', Limits()).answer == '{"a":1}'
    assert hashlib.sha256(code.read_bytes()).hexdigest() == json.loads(said.read_text())["sha256"]
    again.close()


def test_each_segment_gets_a_fresh_instance(misbehave: Guest) -> None:
    """What one run leaves in its memory is not there in the next."""
    first = misbehave.run(Scripted(), "memory", '{"mb":20}', Limits())
    second = misbehave.run(Scripted(), "memory", '{"mb":20}', Limits())
    assert first.answer == second.answer
    assert first.answer is not None


def test_instances_go_at_once_however_they_end(misbehave: Guest) -> None:
    """Two hundred runs that trap, one after the other: none of them keeps its place in the pool."""
    for _ in range(200):
        segment = misbehave.run(Scripted(), "trap", "{}", Limits())
        assert segment.ended is not None
        assert segment.ended.code == "module.wasi"


def test_more_runs_than_places_wait_for_each_other(misbehave: Guest) -> None:
    """A hundred runs at once on sixty-four places are all answered."""
    answers: list[str | None] = []

    def one() -> None:
        answers.append(misbehave.run(Scripted(), "echo", '{"a":1}', Limits()).answer)

    threads = [threading.Thread(target=one) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ['{"a": 1}'] * 100 or set(answers) == {'{"a":1}'}


def test_a_closed_sandbox_gives_its_address_space_back() -> None:
    """Hundreds of sandboxes, each closed before the next: else the system refuses mappings after about 250."""
    closed = []
    for _ in range(400):
        closed.append(WasmSandbox(COMPILED))
        closed[-1].close()
    assert len(closed) == 400
