"""The vault: `loket.providers.vault`."""

import hmac
import json
import os
import stat
import traceback
from collections.abc import Iterator
from pathlib import Path

import keyring
import keyring.backend
import keyring.backends.fail
import pytest

from live import loket, prepare, serving
from loket.contracts import BadInput, Damaged, Failed
from loket.providers.vault import FileVault
from loket.providers.vault_key import export_key, master_key, subkey

SECRET = "sk-very-secret-0123456789"


def test_a_secret_is_found_again_by_another_vault_on_the_same_folder(tmp_path: Path) -> None:
    """What was put is there for the next process, and only under its name."""
    FileVault(tmp_path / "vault").put("openai", SECRET)
    again = FileVault(tmp_path / "vault")
    assert again.get("openai") == SECRET
    assert again.get("other") is None
    assert again.names() == ["openai"]


def test_an_empty_home_has_no_secrets(tmp_path: Path) -> None:
    """A vault that was never written to is empty, and reading creates nothing."""
    vault = FileVault(tmp_path / "vault")
    assert (vault.names(), vault.get("x"), vault.delete("x")) == ([], None, False)
    assert not (tmp_path / "vault").exists()


def test_the_file_and_its_folder_are_the_owners_alone(tmp_path: Path) -> None:
    """The file has mode 0600 and the folder 0700, and no half-written file stays behind."""
    vault = FileVault(tmp_path / "vault")
    vault.put("one", "1")
    vault.put("two", "2")
    assert vault.delete("one")
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "vault" / "secrets.json").stat().st_mode) == 0o600
    names = sorted(os.listdir(tmp_path / "vault"))  # noqa: PTH208 - hidden files count here
    assert names == ["master.json", "master.key", "secrets.json"]
    assert {stat.S_IMODE((tmp_path / "vault" / name).stat().st_mode) for name in names} == {0o600}
    assert vault.names() == ["two"]


@pytest.mark.parametrize(("what", "mode", "remedy"), [("secrets.json", 0o640, "chmod 600"), ("", 0o755, "chmod 700")])
def test_what_others_can_read_is_refused_with_the_command_that_mends_it(
    tmp_path: Path, what: str, mode: int, remedy: str
) -> None:
    """A file or folder that others can read is never used."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    place = tmp_path / "vault" / what
    place.chmod(mode)
    for use in (lambda: vault.get("openai"), vault.names, lambda: vault.put("a", "b")):
        with pytest.raises(BadInput) as caught:
            use()
        assert caught.value.remedy == f"{remedy} {place}"


def test_a_link_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    """A link could point the vault at somebody else's file."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    (tmp_path / "vault" / "secrets.json").rename(tmp_path / "elsewhere")
    (tmp_path / "vault" / "secrets.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput, match="is a link"):
        vault.get("openai")


@pytest.mark.parametrize("text", [f'{{"openai": "{SECRET}"', f'["{SECRET}"]', f'{{"openai": ["{SECRET}"]}}', "\x00"])
def test_a_damaged_file_is_named_and_its_content_shown_nowhere(tmp_path: Path, text: str) -> None:
    """A file that the vault did not write is `Damaged`; no part of the error holds what is in it."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", "x")
    (tmp_path / "vault" / "secrets.json").write_text(text)
    with pytest.raises(Damaged) as caught:
        vault.get("openai")
    shown = "".join(traceback.format_exception(caught.value)) + json.dumps(caught.value.as_dict())
    assert SECRET not in shown
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize("name", ["", "a b", "../x", "-a", "x" * 101])
def test_a_name_that_cannot_be_one_is_refused(tmp_path: Path, name: str) -> None:
    """Names are plain words, so that they can stand in settings and commands."""
    with pytest.raises(BadInput, match="cannot name a secret"):
        FileVault(tmp_path / "vault").put(name, "value")


@pytest.mark.parametrize("value", ["", "se\ncret", " secret", "secret\r\nX: y", "x" * 8193])
def test_a_value_that_would_break_a_header_is_refused_without_being_shown(tmp_path: Path, value: str) -> None:
    """Line breaks in a key would add headers to a request."""
    with pytest.raises(BadInput) as caught:
        FileVault(tmp_path / "vault").put("openai", value)
    assert "secret" not in caught.value.message


def test_the_vault_shows_no_values(tmp_path: Path) -> None:
    """`repr` names the folder only."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    assert SECRET not in repr(vault)
    assert vault.get("openai") == SECRET
    shown = repr(vars(vault)) + repr(vault.master) + str(vault.master)
    assert SECRET not in shown
    assert (tmp_path / "vault" / "master.key").read_text().strip() not in shown


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_values_are_encrypted_at_rest(tmp_path: Path) -> None:
    """No file of the vault holds a value; names are there, as settings have them too."""
    vault = FileVault(tmp_path / "vault")
    vault.put("openai", SECRET)
    assert SECRET.encode() not in everything_in(tmp_path)
    assert b"openai" in everything_in(tmp_path)
    first = (tmp_path / "vault" / "secrets.json").read_bytes()
    vault.put("openai", SECRET)
    assert (tmp_path / "vault" / "secrets.json").read_bytes() != first, "the same value twice looks different"


def test_a_plain_file_of_an_earlier_version_is_encrypted_when_it_is_used(tmp_path: Path) -> None:
    """Its secrets are found, its plain text is overwritten, and the second vault needs nothing but the new file."""
    folder = tmp_path / "vault"
    folder.mkdir(mode=0o700)
    path = folder / "secrets.json"
    path.write_text(json.dumps({"openai": SECRET, "secrets": "other"}))
    path.chmod(0o600)
    (tmp_path / "old").hardlink_to(path)
    assert FileVault(folder).names() == ["openai", "secrets"]
    assert SECRET.encode() not in everything_in(tmp_path), "the old content too, wherever its place on the disk was"
    assert [FileVault(folder).get(name) for name in ("openai", "secrets")] == [SECRET, "other"]


def test_a_value_that_was_moved_to_another_name_or_changed_is_damaged(tmp_path: Path) -> None:
    """The name is part of what is sealed, so that nobody can send one secret where another belongs."""
    vault = FileVault(tmp_path / "vault")
    vault.put("mail", SECRET)
    vault.put("news", "x")
    path = tmp_path / "vault" / "secrets.json"
    held = json.loads(path.read_text())
    for forged in (held["secrets"]["mail"], "AAAA", "no base64!", held["secrets"]["news"][:-4] + "AAAA"):
        path.write_text(json.dumps({**held, "secrets": {**held["secrets"], "news": forged}}))
        with pytest.raises(Damaged) as caught:
            FileVault(tmp_path / "vault").get("news")
        assert SECRET not in "".join(traceback.format_exception(caught.value))
        assert FileVault(tmp_path / "vault").get("mail") == SECRET


@pytest.mark.parametrize("harm", ["gone", "other", "cut", "note", "note and key"])
def test_a_master_key_that_is_not_the_one_is_damage_and_never_replaced(tmp_path: Path, harm: str) -> None:
    """Where something was encrypted, a missing or wrong key is an error with a remedy, and no new one is made."""
    folder = tmp_path / "vault"
    FileVault(folder).put("openai", SECRET)
    key, note = folder / "master.key", folder / "master.json"
    if harm in ("gone", "note and key"):
        key.unlink()
    if harm == "note and key":
        note.unlink()
    if harm in ("other", "cut"):
        key.write_text(os.urandom(32).hex() if harm == "other" else key.read_text()[:40])
    if harm == "note":
        note.write_text("{}")
    before = everything_in(tmp_path)
    for use in (lambda: FileVault(folder).get("openai"), lambda: FileVault(folder).put("a", "b")):
        with pytest.raises(Damaged) as caught:
            use()
        assert "backup" in (caught.value.remedy or "")
    assert everything_in(tmp_path) == before


def test_a_key_that_is_gone_is_missed_where_runs_have_keys(tmp_path: Path) -> None:
    """Keys of runs were wrapped with the master key: with them there, an empty vault gets no new one."""
    (tmp_path / "keys.db").write_bytes(b"keys")
    with pytest.raises(Damaged, match=r"keys\.db was encrypted with it"):
        master_key(tmp_path / "vault", keyring=False)


def test_a_crash_before_the_note_keeps_the_key(tmp_path: Path) -> None:
    """A key that is there without `master.json` is the key: that is what a crash at first use leaves."""
    key = master_key(tmp_path / "vault", keyring=False)
    (tmp_path / "vault" / "master.json").unlink()
    assert master_key(tmp_path / "vault", keyring=False) == key


def test_a_master_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """The same checks of owner and mode hold for the key."""
    master_key(tmp_path / "vault", keyring=False)
    (tmp_path / "vault" / "master.key").chmod(0o644)
    with pytest.raises(BadInput) as caught:
        master_key(tmp_path / "vault", keyring=False)
    assert (caught.value.remedy or "").startswith("chmod 600")


def test_keys_for_different_purposes_have_nothing_in_common() -> None:
    """Derived as RFC 5869 says (HMAC by hand here), one for each purpose."""
    master = bytes(range(32))
    pseudo = hmac.digest(bytes(32), master, "sha256")
    assert subkey(master, "vault") == hmac.digest(pseudo, b"loket/1/vault\x01", "sha256")
    assert len({subkey(master, purpose) for purpose in ("vault", "run-keys", "brain:ana", "brain:ben")}) == 4


class Ring(keyring.backend.KeyringBackend):
    """A keyring in memory, in the place of the desktop's."""

    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.held[service, username]


@pytest.fixture
def ring() -> Iterator[Ring]:
    before, ring = keyring.get_keyring(), Ring()
    keyring.set_keyring(ring)
    yield ring
    keyring.set_keyring(before)


def test_with_the_keyring_the_key_is_in_no_file(tmp_path: Path, ring: Ring) -> None:
    """The setting moves the key there and back; secrets stay readable, and the file is there only without it."""
    folder = tmp_path / "vault"
    FileVault(folder).put("openai", SECRET)
    key = (folder / "master.key").read_text().strip()
    assert FileVault(folder, keyring=True).get("openai") == SECRET
    assert list(ring.held.values()) == [key]
    assert key.encode() not in everything_in(tmp_path)
    export_key(folder, tmp_path / "out", keyring=True)
    assert master_key(tmp_path / "out", keyring=False).hex() == key
    assert FileVault(folder).get("openai") == SECRET
    assert (folder / "master.key").read_text().strip() == key
    ring.held.clear()
    assert FileVault(folder, keyring=True).get("openai") == SECRET
    ring.held.clear()
    with pytest.raises(Damaged):
        FileVault(folder, keyring=True).get("openai")


def test_without_a_real_keyring_it_fails_closed(tmp_path: Path) -> None:
    """Asked for a keyring that is not there, no key is made anywhere, and the remedy names the setting."""
    before = keyring.get_keyring()
    keyring.set_keyring(keyring.backends.fail.Keyring())
    try:
        with pytest.raises(Failed, match="no keyring") as caught:
            FileVault(tmp_path / "vault", keyring=True).put("openai", SECRET)
    finally:
        keyring.set_keyring(before)
    assert "vault.keyring = false" in (caught.value.remedy or "")
    assert everything_in(tmp_path) == b""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("vault") / "home")


def test_the_commands_never_show_a_value(home: Path) -> None:
    """`put` reads standard input, `list` names, `remove` takes away; no output and no file has the value."""
    assert SECRET not in loket(home, "vault", "put", "weather", stdin=f"{SECRET}\n")
    assert loket(home, "vault", "put", "weather", "--json", stdin=SECRET) == {"name": "weather", "replaced": True}
    assert loket(home, "vault", "list", "--json") == {"secrets": ["weather"]}
    assert loket(home, "vault", "list").split() == ["secret", "weather"]
    assert FileVault(home / "vault").get("weather") == SECRET
    (home / "cache").unlink()
    assert SECRET.encode() not in everything_in(home)
    assert "is gone" in loket(home, "vault", "remove", "weather")
    assert "loket vault list" in loket(home, "vault", "remove", "weather", code=2)
    assert "is empty" in loket(home, "vault", "put", "weather", stdin="\n", code=2)
    assert "line breaks" in loket(home, "vault", "put", "weather", stdin="a\nb\n", code=2)


def test_the_commands_work_through_the_server(tmp_path: Path) -> None:
    """With `loket up` running, a secret goes through it; what it prints has no value."""
    home = prepare(tmp_path / "home")
    with serving(home) as server:
        loket(home, "vault", "put", "weather", stdin=SECRET)
        assert loket(home, "vault", "list", "--json") == {"secrets": ["weather"]}
        assert loket(home, "vault", "remove", "weather", "--json") == {"name": "weather", "removed": True}
        assert server.stop() == 0
        assert server.process.stdout is not None
        assert SECRET not in server.process.stdout.read()
