"""Loads a module's source while its component is being built. The generated entry calls `load`."""

import gc
import importlib
import json
import linecache
import re
import sys
import traceback
from collections.abc import Sequence

from loket_guest.imports import preload, remember_sources, shown_path
from loket_guest.operations import WitWorld, names

__all__ = ["WitWorld", "load"]

MARK = "loket-build-error: "
"""Begins the line of standard error that says what is wrong with the sources."""

_OWN = re.compile(r"/\d+/(?!loket_)")
"""The author's files: neither the standard library nor this one."""


def load(name: str, late: Sequence[str], declared: Sequence[str]) -> None:
    """Load a module's source and make it ready to be frozen into the component.

    `late` are the modules that its functions import, `declared` the operations that its `loket.toml` promises.
    An error goes to the standard error as one line of JSON, which `loket build` turns into a message.
    """
    try:
        preload(late)
        importlib.import_module(name)
        _check_operations(declared)
    except BaseException as error:
        sys.stderr.write(f"\n{MARK}{json.dumps(_facts(error))}\n")
        raise
    remember_sources()
    gc.collect()
    gc.freeze()


def _check_operations(declared: Sequence[str]) -> None:
    missing = sorted(set(declared) - set(names()))
    if missing:
        raise LookupError(f"loket.toml promises the operation {', '.join(missing)}, and no @operation has that name")
    if not names():
        raise LookupError("no function has the decorator @operation")


def _facts(error: BaseException) -> dict[str, str | int | None]:
    """Say what is wrong: type, message, and the innermost place in the author's files (file, line, text)."""
    file, line, text = "", 0, ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if _OWN.match(frame.f_code.co_filename):
            file, line = frame.f_code.co_filename, number
            text = linecache.getline(file, line)
    if isinstance(error, SyntaxError):
        file, line, text = error.filename or file, error.lineno or line, error.text or text
    return {
        "type": type(error).__name__,
        "message": (error.msg if isinstance(error, SyntaxError) else str(error))[:2000],
        "file": shown_path(file),
        "line": line,
        "text": text.strip()[:200],
        "missing": error.name if isinstance(error, ModuleNotFoundError) else None,
    }
