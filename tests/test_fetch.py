"""Packs that are fetched: over https or from this machine, bounded, and whole."""

import contextlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loket.contracts import BadInput, Failed, LoketError
from loket.packages import fetch as fetching
from loket.packages.fetch import fetch

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@contextlib.contextmanager
def site(answer: Answer) -> Iterator[str]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_args: object) -> None:
            """Tests are quiet."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/a.loket"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def says(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(page: http.server.BaseHTTPRequestHandler) -> None:
        page.send_response(status)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(data)), **named}.items():
            page.send_header(name, value)
        page.end_headers()
        page.wfile.write(data)

    return answer


def error_of(address: str, folder: Path) -> LoketError:
    with pytest.raises(LoketError) as caught:
        fetch(address, folder, lambda _done, _total: None)
    assert list(folder.iterdir()) == []
    return caught.value


def test_what_is_fetched_is_told_while_it_comes(tmp_path: Path) -> None:
    """The bytes as they were sent; progress ends with all of them."""
    told: list[tuple[int, int | None]] = []
    with site(says(b"x" * 600_000)) as address:
        made = fetch(address, tmp_path, lambda done, total: told.append((done, total)))
    assert made.read_bytes() == b"x" * 600_000
    assert told[-1] == (600_000, 600_000)
    assert made.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    "address",
    [
        "http://example.org/a.loket",
        "http://127.0.0.1.example.org/a.loket",
        "http://user@192.168.1.1/a.loket",
        "file:///etc/passwd",
        "ftp://example.org/a.loket",
        "https:///a.loket",
        "http://[::2]/a.loket",
        "http://0x7f.1/a.loket",
    ],
)
def test_other_addresses_are_refused_before_anybody_is_asked(tmp_path: Path, address: str) -> None:
    """Plain http to others, files, what only looks like this machine."""
    assert error_of(address, tmp_path).code == "pack.address"


@pytest.mark.parametrize("target", ["http://example.org/a.loket", "file:///etc/passwd", "ftp://example.org/a"])
def test_a_redirect_leads_nowhere_else(tmp_path: Path, target: str) -> None:
    """What could not be named itself is not followed to."""
    with site(says(b"", 302, Location=target)) as address:
        error = error_of(address, tmp_path)
    assert isinstance(error, (BadInput, Failed))
    assert error.code in ("pack.address", "pack.fetch")


def test_a_site_elsewhere_leads_to_no_server_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirect inward is followed from this machine alone: here its name stands for a site elsewhere."""
    asked: list[str] = []

    def noted(page: http.server.BaseHTTPRequestHandler) -> None:
        asked.append(page.path)
        says(b"x")(page)

    with site(noted) as inside, site(says(b"", 302, Location=inside)) as address:
        assert fetch(address, tmp_path, lambda _done, _total: None).read_bytes() == b"x"
        (made,) = tmp_path.iterdir()
        made.unlink()
        elsewhere, here, check = address.replace("127.0.0.1", "localhost"), fetching._is_here, fetching._check
        monkeypatch.setattr(fetching, "_is_here", lambda host: host != "localhost" and here(host))
        monkeypatch.setattr(fetching, "_check", lambda named: None if named == elsewhere else check(named))
        assert error_of(elsewhere, tmp_path).code == "pack.address"
    assert len(asked) == 1


def test_too_much_is_refused_whatever_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the length that is announced, and by what comes where none is."""
    monkeypatch.setattr(fetching, "MOST_PACK", 100_000)

    def endless(page: http.server.BaseHTTPRequestHandler) -> None:
        page.send_response(200)
        page.end_headers()
        with contextlib.suppress(OSError):
            for _ in range(1_000):
                page.wfile.write(bytes(10_000))

    for answer in (says(bytes(100_001)), endless):
        with site(answer) as address:
            assert error_of(address, tmp_path).code == "pack.size"


def test_half_a_pack_is_none(tmp_path: Path) -> None:
    """A connection that ends in the middle, and an error of the server."""
    for answer in (says(b"x" * 10, Content_Length="100"), says(b"no", 500), says(b"no", 404)):
        with site(answer) as address:
            assert error_of(address, tmp_path).code == "pack.fetch"
