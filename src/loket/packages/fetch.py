"""Fetches a pack from an address that the owner named: https, or plain http on this machine alone."""

import contextlib
import ipaddress
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Final

from loket.contracts import BadInput, Failed
from loket.packages.unpack import MOST_PACK

FETCHED: Final = "fetched-"
"""Begins the names of fetched packs."""

_TIMEOUT_S: Final = 30
_CHUNK: Final = 1 << 18


def is_address(source: str) -> bool:
    """Whether what the owner named is an address, and no file or folder."""
    return "://" in source


def fetch(address: str, staging: Path, progress: Callable[[int, int | None], None]) -> Path:
    """Fetch a pack into a new file in a folder. `progress` is told how many bytes are there, and will be.

    Raises `BadInput` for an address that is not allowed or answers with too much, `Failed` where it cannot be had.
    """
    _check(address)
    with tempfile.NamedTemporaryFile(dir=staging, prefix=FETCHED, suffix=".loket", delete=False) as file:
        made = Path(file.name)
        try:
            _copy(address, file, progress)
        except BaseException as error:
            made.unlink(missing_ok=True)
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            if isinstance(error, (OSError, HTTPException)):
                raise _failed(address, error) from None
            raise
    return made


def _failed(address: str, error: Exception) -> Failed:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return Failed("pack.fetch", f"{address} cannot be fetched: {reason}", "try again later, or fetch it yourself")


def _check(address: str) -> None:
    """Raises `BadInput` unless it is https, or http to this machine."""
    with contextlib.suppress(ValueError):
        parts = urllib.parse.urlsplit(address)
        if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and _is_here(parts.hostname))):
            return
    raise BadInput(
        "pack.address", f"packs are fetched over https alone, and not from {address}", "https://example.org/NAME.loket"
    )


def _check_not_inward(address: str, following: str) -> None:
    """Raises `BadInput` where an address elsewhere leads to this machine."""
    before, after = (urllib.parse.urlsplit(one).hostname or "" for one in (address, following))
    if _is_here(after) and not _is_here(before):
        raise BadInput(
            "pack.address", f"{address} leads to this machine, to {following}", "name the pack's own address"
        )


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to addresses that could have been named themselves; to this machine only from this machine.

    Else whoever serves a pack could have any server of this machine asked.
    """

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        try:
            _check(newurl)
            _check_not_inward(req.full_url, newurl)
        except BadInput:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(address: str, file: IO[bytes], progress: Callable[[int, int | None], None]) -> None:
    opener = urllib.request.build_opener(_Redirects)
    with opener.open(address, timeout=_TIMEOUT_S) as answer:
        said = answer.headers.get("Content-Length", "")
        total = int(said) if said.isascii() and said.isdigit() else None
        done = 0
        while piece := answer.read(_CHUNK):
            done += len(piece)
            if max(done, total or 0) > MOST_PACK:
                raise BadInput("pack.size", f"{address} is larger than {MOST_PACK:,} bytes", "name another pack")
            file.write(piece)
            progress(done, total)
    if total is not None and done != total:
        raise Failed("pack.fetch", f"{address} ended in the middle", "try again")
