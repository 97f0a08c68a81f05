"""Installing a folder that nobody trusts yet."""

import http.server
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from guests import wat
from loket.contracts import BadInput
from loket.packages.install import place, read_package

MANIFEST = 'id = "echo"\nversion = "1.0.0"\nkind = "agent"\nsummary = "Answers"\nentry = "module.wasm"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "loket.toml").write_text(MANIFEST)
    (folder / "module.wasm").write_text(wat.ECHO)
    return folder


def install(folder: Path) -> None:
    home = folder.parent / "home"
    for name in ("packages", "modules"):
        (home / name).mkdir(parents=True, exist_ok=True)
    place(read_package(folder), home / "packages", home / "modules", lambda _path, _digest: None)


def link_persona(folder: Path) -> None:
    (folder.parent / "secret").write_text("private")
    (folder / "persona.md").symlink_to(folder.parent / "secret")


def link_manifest(folder: Path) -> None:
    (folder / "loket.toml").rename(folder.parent / "other.toml")
    (folder / "loket.toml").symlink_to(folder.parent / "other.toml")


def link_skills(folder: Path) -> None:
    (folder.parent / "keys").mkdir()
    (folder / "skills").symlink_to(folder.parent / "keys", target_is_directory=True)


def link_in_skills(folder: Path) -> None:
    (folder / "skills" / "one").mkdir(parents=True)
    (folder / "skills" / "one" / "SKILL.md").symlink_to("/etc/hostname")


def pipe_as_rules(folder: Path) -> None:
    os.mkfifo(folder / "rules.md")


def device_as_persona(folder: Path) -> None:
    (folder / "persona.md").symlink_to("/dev/zero")


def link_module(folder: Path) -> None:
    (folder / "module.wasm").rename(folder.parent / "elsewhere.wasm")
    (folder / "module.wasm").symlink_to(folder.parent / "elsewhere.wasm")


def deep_manifest(folder: Path) -> None:
    (folder / "loket.toml").write_text("x = " + "[" * 20_000)


def long_number(folder: Path) -> None:
    (folder / "loket.toml").write_text("x = " + "1" * 5_000)


def large_manifest(folder: Path) -> None:
    (folder / "loket.toml").write_text(MANIFEST + "# " + "x" * (300 << 10))


@pytest.mark.parametrize(
    "spoil",
    [
        link_persona,
        link_manifest,
        link_skills,
        link_in_skills,
        pipe_as_rules,
        device_as_persona,
        link_module,
        deep_manifest,
        long_number,
        large_manifest,
    ],
)
def test_links_devices_and_monsters_are_refused(folder: Path, spoil: Callable[[Path], None]) -> None:
    """Nothing outside the folder is read, nothing hangs, and the error says which file it is."""
    install(folder)
    spoil(folder)
    with pytest.raises(BadInput):
        install(folder)


def test_what_is_installed_can_be_read_by_its_user_alone(folder: Path) -> None:
    """Whatever the rights of the files in the folder that it came from: 0700 for folders, 0600 for files."""
    (folder / "skills" / "one").mkdir(parents=True)
    for name in ("persona.md", "skills/one/SKILL.md"):
        (folder / name).write_text("Be brief.")
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    install(folder)
    installed = [path for path in (folder.parent / "home").rglob("*") if path.parent.name != "home"]
    assert {path.name for path in installed} >= {"persona.md", "SKILL.md", "loket.toml"}
    for path in installed:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_reading_a_manifest_reaches_nothing_else(folder: Path) -> None:
    """A schema that refers to an address is an error, and nobody is asked."""
    asked: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    operation = (
        '[[operation]]\nname = "x"\nsummary = "x"\neffect = "read"\n'
        f'arguments = {{ type = "object", "$ref" = "http://127.0.0.1:{server.server_port}/leak" }}\n'
    )
    (folder / "loket.toml").write_text(MANIFEST + operation)
    try:
        with pytest.raises(BadInput, match="schema"):
            read_package(folder)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert asked == []
