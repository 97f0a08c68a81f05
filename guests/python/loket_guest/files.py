"""Files, which a module does not have: opening one fails with the error of a file that is not there.

Without this the request would reach the WASI stubs of the component and end the run.
"""

import builtins
import errno
import io
import os
from typing import Any

from loket_guest.counter import either_of


def install() -> None:
    """Have the usual ways to a file fail in Python, where the module can catch it and the error names the line."""
    missing = either_of(_missing, builtins.open)
    builtins.open = missing
    io.open = missing
    for name in ("open", "stat", "lstat", "listdir", "scandir"):
        setattr(os, name, either_of(_missing, getattr(os, name)))


def _missing(path: Any = ".", *_args: Any, **_keywords: Any) -> None:
    message = "a module has no files (kv.get and kv.set keep values); read what it needs when it is built"
    raise FileNotFoundError(errno.ENOENT, message, str(path))
