"""Imports, and the lines of source in tracebacks, without a file system.

All that a module imports is loaded while it is built; the files are gone when it runs, and asking for one would trap.
"""

import contextlib
import importlib
import importlib.machinery
import linecache
import re
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from loket_guest import clock
from loket_guest.counter import border

_LATE = (
    "_strptime",
    "encodings.ascii",
    "encodings.cp1252",
    "encodings.idna",
    "encodings.latin_1",
    "encodings.punycode",
    "encodings.unicode_escape",
    "encodings.utf_16",
    "encodings.utf_32",
    "encodings.utf_8_sig",
)
"""What the standard library imports only when it is needed."""


class _Sealed:
    """Stands before all other finders: in a run, what was not loaded at build time is not there."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not border.open or name in sys.builtin_module_names:
            return None
        message = f"No module named '{name}' in the component: import it at the top of the file, not in a function"
        raise ModuleNotFoundError(message, name=name)


def install() -> None:
    """Route the clock (first, as every other module may keep a reference to it) and seal the imports."""
    clock.install()
    preload(_LATE)
    sys.meta_path.insert(0, _Sealed())
    original = linecache.updatecache

    def updatecache(filename: str, module_globals: dict[str, Any] | None = None) -> list[str]:
        return [] if border.open else original(filename, module_globals)

    linecache.updatecache = updatecache
    # Tracebacks would compile pieces of the source to place their carets, and the interpreter looks into files for
    # the text of what it cannot compile.
    traceback._extract_caret_anchors_from_line_segment = lambda _segment: None  # type: ignore[attr-defined]  # noqa: SLF001


def preload(names: Sequence[str]) -> None:
    """Load modules that are imported inside functions, as far as they exist."""
    for name in names:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def remember_sources() -> None:
    """Keep the source lines of the module's own files, so that tracebacks in its log show them."""
    for module in list(sys.modules.values()):
        filename = getattr(module, "__file__", None)
        if filename and re.match(r"/\d+/", filename):
            linecache.cache[filename] = (0, None, linecache.getlines(filename), filename)


def shown_path(filename: str) -> str:
    """Name a file as its author knows it: the build mounts each directory of sources as `/0`, `/1` and so on."""
    return re.sub(r"^/\d+/", "", filename)
