"""Fixtures that several test files share, and what shares what between tests and between processes.

`make test` runs the suite in four processes, as they wait more than they work; a file alone in one.
- The tests of one file run in one process, in their order, and share its fixtures of the module. Files run in any
  order and at the same time: none relies on what another one did, on a fixed port, or on a name outside `tmp_path`.
- `guests_fixture.built_guest("puppet")` is a guest of `tests/guests`, `built(folder)` that of any folder; it is built
  and compiled once for each checkout and state of its sources, also where two processes ask. Building costs 10 s of
  CPU and compiling 10 s more: never call `packages.build` but to test it, and look at `puppets.py` before a new guest.
- `live.prepare` makes a home with the shared compiled code, `live.serving` runs a server on it. A start costs about
  1 s of CPU and each `live.loket` command half a second: share one server per file by a fixture of the module, and ask
  it with `server.request`; a test that kills, stops or fills a server starts its own.
- Wait for what shows the end (`until` it is there, with a generous bound), never for a time.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loket.sandbox import WasmSandbox

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start servers or build guests: they take long, and short ones fill what is left."""
    items.sort(key=lambda item: not _takes_long(item))


def _takes_long(item: pytest.Item) -> bool:
    names = vars(item.module) if isinstance(item, pytest.Function) else {}
    return not {"prepare", "built_guest", "build", "share_compiled"}.isdisjoint(names)


@pytest.fixture(scope="module")
def sandbox() -> "Iterator[WasmSandbox]":
    """A sandbox for the tests of one file, with the cache of compiled guests that all of them share."""
    from guests_fixture import COMPILED
    from loket.sandbox import WasmSandbox

    made = WasmSandbox(COMPILED)
    yield made
    made.close()
