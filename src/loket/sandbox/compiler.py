"""The process that compiles one module: its bytes on standard input, the file of the cache as its argument."""

import sys
from pathlib import Path

from wasmtime import Engine, WasmtimeError
from wasmtime.component import Component

from loket.sandbox.code import NOT_OURS, engine_config, write_cache


def main(cached: Path) -> int:
    """Compile what comes on standard input; the exit code."""
    try:
        component = Component(Engine(engine_config()), sys.stdin.buffer.read())
    except WasmtimeError as error:
        sys.stderr.write(str(error).strip().splitlines()[0])
        return NOT_OURS
    write_cache(cached, bytes(component.serialize()))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
