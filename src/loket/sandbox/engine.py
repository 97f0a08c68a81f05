"""Runs modules: the only user of the WebAssembly engine.

A module starts with nothing. This list is all that it gets, and there is no flag that adds to it:

* one import, `loket:kernel/counter`, answered by the host that is passed to `Guest.run`;
* linear memory up to `memory_mb`, one table of the size that its own code needs, a stack of 1 MiB;
* CPU time up to `cpu_ms`.

No WASI, no threads, no shared memory; canonical NaNs and deterministic relaxed SIMD, because replay rests on the same
answers giving the same calls.
"""

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from wasmtime import Engine, Store, WasmtimeError
from wasmtime.component import Component, Func, FuncType, Linker

from loket.contracts import (
    BadInput,
    Damaged,
    Failed,
    Guest,
    Host,
    Limits,
    LoketError,
    Refusal,
    RunEnded,
    Segment,
    Suspended,
)
from loket.sandbox import binding
from loket.sandbox.code import compile_apart, engine_config, engine_key, from_cache
from loket.sandbox.pool import INSTANCES, TABLE_ELEMENTS
from loket.sandbox.traps import explain_trap

TICK_S = 0.01
"""Seconds between two ticks of the epoch: how exactly a deadline is kept."""

_OWN_FAILURE = "guest."
"""Begins the codes with which the guest libraries say that the module itself failed."""

_NS_PER_MS = 1_000_000


class WasmSandbox:
    """Loads modules and keeps their compiled code in `cache` (a directory), keyed by digest and engine version."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._engine = Engine(engine_config())
        self._linker = Linker(self._engine)
        binding.define_counter(self._linker)
        self._ticker = _Ticker(self._engine)
        self._guests: dict[str, WasmGuest] = {}
        self._lock = threading.Lock()
        self._loading: dict[str, threading.Lock] = {}
        self._places = threading.BoundedSemaphore(INSTANCES)

    def load(self, wasm: Path, digest: str) -> Guest:
        """Load a module whose bytes have this SHA-256 (hex). Compiling a new one takes seconds.

        Raises `Damaged` where the bytes do not match, `BadInput` where they are no module of the contract.
        """
        guest = self._guests.get(digest)
        if guest is not None:
            return guest
        with self._lock:
            loading = self._loading.setdefault(digest, threading.Lock())
        with loading:  # one compiles, and nobody else waits for it who does not need it
            if digest not in self._guests:
                self._guests[digest] = WasmGuest(self._component(wasm, digest), digest, self)
            return self._guests[digest]

    def check(self, wasm: Path) -> str:
        """Check that a file is a module of the contract; its SHA-256 (hex). Raises `BadInput`."""
        data = _read(wasm)
        digest = hashlib.sha256(data).hexdigest()
        self._checked(self._compiled(data, digest, wasm), wasm)
        return digest

    def forget(self, digest: str) -> None:
        """Drop a loaded module; runs in flight keep theirs."""
        self._guests.pop(digest, None)

    def close(self) -> None:
        """Give the engine back, with its pool: a process has only so much address space and so many mappings."""
        self._ticker.close()
        for guest in self._guests.values():
            guest.close()
        self._guests.clear()
        self._linker.close()
        self._engine.close()

    def _component(self, wasm: Path, digest: str) -> Component:
        """The component of these bytes, as a rule from the cache; they are hashed as they lie on the disk.

        A module has 18 MB, and what was read whole once stays with the process.
        """
        with ThreadPoolExecutor(1) as beside:  # the bytes and the compiled code are hashed whole, side by side
            found = beside.submit(_digest_of, wasm)
            component = from_cache(self._engine, self._cached(digest))
            _same(digest, found.result(), wasm)
        if component is None:
            data = _read(wasm)
            _same(digest, hashlib.sha256(data).hexdigest(), wasm)
            component = self._compiled(data, digest, wasm)
        return self._checked(component, wasm)

    def _cached(self, digest: str) -> Path:
        return self._cache / f"{digest[:32]}-{engine_key()}.cwasm"

    def _compiled(self, data: bytes, digest: str, wasm: Path) -> Component:
        cached = self._cached(digest)
        component = from_cache(self._engine, cached)
        if component is None:
            compile_apart(data, cached, wasm.name)
            component = from_cache(self._engine, cached)
        if component is None:
            raise Failed(
                "module.cache",
                f"the compiled code of {wasm.name} cannot be kept in {self._cache}",
                "free disk space, or mend the rights on that folder",
                blame="machine",
            )
        return component

    def _checked(self, component: Component, wasm: Path) -> Component:
        """The component's type must be that of the contract's world: it proves what the module can do."""
        imports = sorted(component.type.imports(self._engine))
        extra = [name for name in imports if name != binding.INTERFACE]
        if extra:
            raise BadInput(
                "module.imports",
                f"{wasm.name} imports {', '.join(extra)}; the only import of a module is {binding.INTERFACE}",
                "build it with `loket build`, or with the WASI of your language stubbed out",
            )
        self._check_exports(component, wasm)
        return component

    def _check_exports(self, component: Component, wasm: Path) -> None:
        """One export, `handle`. componentize-py leaves its own `exports` instance behind, which nothing ever calls."""
        exports = {name: item.ty for name, item in component.type.exports(self._engine).items()}
        functions = sorted(exports.keys() - {"exports"})
        if functions != ["handle"] or not _handle_type_is_right(exports["handle"]):
            raise BadInput(
                "module.exports",
                f"{wasm.name} exports {', '.join(functions) or 'nothing'}; a module exports `handle(operation: string,"
                " args: string) -> result<string, refusal>` and nothing else",
                "build it for the world `module` of wit/loket.wit",
            )

    @contextlib.contextmanager
    def _running(self) -> Iterator[None]:
        with self._places, self._ticker.running():
            yield

    def _store(self, limits: Limits) -> Store:
        store = Store(self._engine)
        store.set_limits(memory_size=limits.memory_mb << 20, table_elements=TABLE_ELEMENTS, memories=1)
        store.set_epoch_deadline(1)
        binding.watch_deadline(store)
        return store

    def _instantiate(self, store: Store, component: Component) -> Func:
        function = self._linker.instantiate(store, component).get_func(store, "handle")
        if function is None:
            raise BadInput("module.exports", "the module exports no `handle`")
        return function


class WasmGuest:
    """A loaded module. `run` may be called from many threads; each call gets an instance of its own."""

    def __init__(self, component: Component, digest: str, sandbox: WasmSandbox) -> None:
        self.digest = digest
        self._component = component
        self._sandbox = sandbox

    def close(self) -> None:
        """Give the compiled code back. No instance of it runs any more."""
        self._component.close()

    def run(self, host: Host, operation: str, args: str, limits: Limits) -> Segment:
        """Run one segment in a fresh instance on the calling thread: until it answers, waits or ends."""
        meter = _Meter(host, limits)
        binding.current.call = meter.call
        binding.current.tick = meter.tick
        binding.current.args_limit = limits.args_kb << 10
        try:
            with self._sandbox._running():  # noqa: SLF001 - the guest is the sandbox's own part
                return self._enter(meter, operation, args, limits)
        finally:
            binding.current.call = binding.current.tick = None

    def _enter(self, meter: "_Meter", operation: str, args: str, limits: Limits) -> Segment:
        store = self._sandbox._store(limits)  # noqa: SLF001
        try:
            function = self._sandbox._instantiate(store, self._component)  # noqa: SLF001
            reply = binding.handle(store, function, operation, args, limits.answer_kb << 10)
        except WasmtimeError as error:
            return meter.ended_by(str(error))
        except binding.TooLong as error:
            return meter.segment(ended=_too_long(error.size, limits))
        finally:
            store.close()  # now, and not when the garbage collector comes: its slot of the pool is wanted
        if isinstance(reply, str):
            return meter.segment(answer=reply)
        if reply.code.startswith(_OWN_FAILURE):
            return meter.segment(ended=RunEnded(reply.code, reply.message, reply.remedy))
        return meter.segment(refusal=Refusal(reply.code, reply.message, reply.remedy))


class _Meter:
    """Counts the CPU time of one segment and carries the reason when the host ends it.

    Time is that of the thread (`CLOCK_THREAD_CPUTIME_ID`), what the counter does for the module included; the part
    that is replayed from the journal does not count.
    """

    def __init__(self, host: Host, limits: Limits) -> None:
        self._host = host
        self._limits = limits
        self._reason: LoketError | None = None
        self._suspended = False
        self._start = time.thread_time_ns()

    def call(self, capability: str, args: str) -> binding.Reply:
        host = self._host
        was_live = host.live
        if host.stopped is not None:
            self._reason = host.stopped
            return None
        try:
            answer = host(capability, args)
        except Suspended:
            self._suspended = True
            return None
        except (Refusal, Failed) as error:
            answer = None
            refused = binding.Refused(error.code, error.message, error.remedy)
        except LoketError as error:
            self._reason = error
            return None
        except Exception as error:  # noqa: BLE001 - raising into the engine would end the process
            self._reason = Failed(
                "kernel.error", f"the kernel failed: {type(error).__name__}: {error}", blame="machine"
            )
            return None
        if not was_live:
            self._start = time.thread_time_ns()
        return answer if answer is not None else refused

    def tick(self) -> int:
        if self._host.stopped is not None:
            self._reason = self._host.stopped
            return 0
        if not self._host.live:
            return 1
        left_ns = self._limits.cpu_ms * _NS_PER_MS - (time.thread_time_ns() - self._start)
        if left_ns > 0:
            return max(1, int(min(left_ns / 1e9, 0.25) / TICK_S))
        self._reason = RunEnded(
            "limit.cpu",
            f"the module computed for more than {self._limits.cpu_ms} ms between two waits",
            'raise cpu_ms under [limits] in its "loket.toml"',
        )
        return 0

    def ended_by(self, trap: str) -> Segment:
        """The segment of an instance that the engine ended."""
        if self._suspended:
            return self.segment(suspended=True)
        return self.segment(ended=self._reason or _explain(trap, self._limits))

    def segment(
        self,
        *,
        answer: str | None = None,
        refusal: LoketError | None = None,
        ended: LoketError | None = None,
        suspended: bool = False,
    ) -> Segment:
        spent = (time.thread_time_ns() - self._start) / _NS_PER_MS
        return Segment(answer, refusal, ended, suspended, spent)


class _Ticker:
    """Advances the engine's epoch while at least one module runs; sleeps otherwise."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._active = 0
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._tick, name="loket-epoch", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self._changed:
            self._active += 1
            if self._active == 1:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._active -= 1

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _tick(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._active or self._closed)
                if self._closed:
                    return
            time.sleep(TICK_S)
            self._engine.increment_epoch()


def _explain(trap: str, limits: Limits) -> LoketError:
    """A sentence for a trap that the module brought upon itself."""
    known = explain_trap(trap)
    if known is not None:
        return RunEnded("module.wasi", known[0], known[1])
    if "call stack exhausted" in trap:
        return RunEnded("limit.stack", "the module's calls went too deep for its stack", "recurse less deeply")
    if "memory minimum size" in trap or "forcibly" in trap or "memory limit" in trap:
        return RunEnded("limit.memory", f"the module needs more than its {limits.memory_mb} MiB of memory", _MORE)
    cause = trap.rpartition("Caused by:")[2].strip() or trap.strip().splitlines()[-1]
    return RunEnded(
        "module.trap",
        f"the module stopped with a trap: {cause.removeprefix('wasm trap: ')}",
        f"a trap often means that its {limits.memory_mb} MiB of memory were used up: {_MORE}",
    )


_MORE = 'raise memory_mb under [limits] in its "loket.toml"'


def _too_long(size: int, limits: Limits) -> LoketError:
    return RunEnded(
        "limit.answer",
        f"the module's answer takes {size:,} bytes, and {limits.answer_kb} KiB are allowed",
        'answer with less, or raise answer_kb under [limits] in its "loket.toml"',
    )


def _handle_type_is_right(item: object) -> bool:
    if not isinstance(item, FuncType) or item.result is None:
        return False
    kinds = [type(kind).__name__ for _, kind in item.params]
    ok, err = getattr(item.result, "ok", None), getattr(item.result, "err", None)
    fields = [(name, type(kind).__name__) for name, kind in getattr(err, "fields", [])]
    return (
        kinds == ["String", "String"]
        and type(ok).__name__ == "String"
        and fields == [("code", "String"), ("message", "String"), ("remedy", "OptionType")]
    )


def _same(digest: str, found: str, wasm: Path) -> None:
    """Raise `Damaged` where bytes have another digest than those that were installed."""
    if found != digest:
        raise Damaged(
            "module.digest",
            f"{wasm.name} has the digest {found[:16]}…, and {digest[:16]}… was installed",
            "install the module again, or restore it from a backup",
        )


def _digest_of(wasm: Path) -> str:
    try:
        with wasm.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _missing(wasm, error) from None


def _read(wasm: Path) -> bytes:
    try:
        return wasm.read_bytes()
    except OSError as error:
        raise _missing(wasm, error) from None


def _missing(wasm: Path, error: OSError) -> Damaged:
    return Damaged("module.missing", f"cannot read {wasm.name}: {error.strerror}", "install it again")
