"""Fixtures that several test files share."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from loket.sandbox import WasmSandbox

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def sandbox() -> "Iterator[WasmSandbox]":
    """A sandbox for the tests of one file, with the cache of compiled guests that all of them share."""
    from guests_fixture import COMPILED
    from loket.sandbox import WasmSandbox

    made = WasmSandbox(COMPILED)
    yield made
    made.close()
