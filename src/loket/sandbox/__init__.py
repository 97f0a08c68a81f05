"""The sandbox: runs modules sealed in WebAssembly. Nothing else in Loket imports the engine."""

from loket.sandbox.engine import WasmGuest, WasmSandbox

__all__ = ["WasmGuest", "WasmSandbox"]
