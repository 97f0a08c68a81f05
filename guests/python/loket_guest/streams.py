"""`print`, `sys.stderr` and `logging` into the run's log, one `log.write` a line."""

import io
import logging
import sys
from typing import Any

from loket_guest.counter import Refused, border, call

_MOST = 65_536
"""Characters of one `log.write`."""


class _Log:
    """Whether the log takes lines. Once it was refused it is not asked again: a line lost is no reason to fail."""

    refused = False


def write(text: str, level: str) -> None:
    """Write to the run's log, in pieces that it takes."""
    for start in range(0, len(text), _MOST):
        if _Log.refused:
            return
        try:
            call("log.write", text=text[start : start + _MOST], level=level)
        except Refused:
            _Log.refused = True


class _Lines(io.TextIOBase):
    """A stream whose complete lines go into the log; what has no end of line yet waits for `flush` of the run."""

    def __init__(self, original: Any, level: str) -> None:
        self._original = original
        self._level = level
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        if not border.open:
            return int(self._original.write(text))
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            write(line, self._level)
        return len(text)

    def finish(self) -> None:
        """Write the last line although it has no end."""
        rest, self._rest = self._rest, ""
        write(rest, self._level)


class _Handler(logging.Handler):
    """The root handler: a record becomes a line with its level."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except (TypeError, ValueError) as error:
            text = f"{record.msg} (its arguments do not fit: {error})"
        write(text, _level(record.levelno))


def _level(number: int) -> str:
    if number >= logging.ERROR:
        return "error"
    if number >= logging.WARNING:
        return "warning"
    return "info" if number >= logging.INFO else "debug"


_streams: list[_Lines] = []


def install() -> None:
    """Route the streams and the root logger, whose level starts at INFO."""
    for name, level in (("stdout", "info"), ("stderr", "warning")):
        stream = _Lines(getattr(sys, name), level)
        _streams.append(stream)
        setattr(sys, name, stream)
    root = logging.getLogger()
    root.addHandler(_Handler())
    root.setLevel(logging.INFO)
    logging.basicConfig = _basic_config


def _basic_config(**settings: Any) -> None:
    """`logging.basicConfig` with what makes sense here: `level` and `format` (with `datefmt` and `style`)."""
    root = logging.getLogger()
    if settings.get("level") is not None:
        root.setLevel(settings["level"])
    if settings.get("format") is not None:
        form = logging.Formatter(settings["format"], settings.get("datefmt"), settings.get("style", "%"))
        root.handlers[0].setFormatter(form)


def flush() -> None:
    """Write what the streams hold: the run is about to end."""
    for stream in _streams:
        stream.finish()
