"""The one host function, spoken to the engine's C API directly.

The binding's own `add_func` asks the engine for the types of a function at every call (about 75 microseconds here)
and keeps a host function's last exception in a global of its module, so that with several threads one run can receive
another's. The type of our one function never changes, so this file reads and writes its values itself: a call takes
about a tenth of that, and nothing is shared between runs. It uses `wasmtime._ffi`, which is private: the version
is pinned in `pyproject.toml`, and `tests/test_sandbox.py` fails where the layout differs.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from wasmtime import Store, WasmtimeError
from wasmtime import _ffi as ffi
from wasmtime.component import Linker

_STRING = ffi.WASMTIME_COMPONENT_STRING.value
_RECORD = ffi.WASMTIME_COMPONENT_RECORD.value
_OPTION = ffi.WASMTIME_COMPONENT_OPTION.value
_RESULT = ffi.WASMTIME_COMPONENT_RESULT.value

INTERFACE = "loket:kernel/counter@1.0.0"


@dataclass(frozen=True, slots=True)
class Refused:
    """The record `refusal` of the contract."""

    code: str
    message: str
    remedy: str | None


Reply: TypeAlias = str | Refused | None
"""What the host answers: JSON text, a refusal, or None to end the instance."""


class Current(threading.local):
    """What the thread that is inside a module answers to: set before entering, cleared after leaving."""

    call: Callable[[str, str], Reply] | None = None
    tick: Callable[[], int] | None = None
    """Asked when the deadline is reached: further ticks of the epoch, or 0 to end the instance."""
    args_limit: int = 0
    """Bytes; a longer text is replaced by `too_long` before it is copied."""


current = Current()


class TooLong(Exception):
    """A text crossed the border that is longer than its limit."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size} bytes")
        self.size = size


def _take(value: Any, limit: int) -> str:
    text = value.of.string
    if text.size > limit:
        raise TooLong(text.size)
    return ctypes.string_at(text.data, text.size).decode("utf-8") if text.size else ""


def _fill(vector: Any, raw: bytes) -> None:
    """Copy bytes into memory of the engine's."""
    source = ctypes.cast(ctypes.c_char_p(raw), ctypes.POINTER(ctypes.c_uint8))
    ffi.wasm_byte_vec_new(ctypes.byref(vector), len(raw), source)


def _put_string(slot: Any, text: str) -> None:
    raw = text.encode("utf-8")
    slot.kind = _STRING
    _fill(slot.of.string, raw)


def _put_refusal(slot: Any, refusal: Refused) -> None:
    slot.kind = _RECORD
    ffi.wasmtime_component_valrecord_new_uninit(ctypes.byref(slot.of.record), 3)
    entries = slot.of.record.data
    for index, (name, text) in enumerate((("code", refusal.code), ("message", refusal.message))):
        _fill(entries[index].name, name.encode())
        _put_string(entries[index].val, text)
    _fill(entries[2].name, b"remedy")
    entries[2].val.kind = _OPTION
    entries[2].val.of.option = None
    if refusal.remedy is not None:
        inner = ffi.wasmtime_component_val_t()
        _put_string(inner, refusal.remedy)
        entries[2].val.of.option = ffi.wasmtime_component_val_new(ctypes.byref(inner))


def _put_result(slot: Any, reply: str | Refused) -> None:
    payload = ffi.wasmtime_component_val_t()
    if isinstance(reply, str):
        _put_string(payload, reply)
    else:
        _put_refusal(payload, reply)
    slot.kind = _RESULT
    slot.of.result.is_ok = isinstance(reply, str)
    slot.of.result.val = ffi.wasmtime_component_val_new(ctypes.byref(payload))


def _error(message: str) -> int:
    pointer = ffi.wasmtime_error_new(message.encode())
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0


@ffi.wasmtime_component_func_callback_t  # type: ignore[untyped-decorator]
def _on_call(_env: Any, _context: Any, _type: Any, args: Any, _nargs: int, results: Any, _nresults: int) -> int:
    call = current.call
    if call is None:
        return _error("the module called outside a run")
    try:
        reply = call(_take(args[0], 256), _take(args[1], current.args_limit))
    except TooLong as error:
        reply = Refused(
            "limit.args",
            f"the arguments of a call take {error.size:,} bytes, and {current.args_limit:,} are allowed",
            'send less, or raise args_kb under [limits] in "loket.toml"',
        )
    if reply is None:
        return _error("the run was suspended or ended by the host")
    _put_result(results[0], reply)
    return 0


_TickFunction = ctypes.CFUNCTYPE(
    ctypes.c_size_t,
    ctypes.POINTER(ffi.wasmtime_context_t),
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_uint64),
    ctypes.POINTER(ffi.wasmtime_update_deadline_kind_t),
)


@_TickFunction  # type: ignore[untyped-decorator]
def _on_deadline(_context: Any, _data: Any, delta: Any, kind: Any) -> int:
    ticks = current.tick() if current.tick is not None else 0
    if ticks <= 0:
        return _error("the deadline was reached")
    delta[0] = ticks
    kind[0] = 0  # WASMTIME_UPDATE_DEADLINE_CONTINUE
    return 0


_NO_FINALIZER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)()


def define_counter(linker: Linker) -> None:
    """Define the one import of every module in this linker."""
    with linker.root() as root, root.add_instance(INTERFACE) as instance:
        name = b"call"
        error = ffi.wasmtime_component_linker_instance_add_func(
            instance.ptr(), ctypes.create_string_buffer(name), len(name), _on_call, None, _NO_FINALIZER
        )
        if error:
            raise WasmtimeError._from_ptr(error)  # noqa: SLF001 - the binding's only way to make one


def watch_deadline(store: Store) -> None:
    """Have `current.tick` asked whenever the store's epoch deadline is reached."""
    ffi.wasmtime_store_epoch_deadline_callback(store.ptr(), _on_deadline, None, _NO_FINALIZER)


def handle(store: Store, function: Any, operation: str, args: str, limit: int) -> str | Refused:
    """Call the module's `handle`. The answer may take `limit` bytes.

    Raises `WasmtimeError` on a trap and `TooLong`.
    """
    params = (ffi.wasmtime_component_val_t * 2)()
    result = ffi.wasmtime_component_val_t()
    _put_string(params[0], operation)
    _put_string(params[1], args)
    try:
        error = ffi.wasmtime_component_func_call(
            ctypes.byref(function._func),  # noqa: SLF001 - see the module's docstring
            store._context(),  # noqa: SLF001
            params,
            2,
            ctypes.byref(result),
            1,
        )
    finally:
        for param in params:
            ffi.wasmtime_component_val_delete(ctypes.byref(param))
    if error:
        raise WasmtimeError._from_ptr(error)  # noqa: SLF001
    try:
        return _read_result(result, limit)
    finally:
        ffi.wasmtime_component_val_delete(ctypes.byref(result))


def _read_result(result: Any, limit: int) -> str | Refused:
    payload = result.of.result.val.contents
    if result.of.result.is_ok:
        return _take(payload, limit)
    code, message, remedy = (payload.of.record.data[index].val for index in range(3))
    inner = remedy.of.option
    return Refused(_take(code, limit), _take(message, limit), _take(inner.contents, limit) if inner else None)
